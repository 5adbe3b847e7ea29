"""What goes to stdout and stderr: text that no terminal obeys, in whatever encoding they have; they may be closed.

Ids and texts of users may hold anything, also what moves a cursor, sets a title or turns the reading order round.
"""

import contextlib
import io
import os
import re
import sys
import threading
import time
from collections.abc import Generator
from typing import Any, Final, TextIO

from embedder.errors import PplugError

_OBEYED: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
"""Control characters but tab and line end, and marks that change the order in which a line is read."""


class WaitingLine:
    """A line at the terminal that is there while nothing else is said, and wiped away before anything is."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._width = 0
        self._said_at = 0.0
        self.is_off = False

    def show(self, line: str, silence: float) -> None:
        """Show it if nothing was said for so many seconds."""
        with self._lock:
            if not self.is_off and time.monotonic() - self._said_at >= silence:
                sys.stderr.write(f"\r{line}")
                sys.stderr.flush()
                self._width = len(line)

    def wipe(self) -> None:
        """Make room for something else."""
        with self._lock:
            self._said_at = time.monotonic()
            if self._width:
                sys.stderr.write(f"\r{' ' * self._width}\r")
                sys.stderr.flush()
                self._width = 0

    @contextlib.contextmanager
    def left_out(self) -> Generator[None]:
        self.wipe()
        before, self.is_off = self.is_off, True
        try:
            yield
        finally:
            self.is_off = before
            self.wipe()


waiting_line: Final = WaitingLine()


def visible(text: str) -> str:
    r"""The text with everything a terminal would obey written out, like \x1b; line ends of Windows are line ends."""
    return _OBEYED.sub(lambda found: repr(found[0])[1:-1], text.replace("\r\n", "\n"))


def visible_json(line: str) -> str:
    """The same of a JSON value: it stays JSON and says the same."""
    return _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", line)


def is_terminal(stream: TextIO) -> bool:
    """Whether a person looks at it, whatever variables like FORCE_COLOR say of colours."""
    try:
        return stream.isatty()
    except ValueError:  # it is closed
        return False


def open_closed_streams() -> None:
    """Give the process a stdin, stdout and stderr where it was started without: else its first files become these.

    A character that the encoding of a stream lacks is written out instead of ending the command.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            with contextlib.suppress(OSError):
                os.fstat(number)
                continue
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            setattr(sys, name, open(number, mode, encoding="utf8", closefd=False))  # noqa: SIM115  for good
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def write_out(text: str) -> bool:
    """Write to stdout; False where nobody reads it any more, as behind `| head -1`."""
    waiting_line.wipe()
    waiting_line.is_off = True  # rows may be shown by a pager, on the same screen
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        _send_nowhere(sys.stdout)
        return False
    except OSError as error:
        _send_nowhere(sys.stdout)
        advice = "free some space, or send it elsewhere"
        raise PplugError(f"stdout cannot be written ({error.strerror}): {advice}") from error
    return True


def write_err(text: str) -> None:
    """Write to stderr, if anybody reads it."""
    waiting_line.wipe()
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except BrokenPipeError:
        _send_nowhere(sys.stderr)


def speaks_unicode(stream: Any) -> bool:
    """Whether it can hold any character."""
    return str(getattr(stream, "encoding", None) or "utf8").lower().startswith("utf")


def _send_nowhere(stream: TextIO) -> None:
    """Let the rest go nowhere, what is in the buffer too: Python would complain of it at its end."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
