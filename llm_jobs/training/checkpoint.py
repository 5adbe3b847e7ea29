"""The state of a training run on disk, so that a killed run goes on to the same weights.

    checkpoint/state.safetensors     plug, best plug so far, optimizer, and JSON; replaced in one step after each epoch

Random numbers need no saving: each epoch draws its own from the seed and its number.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from embedder.plug import PersonaPlug
from llm_jobs.training.descent import Descent


@dataclass(frozen=True)
class EpochLoss:
    """Mean next-token loss (nats per token) of one epoch."""

    epoch: int
    train: float
    held_out: float


@dataclass(eq=False)
class RunState:
    """What a checkpoint saves and restores."""

    plug: PersonaPlug
    descent: Descent
    best: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    """Weights of the epoch with the least loss on held-out users."""


@dataclass(frozen=True)
class Checkpoint:
    """The folder of a run's state, and the fingerprint of everything that determines the run."""

    folder: Path
    fingerprint: str

    def load(self, run: RunState) -> list[EpochLoss]:
        """Restore `run` and return the losses so far; a state of another run is left alone and none returned."""
        if not self._file.is_file():
            return []
        with safe_open(self._file, "pt") as saved:
            state = json.loads(saved.metadata()["state"])
            if state["fingerprint"] != self.fingerprint:
                return []
            tensors = {name: saved.get_tensor(name) for name in saved.keys()}  # noqa: SIM118  it is no mapping
        run.plug.load_state_dict(below("plug/", tensors))
        run.best = below("best/", tensors)
        descent = run.descent
        optimizer = descent.optimizer.state_dict()
        optimizer["state"] = unflatten(below("optimizer/", tensors))
        descent.optimizer.load_state_dict(optimizer)
        descent.schedule.load_state_dict(state["schedule"])
        for group, rate in zip(descent.optimizer.param_groups, descent.schedule.get_last_lr(), strict=True):
            group["lr"] = rate  # a restored schedule sets it only at its next step
        descent.step = state["step"]
        return [EpochLoss(**loss) for loss in state["losses"]]

    def save(self, run: RunState, losses: Sequence[EpochLoss]) -> None:
        """Replace the saved state; a kill in between leaves the old one or the new one."""
        parts = {
            "plug": run.plug.state_dict(),
            "best": run.best,
            "optimizer": flatten(run.descent.optimizer.state_dict()["state"]),
        }
        tensors = {f"{part}/{name}": value for part, values in parts.items() for name, value in values.items()}
        state = {
            "fingerprint": self.fingerprint,
            "step": run.descent.step,
            "schedule": run.descent.schedule.state_dict(),
            "losses": [asdict(loss) for loss in losses],
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        fresh = self._file.with_suffix(".tmp")
        save_file(tensors, fresh, metadata={"state": json.dumps(state)})
        fresh.replace(self._file)

    @property
    def _file(self) -> Path:
        return self.folder / "state.safetensors"


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose name begins with a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def flatten(moments: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """AdamW's state as flat names, which safetensors can hold: {0: {"exp_avg": t}} -> {"0/exp_avg": t}."""
    return {f"{index}/{name}": value for index, state in moments.items() for name, value in state.items()}


def unflatten(moments: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """The inverse of `flatten`."""
    states: dict[int, dict[str, Any]] = {}
    for key, value in moments.items():
        index, name = key.split("/")
        states.setdefault(int(index), {})[name] = value
    return states


def run_fingerprint(plug: PersonaPlug, settings: dict[str, Any], examples: Iterable[tuple[bytes, ...]]) -> str:
    """A sha256 over the start weights, the settings and the examples of a run."""
    digest = hashlib.sha256(json.dumps([settings, asdict(plug.config)], sort_keys=True).encode())
    for name, value in sorted(plug.state_dict().items()):
        digest.update(name.encode() + value.detach().numpy().tobytes())
    for example in examples:
        for part in example:
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()
