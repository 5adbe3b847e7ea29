"""A causal LLM as `transformers` runs it, for those whose tokens cannot be packed: only prompts of one length together.

What such a model makes of a token depends on more than the tokens before it and its position: on its slot in the cache
(ALiBi), on the length of the pass (longrope), or on a state that has no slots (Mamba). Nothing is padded or masked
here, so that a row computes what it would compute alone.

Shapes: B rows of one length, P prompt tokens with soft prompt, E width, V vocabulary.
"""

from collections.abc import Sequence
from inspect import signature
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from llm_jobs.engine.answering import Outcome, Prepared, best_choice
from llm_jobs.engine.beams import beam_search
from llm_jobs.engine.decoding import Decoded, Ids, greedy
from llm_jobs.engine.rules import Rules
from llm_jobs.engine.seq2seq import batches
from llm_jobs.prompts import PromptParts, Refusal


class UnpackedLM:
    """A causal LLM; does what CausalLM does, without keeping anything between calls."""

    def __init__(
        self,
        model: PreTrainedModel,
        end_ids: Sequence[int],
        rules: Rules,
        num_beams: int = 1,
        *,
        scale: float = 1.0,
        keeps: bool = True,
        switch: int | None = None,
    ) -> None:
        """Take a model over.

        Args:
            model: of `transformers`.
            end_ids: tokens that end an answer.
            rules: of its generation settings.
            num_beams: 1 is greedy.
            scale: what the model multiplies the embeddings of token ids with.
            keeps: whether tokens are read once; if not, everything is read again for each token.
            switch: the length at whose crossing everything is read again (longrope).
        """
        self._model: Any = model
        self._rules, self._num_beams = rules, num_beams
        self._scale, self._keeps, self._switch = scale, keeps, switch
        self._device, self._dtype = model.device, model.dtype
        self._end_ids = torch.tensor(end_ids, device=self._device)
        self._takes_count = "logits_to_keep" in signature(self._model.forward).parameters
        self.kernel = "transformers, prompts of one length" + ("" if keeps else ", without a cache")

    def embed(self, ids: Tensor) -> Tensor:
        """(n, E) what the layers get of n token ids."""
        return self._model.get_input_embeddings()(ids) * self._scale

    @torch.no_grad()
    def answer(self, requests: Sequence[Prepared]) -> list[Outcome]:
        """Outcomes in the order of the requests."""
        outcomes: dict[int, Outcome] = {}
        for batch in batches(requests, self._num_beams, alike=True):
            embeds = torch.stack([self._embeds(request.parts, request.soft, ()) for request in batch])
            if batch[0].choices:
                found = [
                    best_choice(request.choices, self._choice_log_probs(row, request.choices).cpu())
                    for request, row in zip(batch, embeds, strict=True)
                ]
            else:
                found = [Outcome(answer) for answer in self._generate(batch, embeds)]
            outcomes |= zip((request.index for request in batch), found, strict=True)
        return [outcomes[request.index] for request in requests]

    def answer_log_probs(self, parts: Sequence[PromptParts], soft: Tensor, answers: Sequence[Ids]) -> Tensor:
        """Mean log-probability (B,) of each answer's tokens, differentiable with respect to `soft` (B, S, E)."""
        prompts = zip(parts, soft, answers, strict=True)
        rows = [self._embeds(part, vectors, answer[:-1]) for part, vectors, answer in prompts]
        return self._log_probs(rows, answers)

    def steps(self, embeds: Tensor) -> "Steps":
        """Ready to be asked what follows prompts (B, P, E)."""
        return Steps(self, embeds, keeps=self._keeps, switch=self._switch)

    def forward(self, embeds: Tensor, kept: dict[str, Any] | None, last: int = 1) -> Any:
        """What the model says to `embeds` behind what it kept, with logits of at least the `last` tokens.

        Args:
            embeds: (B, tokens, E).
            kept: empty at the start; None if it shall keep nothing.
            last: the logits of all tokens of a long prompt would take gigabytes.
        """
        wanted = {"logits_to_keep": last} if self._takes_count else {}
        return self._model(inputs_embeds=embeds, use_cache=kept is not None, **(kept or {}), **wanted)

    def _generate(self, requests: Sequence[Prepared], embeds: Tensor) -> list[Decoded | Refusal]:
        limits = [request.limit for request in requests]
        guides = [self._rules.guide(request.ids, request.limit) for request in requests]
        steps = self.steps(embeds)
        if self._num_beams > 1:
            return beam_search(steps.first(), steps, limits, self._end_ids, guides, self._num_beams)
        return greedy(steps.first(), steps, limits, self._end_ids, guides)

    def _choice_log_probs(self, prompt: Tensor, choices: Sequence[Ids]) -> Tensor:
        """(C,) of one prompt (P, E)."""
        rows = [torch.cat([prompt, self.embed(self._ids(choice[:-1]))]) for choice in choices]
        return self._log_probs(rows, choices)

    def _log_probs(self, rows: Sequence[Tensor], answers: Sequence[Ids]) -> Tensor:
        """Mean log-probability (B,) of answers, of which the rows end with all tokens but the last."""
        found: dict[int, Tensor] = {}
        ordered = sorted(range(len(rows)), key=lambda at: len(rows[at]))
        for _, group in groupby(ordered, key=lambda at: len(rows[at])):
            numbers = list(group)
            longest = max(len(answers[at]) for at in numbers)
            logits = self.forward(torch.stack([rows[at] for at in numbers]), None, longest).logits
            for at, row in zip(numbers, logits, strict=True):
                targets = self._ids(answers[at])
                found[at] = -F.cross_entropy(row[-len(targets) :].float(), targets)
        return torch.stack([found[at] for at in range(len(rows))])

    def _embeds(self, parts: PromptParts, soft: Tensor, answer: Ids) -> Tensor:
        """(tokens, E) of a prompt and the beginning of its answer."""
        before, after = self.embed(self._ids(parts.before)), self.embed(self._ids(parts.after + answer))
        return torch.cat([before, soft.to(self._device, self._dtype), after])

    def _ids(self, ids: Ids) -> Tensor:
        return torch.tensor(ids, dtype=torch.long, device=self._device)


