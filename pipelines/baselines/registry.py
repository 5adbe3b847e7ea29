"""Every way to answer that is compared, by name. A new method is one more line of `METHODS`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from embedder.plug_config import PUBLISHED, TURNS
from llm_jobs.kinds import Kind
from pipelines.baselines.cases import DRAWS
from pipelines.baselines.kept import (
    Kept,
    kept_items,
    kept_labelled_vectors,
    kept_labels,
    kept_mean,
    kept_nothing,
    kept_persona,
    kept_persona_and_items,
    kept_texts,
)
from pipelines.baselines.labels import mode_answers, vote_answers
from pipelines.baselines.methods import (
    Build,
    Method,
    Whose,
    few_shot_method,
    few_shot_plug_method,
    label_method,
    nearest_method,
    no_history,
    others_histories,
    own_history,
    plug_method,
    regression_method,
    retrieval_method,
    style_method,
    without_persona,
)
from pipelines.baselines.retrieval import Ranking, by_bm25, by_cosine, by_recency

LORA: Final = "lora"
"""The method that is an LLM of its own for each user (`pipelines.baselines.lora`): asked for with --lora-users."""

SHUFFLED: Final = "shuffled"
"""The plug trained on histories that were given to the wrong users; with --folds only."""

MET: Final = "met"
"""The plug trained on the histories of the tasks' own users, too; with --folds only, beside the others."""

DIFFERENCE: Final = "difference"
"""A plug of what sets a user apart from others (`pipelines.baselines.difference`); with --folds only."""

NEAREST: Final = "nearest"
"""The plug trained with the nearest item in the prompt, as it answers; with --folds only."""

PUBLISHED_INPUT: Final = "pplug_published_input"
"""The plug as published, of items encoded from their input alone (`pipelines.baselines.inputs`); with --folds only."""

FEW_SHOT_PLUG: Final = "few_shot_plug"
"""The plug trained with the nearest items as earlier turns, as it answers; with --folds only."""

FEW_SHOT: Final = 4
"""Items that are earlier turns of a conversation."""

OWN_PLUG: Final = "own"
"""The plug that the others are compared with, whatever its aggregation."""

ATTENTION: Final = "attention"
"""Aggregation of the plug that learns."""

WAYS: Final[Mapping[str, str]] = {
    **dict.fromkeys((SHUFFLED, DIFFERENCE, NEAREST, FEW_SHOT_PLUG), ATTENTION),
    PUBLISHED_INPUT: PUBLISHED,
}
"""Other ways to train a plug than an aggregation alone, each with the aggregation that it trains."""

OF_FOLDS: Final = (*WAYS, MET)
"""Plugs that only a comparison on folds trains."""


@dataclass(frozen=True)
class Entry:
    """A method before it is built."""

    build: Build = field(repr=False)
    plug: str | None = None
    """The plug that it needs: one of the names above, or an aggregation."""
    is_closed: bool = False
    """It answers closed tasks only, without the LLM."""
    is_free: bool = False
    """It answers free tasks only, through the LLM."""
    draws: int = 1
    """Answers to each task."""


def of_plug(
    name: str,
    whose: Whose = own_history,
    *,
    draws: int = 1,
    kept: Kept = kept_persona,
    is_free: bool = False,
) -> Entry:
    """A method that answers with a plug."""
    return Entry(plug_method(name, whose, draws=draws, kept=kept), name, is_free=is_free, draws=draws)


RANKINGS: Final[Mapping[str, tuple[Callable[[Kind], Ranking], Kept]]] = {
    "recency": (lambda _: by_recency, kept_texts),
    "bm25": (by_bm25, kept_texts),
    "dense": (lambda _: by_cosine, kept_items),
}
"""Ways to choose items for the prompt, and what each has to keep."""

METHODS: Final[Mapping[str, Entry]] = {
    "own": of_plug(OWN_PLUG),
    "other": of_plug(OWN_PLUG, others_histories, draws=DRAWS),
    "default": of_plug(OWN_PLUG, no_history, kept=kept_nothing),
    SHUFFLED: of_plug(SHUFFLED),
    MET: of_plug(MET),
    "none": Entry(lambda _: Method(requests=without_persona)),
    "instruction": of_plug("none", no_history, kept=kept_nothing),
    "plug_task": of_plug("task", no_history, kept=kept_nothing),
    "plug_mean": of_plug("mean", kept=kept_mean),
    "plug_attention": of_plug(ATTENTION, is_free=True),
    "pplug_published": of_plug(PUBLISHED),
    PUBLISHED_INPUT: of_plug(PUBLISHED_INPUT),
    DIFFERENCE: of_plug(DIFFERENCE),
    "style_vector": Entry(style_method, is_free=True),
    "plug_nearest": Entry(nearest_method(OWN_PLUG), OWN_PLUG, is_free=True),
    NEAREST: Entry(nearest_method(NEAREST), NEAREST, is_free=True),
    "nearest_default": Entry(nearest_method(NEAREST, no_history), NEAREST, is_free=True),
    **{
        f"{name}_{count}": Entry(retrieval_method(rank, count, kept))
        for name, (rank, kept) in RANKINGS.items()
        for count in (1, 4)
    },
    "plug_turns": of_plug(TURNS, is_free=True),
    "few_shot_4": Entry(few_shot_method(FEW_SHOT)),
    "few_shot_8": Entry(few_shot_method(2 * FEW_SHOT)),
    FEW_SHOT_PLUG: Entry(
        few_shot_plug_method(FEW_SHOT_PLUG, FEW_SHOT, own_history, kept_persona_and_items), FEW_SHOT_PLUG, is_free=True
    ),
    "few_shot_default": Entry(
        few_shot_plug_method(FEW_SHOT_PLUG, FEW_SHOT, no_history, kept_items), FEW_SHOT_PLUG, is_free=True
    ),
    "label_mode": Entry(label_method(mode_answers, kept_labels), is_closed=True),
    "label_vote": Entry(label_method(vote_answers, kept_labelled_vectors), is_closed=True),
    "label_regression": Entry(regression_method, is_closed=True),
}
"""By the name of its arm in `evaluations`; `pipelines.verdicts.words` says what each is."""
