"""An LLM that `transformers` runs step by step: batches of requests, each decoded from start to end.

    requests ─▶ batches ─▶ read (encoder states, or embedded prompts) ─┬─▶ next, again and again ───────▶ free answers
                                                                       └─▶ log-probabilities of choices ─▶ closed ones

Nothing is kept between calls. Two kinds: seq2seq.py, and unpacked.py for causal LLMs whose tokens cannot be packed.
Shapes: B rows, P prompt tokens with soft prompt, E width, C choices, V vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Final, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from embedder.encoder import Tell
from llm_jobs.engine.beams import BeamSearch
from llm_jobs.engine.decoding import GreedySearch
from llm_jobs.engine.engine import Prepared, Result, best_choice, split_where, untold
from llm_jobs.engine.rules import Rules
from llm_jobs.prompts import Ids, PromptParts

MAX_ROWS: Final = 64
"""Rows per batch, one for each beam of a request. More make the matrix products no faster (measured: 64 rows run at 95%
of 1,024)."""
MAX_TOKENS: Final = 8192
"""Padded tokens per batch, answers included; one request may have more."""
KEPT_SHARE: Final = 0.75
"""Finished greedy rows are dropped once no more than this share still runs: dropping copies the cache of the others."""


class Reading(Protocol):
    """Prompts of a batch that were read as far as can be done before it is known what follows them."""

    def next(self, tokens: Tensor | None = None) -> Tensor:
        """Append one token (B,) to every row, none at first; logits (B, V), float32, of what follows."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these; a row may be kept several times."""
        ...

    def reorder(self, rows: Tensor) -> None:
        """Let each row continue the one of `rows`, which has the same prompt."""
        ...

    def log_probs(self, rows: Sequence[int], answers: Sequence[Ids]) -> Tensor:
        """Average the log-probabilities of each answer's tokens (B,) behind the prompt of its row, differentiable."""
        ...


class StepwiseLM(ABC):
    """A model of `transformers`, and how it is run."""

    def __init__(
        self,
        model: PreTrainedModel,
        end_ids: Sequence[int],
        rules: Rules,
        num_beams: int = 1,
        *,
        scale: float = 1.0,
        alike: bool = True,
    ) -> None:
        """Take a model over.

        Args:
            model: of `transformers`.
            end_ids: tokens that end an answer.
            rules: of its generation settings.
            num_beams: 1 is greedy.
            scale: what the model multiplies the embeddings of token ids with.
            alike: whether only prompts of one length go together.
        """
        self.model: Any = model
        self._rules, self._num_beams = rules, num_beams
        self._scale, self.alike = scale, alike
        self._device, self._dtype = model.device, model.dtype
        self._end_ids = torch.tensor(end_ids, device=self._device)
        self.kernel = "transformers, prompts of one length" if alike else "transformers"

    @abstractmethod
    def read(self, prompts: Sequence[Tensor]) -> Reading:
        """Read prompts, (P, E) each."""

    def embed(self, ids: Tensor) -> Tensor:
        """Embed n token ids as the layers get them: (n, E)."""
        return self.model.get_input_embeddings()(ids) * self._scale

    def embedded(self, parts: PromptParts, soft: Tensor) -> Tensor:
        """Embed a prompt with its soft prompt (S, E): (P, E)."""
        before, after = self.embed(self.tensor(parts.before)), self.embed(self.tensor(parts.after))
        return torch.cat([before, soft.to(self._device, self._dtype), after])

    @torch.no_grad()
    def run(self, prepared: Sequence[Prepared], tell: Tell = untold) -> list[Result]:
        """Decode an answer to each request, in their order; `tell` hears how many more are done."""
        results: dict[Prepared, Result] = {}
        for batch in batches(prepared, self._num_beams, alike=self.alike):
            reading = self.read([self.embedded(request.parts, request.soft) for request in batch])
            answered = self._chosen(batch, reading) if batch[0].choices else self._decoded(batch, reading)
            results |= zip(batch, answered, strict=True)
            tell(len(batch))
        return [results[request] for request in prepared]

    def answer_log_probs(self, parts: Sequence[PromptParts], soft: Tensor, answers: Sequence[Ids]) -> Tensor:
        """Average the log-probabilities of each answer's tokens (B,), differentiable by `soft` (B, S, E)."""
        reading = self.read([self.embedded(*row) for row in zip(parts, soft, strict=True)])
        return reading.log_probs(range(len(answers)), answers)

    def tensor(self, ids: Ids) -> Tensor:
        """Put ids on the device of the model: (n,)."""
        return torch.tensor(ids, dtype=torch.long, device=self._device)

    def _chosen(self, requests: Sequence[Prepared], reading: Reading) -> list[Result]:
        # Not all slots of a decoder are positions, so a tree of choices does not fit: one row for each choice.
        scores = [reading.log_probs([row] * len(one.choices), one.choices) for row, one in enumerate(requests)]
        return [best_choice(request.choices, own.cpu()) for request, own in zip(requests, scores, strict=True)]

    def _decoded(self, requests: Sequence[Prepared], reading: Reading) -> list[Result]:
        """Continue every prompt until it ends, or by its limit of tokens."""
        limits = [request.limit for request in requests]
        end_ids = torch.cat([self._end_ids, self._end_ids.new_tensor(requests[0].stop_ids)])
        shape = len(limits), max(limits), end_ids
        search = BeamSearch(*shape, self._num_beams) if self._num_beams > 1 else GreedySearch(*shape)
        slots = torch.arange(len(limits), device=self._device)
        guides = [self._rules.guide(one.ids, one.limit, one.request.no_repeat) for one in requests]
        search.start(slots, limits, guides)
        if (parents := search.add(slots, reading.next())) is not None:
            reading.keep(parents)
        while bool((going := search.going(slots)).any()):
            count = int(going.sum())
            if count < len(slots) if self._num_beams > 1 else count <= KEPT_SHARE * len(slots):
                reading.keep(going.repeat_interleave(search.width).nonzero().flatten())
                slots = slots[going]
            if (parents := search.add(slots, reading.next(search.next_tokens(slots)))) is not None:
                reading.reorder(parents)
        return [search.result(slot) for slot in range(len(limits))]


def batches(requests: Sequence[Prepared], num_beams: int = 1, *, alike: bool = False) -> Iterator[list[Prepared]]:
    """Group requests of the same ends and one size of soft prompt, longest first, within the budget.

    A free answer takes a row for each beam; `alike`: only prompts of the same length go together.
    """

    def key(one: Prepared) -> tuple[bool, Ids, int, int, int]:
        return bool(one.choices), one.stop_ids, len(one.soft), one.prompt_tokens if alike else 0, one.tokens

    def is_other(batch: Sequence[Prepared], one: Prepared) -> bool:
        rows = (len(batch) + 1) * (1 if one.choices else num_beams)
        return rows > MAX_ROWS or batch[0].tokens * rows > MAX_TOKENS or key(one)[:-1] != key(batch[0])[:-1]

    return split_where(sorted(requests, key=key, reverse=True), is_other)
