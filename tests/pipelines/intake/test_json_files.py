"""A list of any size is read element by element; a broken one gives what stands before the break."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.intake import json_files
from pipelines.intake.json_files import elements
from pipelines.intake.rejects import Reject


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf8")
    return path


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(json_values, max_size=6), st.integers(1, 30), st.sampled_from([None, 1, 4]))
def test_a_list_is_read_element_by_element_whatever_the_size_of_the_chunks(
    values: list[Any], chunk: int, indent: int | None
) -> None:
    text = json.dumps(values, indent=indent)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(json_files, "CHUNK_CHARACTERS", chunk)
        with write(Path(folder) / "q.json", text).open(encoding="utf8") as file:
            assert list(elements(file)) == values
        with write(Path(folder) / "q.json", text[:-1]).open(encoding="utf8") as file:
            *whole, refusal = elements(file)
        assert whole == values[:-1]
        assert isinstance(refusal, Reject)
