"""Personal answers from DataFrames, in memory: no warehouse, no night.

    histories ─▶ fit ─▶ Personalizer ─▶ save, load
    histories, tasks ─▶ answer ─▶ task_id, user_id, answer, score, why
                     ─▶ evaluate ─▶ a row for each method and metric

The answers are those of `pplug nightly` on the same rows: the same functions make them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Self

import pyarrow as pa

from embedder.devices import Dtype
from embedder.encoder import encoder_folder
from embedder.errors import UsageError
from embedder.models import model_folder
from embedder.plug import PersonaPlug
from embedder.precision import decided_precision
from llm_jobs.answers import answer_tasks
from llm_jobs.kinds import Kind, load_kinds
from llm_jobs.prompts import Answer, Refusal
from llm_jobs.training import read_report, save_report
from llm_jobs.training.data import TrainConfig
from pipelines.answers.models import Models, load_models
from pipelines.answers.outputs import persona_source
from pipelines.answers.queue import QueuedTask, personal_tasks, top_items
from pipelines.library.fitting import chosen_data, fitted
from pipelines.library.frames import Frame, like
from pipelines.library.personas import MAX_VECTORS, UserPersona, personas_of
from pipelines.library.quiet import without_bars
from pipelines.library.rows import kind_named, read_histories, read_tasks
from pipelines.library.saved import Saved
from pipelines.library.scores import COMPARED, cases_of, score_rows
from pipelines.nights.runs import Progress, no_progress
from pipelines.personas.encoders import absolute_model
from pipelines.tables import Row

_WHY: Final = pa.list_(
    pa.struct([("item_id", pa.string()), ("text", pa.string()), ("output", pa.string()), ("weight", pa.float32())])
)
_ANSWERS: Final = pa.schema(
    [
        ("task_id", pa.string()),
        ("user_id", pa.string()),
        ("answer", pa.string()),
        ("score", pa.float32()),
        ("why", _WHY),
        ("persona_source", pa.string()),
        ("finish_reason", pa.string()),
    ]
)
_SCORES: Final = pa.schema(
    [
        ("arm", pa.string()),
        ("metric", pa.string()),
        *((name, pa.float64()) for name in ("value", "low", "high")),
        ("compared_with", pa.string()),
        *((name, pa.float64()) for name in ("difference", "difference_low", "difference_high")),
        ("task_count", pa.int64()),
    ]
)


@dataclass(frozen=True, eq=False, repr=False)
class Personalizer:
    """A trained plug with its two frozen models: histories and tasks in, personal answers out.

    Make one with `Personalizer.fit` or `Personalizer.load`. Every frame may be a DataFrame of pandas or Polars, or a
    table of Arrow; what comes back is of the same library.

    Example:
        ```python
        model = Personalizer.fit(histories, kind="headline", limit=500)
        answers = model.answer(histories, tasks)
        model.save("plugs/news")
        ```
    """

    kind: Kind
    """The kind of task that it answers."""
    plug: PersonaPlug
    models: Models
    saved: Saved = field(repr=False)
    kinds: Mapping[str, Kind] = field(repr=False)
    training: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """How the plug was trained: settings, losses, examples."""

    def __repr__(self) -> str:
        facts = {"examples": self.training.get("example_count"), "users": self.training.get("user_count")}
        told = "".join(f", {name}={count}" for name, count in facts.items() if count is not None)
        names = self.saved.models
        return f"Personalizer(kind={self.kind.name!r}{told}, encoder={names['encoder']!r}, llm={names['llm']!r})"

    @classmethod
    def fit(
        cls,
        histories: Any,
        *,
        kind: str,
        tasks: Any = None,
        limit: int | None = None,
        columns: Mapping[str, str] | None = None,
        kinds: Mapping[str, Mapping[str, Any]] | None = None,
        encoder: str = "minilm",
        llm: str = "smollm2",
        dtype: Dtype = "auto",
        llm_dtype: Dtype = "auto",
        epochs: int = 3,
        seed: int = 0,
        aggregation: Literal["attention", "turns"] = "attention",
        progress: Progress = no_progress,
    ) -> Self:
        """Train a plug on what users wrote and produced. The language model itself never changes.

        Args:
            histories: user_id, text, posted_at and output; a row is one thing a user wrote and what the user made of
                it (a headline, a tag, a score). item_id and kind are optional.
            kind: kind of task, like "headline" or "rating"; `pplug kinds` lists them.
            tasks: for kinds that learn from tasks: user_id, text or input, and reference.
            limit: most examples to learn from; all unless given. Some hundreds take minutes on a laptop.
            columns: what your frames call these columns, as {"user_id": "author", "text": "body"}.
            kinds: kinds of your own, as the tables [kinds.NAME] of pplug.toml.
            encoder: alias, folder or hub id of the text encoder.
            llm: alias, folder or hub id of the language model.
            dtype: float32, bfloat16, or auto: the faster one here; the precision of the encoder.
            llm_dtype: the same of the language model.
            epochs: most passes over the examples, where the plug is trained through the language model.
            seed: of the start weights and of what is drawn in training.
            aggregation: `attention` for the plug that learns, `turns` to let the language model read each user's four
                nearest items as earlier turns instead: free answers only, and nothing is trained.
            progress: called with what is counted, how many are done and how many there are.

        Raises:
            UsageError: if the kind is not known, a column is missing, a row cannot be used, or nothing is left to
                learn from.
            InputMissing: if there is no such model.
        """
        names = {"encoder": absolute_model(encoder), "llm": absolute_model(llm), "dtype": dtype, "llm_dtype": llm_dtype}
        saved = _decided(Saved(names, MAX_VECTORS, dict(kinds or {}), dict(columns or {})))
        known = load_kinds(kinds)
        chosen = kind_named(kind, known)
        train = TrainConfig(epochs=epochs, seed=seed)
        items = read_histories(histories, chosen, known, saved.columns)
        queue = [] if tasks is None else read_tasks(tasks, chosen, known, saved.columns)
        data = chosen_data(items, queue, chosen, limit)
        with without_bars():
            models = load_models(saved.config)
        plug, report = fitted(data, known, models, train, progress, aggregation)
        return cls(chosen, plug, models, saved, known, report)

    def answer(self, histories: Frame, tasks: Frame, *, columns: Mapping[str, str] | None = None) -> Frame:
        """Answer each task for its user.

        Args:
            histories: as for `fit`, of the users of the tasks; all of it counts, output or not. A user without a row
                gets the answer of the default persona.
            tasks: user_id and text, to which pplug writes the kind's prompt, or input, a whole prompt. task_id is the
                number of the row unless given; choices are those of the kind.
            columns: as for `fit`, whose names are used unless given.

        Returns:
            A row for each task, in their order: task_id, user_id, answer, score (mean log-probability of its tokens),
            why (the items that weighed most: item_id, text, output, weight), persona_source (history, or default),
            finish_reason. A task that the language model cannot take has no answer, and the reason in finish_reason.

        Raises:
            UsageError: if a column is missing or a row cannot be used.
        """
        items, queue = self._read(histories, tasks, columns)
        personas = self._personas(items, queue)
        queued = [self._queued(row, personas) for row in queue]
        personal = personal_tasks(queued, self.kinds, self.models.encoder) if queued else []
        found = answer_tasks(self.models.llm, self.plug, personal) if queued else []
        rows = [self._answer_row(task, one, personas) for task, one in zip(queued, found, strict=True)]
        return like(tasks, pa.Table.from_pylist(rows, schema=_ANSWERS))

    def evaluate(
        self,
        histories: Frame,
        tasks: Frame,
        *,
        compared: Sequence[str] = COMPARED,
        columns: Mapping[str, str] | None = None,
        progress: Progress = no_progress,
    ) -> Frame:
        """Answer tasks whose answers are known, and say whether the persona helps.

        Args:
            histories: as for `answer`, without the items that the tasks are made of.
            tasks: as for `answer`, and reference, the answer the user gave; rows without one are left out.
            compared: what the user's own persona (`own`) is compared with: `other` (another user's, five draws),
                `default` (a user without a history), `none` (the language model alone).
            columns: as for `answer`.
            progress: called with what is counted, how many are done and how many there are.

        Returns:
            A row for each method (`arm`) and metric: value with its 95% interval over users (low, high), and the paired
            difference to the method in compared_with. An interval of a difference without 0 is a difference.

        Raises:
            UsageError: if no task has a reference, a column is missing or a row cannot be used.
        """
        if unknown := set(compared) - set(COMPARED):
            raise UsageError(f"nothing called {min(unknown)!r} to compare with: there are {', '.join(COMPARED)}")
        items, queue = self._read(histories, tasks, columns)
        scored = [row for row in queue if row["reference"]]
        if not scored:
            raise UsageError("no task has a reference to compare with: give the answers that are known as reference")
        personas = self._personas(items, scored)
        cases = cases_of([self._queued(row, personas) for row in scored], personas, self.models, self.kind)
        rows = score_rows(cases, self.plug, self.models, self.kind, compared, progress)
        return like(tasks, pa.Table.from_pylist(rows, schema=_SCORES))

    def save(self, folder: Path | str) -> None:
        """Write the plug, how it was trained and what it needs into a folder; `pplug generate --plug` takes it, too."""
        path = Path(folder)
        self.plug.save_pretrained(path)
        if self.training:
            save_report(path, self.training)
        self.saved.write(path)

    @classmethod
    def load(
        cls,
        folder: Path | str,
        *,
        kinds: Mapping[str, Mapping[str, Any]] | None = None,
        encoder: str = "minilm",
        llm: str = "smollm2",
        dtype: Dtype = "auto",
        llm_dtype: Dtype = "auto",
    ) -> Self:
        """Load what `save` or `pplug train` wrote.

        Args:
            folder: of the plug.
            kinds: kinds of your own. A plug of `save` brings its own, and its models, so that only one that
                `pplug train` made needs the arguments that follow, where its models are not the usual ones.
            encoder: alias, folder or hub id of the text encoder.
            llm: alias, folder or hub id of the language model.
            dtype: precision of the encoder.
            llm_dtype: precision of the language model.

        Raises:
            InputMissing: if the folder holds no plug.
            PplugError: if it is damaged, or was trained with other models.
        """
        path = Path(folder)
        plug = PersonaPlug.from_pretrained(path)
        names = {"encoder": absolute_model(encoder), "llm": absolute_model(llm), "dtype": dtype, "llm_dtype": llm_dtype}
        saved = _decided(Saved.read(path, Saved(names, MAX_VECTORS, dict(kinds or {}))))
        known = load_kinds({**saved.kinds, **(kinds or {})})
        with without_bars():
            models = load_models(saved.config)
        plug.require(models.encoder.sha256, models.llm.sha256, models.llm.values_width)
        return cls(kind_named(plug.config.kinds[0], known), plug, models, saved, known, read_report(path))

    def _read(self, histories: Any, tasks: Any, columns: Mapping[str, str] | None) -> tuple[list[Row], list[Row]]:
        what = (self.kind, self.kinds, self.saved.columns if columns is None else columns)
        return read_histories(histories, *what), read_tasks(tasks, *what)

    def _personas(self, items: Sequence[Row], tasks: Sequence[Row]) -> dict[str, UserPersona]:
        users = {task["user_id"] for task in tasks}
        return personas_of(items, users, self.kinds, self.models.encoder, self.saved.max_vectors)

    def _queued(self, row: Row, personas: Mapping[str, UserPersona]) -> QueuedTask:
        persona = personas.get(row["user_id"]) or UserPersona.empty(self.models.encoder.width)
        return QueuedTask(
            task_id=row["task_id"],
            user_id=row["user_id"],
            kind=row["kind"],
            input=row["input"],
            choices=None if row["choices"] is None else tuple(row["choices"]),
            reference=row["reference"],
            persona=persona.persona,
        )

    def _answer_row(self, task: QueuedTask, found: Answer | Refusal, personas: Mapping[str, UserPersona]) -> Row:
        own = {"task_id": task.task_id, "user_id": task.user_id}
        if isinstance(found, Refusal):
            return own | {"finish_reason": found.reason}
        persona = personas.get(task.user_id)
        texts = {(item["kind"], item["item_id"]): item for item in persona.items} if persona else {}
        why = [
            {**texts[item["kind"], item["item_id"]], "weight": item["weight"]}
            for item in top_items(task, found.weights)
        ]
        told = {"answer": found.text, "score": found.score, "finish_reason": found.finish_reason}
        return own | told | {"why": why, "persona_source": persona_source(task, found)}


def _decided(saved: Saved) -> Saved:
    """The models with float32 or bfloat16 wherever `auto` stands; the one that is faster here."""
    names, config = dict(saved.models), saved.config
    if config.dtype == "auto":
        names["dtype"] = decided_precision("auto", encoder_folder(config.encoder, config.cache)[0], config.device)
    if config.llm_dtype == "auto":
        names["llm_dtype"] = decided_precision("auto", model_folder(config.llm, config.cache), config.device)
    return Saved(names, saved.max_vectors, saved.kinds, saved.columns)
