"""Inputs that are wrong, each with what must be said of it."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

ITEM = {"user_id": "u", "item_id": "i", "kind": "LaMP_4", "posted_at": "2026-11-01", "text": "t", "output": "o"}
TASK = {"task_id": "t", "user_id": "u", "kind": "LaMP_4", "queued_at": "2026-11-01", "input": "x"}
QUESTION = {"id": "q", "input": "Generate a headline for the following article: rain", "profile": []}
PROFILE = {"id": "p", "date": "2016-05-03", "text": "t", "title": "o"}


def line(row: dict[str, Any], **changes: object) -> bytes:
    """A good line with some fields changed; `...` leaves one out."""
    return json.dumps({name: value for name, value in (row | changes).items() if value is not ...}).encode()


HISTORY_LINES: list[tuple[bytes, str]] = [
    (b"{", "broken_json"),
    (line(ITEM) * 2, "broken_json"),
    (b'{"text": "\xff"}', "not_utf8"),
    (b"[]", "not_an_object"),
    (b'{"user_id": "a", "user_id": "b"}', "repeated_field"),
    (line(ITEM, user_id=...), "missing_user_id"),
    (line(ITEM, user_id=True), "wrong_type_user_id"),
    (line(ITEM, user_id=" "), "empty_user_id"),
    (line(ITEM, item_id=None, deleted=True), "missing_item_id"),
    (line(ITEM, kind="LaMP_99"), "unknown_kind"),
    (line(ITEM, posted_at="2026-02-30"), "bad_time"),
    (line(ITEM, posted_at=10**400), "bad_time"),
    (line(ITEM, posted_at=1.5), "bad_time"),
    (line(ITEM, posted_at=20261101), "bad_time"),
    (line(ITEM, posted_at="20180227115530Z"), "bad_time"),
    (line(ITEM, text=""), "empty_text"),
    (line(ITEM, text="half \udc00"), "not_utf8"),
    (line(ITEM, output=["o"]), "wrong_type_output"),
    (line(ITEM, deleted="yes"), "wrong_type_deleted"),
    (line(ITEM, text="x" * 2**21), "row_too_large"),
]

TASK_LINES: list[tuple[bytes, str]] = [
    (b"no json", "broken_json"),
    (line(TASK, task_id=...), "missing_task_id"),
    (line(TASK, task_id=""), "empty_task_id"),
    (line(TASK, user_id=[1]), "wrong_type_user_id"),
    (line(TASK, kind="x"), "unknown_kind"),
    (line(TASK, queued_at="soon"), "bad_time"),
    (line(TASK, input="  "), "empty_input"),
    (line(TASK, input=["x"]), "wrong_type_input"),
    (line(TASK, choices="a, b"), "wrong_type_choices"),
    (line(TASK, choices=[]), "empty_choices"),
    (line(TASK, choices=["a", ""]), "empty_choice"),
    (line(TASK, choices=["a", "a"]), "repeated_choices"),
    (line(TASK, reference=[5]), "wrong_type_reference"),
]

QUESTIONS: list[tuple[object, str]] = [
    (7, "not_an_object"),
    (QUESTION | {"id": None}, "missing_task_id"),
    (QUESTION | {"id": ["q"]}, "wrong_type_task_id"),
    (QUESTION | {"id": "1", "input": "no headline"}, "malformed_input"),
    (QUESTION | {"id": "2", "input": ""}, "empty_input"),
    (QUESTION | {"id": "3", "profile": "none"}, "wrong_type_profile"),
    (QUESTION | {"id": "4", "profile": [PROFILE | {"date": None}]}, "missing_date"),
    (QUESTION | {"id": "5", "profile": [PROFILE | {"date": "2016-13"}]}, "bad_time"),
    (QUESTION | {"id": "6", "profile": [PROFILE | {"text": [5]}]}, "wrong_type_text"),
    (QUESTION | {"id": "7", "profile": [None]}, "not_an_object"),
]

FILES: list[tuple[str, str, bytes, str]] = [
    ("histories", "packed.jsonl", gzip.compress(line(ITEM), mtime=0)[:-20], "broken_archive"),
    ("histories", "wide.jsonl", line(ITEM).decode().encode("utf-16"), "unknown_format"),
    ("histories", "text.parquet", b"user_id,text", "not_a_parquet_file"),
    ("tasks", "cut.parquet", b"PAR1" + bytes(100), "not_a_parquet_file"),
    ("lamp", "object.json", line(QUESTION), "not_a_list"),
    ("lamp", "cut.json", b"[" + line(QUESTION, id="8")[:-1], "broken_json"),
]
"""Command, name and content of a file that is refused as a whole, and the reason."""

SETTINGS: list[tuple[str, str]] = [
    ("warehouse = ", "is no TOML"),
    ("\x00", "is no TOML"),
    ('warehose = "x"', "did you mean 'warehouse'"),
    ("[encode]\nepochs = 3", "no option 'epochs' in [encode]"),
    ("[enc]\nds = 2026-11-01", "no command 'enc'"),
    ("kinds = 3", "write [kinds.NAME]"),
    ("[kinds]\nnote = 3", "write [kinds.note]"),
    ("[kinds.note]", "metric"),
    ('[kinds.note]\nmetric = "speed"', "metric = 'speed'"),
    ('[kinds.note]\nmetric = "rouge"\nprompt = "{other}"', "may hold {text}, {choices} only"),
    ('[kinds.note]\nmetric = "rouge"\nchoices = ["a", "a"]', "must be different texts"),
    ('[kinds.note]\nmetric = "rouge"\nchoices_pattern = "("', "is no regular expression"),
    ('[kinds.note]\nmetric = "rouge"\nmax_new_tokens = 0', "max_new_tokens = 0"),
    ('[kinds.note]\nmetric = "rouge"\ncolour = "red"', "colour = 'red'"),
]
"""A pplug.toml and what is said of it."""

ARGUMENTS: list[tuple[str, int, str]] = [
    ("encod", 2, "Did you mean 'encode'?"),
    ("encode --ds 2026-02-30", 2, "'2026-02-30' is no date"),
    ("encode --ds 2026-11-02 --max-vectors 0", 2, "--max-vectors"),
    ("encode --ds 2026-11-02 --dtype int8", 2, "'int8'"),
    ("encode --ds 2026-11-02 --max-reject-rate 2", 2, "--max-reject-rate"),
    ("encode --ds 2026-11-02 --warehouse odd#name", 2, "odd#name has a #"),
    ("encode --ds 2026-11-02 --warehouse none", 4, "no warehouse"),
    ("encode --ds 2025-01-01", 4, "no histories as of 2025-01-01"),
    ("generate --ds 2026-12-24 --plug plug", 4, "no tasks for 2026-12-24"),
    ("generate --ds 2026-11-02", 2, "--plug"),
    ("generate --ds 2026-11-02 --plug plug --num-beams 0", 2, "--num-beams"),
    ("generate --ds 2026-11-02 --plug plug --num-beams 2 --engine vllm", 2, "leave one out"),
    ("ingest histories nowhere.jsonl", 4, "nowhere.jsonl"),
    ("ingest lamp nowhere.json --ds 2026-11-02", 4, "nowhere.json"),
    ("train --plug new --kind LaMP_99", 2, "'LaMP_99' is not known"),
    ("evaluate --ds 2026-11-02 --controls", 2, "--plug"),
    ("evaluate --ds 2026-11-02 --folds 5 --plug one --plug two", 2, "in one folder, saw --plug one and --plug two"),
    ("query no_such_query", 2, "no query 'no_such_query'"),
    ("query task_coverage -p ds", 2, "key=value"),
    ("sql select", 2, "select"),
]
"""Arguments, exit code, and what is said."""


def changed(name: str, **changes: object) -> Callable[[Path], None]:
    """Change some keys of a JSON file; `...` takes one out."""

    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_text(encoding="utf8")) | changes
        kept = {key: value for key, value in content.items() if value is not ...}
        (folder / name).write_text(json.dumps(kept), encoding="utf8")

    return change


def written(name: str, content: bytes) -> Callable[[Path], None]:
    """Replace a file."""
    return lambda folder: (folder / name).write_bytes(content) and None


def halved(name: str) -> Callable[[Path], None]:
    """Cut a file in the middle."""
    return lambda folder: written(name, (folder / name).read_bytes()[: (folder / name).stat().st_size // 2])(folder)


def without(name: str) -> Callable[[Path], None]:
    """Take a file away."""
    return lambda folder: (folder / name).unlink()


def pickled(folder: Path) -> None:
    """Only weights that would have to be unpickled."""
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


ENCODERS: list[tuple[Callable[[Path], None], int, str]] = [
    (without("config.json"), 4, "has no config.json"),
    (written("config.json", b"{"), 1, "cannot be loaded"),
    (written("config.json", b"[]"), 1, "cannot be loaded"),
    (changed("config.json", model_type="nonsense"), 1, "nonsense"),
    (changed("config.json", num_hidden_layers=3), 1, "lacks 16 weights"),
    (changed("config.json", hidden_size=64), 1, "cannot be loaded"),
    (without("model.safetensors"), 1, "has no safetensors"),
    (pickled, 1, "pytorch_model.bin, which pplug does not unpickle"),
    (halved("model.safetensors"), 1, "cannot be loaded"),
    (written("model.safetensors", b""), 1, "cannot be loaded"),
    (halved("tokenizer.json"), 1, "cannot be read"),
    (written("modules.json", b"{"), 1, "modules.json"),
    (written("modules.json", b'[{"type": "models.Dense", "path": "2_Dense"}]'), 1, "runs Dense"),
]
"""What is wrong with an encoder's folder, the exit code, and what is said."""

