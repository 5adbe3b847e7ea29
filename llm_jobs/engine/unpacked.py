"""A causal LLM as `transformers` runs it, for those whose tokens cannot be packed: only prompts of one length together.

What such a model makes of a token depends on more than the tokens before it and its position: on its place in the cache
(ALiBi), on the length of the pass (longrope), or on a state that has no places (Mamba). Nothing is padded or masked
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

from llm_jobs.engine.rules import Rules
from llm_jobs.engine.small_copy import REACH, lengths
from llm_jobs.engine.stepwise import StepwiseLM
from llm_jobs.prompts import Ids


class UnpackedLM(StepwiseLM):
    """A causal LLM whose prompts are read together with what follows them."""

    def __init__(
        self,
        model: PreTrainedModel,
        end_ids: Sequence[int],
        rules: Rules,
        num_beams: int = 1,
        *,
        scale: float = 1.0,
        keeps: bool = True,
        switches: bool = False,
    ) -> None:
        """Take a model over.

        Args:
            model: of `transformers`.
            end_ids: tokens that end an answer.
            rules: of its generation settings.
            num_beams: 1 is greedy.
            scale: what the model multiplies the embeddings of token ids with.
            keeps: whether tokens are read once; if not, everything is read again for each token.
            switches: whether everything is read again when the length crosses the one of the training (longrope).
        """
        super().__init__(model, end_ids, rules, num_beams, scale=scale)
        trained = lengths(model.config).get("original_max_position_embeddings", REACH)
        self._keeps, self._switch = keeps, trained if switches else None
        self._takes_count = "logits_to_keep" in signature(self._model.forward).parameters
        self.kernel += "" if keeps else ", without a cache"

    def read(self, prompts: Sequence[Tensor]) -> Sequence[Tensor]:
        return prompts

    def steps(self, read: Sequence[Tensor]) -> "UnpackedSteps":
        return UnpackedSteps(self, torch.stack(list(read)), keeps=self._keeps, switch=self._switch)

    def repeated(self, read: Sequence[Tensor], row: int, count: int) -> Sequence[Tensor]:
        return [read[row]] * count

    def log_probs(self, read: Sequence[Tensor], answers: Sequence[Ids]) -> Tensor:
        rows = [
            torch.cat([prompt, self.embed(self.tensor(answer[:-1]))])
            for prompt, answer in zip(read, answers, strict=True)
        ]
        means: dict[int, Tensor] = {}
        ordered = sorted(range(len(rows)), key=lambda row: len(rows[row]))
        for _, group in groupby(ordered, key=lambda row: len(rows[row])):
            numbers = list(group)
            longest = max(len(answers[number]) for number in numbers)
            logits = self.forward(torch.stack([rows[number] for number in numbers]), None, longest).logits
            for number, row in zip(numbers, logits, strict=True):
                targets = self.tensor(answers[number])
                means[number] = -F.cross_entropy(row[-len(targets) :].float(), targets)
        return torch.stack([means[number] for number in range(len(rows))])

    def forward(self, embeds: Tensor, kept: dict[str, Any] | None, last: int = 1) -> Any:
        """Run the model over `embeds` behind what it kept, with logits of at least the `last` tokens.

        Args:
            embeds: (B, tokens, E).
            kept: empty at the start; None if it shall keep nothing.
            last: the logits of all tokens of a long prompt would take gigabytes.
        """
        wanted = {"logits_to_keep": last} if self._takes_count else {}
        return self._model(inputs_embeds=embeds, use_cache=kept is not None, **(kept or {}), **wanted)


class UnpackedSteps:
    """Decoding steps over whatever the model keeps of the tokens it has read."""

    def __init__(self, llm: UnpackedLM, embeds: Tensor, *, keeps: bool, switch: int | None) -> None:
        self._llm, self._embeds, self._switch = llm, embeds, switch
        self._keeps = keeps
        self._kept: dict[str, Any] | None = None

    def first(self) -> Tensor:
        return self._logits(self._llm.forward(self._embeds, {} if self._keeps else None))

    def next(self, tokens: Tensor) -> Tensor:
        new = self._llm.embed(tokens[:, None])
        self._embeds = torch.cat([self._embeds, new], dim=1)
        if self._kept is None or self._embeds.shape[1] - 1 == self._switch:
            return self.first()
        return self._logits(self._llm.forward(new, self._kept))

    def keep(self, rows: Tensor) -> None:
        self._embeds = self._embeds[rows]
        for kept in (self._kept or {}).values():
            kept.reorder_cache(rows)

    reorder = keep

    def _logits(self, output: Any) -> Tensor:
        names = [name for name in ("past_key_values", "cache_params") if getattr(output, name, None) is not None]
        self._kept = {name: getattr(output, name) for name in names} if self._keeps and names else None
        return output.logits[:, -1].float()
