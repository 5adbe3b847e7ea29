"""Do parts of some work side by side, each on one thread of torch's.

Two threads that share every matrix product wait for each other after each; two that share nothing do not. Answering 128
headlines on two cores is a quarter faster side by side (docs/experiments.md).
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Part = TypeVar("Part")
Result = TypeVar("Result")


def side_by_side(work: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
    """Call `work(part)` for every part, without gradients; a single part has all threads for itself.

    Raises:
        Exception: the first part's that failed, when all have ended.
    """
    if len(parts) < 2:
        return [work(part) for part in parts]
    threads = torch.get_num_threads()

    def alone(part: Part) -> Result:
        torch.set_num_threads(1)  # of this Python thread, and of those that start later
        with torch.no_grad():
            return work(part)

    try:
        with ThreadPoolExecutor(len(parts)) as pool:
            return list(pool.map(alone, parts))
    finally:
        torch.set_num_threads(threads)
