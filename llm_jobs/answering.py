"""Turn requests into answers: sorted batches within a token budget; a bad request never takes its batch down.

requests ─▶ prepare ─▶ sort by kind of work and length ─▶ batches ─▶ engine ─▶ answers, in the order of the requests
               └─▶ refusals                                  └─ an exception: split in halves and try again
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .decoding import Decoded, Ids
from .prompts import Answer, PromptParts, Refusal

Parts = Sequence[PromptParts]

MAX_ROWS = 64
"""Requests per batch. More rows make the matrix products no faster (measured: 64 rows run at 95% of 1,024)."""
MAX_TOKENS = 8192
"""Padded tokens per batch, answers included (one request may have more): 190 MB of SmolLM2's cache in bfloat16."""


class Engine(Protocol):
    """CausalLM or Seq2SeqLM."""

    def generate(
        self, parts: Sequence[PromptParts], soft: Tensor, limits: Sequence[int]
    ) -> list[Decoded | Refusal]: ...

    def choose(
        self, parts: Sequence[PromptParts], soft: Tensor, choices: Sequence[tuple[Ids, ...]]
    ) -> list[Tensor | Refusal]: ...


@dataclass(frozen=True, eq=False)
class Prepared:
    """A request in token ids."""

    index: int
    """Its place among the requests of the call."""
    parts: PromptParts
    soft: Tensor
    """(S, E)"""
    choices: tuple[Ids, ...]
    """Token ids of the choices; empty for a free answer."""
    limit: int
    """Most tokens of a free answer."""

    @property
    def prompt_tokens(self) -> int:
        return len(self.parts.before) + len(self.soft) + len(self.parts.after)

    @property
    def tokens(self) -> int:
        """Tokens the LLM reads or writes at most."""
        return self.prompt_tokens + (sum(map(len, self.choices)) or self.limit)

    @property
    def sort_key(self) -> tuple[bool, int, int, Ids, int]:
        """Brings together what can share a batch, equal lengths, and equal prompts."""
        return bool(self.choices), len(self.soft), self.tokens, self.parts.before, self.index


@dataclass(frozen=True)
class Outcome:
    """What became of one prepared request."""

    answer: Decoded | Refusal
    choice: int | None = None
    """Index of the chosen answer."""


def run(engine: Engine, prepared: Sequence[Prepared]) -> dict[int, Outcome]:
    """Outcomes by index.

    Raises:
        Exception: the engine's own, if it fails on every request; failing on some of them gives refusals.
    """
    outcomes: dict[int, Outcome] = {}
    failures: list[Exception] = []
    stack = list(batches(prepared))[::-1]
    while stack:
        batch = stack.pop()
        try:
            results = _run_batch(engine, batch)
        except Exception as error:  # whatever a bad request can do to a model; raised below if it was not the request
            if len(batch) > 1:
                stack += [batch[len(batch) // 2 :], batch[: len(batch) // 2]]
                continue
            failures.append(error)
            results = [Outcome(Refusal("model_error", f"{type(error).__name__}: {error}"))]
        outcomes |= {request.index: result for request, result in zip(batch, results, strict=True)}
    if failures and len(failures) == len(prepared):
        raise failures[0]
    return outcomes


def batches(prepared: Sequence[Prepared]) -> Iterator[list[Prepared]]:
    """Requests of one kind of work and one size of soft prompt each, longest first, within the budget."""
    batch: list[Prepared] = []
    for request in sorted(prepared, key=lambda request: request.sort_key, reverse=True):
        is_full = len(batch) == MAX_ROWS or (batch and batch[0].tokens * (len(batch) + 1) > MAX_TOKENS)
        if batch and (is_full or request.sort_key[:2] != batch[0].sort_key[:2]):
            yield batch
            batch = []
        batch.append(request)
    if batch:
        yield batch


def _run_batch(engine: Engine, batch: Sequence[Prepared]) -> list[Outcome]:
    parts = [request.parts for request in batch]
    soft = torch.stack([request.soft for request in batch])  # (B, S, E)
    if not batch[0].choices:
        return [Outcome(answer) for answer in engine.generate(parts, soft, [request.limit for request in batch])]
    scores = engine.choose(parts, soft, [request.choices for request in batch])
    return [best_choice(request.choices, score) for request, score in zip(batch, scores, strict=True)]


def best_choice(choices: Sequence[Ids], scores: Tensor | Refusal) -> Outcome:
    """The choice with the highest mean log-probability; the first of equals."""
    if isinstance(scores, Refusal):
        return Outcome(scores)
    best = int(scores.argmax())
    return Outcome(Decoded(choices[best], float(scores[best]), has_ended=True), best)


def answer(request: Prepared, outcome: Outcome, text: str) -> Answer | Refusal:
    """The outcome in the words of the contract; `text` is what the token ids say."""
    decoded = outcome.answer
    if isinstance(decoded, Refusal):
        return decoded
    free = "eos" if decoded.has_ended else "length"
    return Answer(
        text=text,
        score=decoded.score,
        finish_reason=free if outcome.choice is None else "choice",
        prompt_tokens=request.prompt_tokens,
        output_tokens=len(decoded.ids),
        is_shortened=request.parts.is_shortened,
    )
