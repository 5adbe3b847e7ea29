"""The options of the commands, each spelled once: flag, PPLUG_* variable, meaning and type.

A value comes from the flag > the variable > pplug.toml > the default.

Options that several commands share are fields of a dataclass, which a command takes as one argument:

    @app.command()
    @grouped
    def runs(common: Common) -> None: ...        # has --warehouse, --json and --debug
"""

import inspect
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields, is_dataclass
from datetime import UTC, date, datetime
from functools import wraps
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from embedder.devices import Device, Dtype, LLMDtype
from embedder.errors import InputMissing, PplugError, UsageError
from pipelines.command.console import format_logs, loud_libraries, message
from pipelines.command.tables import Form, Row, print_rows

if TYPE_CHECKING:
    from llm_jobs.kinds import Kind
    from pipelines.answers.models import GenerateConfig
    from pipelines.encode import EncodeConfig
    from pipelines.ingest import IngestConfig, IngestResult
    from pipelines.nights.runners import Runner
    from pipelines.nights.runs import RunRecord
    from pipelines.store.stored import Store
    from pipelines.tables.warehouse import Warehouse


class TooManyRejects(PplugError):
    """The job is done, but refused more rows than allowed."""

    exit_code = 3


def option(flag: str, meaning: str, *more: str, **settings: Any) -> Any:
    """An option that PPLUG_<FLAG> sets too."""
    variable = "PPLUG_" + flag.removeprefix("--").replace("-", "_").upper()
    return typer.Option(flag, *more, envvar=variable, help=meaning, **settings)


def note_debug(ctx: typer.Context, value: bool) -> bool:
    """Remember --debug, wherever it stands."""
    if value:
        ctx.find_root().obj.is_debug = True
        loud_libraries()
    return value


def is_given(ctx: typer.Context, name: str) -> bool:
    """Whether an option stands on the command line."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def set_log_format(value: str | None) -> str | None:
    """Obey --log-format, wherever it stands."""
    if value is not None:
        format_logs(as_json=value == "json")
    return value


def find_warehouse(ctx: typer.Context, value: str) -> Any:
    """Turn --warehouse into a store, with the credentials of [warehouse.options]."""
    from pipelines.store.stored import open_store

    state = ctx.find_root().obj
    if is_given(ctx, "warehouse"):
        state.warehouse = value  # for the commands that an error names
    return open_store(value, state.settings.warehouse_options if state else {})


def limit_queries(value: int | None) -> int | None:
    """Obey --query-memory, in the processes that this one starts too."""
    if value is not None:
        from pipelines.tables.views import QUERY_MEMORY

        os.environ[QUERY_MEMORY] = f"{max(1, value >> 20)}M"
    return value


def keep_private(value: bool) -> bool:
    """Obey --private: whatever this process makes from now on, its owner alone may read."""
    if value:
        os.umask(0o077)
    return value


def show_version(value: bool) -> None:
    """Answer --version."""
    if value:
        sys.stdout.write(f"pplug {version('pplug')}\n")
        raise typer.Exit


def parse_date(text: str | date) -> date:
    """Read a night; a default is one already."""
    try:
        return text if isinstance(text, date) else date.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no date like 2026-11-01") from None


def parse_path(text: str | Path) -> Path:
    """Read a path or a file:// URL; `~` is the home folder in a variable or a settings file too."""
    from pipelines.store.location import local_path

    return local_path(text)


def parse_source(text: str | Path) -> Path:
    """Read a path, or the URI of objects in a store."""
    from pipelines.intake.remote import is_remote

    return Path(text) if is_remote(Path(text)) else parse_path(text)


def parse_size(text: str | int) -> int:
    """Read an amount of memory; a default is one already."""
    from llm_jobs.memory import parse_bytes

    return text if isinstance(text, int) else parse_bytes(text)


def today() -> date:
    """The night of an ingestion that names none; UTC like all times here."""
    return datetime.now(UTC).date()


def key_and_value(text: str) -> tuple[str, str]:
    """Split what stands behind -p."""
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise UsageError(f"-p {text!r} is not key=value: write for example -p ds=2026-11-01")
    return key, value


