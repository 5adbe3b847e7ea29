"""Errors never cite what a user wrote."""

import duckdb
import pyarrow as pa
import pytest

from embedder.errors import InputMissing, error_line

SECRET = "dear diary"


def raised(error: Exception) -> Exception:
    try:
        raise error
    except type(error) as found:
        return found


def test_an_error_of_a_library_about_data_tells_its_kind_and_place() -> None:
    with pytest.raises(duckdb.ConversionException) as of_duckdb:
        duckdb.sql(f"select '{SECRET}'::int").fetchall()
    with pytest.raises(pa.ArrowInvalid) as of_arrow:
        pa.array([SECRET]).cast(pa.int32())
    for error in (of_duckdb.value, of_arrow.value, raised(ValueError(SECRET)), raised(KeyError(SECRET))):
        assert SECRET in str(error)
        assert error_line(error).startswith(f"{type(error).__name__} at ")
        assert SECRET not in error_line(error)


def test_the_place_is_in_our_code_where_there_is_any() -> None:
    with pytest.raises(ValueError, match=SECRET) as found:
        int(SECRET)
    assert "test_errors.py:" in error_line(found.value)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InputMissing("no tasks: run `pplug ingest`\nmore"), "no tasks: run `pplug ingest`"),
        (OSError(28, "No space left on device", "/w/x"), "OSError: [Errno 28] No space left on device: '/w/x'"),
        (ModuleNotFoundError("No module named 'peft'"), "ModuleNotFoundError: No module named 'peft'"),
        (RuntimeError(SECRET), "RuntimeError"),
    ],
)
def test_what_our_own_errors_and_those_about_files_say_is_kept(error: Exception, line: str) -> None:
    assert error_line(error) == line
