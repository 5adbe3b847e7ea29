"""Tell damaged files of a warehouse from other failures: what libraries say of them names no next step."""

import re
from typing import Final

_LIBRARIES: Final = ("deltalake", "duckdb", "pyarrow", "builtins")
_OF_A_FILE: Final = re.compile(r"parquet|delta log|json error|_delta_log|magic bytes", re.IGNORECASE)


def damage_line(error: BaseException) -> str | None:
    """One line about the file that an error of a library tells of; None for any other error."""
    library = type(error).__module__.partition(".")[0].lstrip("_")
    first, *_ = str(error).splitlines() or [""]
    is_ours = library in _LIBRARIES or type(error).__name__ == "DeltaError"
    is_builtin = library == "builtins" and not isinstance(error, OSError)
    if not is_ours or is_builtin or not _OF_A_FILE.search(first):
        return None
    return f"a file of the warehouse is damaged or gone ({first[:300]}): restore it from a backup, and run again"
