"""The errors a user sees: one line each, with the exit code of the contract; none cites what a user wrote."""

import traceback
from pathlib import Path

OURS = frozenset({"embedder", "llm_jobs", "pipelines"})  # folders of our code


class PplugError(Exception):
    """Something the user can mend. The message says what is wrong, the value seen and the next command to type."""

    exit_code = 1


class UsageError(PplugError):
    """An option or a configuration value that cannot be right."""

    exit_code = 2


class InputMissing(PplugError):
    """A model, file, table or night that the command needs is not there."""

    exit_code = 4


SAFE = (OSError, ImportError, MemoryError)  # errors whose words name files, packages and sizes, and no data

SAFE_NAMES = ("IOException", "HTTPException", "OutOfMemoryException", "OutOfMemoryError")
"""Likewise, of DuckDB and torch."""

SAFE_LIBRARIES = ("deltalake", "obstore", "typer", "click")


def error_line(error: BaseException) -> str:
    """One line for logs and tables; of an error that a library raised about data only its kind and place.

    What such an error says may cite a text of a user: ArrowInvalid, DuckDB's ConversionException, ValueError.
    """
    if isinstance(error, PplugError):
        return str(error).partition("\n")[0]
    kind = type(error)
    if isinstance(error, SAFE) or kind.__name__ in SAFE_NAMES or kind.__module__.partition(".")[0] in SAFE_LIBRARIES:
        return f"{kind.__name__}: {' '.join(str(error).split())[:300]}"
    return f"{kind.__name__} at {_place(error)}" if error.__traceback__ else kind.__name__


def _place(error: BaseException) -> str:
    """File and line of the innermost code of ours, else of any."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if OURS & {*Path(frame.filename).parts}]
    frame = (ours or frames)[-1]
    parts = Path(frame.filename).parts
    start = next((at for at, part in enumerate(parts) if part in OURS), len(parts) - 1)
    return f"{'/'.join(parts[start:])}:{frame.lineno}"
