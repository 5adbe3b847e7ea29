"""Score closed answers: the prefix tree of the choices' tokens, and the score of every choice from one pass over it.

    choices   A B </s>   A C </s>   D </s>         root (last token of the prompt)
                                                    ├─ A ─┬─ B ─ </s>
    read by the LLM: A B C D (not the end tokens)   │     └─ C ─ </s>
                                                    └─ D ─ </s>

Every node is read once, at the position of its depth, and sees the prompt and its own ancestors only.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from llm_jobs.engine.engine import Prepared
from llm_jobs.engine.packing import NewTokens
from llm_jobs.engine.prefill import PromptRows, read
from llm_jobs.prompts import Ids


@dataclass(frozen=True, eq=False)
class ChoiceTree:
    """Shapes: C choices, N nodes with children (without the root), R = N + 1 rows of logits, root first, T edges."""

    tokens: Ids  # (N) token of each node
    depths: Tensor  # (N) 0 for the children of the root
    sees: Tensor  # (N, N) true where a node may look: at its ancestors and itself
    edge_rows: Tensor  # (T) row of logits that predicts the edge's token
    edge_tokens: Tensor  # (T)
    paths: Tensor
    """(C, T) 1 / number of tokens of the choice on each edge of its path: path @ edge log-probabilities is the mean."""

    def scores(self, edge_log_probs: Tensor) -> Tensor:
        """Average log-probabilities of each choice's tokens (B, C), of those of the edges (B, T)."""
        return edge_log_probs @ self.paths.T


@lru_cache(maxsize=256)
def choice_tree(choices: tuple[Ids, ...]) -> ChoiceTree:
    """Make the tree of choices given as token ids, each with its end token; none may be empty."""
    nodes: dict[Ids, int] = {}  # beginning of a choice -> row of logits after it
    edges: dict[Ids, int] = {}  # beginning of a choice -> edge that leads to its last token
    for choice in choices:
        for end in range(1, len(choice) + 1):
            edges.setdefault(choice[:end], len(edges))
            nodes.setdefault(choice[: end - 1], len(nodes))  # the empty beginning, the root, is the first
    inner = [node for node in nodes if node]
    sees = [[node[: len(other)] == other for other in inner] for node in inner]
    paths = torch.zeros(len(choices), len(edges))
    for row, choice in enumerate(choices):
        for end in range(1, len(choice) + 1):
            paths[row, edges[choice[:end]]] = 1 / len(choice)
    return ChoiceTree(
        tokens=tuple(node[-1] for node in inner),
        depths=torch.tensor([len(node) - 1 for node in inner], dtype=torch.long),
        sees=torch.tensor(sees, dtype=torch.bool).view(len(inner), len(inner)),
        edge_rows=torch.tensor([nodes[edge[:-1]] for edge in edges]),
        edge_tokens=torch.tensor([edge[-1] for edge in edges]),
        paths=paths,
    )


def score_choices(rows: PromptRows, requests: Sequence[Prepared]) -> Iterator[Tensor]:
    """Score every choice of each request in one pass: mean log-probabilities (C,); the requests get the first rows."""
    roots = rows.read(range(len(requests)), requests)
    trees = [choice_tree(request.choices) for request in requests]
    chunks = [
        NewTokens(row, request.prompt_tokens, rows.embed(tree.tokens), tree.sees, tree.depths)
        for row, (request, tree) in enumerate(zip(requests, trees, strict=True))
        if tree.tokens
    ]
    nodes = dict(zip((chunk.row for chunk in chunks), read(rows.trunk, rows.cache, chunks), strict=True))
    for row, tree in enumerate(trees):
        states = torch.cat([roots[row : row + 1], *[nodes[row]] * (row in nodes)])  # (1 + nodes, E)
        logits = rows.trunk.logits(states)
        log_probs = logits[tree.edge_rows, tree.edge_tokens] - logits.logsumexp(1)[tree.edge_rows]
        yield tree.scores(log_probs.cpu())
