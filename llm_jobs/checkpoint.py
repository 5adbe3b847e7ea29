"""The state of a training run on disk, so that a killed run goes on to the same weights.

    checkpoint/ plug.safetensors  optimizer.safetensors  state.json     replaced as a whole after each epoch

Random numbers need no saving: each epoch draws its own from the seed and its number.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from embedder.plug import PersonaPlug


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
    optimizer: Optimizer
    schedule: LambdaLR
    step: int = 0
    """Optimizer steps done."""


@dataclass(frozen=True)
class Checkpoint:
    """The folder of a run's state, and the fingerprint of everything that determines the run."""

    folder: Path
    fingerprint: str

    def load(self, run: RunState) -> list[EpochLoss]:
        """Restore `run` and return the losses so far; a state of another run is left alone and none returned."""
        state_file = self.folder / "state.json"
        if not state_file.is_file():
            return []
        state = json.loads(state_file.read_text(encoding="utf8"))
        if state["fingerprint"] != self.fingerprint:
            return []
        run.plug.load_state_dict(load_file(self.folder / "plug.safetensors"))
        moments = load_file(self.folder / "optimizer.safetensors")
        saved = run.optimizer.state_dict()
        saved["state"] = unflatten(moments)
        run.optimizer.load_state_dict(saved)
        run.schedule.load_state_dict(state["schedule"])
        for group, rate in zip(run.optimizer.param_groups, run.schedule.get_last_lr(), strict=True):
            group["lr"] = rate  # a restored schedule sets it only at its next step
        run.step = state["step"]
        return [EpochLoss(**loss) for loss in state["losses"]]

    def save(self, run: RunState, losses: Sequence[EpochLoss]) -> None:
        """Replace the saved state; a kill in between leaves the old one or the new one."""
        fresh = self.folder.with_name(f"{self.folder.name}.{os.getpid()}")
        fresh.mkdir(parents=True, exist_ok=True)
        save_file(run.plug.state_dict(), fresh / "plug.safetensors")
        save_file(flatten(run.optimizer.state_dict()["state"]), fresh / "optimizer.safetensors")
        state = {
            "fingerprint": self.fingerprint,
            "step": run.step,
            "schedule": run.schedule.state_dict(),
            "losses": [asdict(loss) for loss in losses],
        }
        (fresh / "state.json").write_text(json.dumps(state), encoding="utf8")
        shutil.rmtree(self.folder, ignore_errors=True)
        fresh.rename(self.folder)


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


def run_fingerprint(plug: PersonaPlug, settings: dict[str, Any], examples: Sequence[tuple[bytes, ...]]) -> str:
    """A sha256 over the start weights, the settings and the examples of a run."""
    digest = hashlib.sha256(json.dumps([settings, asdict(plug.config)], sort_keys=True).encode())
    for name, value in sorted(plug.state_dict().items()):
        digest.update(name.encode() + value.detach().numpy().tobytes())
    for example in examples:
        for part in example:
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()
