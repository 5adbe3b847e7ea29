"""Tell whether free answers sound like their user: against what was answered to the same task for another user.

    outputs of a user's items, of everybody's ─▶ Voice: log-likelihood ratio of a text's character n-grams ─┐
    answers of an arm ──────────────────────────────────────────────────────────────────────────────────────┤
    answers to the same task with another user's persona ───────────────────────────────────────────────────┴─▶ AUC

Naive Bayes over n-grams of two to four characters, blanks and punctuation among them, so of short words as well: what
tells authors apart whatever they write about (Stamatatos 2009, doi 10.1002/asi.21001). As both answers are to one task,
its subject tells nothing. .5 is what another user's persona has; the references are what people have.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from llm_jobs.metrics import Scored
from pipelines.baselines.answering import Arm

LENGTHS = (2, 3, 4)
"""Characters of an n-gram."""

STRENGTH = 1000.0
"""N-grams that everybody's shares count as beside the user's own (docs/experiments.md, 2026-11-28)."""

LEAST_OUTPUTS = 4
"""Users with fewer have no voice that could be known."""

REFERENCE = "reference"
"""The arm of what users really wrote."""


def ngrams(*texts: str) -> Counter[str]:
    """How often each n-gram occurs, in lower case, each text between two blanks."""
    padded = [f" {' '.join(words)} " for text in texts if (words := text.lower().split())]
    return Counter(one[at : at + size] for one in padded for size in LENGTHS for at in range(len(one) - size + 1))


class Voices:
    """How users sound, from what they wrote before."""

    def __init__(self, outputs: Mapping[str, Sequence[str]]) -> None:
        """Count the n-grams of each user's outputs."""
        self._of_user = {user: ngrams(*texts) for user, texts in outputs.items()}
        self._known = {user for user, texts in outputs.items() if len(texts) >= LEAST_OUTPUTS}
        self._all = ngrams(*(text for texts in outputs.values() for text in texts))
        self._total = self._all.total() + len(self._all) + 1

    def is_known(self, user_id: str) -> bool:
        """Whether a user wrote enough to be told from others."""
        return user_id in self._known

    def likeness(self, user_id: str, text: str) -> float:
        """Mean logarithm of how much likelier the n-grams of a text are of this user than of anybody; 0 of no text."""
        found, own = ngrams(text), self._of_user[user_id]
        total = own.total() + STRENGTH
        ratios = (
            count * math.log((own[gram] / share + STRENGTH) / total)
            for gram, count in found.items()
            if (share := (self._all[gram] + 1) / self._total)
        )
        return math.fsum(ratios) / max(1, found.total())


def with_authorship(arms: Mapping[str, Arm], others: str, outputs: Mapping[str, Sequence[str]]) -> dict[str, Arm]:
    """The arms, of whose answers it is known how many of another user's to the same task sound less like their user.

    Args:
        arms: by name; unchanged.
        others: name of the arm of other users' personas; without it nothing is known.
        outputs: by user what they wrote before.

    Returns:
        The same arms, and one of the references.
    """
    if others not in arms:
        return dict(arms)
    voices, theirs = Voices(outputs), arms[others].scored

    def likeness(one: Scored) -> float:
        return voices.likeness(one.user_id, one.prediction)

    found = {task: answers for task, answers in theirs.items() if voices.is_known(answers[0].user_id)}
    likenesses = {task: [likeness(one) for one in answers] for task, answers in found.items()}
    truth = {task: [answers[0]._replace(prediction=answers[0].reference)] for task, answers in theirs.items()}
    return {
        name: replace(
            arm,
            scored=arm.scored
            | {
                task: [
                    one._replace(authorship=share_below(likeness(one), likenesses[task])) for one in arm.scored[task]
                ]
                for task in arm.scored.keys() & likenesses.keys()
            },
        )
        for name, arm in {**arms, REFERENCE: Arm(scored=truth)}.items()
    }


def share_below(own: float, others: Sequence[float]) -> float:
    """Share of the others that are below; equal ones count half."""
    return sum((other < own) + (other == own) / 2 for other in others) / len(others)
