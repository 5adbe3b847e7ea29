"""A step of work on a GPU, recorded as a CUDA graph and replayed: one launch where there were hundreds.

A step reads and writes the same tensors each time. What it does may depend on a size; each size is recorded apart.
"""

import logging
from collections.abc import Callable
from typing import Any

import torch

logger = logging.getLogger(__name__)


class Recorded:
    """Calls a step; on an NVIDIA GPU the first call of a size runs as it is, the second is recorded."""

    def __init__(self, step: Callable[[int], None], device: torch.device) -> None:
        self._step, self._can_record = step, device.type == "cuda"
        self._graphs: dict[int, torch.cuda.CUDAGraph | None] = {}
        self._pool: Any = None

    def __call__(self, size: int) -> None:
        if not self._can_record or size not in self._graphs:
            self._graphs[size] = None
            self._step(size)  # libraries make what they need before anything is recorded
            return
        graph = self._graphs[size]
        if graph is None:
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                    self._step(size)
            except RuntimeError as error:  # of a model that waits for a number
                logger.debug("steps are not recorded: %s", error)
                self._can_record = False
                self._step(size)
                return
            self._graphs[size], self._pool = graph, graph.pool()  # sizes take turns, so they share memory
        graph.replay()