def column_map(text: str) -> dict[str, str]:
    """Split user_id=author,text=body.

    Raises:
        UsageError: if a part is no pair.
    """
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    for ours, _, theirs in pairs:
        if not (ours.strip() and theirs.strip()):
            raise UsageError(f"--map {text!r} is not column=column: write for example --map user_id=author,text=body")
    return {ours.strip(): theirs.strip() for ours, _, theirs in pairs}


def kinds_of(ctx: typer.Context) -> "dict[str, Kind]":
    """The built-in kinds of tasks and those of pplug.toml."""
    from llm_jobs.kinds import load_kinds

    return load_kinds(ctx.obj.settings.kinds)


def kind_name(ctx: typer.Context, value: str | None) -> str | None:
    """The name that tables know a kind by: `headline` is LaMP_4, unless pplug.toml has a headline of its own."""
    from llm_jobs.kinds import SPOKEN

    state = ctx.find_root().obj  # there is none while only the help is wanted
    return value if value is None or (state and value in state.settings.kinds) else SPOKEN.get(value, value)


def control_plugs(plugs: list[Path], *, is_wanted: bool) -> list[Path]:
    """The plugs to answer the control arms with."""
    if is_wanted != bool(plugs):
        raise UsageError(
            "--controls or --compare and --plug go together: pplug evaluate --ds DATE --controls --plug DIR"
        )
    return plugs


def no_plugs(plugs: list[Path]) -> None:
    """Refuse plugs where no task is answered."""
    if plugs:
        raise UsageError(f"encoding takes no plug, saw --plug {plugs[0]}: pplug backfill generate ... --plug DIR")


AUTO = "Precision of {}; auto: as in its last run, at first the faster one."
SIZE: dict[str, Any] = {"parser": parse_size, "metavar": "SIZE"}
DATE: dict[str, Any] = {"parser": parse_date, "metavar": "DATE"}
PATH: dict[str, Any] = {"parser": parse_path, "metavar": "PATH"}
SOURCE: dict[str, Any] = {"parser": parse_source, "metavar": "SOURCE"}

