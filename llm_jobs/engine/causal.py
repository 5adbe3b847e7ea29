"""A frozen causal LLM: prefixes and the log-probability of given answers, for training, and answers to requests.

    prompt before the soft prompt ─▶ Prefix (no gradient, shared by equal prompts)
                                        │
    soft prompt, given answer ──────────┴─▶ training: log-probability of the answer

Shapes: B rows, S soft prompt vectors, Q new tokens, E width, A answer tokens of all rows, V vocabulary.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from embedder.encoder import Tell
from llm_jobs.engine.engine import Prepared, Result, untold
from llm_jobs.engine.kv_cache import KVCache, Prefix
from llm_jobs.engine.packing import NewTokens
from llm_jobs.engine.prefill import read
from llm_jobs.engine.rules import Rules
from llm_jobs.engine.scheduler import Scheduler
from llm_jobs.engine.trunk import Trunk
from llm_jobs.prompts import Ids, PromptParts

PREFIX_TOKENS = 4096  # tokens of prompts whose keys and values are computed together
KEPT_HEAD_TOKENS = 1024  # longest common head that is kept between calls

Part = TypeVar("Part")
Done = TypeVar("Done")


class CausalLM:
    """A causal LLM through one of the trunks."""

    def __init__(self, trunk: Trunk, end_ids: Sequence[int], memory: int, rules: Rules, num_beams: int = 1) -> None:
        self.trunk = trunk
        self._rules = rules
        self.memory, self._num_beams = memory, num_beams
        self.kernel = trunk.kernel
        self._empty = trunk.empty_prefix()
        self._device, self._dtype = self._empty.keys_values.device, self._empty.keys_values.dtype
        self._end_ids = torch.tensor(end_ids, device=self._device)
        self._head: tuple[Ids, Prefix] = ((), self._empty)

    def embed(self, ids: Tensor) -> Tensor:
        """Embed n token ids as the layers get them: (n, E)."""
        return self.trunk.embed(ids)

    @torch.no_grad()
    def prefixes(self, befores: Sequence[Ids]) -> list[Prefix]:
        """Compute keys and values of what stands before the soft prompts; equal ones are one object.

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
            cache = KVCache.empty(head, len(batch), len(batch[0]))
            rests = [self._embeds(before[len(head_ids) :]) for before in batch]
            read(self.trunk, cache, [NewTokens(row, len(head_ids), rest) for row, rest in enumerate(rests)])
            known |= {before: cache.prefix(row, len(before)) for row, before in enumerate(batch)}
        return [known[before] for before in befores]

    def answer_log_probs(
        self, parts: Sequence[PromptParts], soft: Tensor, answers: Sequence[Ids], prefixes: Sequence[Prefix]
    ) -> Tensor:
        """Average the log-probabilities of each answer's tokens (B,), differentiable by `soft` (B, S, E)."""
        cache = KVCache.of(prefixes)
        lengths = torch.tensor([prefix.length for prefix in prefixes], device=self._device)
        embeds = self._padded(soft, [part.after + answer[:-1] for part, answer in zip(parts, answers, strict=True)])
        count = embeds.shape[1]
        seen = torch.arange(cache.cells, device=self._device) < lengths[:, None]
        new = torch.ones(len(parts), count, count, dtype=torch.bool, device=self._device).tril()
        mask = torch.cat([seen[:, None].expand(-1, count, -1), new], dim=2)  # (B, Q, cached + new)
        positions = lengths[:, None] + torch.arange(count, device=self._device)
        hidden = self.trunk.forward(embeds, positions, mask, cache)
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
    def run(self, prepared: Sequence[Prepared], tell: Tell = untold) -> list[Result]:
        requests = [request.with_something_to_read() for request in prepared]
        head = self._common_head([request.parts.before for request in requests])
        most = torch.get_num_threads() if self._device.type == "cpu" else 1
        queues = queues_of(requests, len(head[0]), most)
        memory = self.memory // max(1, len(queues))
        scheduler = Scheduler(self.trunk, self._end_ids, memory, head, self._rules, self._num_beams, tell)
        results: dict[Prepared, Result] = {}
        for part in side_by_side(scheduler.run, queues):
            results |= part
        return [results[request] for request in requests]

    def _embeds(self, ids: Ids) -> Tensor:
        return self.trunk.embed(torch.tensor(ids, dtype=torch.long, device=self._device))

    def _padded(self, soft: Tensor, rows: Sequence[Ids]) -> Tensor:
        """Put embedded rows behind soft prompts (B, S, E), padded at the end with token 0: (B, S + longest, E)."""
        longest = max(map(len, rows))
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=self._device, dtype=torch.long)
        return torch.cat([soft.to(self._device, self._dtype), self.trunk.embed(ids)], dim=1)

    def _common_head(self, befores: Sequence[Ids]) -> tuple[Ids, Prefix]:
        """Find what all rows start with; read its keys and values."""
        first, last = min(befores), max(befores)  # rows between them in order share whatever these two share
        ids = next((first[:at] for at in range(len(first)) if first[at] != last[at]), first)
        if not ids:
            return (), self._empty
        if self._head[0] == ids:
            return self._head
        cache = KVCache.empty(self._empty, 1, len(ids))
        read(self.trunk, cache, [NewTokens(0, 0, self._embeds(ids))])
        head = ids, cache.prefix(0, len(ids))
        if len(ids) <= KEPT_HEAD_TOKENS:
            self._head = head
        return head


def queues_of(requests: Sequence[Prepared], head: int, most: int) -> list[list[Prepared]]:
    """Split requests into at most so many queues of like work; prompts that are equal beyond the head stay together."""
    equals: dict[Ids | Prepared, list[Prepared]] = {}
    for request in requests:
        before = request.parts.before
        equals.setdefault(before if len(before) > head else request, []).append(request)
    ordered = sorted(equals.values(), key=lambda equal: (bool(equal[0].choices), equal[0].tokens, len(equal)))
    queues = [[request for equal in ordered[at::most] for request in equal] for at in range(most)]
    return [queue for queue in queues if queue]


def side_by_side(work: Callable[[Part], Done], parts: Sequence[Part]) -> list[Done]:
    """Call `work(part)` for every part, without gradients, each on one thread of torch's; a single part has them all.

    Two threads that share every matrix product wait for each other after each; two that share nothing do not: answering
    128 headlines on two cores is a quarter faster so (docs/experiments.md).

    Raises:
        Exception: the first part's that failed, when all have ended.
    """
    if len(parts) < 2:
        return [work(part) for part in parts]
    threads = torch.get_num_threads()

    def alone(part: Part) -> Done:
        torch.set_num_threads(1)  # of this Python thread, and of those that start later
        with torch.no_grad():
            return work(part)

    try:
        with ThreadPoolExecutor(len(parts)) as pool:
            return list(pool.map(alone, parts))
    finally:
        torch.set_num_threads(threads)
