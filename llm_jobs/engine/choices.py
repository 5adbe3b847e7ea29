"""Closed answers: the prefix tree of the choices' tokens, and the score of every choice from one pass over it.

    choices   A B </s>   A C </s>   D </s>         root (last token of the prompt)
                                                    ├─ A ─┬─ B ─ </s>
    read by the LLM: A B C D (not the end tokens)   │     └─ C ─ </s>
                                                    └─ D ─ </s>

Every node is read once, at the position of its depth, and sees the prompt and its own ancestors only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

Ids = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class ChoiceTree:
    """Shapes: C choices, N nodes with children (without the root), R = N + 1 rows of logits, root first, T edges."""

    tokens: Ids
    """(N) token of each node."""
    depths: Tensor
    """(N) 0 for the children of the root."""
    sees: Tensor
    """(N, N) true where a node may look: at its ancestors and itself."""
    edge_rows: Tensor
    """(T) row of logits that predicts the edge's token."""
    edge_tokens: Tensor
    """(T)"""
    paths: Tensor
    """(C, T) 1 / number of tokens of the choice on each edge of its path: path @ edge log-probabilities is the mean."""

    def scores(self, edge_log_probs: Tensor) -> Tensor:
        """Mean log-probability of each choice's tokens (B, C), of those of the edges (B, T)."""
        return edge_log_probs @ self.paths.T


@lru_cache(maxsize=256)
def choice_tree(choices: tuple[Ids, ...]) -> ChoiceTree:
    """The tree of choices given as token ids, each with its end token; none may be empty."""
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


def padded_trees(trees: Sequence[ChoiceTree]) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens (B, N), depths (B, N) and who sees whom (B, N, N), padded with nodes that nobody sees."""
    widest = max(len(tree.tokens) for tree in trees)
    tokens = torch.zeros(len(trees), widest, dtype=torch.long)
    depths = torch.zeros(len(trees), widest, dtype=torch.long)
    sees = torch.zeros(len(trees), widest, widest, dtype=torch.bool)
    for row, tree in enumerate(trees):
        size = len(tree.tokens)
        tokens[row, :size] = torch.tensor(tree.tokens, dtype=torch.long)
        depths[row, :size] = tree.depths
        sees[row, :size, :size] = tree.sees
    return tokens, depths, sees
