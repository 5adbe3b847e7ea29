"""A frozen causal LLM: prefixes, the log-probability of given answers, and the answers of one batch.

    prompt before the soft prompt ─▶ Prefix (no gradient, shared by equal prompts)
                                        │
    soft prompt, rest of the prompt ────┴─▶ training: and the given answer ─▶ its log-probability
                                          ├▶ free answers: token by token
                                          └▶ closed answers: the tree of the choices in one pass

Shapes: B rows, S soft prompt vectors, Q new tokens, E width, A answer tokens of all rows, V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .choices import choice_tree, padded_trees
from .decoding import NON_FINITE, Decoded, Ids, greedy
from .kv_cache import KVCache, Prefix
from .prompts import PromptParts, Refusal
from .trunk import Trunk

PREFIX_TOKENS = 4096
"""Padded tokens of prompts read in one pass; more is no faster on a CPU (measured for encoders, from 2,000 on)."""
READ_TOKENS = 512
"""New tokens of a row per pass, so that the attention mask of a long prompt stays small."""
KEPT_HEAD_TOKENS = 1024
"""Longest common head that is kept between calls."""
LOGIT_ROWS = 256
"""Positions whose logits are held at once: 50 MB for a vocabulary of 49,152."""


class CausalLM:
    """A causal LLM through one of the trunks."""

    def __init__(self, trunk: Trunk, end_ids: Sequence[int]) -> None:
        self.trunk = trunk
        self.kernel = trunk.kernel
        self._empty = trunk.empty_prefix()
        self._device, self._dtype = self._empty.keys_values.device, self._empty.keys_values.dtype
        self._end_ids = torch.tensor(end_ids, device=self._device)
        self._head: tuple[Ids, Prefix] = ((), self._empty)

    @torch.no_grad()
    def prefixes(self, befores: Sequence[Ids]) -> list[Prefix]:
        """Keys and values of what stands before the soft prompts; equal ones are one object.

        What all of them start with (chat header, task description) is read once, and kept for the next call.
        """
        if not befores:
            return []
        head_ids, head = self._common_head(befores)
        known: dict[Ids, Prefix] = {head_ids: head}
        unread = sorted(set(befores) - {head_ids}, key=len, reverse=True)
        while unread:
            count = max(1, PREFIX_TOKENS // len(unread[0]))
            batch, unread = unread[:count], unread[count:]
            cache = KVCache.of([head] * len(batch), len(batch[0]) - len(head_ids))
            self._read(cache, self._no_soft(len(batch)), [before[len(head_ids) :] for before in batch])
            known |= {before: cache.prefix(row, len(before)) for row, before in enumerate(batch)}
        return [known[before] for before in befores]

    def answer_log_probs(
        self, parts: Sequence[PromptParts], soft: Tensor, answers: Sequence[Ids], prefixes: Sequence[Prefix]
    ) -> Tensor:
        """Mean log-probability (B,) of each answer's tokens, differentiable with respect to `soft` (B, S, E)."""
        cache = KVCache.of(prefixes, 0)
        embeds = self._embeds(soft, [part.after + answer[:-1] for part, answer in zip(parts, answers, strict=True)])
        count = embeds.shape[1]
        seen = torch.arange(cache.longest, device=self._device) < cache.lengths[:, None]
        new = torch.ones(len(parts), count, count, dtype=torch.bool, device=self._device).tril()
        mask = torch.cat([seen[:, None].expand(-1, count, -1), new], dim=2)  # (B, Q, cached + new)
        hidden = self.trunk.forward(embeds, cache.next_slots(count), mask, cache, None)
        # The token before an answer token predicts it; the first one's is the last of the prompt.
        starts = [soft.shape[1] + len(part.after) - 1 for part in parts]
        if min(starts) < 0:
            raise ValueError("a prompt has nothing between its prefix and its answer: pass a soft prompt")
        row = [at for at, answer in enumerate(answers) for _ in answer]
        column = [start + at for start, answer in zip(starts, answers, strict=True) for at in range(len(answer))]
        targets = torch.tensor([token for answer in answers for token in answer], device=self._device)  # (A,)
        losses = F.cross_entropy(self.trunk.logits(hidden[row, column]), targets, reduction="none")
        return -torch.stack([part.mean() for part in losses.split([len(answer) for answer in answers])])

    @torch.no_grad()
    def generate(self, parts: Sequence[PromptParts], soft: Tensor, limits: Sequence[int]) -> list[Decoded | Refusal]:
        """Greedy answers of at most limits[row] tokens."""
        cache, last = self._prompts(parts, soft, max(limits))
        return greedy(self.trunk.logits(last), _CachedSteps(self.trunk, cache), limits, self._end_ids)

    @torch.no_grad()
    def choose(
        self, parts: Sequence[PromptParts], soft: Tensor, choices: Sequence[tuple[Ids, ...]]
    ) -> list[Tensor | Refusal]:
        """Mean log-probability of every choice of every row (C,), from one pass over the rows' trees."""
        trees = [choice_tree(ids) for ids in choices]
        tokens, depths, sees = (part.to(self._device) for part in padded_trees(trees))
        count = tokens.shape[1]
        cache, last = self._prompts(parts, soft, count)
        slots = cache.next_slots(count)
        mask = torch.arange(cache.seen_slots(count), device=self._device) < cache.lengths[:, None, None]
        mask = mask.repeat(1, count, 1).scatter_(2, slots[:, None].expand(-1, count, -1), sees)  # (B, N, K)
        nodes = self.trunk.forward(self.trunk.embed(tokens), cache.lengths[:, None] + depths, mask, cache, slots)
        found: list[Tensor | Refusal] = []
        for tree, root, read in zip(trees, last, nodes, strict=True):
            states = torch.cat([root[None], read[: len(tree.tokens)]])  # (R, E)
            log_probs = self._log_probs(states, tree.edge_rows, tree.edge_tokens)
            found.append(tree.scores(log_probs) if bool(log_probs.isfinite().all()) else NON_FINITE)
        return found

    def _log_probs(self, states: Tensor, rows: Tensor, tokens: Tensor) -> Tensor:
        """Log-probability of each token (T,) as predicted from its row of `states` (R, E); on the CPU."""
        found = torch.empty(len(tokens))
        for start in range(0, len(states), LOGIT_ROWS):
            logits = self.trunk.logits(states[start : start + LOGIT_ROWS]).log_softmax(dim=1).cpu()
            here = (rows >= start) & (rows < start + LOGIT_ROWS)
            found[here] = logits[rows[here] - start, tokens[here]]
        return found

    def _prompts(self, parts: Sequence[PromptParts], soft: Tensor, room: int) -> tuple[KVCache, Tensor]:
        """Read prompts to their end: the cache with `room` more slots, and the last hidden states (B, E)."""
        if not soft.shape[1] and not all(part.after for part in parts):
            # Nothing is left to read behind the prefix, but the prediction comes from reading: keep the last token.
            parts = [PromptParts(part.before[:-1], part.before[-1:] + part.after) for part in parts]
        rows = [part.after for part in parts]
        cache = KVCache.of(self.prefixes([part.before for part in parts]), soft.shape[1] + max(map(len, rows)) + room)
        return cache, self._read(cache, soft, rows)

    def _read(self, cache: KVCache, soft: Tensor, rows: Sequence[Ids]) -> Tensor:
        """Append soft prompts and token ids to the cache; each row's last hidden state (B, E)."""
        embeds = self._embeds(soft, rows)
        counts = torch.tensor([soft.shape[1] + len(row) for row in rows], device=self._device)
        last = torch.zeros_like(embeds[:, 0])
        for start in range(0, embeds.shape[1], READ_TOKENS):
            piece = embeds[:, start : start + READ_TOKENS]
            width = piece.shape[1]
            slots = cache.next_slots(width)
            hidden = self.trunk.forward(piece, slots, cache.causal_mask(width), cache, slots)
            here = (counts > start) & (counts <= start + width)
            last[here] = hidden[here, counts[here] - 1 - start]
            cache.append((counts - start).clamp(0, width), width)
        return last

    def _embeds(self, soft: Tensor, rows: Sequence[Ids]) -> Tensor:
        """Soft prompts (B, S, E) followed by embedded rows, padded at the end with token 0: (B, S + longest, E)."""
        longest = max(map(len, rows))
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=self._device, dtype=torch.long)
        return torch.cat([soft.to(self._device, self._dtype), self.trunk.embed(ids)], dim=1)

    def _no_soft(self, rows: int) -> Tensor:
        return torch.empty(rows, 0, self.trunk.width)

    def _common_head(self, befores: Sequence[Ids]) -> tuple[Ids, Prefix]:
        """What all rows start with, and its keys and values."""
        first, last = min(befores), max(befores)  # rows between them in order share whatever these two share
        ids = next((first[:at] for at in range(len(first)) if first[at] != last[at]), first)
        if not ids:
            return (), self._empty
        if self._head[0] == ids:
            return self._head
        cache = KVCache.of([self._empty], len(ids))
        self._read(cache, self._no_soft(1), [ids])
        head = ids, cache.prefix(0, len(ids))
        if len(ids) <= KEPT_HEAD_TOKENS:
            self._head = head
        return head


class _CachedSteps:
    """Decoding steps over a KVCache."""

    def __init__(self, trunk: Trunk, cache: KVCache) -> None:
        self._trunk, self._cache = trunk, cache

    def next(self, tokens: Tensor) -> Tensor:
        cache = self._cache
        embeds, slots = self._trunk.embed(tokens)[:, None], cache.next_slots(1)
        hidden = self._trunk.forward(embeds, slots, cache.causal_mask(1), cache, slots)
        cache.append(torch.ones_like(cache.lengths), 1)
        return self._trunk.logits(hidden[:, 0])

    def keep(self, rows: Tensor) -> None:
        self._cache = self._cache.rows(rows)