Files = Annotated[
    list[Path] | None,
    typer.Argument(
        parser=parse_source,
        metavar="[SOURCE]...",
        help="Files, folders, globs, or - for stdin; one item or task a row.",
    ),
]
Night = Annotated[date, option("--ds", "The night, like 2026-11-01.", **DATE)]
IngestNight = Annotated[date | None, option("--ds", "Night of ingestion.", show_default="today", **DATE)]
CheckNight = Annotated[date | None, option("--ds", "Only this night; all nights unless given.", **DATE)]
Until = Annotated[date | None, option("--until", "Last day whose items are used.", **DATE)]
TaskNights = Annotated[list[date], option("--tasks", "Night whose references are used too; repeatable.", **DATE)]
NewPlug = Annotated[Path, option("--plug", "Folder the plug is saved in.", **PATH)]
Plugs = Annotated[list[Path], option("--plug", "Folder of a plug, one for each kind of task; repeatable.", **PATH)]
KindName = Annotated[
    str | None,
    option("--kind", "Kind of task, like headline; the only one of the histories unless given.", callback=kind_name),
]
LampKind = Annotated[str | None, option("--kind", "Kind of the questions; found out unless given.", callback=kind_name)]
Undated = Annotated[date | None, option("--undated", "Day of items without a date; else they are refused.", **DATE)]
Epochs = Annotated[int, option("--epochs", "Passes over the examples.", min=1)]
Seed = Annotated[
    int, option("--seed", "Start of the random numbers; another one gives another plug, or other users.", min=0)
]
AuditedPlugs = Annotated[list[Path], option("--plug", "Folder of a plug to attack; repeatable.", **PATH)]
AuditedUsers = Annotated[int, option("--users", "Most users that are looked at.", min=4)]
Engine = Annotated[
    Literal["transformers", "vllm"], option("--engine", "What runs the LLM; vllm is an extra, see docs/vllm.md.")
]
Outputs = Annotated[Path | None, option("--outputs", "LaMP's file of references.", **PATH)]
Aggregation = Annotated[
    Literal["attention", "mean", "task", "none", "published"],
    option("--aggregation", "What the plug sees: attention for the plug itself, the others to be compared with it."),
]
Limit = Annotated[int | None, option("--limit", "Most examples, in turn one of each user; all unless given.", min=1)]
EvaluatedPlugs = Annotated[
    list[Path],
    option(
        "--plug",
        "Folder of a plug, one for each kind of task, with --compare one for each aggregation; repeatable.",
        **PATH,
    ),
]
Controls = Annotated[bool, option("--controls", "Answer again for other users, for nobody and without the plug.")]
ReportFile = Annotated[Path, option("--out", "File to write, like report.html.", **PATH)]
Examples = Annotated[int, option("--examples", "Answers to show with their texts, which are personal.", min=0)]
Export = Annotated[Path | None, option("--export", "File for every row of the user, like user.json.", **PATH)]
TaskNight = Annotated[date | None, option("--ds", "Night of the task; its newest unless given.", **DATE)]
Keep = Annotated[int, option("--keep", "Nights to keep.", min=1)]
TrainedPlugs = Annotated[list[Path], option("--plug", "Folder of a plug to look through; repeatable.", **PATH)]
MaxPersonaAge = Annotated[
    int | None, option("--max-persona-age", "Refuse personas that are more days older than the tasks.", min=0)
]
Job = Annotated[Literal["encode", "generate"], typer.Argument(help="What to run.")]
Start = Annotated[date, option("--start", "First night.", **DATE)]
End = Annotated[date, option("--end", "Last night.", **DATE)]
RunNight = Annotated[date | None, option("--ds", "Only runs of this night.", **DATE)]
RunJob = Annotated[str | None, option("--job", "Only runs of this job, like encode.")]
Params = Annotated[list[str], option("--param", "A parameter of the query, key=value; repeatable.", "-p")]
Force = Annotated[bool, option("--force", "Compute everything anew.")]
Rebuild = Annotated[bool, option("--rebuild", "Encode with another encoder than the nights before.")]
DryRun = Annotated[bool, option("--dry-run", "Show what would be done; write nothing.")]
AsJson = Annotated[bool, option("--json", "Print one JSON object a row.")]
AsCsv = Annotated[bool, option("--csv", "Print comma-separated values.")]
Wide = Annotated[bool, option("--wide", "Print every column, whole, however wide the terminal is.")]
Debug = Annotated[bool, option("--debug", "Show tracebacks and what libraries say.", callback=note_debug)]
Private = Annotated[bool, option("--private", "Make files that you alone may read.", callback=keep_private)]
QueryMemory = Annotated[
    int | None,
    option("--query-memory", "Most that DuckDB takes, like 4G; 1G unless given.", callback=limit_queries, **SIZE),
]
LogFormat = Annotated[
    Literal["text", "json"] | None,
    option("--log-format", "How lines on stderr look; text unless given.", callback=set_log_format),
]
ConfigFile = Annotated[Path | None, option("--config", "Settings file; ./pplug.toml unless given.", **PATH)]
Version = Annotated[bool, typer.Option("--version", help="Print the version.", callback=show_version, is_eager=True)]


@dataclass(frozen=True)
class Printed:
    """What every command takes that prints rows."""

    as_json: AsJson = False
    as_csv: AsCsv = False
    wide: Wide = False
    debug: Debug = False
    log_format: LogFormat = None

    def __post_init__(self) -> None:
        chosen = {"--json": self.as_json, "--csv": self.as_csv, "--wide": self.wide}
        if sum(chosen.values()) > 1:
            raise UsageError(f"{' and '.join(flag for flag in chosen if chosen[flag])}: choose one of them")

    @property
    def form(self) -> Form:
        """How rows are printed."""
        wanted = {Form.JSON: self.as_json, Form.CSV: self.as_csv, Form.WIDE: self.wide}
        return next((form for form, is_wanted in wanted.items() if is_wanted), Form.TABLE)

    @property
    def for_people(self) -> bool:
        """Whether sentences and pictures may stand beside the rows."""
        return self.form in (Form.TABLE, Form.WIDE)

    def show(self, rows: Iterable[Row], *hidden: str, whole: bool = False) -> None:
        """Print rows; the table goes without the columns `hidden`, and long texts are cut unless `whole`."""
        print_rows(rows, self.form, hidden, whole=whole)


