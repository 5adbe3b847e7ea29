"""What the engines are asked: prompts of a load as text and as token ids, and their soft prompts.

questions of LaMP, or made-up ones ─▶ texts ─▶ header, soft prompt, rest ─▶ Job
"""

import json
import random
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from llm_jobs.prompts import Placement

Job = dict[str, Any]

SOFT = 5
NEW_TOKENS = 24
CHOICES = 29
BEAMS = 4
LOADS = {"headlines": 128, "queue": 500, "closed": 32, "plain": 128, "beams": 48}
"""How many prompts each has."""


def texts_of(load: str, count: int, data: Path | None) -> list[str]:
    """Prompts of a load, in a random but fixed order."""
    kinds = {"queue": ("LaMP_4", "LaMP_5"), "closed": ("LaMP_2N",)}.get(load, ("LaMP_4",))
    if data is None:
        words = " ".join(import_module("pydoc_data.topics").topics.values()).split()
        draw = random.Random(0)
        starts = [draw.randrange(len(words) - 100) for _ in range(count)]
        return [
            "Generate a headline for the following article: " + " ".join(words[at : at + draw.randint(8, 60)])
            for at in starts
        ]
    texts: list[str] = []
    for kind in kinds:
        questions = json.loads((data / "lamp" / kind / "dev_questions.json").read_text(encoding="utf8"))
        texts += [question["input"] for question in questions[: -(-count // len(kinds))]]
    random.Random(0).shuffle(texts)
    return texts[:count]


def job_of(load: str, count: int, data: Path | None, model: str) -> Job:
    """Prompts as text and as token ids around the soft prompt, and the soft prompts, empty if the load has none."""
    llm: Any = import_module("llm_jobs").FrozenLLM.from_pretrained(model)
    texts = texts_of(load, count, data)
    parts = [llm.parts(text, Placement.BEFORE, SOFT + NEW_TOKENS) for text in texts]
    drawn = torch.randn(len(texts), SOFT, llm.width, generator=torch.Generator().manual_seed(0))
    soft = drawn / drawn.norm(dim=2, keepdim=True) * llm.embedding_norm * 0.3
    return {
        "model": model,
        "texts": texts,
        "before": [part.before for part in parts],
        "after": [part.after for part in parts],
        "soft": [[] for _ in texts] if load == "plain" else soft.tolist(),
        "beams": BEAMS if load == "beams" else 1,
        "choices": choices(texts[0]) if load == "closed" else None,
        "operations_per_token": 2
        * sum(weight.numel() for name, weight in llm.model.named_parameters() if "proj" in name),
        "operations_per_logits": 2 * llm.model.get_output_embeddings().weight.numel(),
    }


def choices(prompt: str) -> list[str]:
    """29 labels: those of the prompt and made-up ones."""
    listed = prompt.partition("[")[2].partition("]")[0]
    own = [label.strip() for label in listed.split(",") if label.strip()]
    return (own + [f"other news of kind {at}" for at in range(CHOICES)])[:CHOICES]
