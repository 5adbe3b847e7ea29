"""The options of the commands, each spelled once: flag, PPLUG_* variable, meaning and type.

A value comes from the flag > the variable > pplug.toml > the default.

Options that several commands share are fields of a dataclass, which a command takes as one argument:

    @app.command()
    @grouped
    def runs(common: Common) -> None: ...        # has --warehouse, --json and --debug
"""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields, is_dataclass
from datetime import UTC, date, datetime
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from embedder.devices import Device, Dtype, LLMDtype
from embedder.errors import InputMissing, PplugError, UsageError
from pipelines.command.console import message
from pipelines.command.tables import OutputFormat, print_rows
from pipelines.command.values import (
    find_warehouse,
    keep_private,
    kind_name,
    limit_queries,
    note_debug,
    parse_date,
    parse_path,
    parse_size,
    parse_source,
    set_log_format,
    show_version,
)
from pipelines.tables import Row

if TYPE_CHECKING:
    from llm_jobs.kinds import Kind
    from pipelines.ingest import IngestResult
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


def today() -> date:
    """The night of an ingestion that names none; UTC like all times here."""
    return datetime.now(UTC).date()


def column_map(text: str) -> dict[str, str]:
    """Split user_id=author,text=body; raises UsageError if a part is no pair."""
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    for ours, _, theirs in pairs:
        if not (ours.strip() and theirs.strip()):
            raise UsageError(f"--map {text!r} is not column=column: write for example --map user_id=author,text=body")
    return {ours.strip(): theirs.strip() for ours, _, theirs in pairs}


def kinds_of(ctx: typer.Context) -> "dict[str, Kind]":
    """The built-in kinds of tasks and those of pplug.toml."""
    from llm_jobs.kinds import load_kinds

    return load_kinds(ctx.obj.settings.kinds)


def control_plugs(plugs: list[Path], *, is_wanted: bool) -> list[Path]:
    """The plugs to answer the control arms with."""
    if is_wanted != bool(plugs):
        raise UsageError(
            "--controls or --compare and --plug go together: pplug evaluate --ds DATE --controls --plug DIR"
        )
    return plugs


AUTO = "Precision of {}; auto: as in its last run, at first the faster one."
SIZE: dict[str, Any] = {"parser": parse_size, "metavar": "SIZE"}
DATE: dict[str, Any] = {"parser": parse_date, "metavar": "DATE"}
PATH: dict[str, Any] = {"parser": parse_path, "metavar": "PATH"}
SOURCE: dict[str, Any] = {"parser": parse_source, "metavar": "SOURCE"}

NightDate = Annotated[date, option("--ds", "The night, like 2026-11-01.", **DATE)]
Until = Annotated[date | None, option("--until", "Last day whose items are used.", **DATE)]
TaskNights = Annotated[list[date], option("--tasks", "Night whose references are used too; repeatable.", **DATE)]
NewPlug = Annotated[Path, option("--plug", "Folder the plug is saved in.", **PATH)]
KindName = Annotated[
    str | None,
    option("--kind", "Kind of task, like headline; the only one of the histories unless given.", callback=kind_name),
]
Epochs = Annotated[int, option("--epochs", "Passes over the examples.", min=1)]
Seed = Annotated[
    int, option("--seed", "Start of the random numbers; another one gives another plug, or other users.", min=0)
]
AuditedPlugs = Annotated[list[Path], option("--plug", "Folder of a plug to attack; repeatable.", **PATH)]
AuditedUsers = Annotated[int, option("--users", "Most users that are looked at.", min=4)]
Engine = Literal["transformers", "vllm"]
Aggregation = Annotated[
    Literal["attention", "turns", "mean", "task", "none", "published"],
    option(
        "--aggregation",
        "What the plug sees: attention for the plug itself; turns for the texts of the nearest items, for free"
        " answers and without training; the others to be compared with these.",
    ),
]
Turns = Annotated[
    int | None,
    option("--turns", "With --aggregation turns: most items that become earlier turns; 4 unless given.", min=1, max=32),
]
Limit = Annotated[int | None, option("--limit", "Most examples, in turn one of each user; all unless given.", min=1)]
EvaluatedPlugs = Annotated[
    list[Path],
    option(
        "--plug",
        "Folder of a plug, one for each kind of task, with --compare one for each aggregation; repeatable. With --folds"
        " the folder to keep trained plugs in.",
        **PATH,
    ),
]
Controls = Annotated[bool, option("--controls", "Answer again for other users, for nobody and without the plug.")]
Export = Annotated[Path | None, option("--export", "File for every row of the user, like user.json.", **PATH)]
TaskNight = Annotated[date | None, option("--ds", "Night of the task; its newest unless given.", **DATE)]
Keep = Annotated[int, option("--keep", "Nights to keep.", min=1)]
TrainedPlugs = Annotated[list[Path], option("--plug", "Folder of a plug to look through; repeatable.", **PATH)]
DryRun = Annotated[bool, option("--dry-run", "Show what would be done; write nothing.")]
AsJson = Annotated[bool, option("--json", "Print one JSON object a row.")]
AsCsv = Annotated[bool, option("--csv", "Print comma-separated values.")]
Wide = Annotated[bool, option("--wide", "Print every column, whole, however wide the terminal is.")]
Debug = Annotated[bool, option("--debug", "Show tracebacks and what libraries say.", callback=note_debug)]
Private = Annotated[bool, option("--private", "Make files that you alone may read.", callback=keep_private)]
QueryMemory = Annotated[
    int | None,
    option("--query-memory", "Most that DuckDB takes, like 4G; 640M unless given.", callback=limit_queries, **SIZE),
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
    def form(self) -> OutputFormat:
        wanted = {OutputFormat.JSON: self.as_json, OutputFormat.CSV: self.as_csv, OutputFormat.WIDE: self.wide}
        return next((form for form, is_wanted in wanted.items() if is_wanted), OutputFormat.TABLE)

    @property
    def for_people(self) -> bool:
        """Whether sentences and pictures may stand beside the rows."""
        return self.form in (OutputFormat.TABLE, OutputFormat.WIDE)

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
        int | None, option("--memory", "Most the LLM's keys and values take, like 4G; 2G unless given.", **SIZE)
    ] = None
    thinking: Annotated[bool, option("--thinking", "Let the LLM think aloud first, if its chat template can.")] = False


@dataclass(frozen=True)
class Answering(ModelNames):
    """How a command answers tasks."""

    engine: Annotated[Engine, option("--engine", "What runs the LLM; vllm is an extra, see docs/vllm.md.")] = (
        "transformers"
    )
    num_beams: Annotated[int, option("--num-beams", "Beams of a free answer; 1 is greedy.", min=1)] = 1
    shard_tasks: Annotated[int, option("--shard-tasks", "Most tasks that a worker answers at once.", min=1)] = 500


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
