"""A job in its Beam stage is followed from outside."""

import threading
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import apache_beam as beam
import pytest

from embedder.errors import InputMissing, PplugError, UsageError
from llm_jobs.prompts import PromptRefused
from pipelines.nights.jobs import run_shards
from pipelines.nights.runs import RunRecord, no_progress
from pipelines.nights.shards import Receipt, Shard, ShardFolder, cut_shards

HAS_TOLD = threading.Event()


class Raise(beam.DoFn):
    """A shard in, an error out."""

    def __init__(self, error: PplugError) -> None:
        self._error = error

    def process(self, shard: Shard) -> Iterator[int]:
        del shard
        raise self._error
        yield


@pytest.mark.parametrize(
    "error", [PplugError("a"), UsageError("b"), InputMissing("c"), PromptRefused("prompt_too_long", "9 tokens of 8")]
)
def test_the_error_of_a_worker_comes_out_as_it_was_raised(tmp_path: Path, error: PplugError) -> None:
    shards, folder = cut_shards([("ann", 3)], 3), ShardFolder(tmp_path)
    record = RunRecord("r", "encode", date(2026, 11, 1), datetime(2026, 11, 1, tzinfo=UTC))
    with pytest.raises(type(error)) as raised:
        run_shards(shards, beam.ParDo(Raise(error)), folder, "items", no_progress, record)
    assert (type(raised.value), str(raised.value)) == (type(error), str(error))
    assert raised.value.args == error.args


class WriteAndWait(beam.DoFn):
    """A shard in, its receipt on disk; goes on when somebody was told of the first."""

    def __init__(self, folder: ShardFolder) -> None:
        self._folder = folder

    def process(self, shard: Shard) -> Iterator[int]:
        self._folder.write(shard, {}, Receipt(shard.index, shard.row_count, shard.row_count, 0, 7, 0.5))
        assert HAS_TOLD.wait(60), "the stage runs and nobody is told of the shard that is done"
        yield shard.index


def test_progress_is_told_while_a_beam_stage_runs(tmp_path: Path) -> None:
    folder, told = ShardFolder(tmp_path), list[tuple[str, int, int]]()
    shards = cut_shards([("ann", 3), ("bob", 3), ("cid", 3)], 3)
    record = RunRecord("r", "encode", date(2026, 11, 1), datetime(2026, 11, 1, tzinfo=UTC))

    def progress(label: str, done: int, total: int) -> None:
        told.append((label, done, total))
        if done:
            HAS_TOLD.set()

    run_shards(shards, beam.ParDo(WriteAndWait(folder)), folder, "items", progress, record)
    assert ("items", 3, 9) in told
    assert told[-1] == ("items", 9, 9)
    assert told == sorted(told)
    assert record.tokens == 21
