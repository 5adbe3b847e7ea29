"""Keep Ctrl-C and SIGTERM from being lost in Beam, which makes an error of some step of it, or drops it."""

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def kept_interruption() -> Generator[None]:
    """Raise KeyboardInterrupt at the end if it was raised meanwhile, whatever became of it.

    Only the main thread is ever interrupted; in another one nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    raised: list[int] = []

    def interrupt(number: int, _: FrameType | None) -> None:
        raised.append(number)
        raise KeyboardInterrupt

    for number, handler in before.items():
        if callable(handler):  # else it is ignored, as for a job in the background, or ends the process
            signal.signal(number, interrupt)
    try:
        yield
    except BaseException as error:
        if raised and not isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if raised:
        raise KeyboardInterrupt
