"""Every malformed input is refused with a reason, or ends the command with one line; nothing else changes."""

import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import malformed
import pytest
from night_jobs import JOBS, ROW_KEYS, generate, rows_of
from undisturbed import Nights
from victims import CONTEXT

from pipelines.cli import main

Break = Callable[[Path], None]


class Said(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


def run_cli(folder: Path, words: list[str]) -> Said:
    """In the child: `pplug WORDS` in a folder."""
    os.chdir(folder)
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        code = main(words)
    return Said(code, out.getvalue(), err.getvalue())


Pplug = Callable[..., Said]


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1, mp_context=CONTEXT) as found:
        yield found


@pytest.fixture(scope="module")
def folder(nights: Nights) -> Path:
    """Two nights up to the plug, which no command below may change."""
    copy = nights.copy_before(generate)
    (copy / "pplug.toml").write_text(
        f'encoder = "{nights.root / "bert"}"\nllm = "{nights.root / "llama"}"\nllm-dtype = "float32"\n'
        '[kinds.note]\nmetric = "accuracy"\nquery_marker = "note:"\n',
        encoding="utf8",
    )
    return copy


@pytest.fixture
def pplug(pool: ProcessPoolExecutor, folder: Path) -> Pplug:
    return lambda *words, at=folder: pool.submit(run_cli, at, list(words)).result()


def reasons(pplug: Pplug, at: Path) -> dict[str, str]:
    """The reason of each refused row."""
    rows = pplug("sql", "select row_id, reason from rejects", "--json", at=at).out.splitlines()
    return {row["row_id"]: row["reason"] for row in map(json.loads, rows)}


def assert_one_line(said: Said, code: int, part: str) -> None:
    assert (said.code, said.out) == (code, ""), said
    assert part in said.err
    assert said.err.count("\n") == 1
    assert "not expected" not in said.err


def test_there_are_at_least_60_different_malformed_inputs() -> None:
    tables: list[list[Any]] = [
        *(malformed.HISTORY_LINES, malformed.TASK_LINES, malformed.QUESTIONS, malformed.FILES),
        *(malformed.SETTINGS, malformed.ARGUMENTS, malformed.ENCODERS, malformed.LLMS, malformed.PLUGS),
    ]
    assert sum(map(len, tables)) >= 60


@pytest.mark.parametrize(
    ("name", "good", "lines"),
    [
        ("histories", malformed.ITEM, malformed.HISTORY_LINES),
        ("tasks", malformed.TASK, malformed.TASK_LINES),
    ],
)
def test_a_malformed_line_is_refused_alone(
    name: str, good: dict[str, Any], lines: list[tuple[bytes, str]], pplug: Pplug, tmp_path: Path
) -> None:
    content = [malformed.line(good), *(text for text, _ in lines), malformed.line(good)]
    (tmp_path / "lines.jsonl").write_bytes(b"\n".join(content))
    assert pplug("ingest", name, "lines.jsonl", "--ds", "2026-11-02", at=tmp_path).code == 3
    assert reasons(pplug, tmp_path) == {f"lines.jsonl:{at}": reason for at, (_, reason) in enumerate(lines, 2)}
    assert json.loads(pplug("sql", f"select count(*) as n from {name}", "--json", at=tmp_path).out) == {"n": 1}


def test_a_malformed_question_or_item_of_its_profile_is_refused_alone(pplug: Pplug, tmp_path: Path) -> None:
    questions = [malformed.QUESTION, *(question for question, _ in malformed.QUESTIONS)]
    (tmp_path / "q.json").write_text(json.dumps(questions), encoding="utf8")
    assert pplug("ingest", "lamp", "q.json", "--ds", "2026-11-02", at=tmp_path).code == 3
    places = ["q.json:2", "q.json:3", "q.json:4", "1", "2", "3", "4/1", "5/1", "6/1", "7/1"]
    expected = [reason for _, reason in malformed.QUESTIONS]
    assert reasons(pplug, tmp_path) == dict(zip(places, expected, strict=True))


@pytest.mark.parametrize(("command", "name", "content", "reason"), malformed.FILES, ids=lambda case: str(case)[:20])
def test_a_malformed_file_is_refused(
    command: str, name: str, content: bytes, reason: str, pplug: Pplug, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    assert pplug("ingest", command, name, "--ds", "2026-11-02", at=tmp_path).code == 3
    assert list(reasons(pplug, tmp_path).values()) == [reason]


@pytest.mark.parametrize(("content", "part"), malformed.SETTINGS)
def test_wrong_settings_are_one_line(content: str, part: str, pplug: Pplug, tmp_path: Path, folder: Path) -> None:
    (tmp_path / "pplug.toml").write_text(content, encoding="utf8")
    words = ("train", "--plug", "new", "--warehouse", str(folder / "warehouse"))
    assert_one_line(pplug(*words, at=tmp_path), 2, part)


@pytest.mark.parametrize(("words", "code", "part"), malformed.ARGUMENTS)
def test_wrong_arguments_are_one_line(words: str, code: int, part: str, pplug: Pplug) -> None:
    assert_one_line(pplug(*words.split()), code, part)


def broken_copy(good: Path, where: Path, spoil: Break) -> str:
    """A copy of a folder with something wrong in it."""
    shutil.copytree(good, where)
    spoil(where)
    return str(where)


@pytest.mark.parametrize(("spoil", "code", "part"), malformed.ENCODERS)
def test_a_malformed_encoder_is_one_line(
    spoil: Break, code: int, part: str, pplug: Pplug, nights: Nights, tmp_path: Path
) -> None:
    model = broken_copy(nights.root / "bert", tmp_path / "model", spoil)
    assert_one_line(pplug("encode", "--ds", "2026-11-02", "--encoder", model), code, part)


@pytest.mark.parametrize(("spoil", "code", "part"), malformed.LLMS)
def test_a_malformed_language_model_is_one_line(
    spoil: Break, code: int, part: str, pplug: Pplug, nights: Nights, tmp_path: Path
) -> None:
    model = broken_copy(nights.root / "llama", tmp_path / "model", spoil)
    assert_one_line(pplug("generate", "--ds", "2026-11-02", "--plug", "plug", "--llm", model), code, part)


@pytest.mark.parametrize(("spoil", "code", "part"), malformed.PLUGS)
def test_a_malformed_plug_is_one_line(
    spoil: Break, code: int, part: str, pplug: Pplug, folder: Path, tmp_path: Path
) -> None:
    plug = broken_copy(folder / "plug", tmp_path / "plug", spoil)
    assert_one_line(pplug("generate", "--ds", "2026-11-02", "--plug", plug), code, part)


def test_nothing_of_all_that_changed_a_table(folder: Path, nights: Nights) -> None:
    before = rows_of(nights.root / f"{JOBS.index(generate)}")
    assert all(rows.equals(before[name]) for name, rows in rows_of(folder).items() if name in ROW_KEYS)
