"""Tell damaged files of a warehouse from other failures: what libraries say of them names no next step."""

import re

_ERRORS = ("DeltaError", "ArrowInvalid", "IOException", "InvalidInputException", "FileNotFoundError", "OSError")
"""Names of what deltalake, Arrow, DuckDB and Python raise."""

_OF_A_FILE = re.compile(r"parquet|delta log|json error|_delta_log|magic bytes", re.IGNORECASE)


def damage_line(error: BaseException) -> str | None:
    """One line about the file that an error of a library tells of; None for any other error."""
    first, *_ = str(error).splitlines() or [""]
    if type(error).__name__ not in _ERRORS or not _OF_A_FILE.search(first):
        return None
    return f"a file of the warehouse is damaged or gone ({first[:300]}): restore it from a backup, and run again"
