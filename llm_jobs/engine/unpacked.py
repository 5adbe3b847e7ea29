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

from llm_jobs.engine.small_copy import REACH, lengths
from llm_jobs.engine.stepwise import StepwiseLM
from llm_jobs.prompts import Ids


class UnpackedLM(StepwiseLM):
    """A causal LLM whose prompts are read together with what follows them."""

    def __init__(self, *settings: Any, keeps: bool = True, switches: bool = False, **ways: Any) -> None:
        """Take a model over; settings and ways are those of StepwiseLM.

        Args:
            settings: as of StepwiseLM.
            keeps: whether tokens are read once; if not, everything is read again for each token.
            switches: whether everything is read again when the length crosses the one of the training (longrope).
            ways: as of StepwiseLM.
        """
        super().__init__(*settings, **ways)
        trained = lengths(self.model.config).get("original_max_position_embeddings", REACH)
        self.keeps, self.switch = keeps, trained if switches else None
        self._takes_count = "logits_to_keep" in signature(self.model.forward).parameters
        self.kernel += "" if keeps else ", without a cache"

    def read(self, prompts: Sequence[Tensor]) -> "Unread":
        return Unread(self, prompts)

    def forward(self, embeds: Tensor, kept: dict[str, Any] | None, last: int = 1) -> Any:
        """Run the model over `embeds` behind what it kept, with logits of at least the `last` tokens.

        Args:
            embeds: (B, tokens, E).
            kept: empty at the start; None if it shall keep nothing.
            last: the logits of all tokens of a long prompt would take gigabytes.
        """
        wanted = {"logits_to_keep": last} if self._takes_count else {}
        return self.model(inputs_embeds=embeds, use_cache=kept is not None, **(kept or {}), **wanted)


class Unread:
    """Prompts that are read with the first token behind them, and whatever the model keeps of them then."""

    def __init__(self, llm: UnpackedLM, prompts: Sequence[Tensor]) -> None:
        self._llm, self._prompts = llm, prompts
        self._embeds = prompts[0][None, :0]  # (B, tokens, E) all that was read
        self._kept: dict[str, Any] | None = None

    def next(self, tokens: Tensor | None = None) -> Tensor:
        if tokens is None:
            new = self._embeds = torch.stack(list(self._prompts))
        else:
            new = self._llm.embed(tokens[:, None])
            self._embeds = torch.cat([self._embeds, new], dim=1)
        if self._kept is None or self._embeds.shape[1] - 1 == self._llm.switch:
            new, self._kept = self._embeds, {} if self._llm.keeps else None
        output = self._llm.forward(new, self._kept)
        names = [name for name in ("past_key_values", "cache_params") if getattr(output, name, None) is not None]
        self._kept = {name: getattr(output, name) for name in names} if self._llm.keeps and names else None
        return output.logits[:, -1].float()

    def keep(self, rows: Tensor) -> None:
        self._embeds = self._embeds[rows]
        for kept in (self._kept or {}).values():
            kept.reorder_cache(rows)

    reorder = keep

    def log_probs(self, rows: Sequence[int], answers: Sequence[Ids]) -> Tensor:
        llm, means = self._llm, dict[int, Tensor]()
        read = [
            torch.cat([self._prompts[row], llm.embed(llm.tensor(answer[:-1]))])
            for row, answer in zip(rows, answers, strict=True)
        ]
        for _, group in groupby(sorted(range(len(read)), key=lambda at: len(read[at])), key=lambda at: len(read[at])):
            numbers = list(group)
            longest = max(len(answers[number]) for number in numbers)
            logits = llm.forward(torch.stack([read[number] for number in numbers]), None, longest).logits
            for number, row in zip(numbers, logits, strict=True):
                targets = llm.tensor(answers[number])
                means[number] = -F.cross_entropy(row[-len(targets) :].float(), targets)
        return torch.stack([means[number] for number in range(len(read))])
