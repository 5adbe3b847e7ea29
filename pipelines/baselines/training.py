"""Train the plugs of a comparison on folds: many plugs, whose prompts are tokenised and read once for all of them.

examples ─┬─▶ prepared, by where the soft prompt stands ─┐
          └─▶ the LLM's values of the prompts ───────────┴─▶ those of some users ─▶ a plug of one aggregation and seed

Where a folder is given, plugs are kept there under names that tell what they were trained on and how: a comparison that
was killed goes on where it was, and one with more methods or seeds trains these alone.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from embedder.plug import PersonaPlug
from llm_jobs.prompts import Placement
from llm_jobs.training import REPORT, read_report
from llm_jobs.training.checkpoint import run_fingerprint
from llm_jobs.training.data import Example, Tokenised, TrainConfig
from llm_jobs.training.fit import prepare, seeded_plug, train_plug
from llm_jobs.training.through_llm import fingerprint_parts
from llm_jobs.training.training import with_values
from pipelines.answers.models import trainable
from pipelines.baselines.difference import Peers
from pipelines.baselines.inputs import InputVectors
from pipelines.baselines.methods import TrainedPlug
from pipelines.baselines.night import NightOfKind
from pipelines.baselines.registry import (
    DIFFERENCE,
    FEW_SHOT,
    FEW_SHOT_PLUG,
    NEAREST,
    PUBLISHED_INPUT,
    SHUFFLED,
    WAYS,
)
from pipelines.baselines.retrieval import WithItems
from pipelines.nights.runs import Progress
from pipelines.train import add_to_report, hashed_users, plug_config, trained_on
from pipelines.training_data import TrainingData


@dataclass(frozen=True, eq=False)
class FoldTrainer:
    """Trains plugs of one kind on the examples of some of the users."""

    night: NightOfKind
    data: TrainingData
    """What the examples are made of; of a closed kind with labels."""
    examples: Sequence[Example]
    """Of all users."""
    config: TrainConfig
    progress: Progress
    folder: Path | None = None
    """Where plugs are kept; nowhere unless given."""
    _prepared: dict[Placement, list[Tokenised]] = field(default_factory=dict[Placement, list[Tokenised]])

    def trained(self, need: str, seed: int, is_known: Callable[[str], bool]) -> TrainedPlug:
        """A plug of an aggregation, or one that is trained in another way.

        Args:
            need: the aggregation, or one of WAYS.
            seed: of the start weights and of the training.
            is_known: tells of a user whether the plug learns of them.
        """
        models = self.night.models
        aggregation = WAYS.get(need, need)
        config = plug_config(self.night.kind, models, aggregation, () if need == DIFFERENCE else self.data.labels)
        if config.turns:
            return TrainedPlug(seeded_plug(config, seed).eval(), 0.0)
        known = [one for one in self.prepared(Placement(config.placement)) if is_known(one.example.user_id)]
        if not config.values_width:
            known = [replace(one, values=None) for one in known]
        if need == SHUFFLED:
            wrong = shuffled([one.example for one in known], seed)
            known = [replace(one, example=example) for one, example in zip(known, wrong, strict=True)]
        if need in (NEAREST, FEW_SHOT_PLUG):
            plain, llm = [one.example for one in known], trainable(models.llm)
            made = WithItems(self.data.items, self.night.kinds, self.night.kind, llm, config.soft_count)
            worded = made.nearest(plain) if need == NEAREST else made.few_shot(plain, FEW_SHOT)
            known = prepare(worded, llm, Placement(config.placement))
        other_vectors = self._inputs if need == PUBLISHED_INPUT else None
        start = time.perf_counter()
        if need == DIFFERENCE:
            other_vectors, config = Peers(known), replace(config, encoder_width=2 * config.encoder_width)
        if other_vectors:
            known = other_vectors.examples(known)
        plug = seeded_plug(config, seed)
        held_out = self.config.held_out if plug.head.STOPS_EARLY else 0.0  # else it only tells a loss
        settings = replace(self.config, seed=seed, held_out=held_out)
        with self._folder(need, plug, settings, known) as place:
            folder = Path(place)
            if not (folder / REPORT).is_file():
                names = models.encoder.encode(config.labels) if config.labels else None
                train_plug(plug, trainable(models.llm), known, settings, folder, self.progress, names)
                users = hashed_users(self.night.warehouse, trained_on(plug, known, settings)) if self.folder else {}
                add_to_report(folder, seconds=round(time.perf_counter() - start, 1), **users)
            found = TrainedPlug(PersonaPlug.from_pretrained(folder), read_report(folder).get("seconds"))
        return replace(found, seen=other_vectors.task) if other_vectors else found

    @cached_property
    def _inputs(self) -> InputVectors:
        return InputVectors(self.data.items, self.night.kinds, self.night.models.encoder)

    def _folder(
        self, need: str, plug: PersonaPlug, settings: TrainConfig, known: Sequence[Tokenised]
    ) -> AbstractContextManager[Path | str]:
        """The plug's own folder, named by all that the training depends on."""
        if self.folder is None:
            return tempfile.TemporaryDirectory()
        identity = run_fingerprint(plug, asdict(settings), fingerprint_parts(known))
        return nullcontext(self.folder / f"{need}-{settings.seed}-{identity[:16]}")

    def prepared(self, placement: Placement) -> list[Tokenised]:
        """The examples of all users, with the LLM's values of their prompts where plugs of the kind see these."""
        if placement not in self._prepared:
            llm = trainable(self.night.models.llm)
            found = prepare(self.examples, llm, placement)
            if self.night.kind.sees_llm_values and llm.values_width and placement is Placement.AFTER:
                found = with_values(llm, found, self.progress)
            self._prepared[placement] = found
        return self._prepared[placement]


def shuffled(examples: Sequence[Example], seed: int) -> list[Example]:
    """Examples with histories of the wrong users: each user gets another's items, as many as they have of them."""
    users = sorted({one.user_id for one in examples})
    longest = {one.user_id: one for one in sorted(examples, key=lambda one: len(one.history))}
    order = [users[at] for at in np.random.default_rng([seed, 2]).permutation(len(users))]
    given = dict(zip(order, order[1:] + order[:1], strict=True))
    wrong: list[Example] = []
    for one in examples:
        lender = longest[given[one.user_id]]
        wrong.append(replace(one, history=lender.history[: len(one.history)], outputs=lender.outputs))
    return wrong
