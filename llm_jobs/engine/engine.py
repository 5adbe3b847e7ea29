"""What an engine takes and gives: requests in token ids, and decoded answers.

prepared ─▶ run ─▶ decoded, in the same order
└─ an exception: split in halves and try again, so that a bad request never takes the others down
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol, TypeVar

from torch import Tensor

from embedder.encoder import Tell
from llm_jobs.prompts import Ids, PromptParts, Refusal, Request

T = TypeVar("T")

TIE: Final = 1e-4
"""Two logits that are no further apart may change places with the rounding of another batch or another program."""

NON_FINITE: Final = Refusal("non_finite_logits", "the LLM's logits are not finite numbers")


@dataclass(frozen=True, eq=False)
class Prepared:
    """A request in token ids."""

    request: Request
    parts: PromptParts
    soft: Tensor
    choices: tuple[Ids, ...] = ()  # token ids of the choices; empty for a free answer
    stop_ids: Ids = ()
    """Tokens that end the answer besides the LLM's own; the same object in all requests of the same texts."""

    @property
    def ids(self) -> Ids:
        """Token ids of the prompt; a soft prompt has none."""
        return self.parts.before + self.parts.after

    @property
    def limit(self) -> int:
        """Most tokens of a free answer."""
        return self.request.max_new_tokens

    @property
    def prompt_tokens(self) -> int:
        return len(self.parts.before) + len(self.soft) + len(self.parts.after)

    @property
    def tokens(self) -> int:
        """Tokens the LLM reads or writes at most."""
        return self.prompt_tokens + (sum(map(len, self.choices)) or self.limit)

    def with_something_to_read(self) -> "Prepared":
        """Move a token behind `before` if nothing is there: the first prediction comes from reading it."""
        if len(self.soft) or self.parts.after:
            return self
        return replace(self, parts=replace(self.parts, before=self.parts.before[:-1], after=self.parts.before[-1:]))


@dataclass(frozen=True)
class Decoded:
    """An answer in token ids."""

    ids: Ids  # the end token included if there is one
    score: float  # mean log-probability of `ids`
    has_ended: bool  # whether the last token is an end token
    tie_count: int = 0  # tokens whose logit was no more than TIE above that of another
    choice: int | None = None  # index of the chosen answer; None for a free one


Result = Decoded | Refusal


def untold(_: int) -> None:
    """Hear of answers that are done, and tell nobody."""


class Engine(Protocol):
    """What runs an LLM."""

    def run(self, prepared: Sequence[Prepared], tell: Tell = untold) -> list[Result]:
        """Decode an answer to each request, in their order; `tell` hears, from any thread, how many more are done."""
        ...


def run_halving(engine: Engine, prepared: Sequence[Prepared | Refusal], tell: Tell = untold) -> list[Result]:
    """Decode what can be decoded; what is refused already stays so. What is tried again is told of again.

    Raises:
        Exception: the engine's own, if it fails on every request; failing on some of them gives refusals.
    """
    requests = [one for one in prepared if isinstance(one, Prepared)]
    results: dict[Prepared, Result] = {}
    failures: list[Exception] = []
    stack = [requests] if requests else []
    while stack:
        batch = stack.pop()
        try:
            results |= zip(batch, engine.run(batch, tell), strict=True)
        except Exception as error:  # whatever a bad request can do to a model; raised below if it was not the request
            if len(batch) > 1:
                stack += [batch[len(batch) // 2 :], batch[: len(batch) // 2]]
                continue
            failures.append(error)
            results[batch[0]] = Refusal("model_error", f"{type(error).__name__}: {error}")
    if failures and len(failures) == len(requests):
        raise failures[0]
    return [one if isinstance(one, Refusal) else results[one] for one in prepared]


def split_where(ordered: Iterable[T], is_other: Callable[[list[T], T], bool]) -> Iterator[list[T]]:
    """Split a sequence before each item that does not belong to those before it since the last split."""
    batch: list[T] = []
    for one in ordered:
        if batch and is_other(batch, one):
            yield batch
            batch = []
        batch.append(one)
    if batch:
        yield batch


def best_choice(choices: Sequence[Ids], scores: Tensor) -> Result:
    """Choose the highest mean log-probability (C,), the first of equals."""
    if not bool(scores.isfinite().all()):
        return NON_FINITE
    best = int(scores.argmax())
    ties = int((scores >= scores[best] - TIE).sum()) - 1
    return Decoded(choices[best], float(scores[best]), has_ended=True, tie_count=min(1, ties), choice=best)
