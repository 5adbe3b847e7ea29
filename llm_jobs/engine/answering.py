"""Turn requests into answers; a bad request never takes the others down.

requests ─▶ prepare ─▶ engine ─▶ outcomes ─▶ answers, in the order of the requests
               └─▶ refusals └─ an exception: split in halves and try again
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from llm_jobs.engine.decoding import NON_FINITE, TIE, Decoded, Ids
from llm_jobs.prompts import Answer, PromptParts, Refusal


class Engine(Protocol):
    """CausalLM or Seq2SeqLM."""

    def answer(self, requests: Sequence["Prepared"]) -> "list[Outcome]":
        """Outcomes in the order of the requests."""
        ...


@dataclass(frozen=True, eq=False)
class Prepared:
    """A request in token ids."""

    index: int
    """Its place among the requests of the call."""
    parts: PromptParts
    soft: Tensor
    choices: tuple[Ids, ...]
    """Token ids of the choices; empty for a free answer."""
    limit: int
    """Most tokens of a free answer."""

    @property
    def ids(self) -> Ids:
        """Token ids of the prompt; a soft prompt has none."""
        return self.parts.before + self.parts.after

    @property
    def prompt_tokens(self) -> int:
        return len(self.parts.before) + len(self.soft) + len(self.parts.after)

    @property
    def tokens(self) -> int:
        """Tokens the LLM reads or writes at most."""
        return self.prompt_tokens + (sum(map(len, self.choices)) or self.limit)

    def with_something_to_read(self) -> "Prepared":
        """The request with at least one token behind `before`: the first prediction comes from reading it."""
        if len(self.soft) or self.parts.after:
            return self
        return replace(self, parts=replace(self.parts, before=self.parts.before[:-1], after=self.parts.before[-1:]))


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
    stack = [list(prepared)] if prepared else []
    while stack:
        batch = stack.pop()
        try:
            results = engine.answer(batch)
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


def best_choice(choices: Sequence[Ids], scores: Tensor) -> Outcome:
    """The choice with the highest mean log-probability (C,), the first of equals."""
    if not bool(scores.isfinite().all()):
        return Outcome(NON_FINITE)
    best = int(scores.argmax())
    ties = int((scores >= scores[best] - TIE).sum()) - 1
    return Outcome(Decoded(choices[best], float(scores[best]), has_ended=True, tie_count=min(1, ties)), best)


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
        tie_count=decoded.tie_count,
    )
