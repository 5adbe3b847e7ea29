"""A step of work on a GPU, recorded as a CUDA graph and replayed: one launch where there were hundreds.

A step reads and writes the same tensors each time. What it does may depend on a size; each size is recorded apart. A
step that waits for the GPU cannot be recorded, and a recording that fails leaves torch's allocator in the middle of it:
so the first run of a size shows whether it waits.
"""

import logging
import warnings
from collections.abc import Callable
from typing import Any

import torch

logger = logging.getLogger(__name__)


class Recorded:
    """Calls a step; on an NVIDIA GPU the first call of a size runs as it is, the second is recorded if it can be."""

    def __init__(self, step: Callable[[int], None], device: torch.device) -> None:
        self._step, self._can_record = step, device.type == "cuda"
        self._graphs: dict[int, torch.cuda.CUDAGraph | None] = {}
        self._waiting = set[int]()
        self._pool: Any = None

    def __call__(self, size: int) -> None:
        if not self._can_record or size in self._waiting:
            self._step(size)
            return
        if size not in self._graphs:
            self._graphs[size] = None
            if self._waits(size):  # libraries also make what they need before anything is recorded
                logger.debug("steps are not recorded: the model waits for the GPU")
                self._waiting.add(size)
            return
        graph = self._graphs[size]
        if graph is None:
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                    self._step(size)
            except RuntimeError as error:
                logger.debug("steps are not recorded: %s", error)
                self._can_record = False
                self._step(size)
                return
            self._graphs[size], self._pool = graph, graph.pool()  # sizes take turns, so they share memory
        graph.replay()

    def _waits(self, size: int) -> bool:
        """Run the step, and tell whether it waited for the GPU."""
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                self._step(size)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return any("synchronizing CUDA operation" in str(one.message) for one in told)
