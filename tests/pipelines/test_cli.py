import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import Pplug
from pages import shown
from small_night import ITEMS, NIGHT, NOTE, TASKS, item, task
from typer.core import TyperGroup
from typer.main import get_command

from pipelines.cli import app
from pipelines.command.boundary import State, option_names
from pipelines.command.settings import read_settings

pytestmark = pytest.mark.beam

ROOT = Path(__file__).parent.parent.parent

ITEM = {"user_id": "u", "item_id": "1", "kind": "LaMP_4", "posted_at": "2026-10-01", "text": "rain", "output": "Rain"}


def commands(group: Any = None, path: str = "") -> dict[str, Any]:
    """Every command by its words, "ingest lamp" for example."""
    found: dict[str, Any] = {}
    for name, command in (group or get_command(app)).commands.items():
        words = f"{path} {name}".strip()
        found |= commands(command, words) if isinstance(command, TyperGroup) else {words: command}
    return found


COMMANDS = commands()


def example(command: Any) -> list[str]:
    """The arguments of a command's example."""
    *_, last = [line.strip() for line in command.help.strip().splitlines() if line.strip()]
    assert last.startswith("Example: pplug "), f"{command.name} ends with {last!r}"
    return shlex.split(last.removeprefix("Example: pplug "))


def process(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `pplug` as a process of its own."""
    code = "import sys; from pipelines.cli import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", code, *args],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
    )


def write_lines(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
    return str(path)


@pytest.fixture
def tiny_settings(tmp_path: Path, encoder_folder: Path, llm_folder: Path) -> Path:
    """A pplug.toml that names tiny models and a kind of its own."""
    path = tmp_path / "pplug.toml"
    fields = "\n".join(f"{name} = {json.dumps(value)}" for name, value in NOTE.items())
    models = f'llm = "{llm_folder}"\nllm-dtype = "float32"\nencoder = "{encoder_folder}"\n'
    path.write_text(f'{models}[train]\nkind = "note"\nepochs = 1\n[kinds.note]\n{fields}\n', encoding="utf8")
    return path


# The commands of the contract


def test_the_commands_are_those_of_the_contract() -> None:
    assert set(COMMANDS) == {
        *("demo", "init", "kinds", "ingest lamp", "ingest histories", "ingest tasks", "train", "encode", "generate"),
        *("nightly", "backfill", "evaluate", "query", "sql", "check", "report", "forget", "expire", "compact", "runs"),
        *("explain", "user", "audit"),
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_help_with_an_example_that_parses(name: str, pplug: Pplug) -> None:
    said = pplug(*name.split(), "--help")
    assert (said.code, said.err) == (0, "")
    words = example(COMMANDS[name])
    assert " ".join(words).startswith(name)
    assert f"Example: pplug {name}" in " ".join(said.out.split())
    COMMANDS[name].make_context(name, words[len(name.split()) :], resilient_parsing=False, obj=State())


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_json_and_debug_and_what_writes_has_dry_run(name: str) -> None:
    flags = option_names(get_command(app))[name]
    assert {"json", "debug"} <= flags.keys()
    assert ("dry-run" in flags) == (name not in {"kinds", "query", "sql", "check", "runs", "explain", "user"})
    assert ("warehouse" in flags) == (name not in {"demo", "init", "kinds"})


def test_every_option_has_an_environment_variable() -> None:
    of_the_shell = {"--version", "--install-completion", "--show-completion"}  # they do something else and leave
    for command in (get_command(app), *COMMANDS.values()):
        for param in command.params:
            if param.param_type_name == "option" and not of_the_shell & set(param.opts):
                flag = next(opt for opt in param.opts if opt.startswith("--"))
                assert param.envvar == "PPLUG_" + flag.removeprefix("--").replace("-", "_").upper()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_page_shows_the_command(name: str) -> None:
    assert any(f"{line} ".startswith(f"{name} ") for _, line in shown()), f"no page shows pplug {name}"


# From files to numbers


def test_the_examples_work_one_after_the_other(pplug: Pplug, tiny_settings: Path) -> None:
    """All examples of --help but the demo's, on a small night, with tiny models named in pplug.toml.

    Each is run with --dry-run first, which writes nothing.
    """
    ds = "2026-11-01"
    write_lines(tiny_settings.with_name("histories.jsonl"), ITEMS)
    write_lines(tiny_settings.with_name("tasks.jsonl"), TASKS)
    question = {"id": "q1", "input": "Generate a headline for the following article: rain", "profile": []}
    tiny_settings.with_name("dev_questions.json").write_text(json.dumps([question]), encoding="utf8")
    golds = {"task": "LaMP_4", "golds": [{"id": "q1", "output": "Rain"}]}
    tiny_settings.with_name("dev_outputs.json").write_text(json.dumps(golds), encoding="utf8")
    rows, told = dict[str, list[dict[str, Any]]](), dict[str, str]()
    order = ["kinds", "init", "ingest histories", "ingest tasks", "train", "encode", "generate", "nightly", "backfill"]
    order += ["evaluate", "check", "query", "sql", "report", "explain", "user", "runs", "compact", "expire", "forget"]
    order += ["ingest lamp"]
    assert {*order, "demo", "audit"} == set(COMMANDS)  # an audit wants more users than there are here
    without_night = {"kinds", "init", "sql", "query", "check", "runs", "explain", "user"}
    for name in order:
        words = [word.replace("LaMP_2N", "note") for word in example(COMMANDS[name])]
        assert ds in words or name in {*without_night, "train", "compact", "expire", "forget"}
        if "dry-run" in option_names(get_command(app))[name]:
            before = {path: path.stat().st_mtime_ns for path in tiny_settings.parent.rglob("*")}
            planned = pplug(*words, "--dry-run", "--json")
            assert planned.code == 0, planned.err
            assert {path: path.stat().st_mtime_ns for path in tiny_settings.parent.rglob("*")} == before, name
            assert planned.rows or name in ("backfill", "compact", "expire", "forget"), name
        said = pplug(*words, "--json")
        assert said.code == 0, said.err
        rows[name], told[name] = said.rows, said.err
    assert all(f"note: {len(TASKS)} answers" in told[name] for name in ("generate", "nightly", "check"))
    assert rows["ingest histories"][0]["rows_out"] == len(ITEMS)
    assert rows["generate"][0]["rows_in"] == len(TASKS)
    assert {row["arm"] for row in rows["evaluate"]} == {"own", "other", "default", "none"}
    assert rows["query"][0]["task_count"] == len(TASKS)
    assert rows["check"] == rows["expire"] == rows["forget"] == []
    assert {row["section"]: row["row_count"] for row in rows["report"]}["Answers"] == 1
    assert "Night of 2026-11-01" in tiny_settings.with_name("report.html").read_text(encoding="utf8")
    assert rows["sql"] == [{"kind": "note", "item_count": len(ITEMS)}]
    assert {"train", "encode", "generate", "evaluate"} <= {row["job"] for row in rows["runs"]}
    compare = ["evaluate", "--ds", ds, "--compare", "--plug", "plugs/news", "--methods", "none,bm25_4,label_mode"]
    assert len(pplug(*compare, "--dry-run", "--json").rows) == 1
    printed = pplug(*compare)
    assert (printed.code, printed.out.count("by items of the history")) == (0, 1), printed.out
    newest = "select max(run_id) from evaluations"
    arms = pplug("sql", f"select distinct arm from evaluations where run_id = ({newest})", "--json").rows
    assert {row["arm"] for row in arms} == {"own", "none", "bm25_4", "label_mode"}


def test_what_an_audit_finds_is_in_the_report_and_protection_refuses_what_needs_vectors_of_items(
    pplug: Pplug, tiny_settings: Path
) -> None:
    words = ["sea", "sun", "oak", "ice", "owl", "fog", "ash", "bay", "way", "fox", "hut", "elm"]
    items = [
        item(
            f"user{user}",
            at,
            f"{words[(user + at) % 12]} {words[(user * at + 1) % 12]} {words[at]}",
            "red",
            day=20 - at,
        )
        for user in range(6)
        for at in range(8)
    ]
    write_lines(tiny_settings.with_name("histories.jsonl"), items)
    write_lines(tiny_settings.with_name("tasks.jsonl"), [task("t1", "user1", "who knows", "red")])
    for name in ("ingest histories", "ingest tasks", "train", "encode"):
        assert pplug(*[word.replace("LaMP_2N", "note") for word in example(COMMANDS[name])]).code == 0
    said = pplug(*example(COMMANDS["audit"]))
    assert (said.code, "texts found in a list of known ones" in said.out) == (0, True)
    assert pplug(*example(COMMANDS["report"])).code == 0
    report = tiny_settings.with_name("report.html").read_text(encoding="utf8")
    assert "What an attacker gets" in report
    assert report.count("texts found in a list of known ones") == 2  # history_vectors and personas
    protected = ["--min-items-per-vector", "2", "--rebuild"]
    assert pplug(*example(COMMANDS["encode"]), *protected).code == 0
    compare = ["evaluate", "--ds", "2026-11-01", "--compare", "--plug", "plugs/news", "--methods", "bm25_4"]
    refused = pplug(*compare)
    assert (refused.code, "stored without vectors of items" in refused.err) == (1, True)


def test_training_keeps_prompts_in_the_memory_given(pplug: Pplug, tiny_settings: Path) -> None:
    write_lines(tiny_settings.parent / "histories.jsonl", ITEMS)
    assert pplug("ingest", "histories", "histories.jsonl", "--ds", f"{NIGHT}").code == 0
    trained = pplug("--config", "pplug.toml", "train", "--plug", "plugs/news", "--until", f"{NIGHT}", "--memory", "1M")
    assert trained.code == 0
    assert re.search(r"next: `pplug --config pplug.toml ingest tasks FILE --ds \d{4}-\d\d-\d\d`", trained.err)
    report = json.loads((tiny_settings.parent / "plugs" / "news" / "training.json").read_text(encoding="utf8"))
    assert report["settings"]["cache_gib"] == 2**-10


# Where options come from


def test_flag_beats_environment_beats_settings_beats_default(pplug: Pplug, tmp_path: Path) -> None:
    def folder() -> str:
        return next(name for name in ("flag", "environment", "toml", "warehouse") if f"no warehouse {name}:" in said)

    said = pplug("runs").err
    assert folder() == "warehouse"
    (tmp_path / "pplug.toml").write_text('warehouse = "toml"', encoding="utf8")
    said = pplug("runs").err
    assert folder() == "toml"
    os.environ["PPLUG_WAREHOUSE"] = "environment"
    said = pplug("runs").err
    assert folder() == "environment"
    said = pplug("runs", "--warehouse", "flag").err
    assert folder() == "flag"


def test_the_table_of_a_command_beats_the_top_of_the_settings(tmp_path: Path) -> None:
    path = tmp_path / "pplug.toml"
    path.write_text(
        'warehouse = "all"\nds = 2026-11-01\n[ingest]\nmax_reject_rate = 0.5\n[ingest.lamp]\nwarehouse = "lamp"\n'
        '[generate]\nplug = ["a", "b"]\n[kinds.note]\nmetric = "accuracy"\n',
        encoding="utf8",
    )
    settings = read_settings(path, option_names(get_command(app)))
    defaults = settings.defaults
    assert defaults["encode"] == {"warehouse": "all", "ds": "2026-11-01"}
    assert defaults["ingest"]["tasks"] == {"warehouse": "all", "ds": "2026-11-01", "max_reject_rate": 0.5}
    assert defaults["ingest"]["lamp"]["warehouse"] == "lamp"
    assert defaults["generate"]["plug"] == ["a", "b"]
    assert settings.kinds == {"note": {"metric": "accuracy"}}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('warehose = "x"', "did you mean 'warehouse'"),
        ("[encode]\nepochs = 3", "no option 'epochs' in [encode]"),
        ("[enc]\nds = 2026-11-01", "no command 'enc'"),
        ("warehouse = ", "is no TOML"),
        ("kinds = 3", "write [kinds.NAME]"),
        ('[train]\nepochs = "many"', "--epochs"),
        ("[kinds.note]\nmetric = 3", "note"),
    ],
)
def test_wrong_settings_are_wrong_usage(content: str, said: str, pplug: Pplug, tmp_path: Path) -> None:
    (tmp_path / "pplug.toml").write_text(content, encoding="utf8")
    (tmp_path / "warehouse").mkdir()
    found = pplug("train", "--plug", "p", "--until", f"{NIGHT}")
    assert (found.code, found.out) == (2, "")
    assert said in found.err
    assert found.err.count("\n") == 1


def test_a_settings_file_that_is_named_must_be_there(pplug: Pplug) -> None:
    said = pplug("--config", "other.toml", "runs")
    assert said.code == 4
    assert "other.toml" in said.err


# How commands end


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        ("encod", 2, "Did you mean 'encode'?"),
        ("encode", 2, "--ds"),
        ("encode --ds 2026-02-30", 2, "'2026-02-30' is no date like 2026-11-01"),
        ("encode --ds 2026-11-01 --dtype int8", 2, "'int8' is not one of 'auto', 'float32', 'bfloat16', 'float16'"),
        ("encode --ds 2026-11-01 --device tpu", 2, "'tpu' is not one of 'auto', 'cpu', 'cuda', 'mps'"),
        ("encode --ds 2026-11-01", 4, "pplug ingest histories"),
        ("train --plug p --epochs 0", 2, "--epochs"),
        ("generate --ds 2026-11-01", 2, "--plug"),
        ("generate --ds 2026-11-01 --plug p --engine other", 2, "transformers"),
        ("evaluate --ds 2026-11-01 --controls", 2, "--plug DIR"),
        ("query task_coverage -p ds", 2, "key=value"),
        ("ingest histories nowhere.jsonl", 4, "nowhere.jsonl"),
        ("ingest", 2, "pplug ingest --help"),
        ("report --ds 2026-11-01", 2, "--out"),
        ("expire --keep 0", 2, "--keep"),
        ("expire", 2, "--keep"),
        ("forget", 2, "USER_ID"),
        ("forget u", 4, "no warehouse"),
        ("runs", 4, "no warehouse"),
    ],
)
def test_an_error_is_one_line_with_the_code_of_the_contract(words: str, code: int, part: str, pplug: Pplug) -> None:
    said = pplug(*words.split())
    assert (said.code, said.out) == (code, "")
    assert part in said.err
    assert said.err.count("\n") == 1
    assert any(move in said.err for move in ("pplug", "check the path", "write for example"))


@pytest.fixture
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.usefixtures("usual_umask")
def test_private_files_are_readable_by_their_owner_alone(pplug: Pplug, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "items.jsonl", [ITEM])
    assert pplug("ingest", "histories", file, "--warehouse", "usual").code == 0
    assert pplug("ingest", "histories", file, "--warehouse", "private", "--private").code == 0
    modes = {
        name: {path.stat().st_mode & 0o077 for path in (tmp_path / name).rglob("*")} for name in ("usual", "private")
    }
    assert 0o044 in modes["usual"]
    assert modes["private"] == {0}
    assert (tmp_path / "private").stat().st_mode & 0o077 == 0
    os.umask(0o022)
    os.environ["PPLUG_PRIVATE"] = "1"
    assert pplug("forget", "u", "--warehouse", "private").code == 0
    assert {path.stat().st_mode & 0o077 for path in (tmp_path / "private").rglob("*")} == {0}


def test_too_many_rejects_are_code_3_unless_allowed(pplug: Pplug, tmp_path: Path) -> None:
    row = {
        "user_id": "u",
        "item_id": "1",
        "kind": "LaMP_4",
        "posted_at": "2026-10-01",
        "text": "rain",
        "output": "Rain",
    }
    file = write_lines(tmp_path / "items.jsonl", [row, row | {"item_id": "2", "text": ""}])
    said = pplug("ingest", "histories", file, "--json")
    assert said.code == 3
    assert said.rows[0]["rows_rejected"] == 1
    assert "1 of 2 rows rejected" in said.err
    assert said.err.endswith("run `pplug query reject_reasons`\n")
    (tmp_path / "my settings.toml").touch()
    named = pplug("--config", "my settings.toml", "ingest", "histories", file, "--warehouse", "other")
    hint = "pplug --config 'my settings.toml' query reject_reasons --warehouse other"
    assert (named.code, named.err.count(f"run `{hint}`\n")) == (3, 1)
    assert pplug(*shlex.split(hint)[1:], "--json").rows[0]["reason"] == "empty_text"
    assert pplug("ingest", "histories", file, "--max-reject-rate", "0.5").code == 0
    os.environ["PPLUG_MAX_REJECT_RATE"] = "0.6"
    assert pplug("ingest", "histories", file).code == 0
    assert pplug("sql", "select reason from rejects", "--json").rows == [{"reason": "empty_text"}]


def test_a_failed_check_prints_its_rows_and_fails(
    pplug: Pplug, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "warehouse").mkdir()
    (tmp_path / "sql" / "checks").mkdir(parents=True)
    check = "-- odd: an odd row.\n-- Grain:  one row per n\n-- Reads:  runs\n-- Params: none\n-- Holds:  none is odd\n"
    (tmp_path / "sql" / "checks" / "odd.sql").write_text(f"{check}select 7 as n where $ds is null", encoding="utf8")
    monkeypatch.setattr("pipelines.tables.queries.SQL_ROOT", tmp_path / "sql")
    said = pplug("check", "--json")
    assert (said.code, said.rows) == (1, [{"check": "odd", "row": {"n": 7}}])
    assert "1 of 1 checks failed: odd" in said.err


def test_an_unexpected_error_is_one_line_and_a_traceback_with_debug(pplug: Pplug, tmp_path: Path) -> None:
    (tmp_path / "warehouse").write_text("a file, not a folder", encoding="utf8")
    (tmp_path / "h.jsonl").write_text("{}\n", encoding="utf8")
    said = pplug("ingest", "histories", "h.jsonl")
    assert said.code == 1
    assert said.err.count("\n") == 1
    assert "Traceback" not in said.err
    for words in (("--debug", "ingest", "histories", "h.jsonl"), ("ingest", "histories", "h.jsonl", "--debug")):
        assert "Traceback" in pplug(*words).err
    os.environ["PPLUG_DEBUG"] = "1"
    assert "Traceback" in pplug("ingest", "histories", "h.jsonl").err


def test_json_logs_hold_the_error_and_nothing_else_is_on_stderr(pplug: Pplug) -> None:
    said = pplug("runs", "--log-format", "json")
    (line,) = [json.loads(line) for line in said.err.splitlines()]
    assert (said.code, line["level"], line["message"][:12]) == (4, "error", "no warehouse")
    os.environ["PPLUG_LOG_FORMAT"] = "json"
    assert json.loads(pplug("runs").err)["message"] == line["message"]


def test_runs_tells_what_an_operator_asks(pplug: Pplug, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "items.jsonl", [ITEM])
    pplug("ingest", "histories", file, "--ds", "2026-11-01")
    assert pplug("generate", "--ds", "2026-11-01", "--plug", "p").code == 4
    newest, oldest = pplug("runs", "--json").rows
    assert (newest["job"], newest["status"], newest["tokens"]) == ("generate", "failed", 0)
    assert newest["error"].startswith("no tasks for 2026-11-01")
    assert oldest["seconds"] > 0
    assert [row["job"] for row in pplug("runs", "--json", "--job", "generate").rows] == ["generate"]
    assert pplug("runs", "--json", "--ds", "2026-11-02").rows == []
    assert "failed" in pplug("runs").out


def test_a_whole_night_and_a_backfill_end_with_the_code_of_the_worst(pplug: Pplug, tiny_settings: Path) -> None:
    file = write_lines(tiny_settings.with_name("histories.jsonl"), ITEMS)
    pplug("ingest", "histories", file, "--ds", f"{NIGHT}")
    said = pplug("nightly", "--ds", f"{NIGHT}", "--plug", "p", "--json")
    assert said.code == 4
    assert [(row["job"], row["status"]) for row in said.rows] == [
        ("encode", "done"),
        ("generate", "failed"),
        ("check", "done"),
    ]
    assert said.err.startswith(f"1 of 3 runs did not end well: generate ds={NIGHT}: no tasks for {NIGHT}")
    words = ["backfill", "encode", "--start", f"{NIGHT}", "--end", "2026-11-03", "--json"]
    (plan,) = pplug(*words, "--dry-run").rows
    assert (plan["ds"], plan["state"], plan["row_count"], plan["tokens"]) == ("2026-11-03", "missing", 0, 0)
    assert plan["minutes"] == plan["seconds"] / 60
    assert [row["ds"] for row in pplug(*words).rows] == ["2026-11-03"]
    assert pplug(*words).rows == []
    assert pplug(*words, "--plug", "p").code == 2


def test_no_command_shows_the_help_and_is_wrong_usage(pplug: Pplug) -> None:
    said = pplug()
    assert (said.code, said.out) == (2, "")
    assert "ingest" in said.err


def test_version(pplug: Pplug) -> None:
    said = pplug("--version")
    assert said.code == 0
    assert said.out.startswith("pplug ")


# As a process


def test_help_is_fast_and_loads_nothing_heavy() -> None:
    heavy = {"torch", "transformers", "apache_beam", "duckdb", "pyarrow", "deltalake", "numpy", "pydantic"}
    code = f"import sys; from pipelines.cli import main; main(['--help']); print({heavy} & set(sys.modules))"
    before = os.times()
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    after = os.times()
    assert found.stdout.splitlines()[-1] == "set()"
    # Processor seconds, since the tests beside this one take wall time.
    assert after.children_user + after.children_system - before.children_user - before.children_system < 0.5


def test_a_job_writes_rows_to_stdout_and_nothing_to_stderr(tmp_path: Path) -> None:
    row = {
        "user_id": "u",
        "item_id": "1",
        "kind": "LaMP_4",
        "posted_at": "2026-10-01",
        "text": "rain",
        "output": "Rain",
    }
    file = write_lines(tmp_path / "items.jsonl", [row])
    where = {"PPLUG_WAREHOUSE": str(tmp_path / "warehouse"), "PPLUG_JSON": "1", "PPLUG_DS": "2026-11-01"}
    for words in (("ingest", "histories", file), ("encode",)):
        said = process(*words, **where)
        assert (said.returncode, said.stderr) == (0, "")
        assert json.loads(said.stdout)["rows_out"] == 1


def test_threads_and_hub_are_set_before_torch_is_imported() -> None:
    code = (
        "import os; from pipelines.cli import main; main(['--version']); "
        "print([os.environ[n] for n in ('OMP_WAIT_POLICY', 'TOKENIZERS_PARALLELISM', 'HF_HUB_OFFLINE')])"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP", "HF", "TOKEN"))}
    for given, wanted in (({}, "['PASSIVE', 'false', '1']"), ({"HF_HUB_OFFLINE": "0"}, "['PASSIVE', 'false', '0']")):
        found = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT, env=environment | given
        )
        assert found.stdout.splitlines()[-1] == wanted


def test_ctrl_c_is_code_130(tmp_path: Path) -> None:
    file = tmp_path / "items.jsonl"
    os.mkfifo(file)  # whoever reads it waits
    code = "import sys; from pipelines.cli import main; sys.exit(main())"
    words = ["ingest", "histories", str(file), "--warehouse", str(tmp_path / "warehouse")]
    with subprocess.Popen(
        [sys.executable, "-c", code, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as running:
        wait_for_reader(file)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (130, "")
    assert err == "interrupted: the same command goes on where it was\n"


def wait_for_reader(file: Path) -> None:
    """Return when a process opens the other end."""
    for _ in range(600):
        try:
            os.close(os.open(file, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise TimeoutError(f"nobody reads {file}")


def test_a_reader_that_leaves_early_ends_the_command_quietly(tmp_path: Path) -> None:
    (tmp_path / "warehouse").mkdir()
    words = ["sql", "from range(200000)", "--json", "--warehouse", str(tmp_path / "warehouse")]
    code = "import sys; from pipelines.cli import main; sys.exit(main())"
    with subprocess.Popen(
        [sys.executable, "-c", code, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        assert running.stdout.readline() == '{"range": 0}\n'
        running.stdout.close()
        assert running.stderr.read() == ""
        assert running.wait(30) in (0, 1)


@pytest.mark.parametrize("words", [["generate"], ["nightly"], ["backfill", "generate", "--end", f"{NIGHT}"]])
def test_every_command_that_answers_takes_another_engine(pplug: Pplug, words: list[str]) -> None:
    night = ["--start" if "backfill" in words else "--ds", f"{NIGHT}"]
    said = pplug(*words, *night, "--plug", "p", "--engine", "vllm", "--llm-dtype", "int8")
    assert (said.code, said.err) == (2, "--engine vllm has no --llm-dtype int8: leave one out\n")
