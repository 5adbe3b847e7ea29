"""The steps of the benchmark: command lines as a user types them, in the order in which a warehouse grows old."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipelines.tables.queries import list_queries
from scaling.users import Users


@dataclass(frozen=True)
class Step:
    """A command line, and the name under which its cost is shown; steps of one name are averaged."""

    name: str
    night: int
    arguments: tuple[str, ...]

    @property
    def key(self) -> str:
        """Tells it from all others."""
        return f"{self.name} {self.night}"


@dataclass(frozen=True)
class Plan:
    """What is measured, and where its files lie."""

    folder: Path
    users: Users
    form: str
    nights: int
    task_count: int
    commands: frozenset[str]
    """What this version of the command line has; the benchmark also measures versions before `compact`."""

    @property
    def warehouse(self) -> Path:
        """The warehouse of all steps."""
        return self.folder / "warehouse"

    def items(self, night: int) -> Path:
        """The file of a night's new items."""
        return self.folder / f"items-{night:02}.{self.form}"

    def tasks(self, night: int) -> Path:
        """The file of a night's tasks."""
        return self.folder / f"tasks-{night:02}.{self.form}"

    def steps(self) -> Iterator[Step]:
        """All steps, each of which needs those before it."""
        last = self.nights
        yield self._ingest("ingest, full", 0)
        yield self._encode("night, full", 0)
        yield self._encode("the same night again", 0)
        yield from self._answers(0, "")
        yield from self._readers(0, "")
        yield self._ingest("ingest, 1% new", 1)
        yield self._encode("night, 1% new", 1)
        for night in range(2, last):
            yield self._ingest("ingest, 1% new, a month", night)
            yield self._encode("night, 1% new, a month", night)
            yield from self._compact("compact, a month", night)
        yield from self._compact("compact", last - 1)
        yield self._encode("the same night again, after a month", last - 1)
        yield from self._answers(last - 1, ", after a month")
        yield from self._readers(last - 1, ", after a month")
        yield self._ingest("ingest, 1% new, after a month", last)
        yield self._ingest_tasks(last)
        nightly = ("nightly", *self._night(last), *MODELS, *LLM, "--plug", str(self.folder / "plug"))
        yield Step("nightly, 1% new, after a month", last, nightly)

    def _answers(self, night: int, when: str) -> Iterator[Step]:
        yield self._ingest_tasks(night)
        generate = ("generate", *self._night(night), *MODELS, *LLM, "--plug", str(self.folder / "plug"))
        yield Step(f"{self.task_count} tasks{when}", night, generate)

    def _readers(self, night: int, when: str) -> Iterator[Step]:
        yield Step(f"check of a night{when}", night, ("check", *self._night(night)))
        yield Step(f"check{when}", night, ("check", *self._place))
        report = ("report", *self._night(night), "--out", str(self.folder / "report.html"))
        yield Step(f"report{when}", night, report)
        for query in list_queries():
            values = {"user_id": "u00000001", "task_id": "t00000001"}
            given = [f"{param.name}={values[param.name]}" for param in query.params if param.default is None]
            flags = [word for value in given for word in ("-p", value)]
            yield Step(f"query {query.name}{when}", night, ("query", query.name, *flags, *self._place, "--json"))

    def _ingest(self, name: str, night: int) -> Step:
        return Step(name, night, ("ingest", "histories", str(self.items(night)), *self._night(night)))

    def _ingest_tasks(self, night: int) -> Step:
        return Step("ingest, tasks", night, ("ingest", "tasks", str(self.tasks(night)), *self._night(night)))

    def _encode(self, name: str, night: int) -> Step:
        return Step(name, night, ("encode", *self._night(night), *MODELS))

    def _compact(self, name: str, night: int) -> Iterator[Step]:
        if "compact" in self.commands:
            yield Step(name, night, ("compact", *self._place))

    @property
    def _place(self) -> tuple[str, ...]:
        return "--warehouse", str(self.warehouse)

    def _night(self, night: int) -> tuple[str, ...]:
        return "--ds", self.users.night(night).isoformat(), *self._place


MODELS = ("--dtype", "float32")
LLM = ("--llm-dtype", "float32")
