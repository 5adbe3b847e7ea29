"""Keys and values of the prompts of a training run, kept between epochs."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from llm_jobs.engine.kv_cache import Prefix
from llm_jobs.frozen_llm import FrozenLLM

Progress = Callable[[str, int, int], None]
"""Called with what is being counted (behind a comma, the running loss), how many are done and how many there are."""

PREFIXES_AT_ONCE = 64
"""Prompts whose keys and values are computed in one call."""


class PrefixCache:
    """Keys and values of the examples' prompts, kept for all epochs while they fit; the rest is computed when needed.

    What all prompts start with is stored once. The cache is filled before the first step and in a fixed order, so that
    a resumed run computes with the same numbers.
    """

    def __init__(
        self, llm: FrozenLLM, befores: Iterable[tuple[int, ...]], limit_bytes: int, progress: Progress
    ) -> None:
        self._llm = llm
        self._tails: dict[tuple[int, ...], Tensor] = {}
        unique = sorted(set(befores), key=lambda before: (len(before), before))
        if not llm.has_prefixes or not unique:
            return
        head = common_length(min(unique), max(unique))
        self._head = llm.prefixes(unique[:1])[0].keys_values[..., :head, :].clone()
        for start in range(0, len(unique), PREFIXES_AT_ONCE):
            chunk = unique[start : start + PREFIXES_AT_ONCE]
            tails = [prefix.keys_values[..., head:, :].clone() for prefix in llm.prefixes(chunk)]
            limit_bytes -= sum(tail.nbytes for tail in tails)
            if limit_bytes < 0:
                return
            self._tails |= zip(chunk, tails, strict=True)
            progress("prompts read", start + len(chunk), len(unique))

    def prefixes(self, befores: Sequence[tuple[int, ...]]) -> list[Prefix] | None:
        """A prefix for each of `befores`; None where the LLM has no use for them."""
        if not self._llm.has_prefixes:
            return None
        missing = [before for before in dict.fromkeys(befores) if before not in self._tails]
        fresh = dict(zip(missing, self._llm.prefixes(missing), strict=True))
        return [fresh.get(before) or self._kept(before) for before in befores]

    def _kept(self, before: tuple[int, ...]) -> Prefix:
        return Prefix(torch.cat([self._head, self._tails[before]], dim=3))


def common_length(one: Sequence[int], two: Sequence[int]) -> int:
    """How many tokens two prompts start with alike; of all prompts, if these are the first and the last in order."""
    return next((at for at, pair in enumerate(zip(one, two, strict=False)) if pair[0] != pair[1]), len(one))