class Steps:
    """Decoding steps over whatever the model keeps of the tokens it has read."""

    def __init__(self, llm: UnpackedLM, embeds: Tensor, *, keeps: bool, switch: int | None) -> None:
        self._llm, self._embeds, self._switch = llm, embeds, switch
        self._keeps = keeps
        self._kept: dict[str, Any] | None = None

    def first(self) -> Tensor:
        """Logits (B, V) of what follows the prompts."""
        return self._read()

    def next(self, tokens: Tensor) -> Tensor:
        new = self._llm.embed(tokens[:, None])
        self._embeds = torch.cat([self._embeds, new], dim=1)
        if self._kept is None or self._embeds.shape[1] - 1 == self._switch:
            return self._read()
        return self._said(self._llm.forward(new, self._kept))

    def keep(self, rows: Tensor) -> None:
        self._take(rows)

    def reorder(self, rows: Tensor) -> None:
        self._take(rows)

    def _read(self) -> Tensor:
        """Read everything."""
        return self._said(self._llm.forward(self._embeds, {} if self._keeps else None))

    def _said(self, output: Any) -> Tensor:
        names = [name for name in ("past_key_values", "cache_params") if getattr(output, name, None) is not None]
        self._kept = {name: getattr(output, name) for name in names} if self._keeps and names else None
        return output.logits[:, -1].float()

    def _take(self, rows: Tensor) -> None:
        self._embeds = self._embeds[rows]
        if self._kept:
            for kept in self._kept.values():
                kept.reorder_cache(rows)