@dataclass(frozen=True)
class Common(Printed):
    """What every command that uses a warehouse takes."""

    warehouse: Annotated[
        str, option("--warehouse", "Folder of the tables, or s3://, gs://, az://, abfss://.", callback=find_warehouse)
    ] = "warehouse"
    private: Private = False
    query_memory: QueryMemory = None

    @property
    def tables(self) -> "Warehouse":
        """The warehouse, as the jobs take it."""
        folder = self.store.folder
        if folder is not None and not folder.is_dir():
            here = Path.cwd()
            shown = folder.relative_to(here) if folder.is_relative_to(here) else folder
            raise InputMissing(f"no warehouse {shown}: run `pplug ingest histories FILE` or name --warehouse")
        return self.new_tables

    @property
    def new_tables(self) -> "Warehouse":
        """The warehouse to ingest into; it need not be there yet."""
        from pipelines.tables.warehouse import Warehouse

        return Warehouse(self.store)

    @property
    def store(self) -> "Store":
        """Where the warehouse is; what `find_warehouse` made of the option."""
        found: Any = self.warehouse
        return found


@dataclass(frozen=True)
class Writing(Common):
    """What every command that writes takes."""

    dry_run: DryRun = False


@dataclass(frozen=True)
class Counted(Writing):
    """What every command takes that takes or refuses rows."""

    max_reject_rate: Annotated[float, option("--max-reject-rate", "Exit with 3 above this share.", min=0, max=1)] = 0.05

    def show_ingest(self, counts: "IngestResult") -> None:
        """Print what became of the rows, and say what a later night keeps."""
        if counts.left_alone:
            message(f"{counts.left_alone} rows of later nights were left alone: --overwrite-newer replaces them")
        self.show_counts(counts)

    def show_counts(self, counts: "IngestResult | RunRecord", *hidden: str) -> None:
        """Print how a job ended, and fail if it refused too many rows."""
        self.show([asdict(counts)], *hidden)
        if counts.rows_rejected > self.max_reject_rate * counts.rows_in:
            told = f"{counts.rows_rejected} of {counts.rows_in} rows rejected"
            limit = f"more than --max-reject-rate {self.max_reject_rate}"
            raise TooManyRejects(f"{told}, {limit}: run `pplug query reject_reasons`")


@dataclass(frozen=True)
class Read:
    """How the files of an ingestion are read."""

    columns: Annotated[
        str, option("--map", "What a file calls our columns: user_id=author,text=body; the others have our names.")
    ] = ""
    kind: Annotated[
        str | None, option("--kind", "Kind of the rows that name none, like headline.", callback=kind_name)
    ] = None
    sql: Annotated[str | None, option("--sql", "A DuckDB query to read: \"select ... from 'articles.csv'\".")] = None
    like: Annotated[str | None, option("--like", "Read as the table [ingest.NAME] of pplug.toml says.")] = None
    any_year: Annotated[bool, option("--any-year", "Take times of all years, not only from 1990 to the next.")] = False
    overwrite_newer: Annotated[
        bool, option("--overwrite-newer", "Also replace what a later night wrote or deleted.")
    ] = False

    def config(self, ctx: typer.Context) -> "IngestConfig":
        """The same as the job takes it; a flag goes before what is saved under a name."""
        from pipelines.ingest import IngestConfig

        saved = saved_source(ctx, self.like)
        columns = dict(saved.get("map", {})) | column_map(self.columns)
        kind, any_year = self.kind or kind_name(ctx, saved.get("kind")), self.any_year or bool(saved.get("any-year"))
        return IngestConfig(columns, kind, any_year, self.overwrite_newer, self.sql)


def saved_source(ctx: typer.Context, name: str | None) -> dict[str, Any]:
    """The table [ingest.NAME] of pplug.toml."""
    saved: dict[str, Any] = ctx.find_root().obj.settings.sources
    if name is None:
        return {}
    if name not in saved:
        raise UsageError(f"no [ingest.{name}] in pplug.toml: there are {', '.join(saved) or 'none'}")
    found = {key.replace("_", "-"): value for key, value in saved[name].items()}
    known = {"map": dict, "kind": str, "any-year": bool}
    for key, value in found.items():
        if not isinstance(value, known.get(key, ())):
            raise UsageError(f"[ingest.{name}] {key} = {value!r}: it may have map (a table), kind and any-year")
    return found


@dataclass(frozen=True)
class EncoderNames:
    """Which encoder a command uses."""

    encoder: Annotated[str, option("--encoder", "minilm, a folder, or a downloaded hub id.")] = "minilm"
    dtype: Annotated[Dtype, option("--dtype", AUTO.format("the encoder"))] = "auto"
    cache: Annotated[Path | None, option("--cache", "Folder of exported models; your cache unless given.", **PATH)] = (
        None
    )
    device: Annotated[Device, option("--device", "What computes; auto: a GPU if there is one, else the CPU.")] = "auto"


