"""Plain words for kinds, compared methods and metrics, and how a value of a metric is written."""

from dataclasses import dataclass
from typing import Final

from llm_jobs.kinds import SPOKEN

ARMS: Final[dict[str, str]] = {
    "own": "your users' own personas",
    "other": "somebody else's persona",
    "default": "the persona of a new user",
    "none": "the language model alone",
    "shuffled": "a plug trained on wrong histories",
    "met": "a plug that met these users",
    "instruction": "trained instructions, no persona",
    "plug_task": "a plug that sees the task only",
    "plug_mean": "the mean of the history",
    "plug_attention": "a plug that learned from histories",
    "pplug_published": "the plug as published",
    "pplug_published_input": "the same, of items' inputs alone",
    "difference": "what sets a user apart from others",
    "style_vector": "the language model steered by style",
    "plug_nearest": "the plug and the nearest item",
    "nearest": "a plug trained with the nearest item",
    "nearest_default": "that plug, of the history only the nearest item",
    "recency_1": "the newest item in the prompt",
    "recency_4": "4 newest items in the prompt",
    "bm25_1": "the best item by BM25 in the prompt",
    "bm25_4": "4 best items by BM25 in the prompt",
    "dense_1": "the nearest item in the prompt",
    "dense_4": "4 nearest items in the prompt",
    "plug_turns": "a plug of earlier turns",
    "few_shot_4": "4 nearest items as earlier turns",
    "few_shot_8": "8 nearest items as earlier turns",
    "few_shot_plug": "a plug trained with 4 nearest items as turns",
    "few_shot_default": "that plug, of the history only these items",
    "label_mode": "the user's most frequent label",
    "label_vote": "a vote of the user's past labels",
    "label_regression": "a regression on past labels",
    "lora": "a LoRA for each user",
}
"""By the name in `evaluations.arm`."""

ERRORS: Final = ("mae", "rmse")
"""Metrics of which less is better."""


@dataclass(frozen=True)
class MetricWords:
    """A metric, as a person reads it."""

    name: str
    meaning: str
    unit: str
    """Of a difference."""
    scale: float = 1.0
    """What a value is multiplied with to be in that unit."""


METRICS: Final[dict[str, MetricWords]] = {
    "accuracy": MetricWords("accuracy", "share of right answers", "points", 100.0),
    "f1": MetricWords("macro-F1", "right answers, each label counting alike", "points", 100.0),
    "f1-occurring": MetricWords("macro-F1", "right answers, each label that occurs counting alike", "points", 100.0),
    "mae": MetricWords("mean error", "how far ratings are off; less is better", "of a rating step"),
    "rmse": MetricWords("root mean square error", "the same, large errors counting more", "of a rating step"),
    "rouge-1": MetricWords("ROUGE-1", "shared words of answer and reference", "points", 100.0),
    "rouge-L": MetricWords("ROUGE-L", "shared words in the same order", "points", 100.0),
    "rouge-1-unicode": MetricWords("ROUGE-1, any script", "shared words of answer and reference", "points", 100.0),
    "rouge-L-unicode": MetricWords("ROUGE-L, any script", "shared words in the same order", "points", 100.0),
}
"""By the name in `evaluations.metric`."""

MAIN: Final = ("accuracy", "mae", "rouge-L", "rouge-L-unicode")
"""The metrics that a verdict speaks of, the first one there is."""


def kind_words(kind: str) -> str:
    """What people call a kind: `headline` is LaMP_4; any other has its own name."""
    return next((spoken for spoken, name in SPOKEN.items() if name == kind), kind)


def metric_words(metric: str) -> MetricWords:
    """The words of a metric; one that is not known speaks for itself."""
    return METRICS.get(metric) or MetricWords(metric, "", "")


def points(difference: float, metric: str) -> str:
    """The size of a difference: `72 points`, `0.31 of a rating step`."""
    words = metric_words(metric)
    value = abs(difference) * words.scale
    return f"{value:.{0 if value >= 10 else 1 if words.scale > 1 else 2}f} {words.unit}".strip()