LLMS: list[tuple[Callable[[Path], None], int, str]] = [
    (without("config.json"), 4, "has no config.json"),
    (written("config.json", b"{"), 1, "cannot be loaded"),
    (changed("config.json", model_type="bert"), 1, "choose another LLM"),
    (changed("config.json", num_hidden_layers=3), 1, "lacks 9 weights"),
    (changed("config.json", hidden_size=64), 1, "cannot be loaded"),
    (halved("model.safetensors"), 1, "cannot be loaded"),
    (halved("tokenizer.json"), 1, "cannot be read"),
]
"""The same of an LLM's folder."""

PLUGS: list[tuple[Callable[[Path], None], int, str]] = [
    (without("plug.safetensors"), 4, "holds no plug"),
    (without("config.json"), 4, "holds no plug"),
    (written("config.json", b"{"), 1, "is damaged"),
    (written("config.json", b"[]"), 1, "is damaged"),
    (changed("config.json", kinds=...), 1, "'kinds'"),
    (changed("config.json", kinds=[]), 1, "at least one kind"),
    (changed("config.json", colour="red"), 1, "colour"),
    (changed("config.json", encoder_width="wide"), 1, "is damaged"),
    (changed("config.json", encoder_width=64), 1, "is damaged"),
    (changed("config.json", encoder_sha256="0" * 64), 1, "trained with encoder 00000000"),
    (changed("config.json", llm_sha256="0" * 64), 1, "trained with LLM 00000000"),
    (changed("config.json", temperature=0), 1, "positive scales"),
    (halved("plug.safetensors"), 1, "incomplete metadata"),
    (written("plug.safetensors", b"not tensors"), 1, "header too large"),
]
"""The same of a plug's folder."""
