import logging
from pathlib import Path
from typing import Any

import pytest
from ingesting import NIGHT, TASK, jsonl, rows

from pipelines.ingest import IngestResult, ingest_tasks
from pipelines.tables.warehouse import Warehouse

KINDS = {"LaMP_4"}


def closed(number: int, reference: object, choices: list[object] | None) -> dict[str, Any]:
    return {**TASK, "task_id": f"t{number}", "reference": reference, "choices": choices}


def test_a_reference_takes_the_spelling_of_its_choice_and_what_did_not_fit_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = [
        closed(1, "Sports ", ["sports", "news"]),
        closed(2, "sports", ["sports", "news"]),
        closed(3, "weather", ["sports", "news"]),
        closed(4, 5, [4, 5.0]),
        closed(5, "5.0", ["4", "5"]),
        closed(6, "Sports ", None),
        closed(7, None, ["sports", "news"]),
    ]
    caplog.set_level(logging.WARNING)
    warehouse = Warehouse(tmp_path / "w")
    found = ingest_tasks(warehouse, [jsonl(tmp_path / "t.jsonl", *given)], NIGHT, KINDS)
    assert found == IngestResult(7, 7, 0, changed=7)
    assert rows(warehouse, "select reference from tasks order by task_id") == [
        ("sports",),
        ("sports",),
        ("weather",),
        ("5",),
        ("5",),
        ("Sports ",),
        (None,),
    ]
    assert rows(warehouse, "select choices from tasks where task_id = 't4'") == [(["4", "5"],)]
    assert "2 references name a choice in another spelling" in caplog.text
    assert "1 references are none of their task's choices" in caplog.text
    assert "weather" not in caplog.text


def test_references_that_fit_are_no_news(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = jsonl(tmp_path / "t.jsonl", closed(1, "a", ["a", "b"]), closed(2, "free", None))
    ingest_tasks(Warehouse(tmp_path / "w"), [file], NIGHT, KINDS)
    assert not caplog.records