@dataclass(frozen=True)
class ModelNames(EncoderNames):
    """Which models a command uses."""

    llm: Annotated[str, option("--llm", "smollm2, a folder, or a downloaded hub id.")] = "smollm2"
    llm_dtype: Annotated[LLMDtype, option("--llm-dtype", AUTO.format("the LLM"))] = "auto"
    memory: Annotated[
        int | None,
        option("--memory", "Most the LLM's keys and values take, like 4G; 2G unless given.", **SIZE),
    ] = None
    thinking: Annotated[bool, option("--thinking", "Let the LLM think aloud first, if its chat template can.")] = False


@dataclass(frozen=True)
class Answering(ModelNames):
    """How a command answers tasks."""

    num_beams: Annotated[int, option("--num-beams", "Beams of a free answer; 1 is greedy.", min=1)] = 1
    shard_tasks: Annotated[int, option("--shard-tasks", "Most tasks that a worker answers at once.", min=1)] = 500


@dataclass(frozen=True)
class Computing(Counted):
    """What every command takes that computes nights; what stands behind `--` goes to Apache Beam."""

    workers: Annotated[int, option("--workers", "Processes of this machine that compute.", min=1)] = 1

    def runner(self, ctx: typer.Context) -> "Runner":
        """Who computes."""
        from pipelines.nights.runners import Runner

        if ctx.args and not ctx.args[0].startswith("--"):
            raise UsageError(f"unexpected argument {ctx.args[0]!r}: see `{ctx.command_path} --help`")
        return Runner(self.workers, tuple(ctx.args) or ctx.find_root().obj.settings.beam_options)


@dataclass(frozen=True)
class Stored:
    """How personas are stored."""

    max_vectors: Annotated[int, option("--max-vectors", "Most vectors that stand for one user.", min=1)] = 128
    min_items_per_vector: Annotated[
        int, option("--min-items-per-vector", "No stored vector stands for fewer items; docs/privacy.md.", min=1)
    ] = 1
    no_item_vectors: Annotated[
        bool, option("--no-item-vectors", "Store personas alone; each changed user is encoded anew.")
    ] = False
    noise: Annotated[
        float, option("--noise", "Length of the noise in each item's vector, which has length one.", min=0)
    ] = 0.0
    shard_items: Annotated[int, option("--shard-items", "Most items that a worker encodes at once.", min=1)] = 20_000

    @property
    def settings(self) -> dict[str, Any]:
        """As the job takes them."""
        from pipelines.personas.protection import Protection

        protection = Protection(self.min_items_per_vector, not self.no_item_vectors, self.noise)
        return {"max_vectors": self.max_vectors, "shard_items": self.shard_items, "protection": protection}


BEAM: dict[str, Any] = {"context_settings": {"allow_extra_args": True}}
"""Of a command that hands on what stands behind `--`."""


def configs_of(models: Answering, stored: Stored) -> "tuple[EncodeConfig, GenerateConfig]":
    """The settings of both jobs, which share the encoder."""
    from pipelines.answers.models import GenerateConfig
    from pipelines.encode import EncodeConfig

    of_encoder = {field.name: getattr(models, field.name) for field in fields(EncoderNames)}
    return EncodeConfig(**stored.settings, **of_encoder), GenerateConfig(**vars(models))


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Spread the dataclasses that a command takes into options of their own."""
    given = inspect.signature(command, eval_str=True)
    annotations: dict[str, Any] = {name: param.annotation for name, param in given.parameters.items()}
    groups: dict[str, Any] = {name: group for name, group in annotations.items() if is_dataclass(group)}

    @wraps(command)
    def spread(**values: object) -> None:
        for name, group in groups.items():
            values[name] = group(**{option.name: values.pop(option.name) for option in fields(group)})
        command(**values)

    params = [param for name, param in given.parameters.items() if name not in groups]
    for group in groups.values():
        params += inspect.signature(group, eval_str=True).parameters.values()
    names_only = [param.replace(kind=inspect.Parameter.KEYWORD_ONLY) for param in params]
    vars(spread)["__signature__"] = given.replace(parameters=names_only)  # what Typer reads
    return spread
