"""The plug: turn a user's history vectors and the task at hand into soft prompt vectors for a frozen LLM.

    task vector ─▶ query ─┬───────────────────────────────────────┐
    history vectors ──────┴─▶ weights ─▶ weighted sum ─┐          │
              └─────────────▶ plain mean ──────────────┤          │   ┌─▶ hidden layer ─┐
    mean of the newest items ──────────────────────────┤          │   │                 │
    the LLM's own values of the prompt (some kinds) ───┴─ joined ◀┘ ──┴─▶ straight ─────┴─▶ scaled to the LLM ─┐
    instruction vectors (trained, the same for everybody) ─────────────────────────────────────────────────────┤
                                                                                                   soft prompt ◀┘

After "LLMs + Persona-Plug = Personalized LLMs" (PPlug, arXiv 2409.11901, equations 3 to 5). What differs from
the paper: the weights have a learned projection and temperature (unit vectors without one give nearly a plain
mean) and count how many items stand behind a vector; the projector sees what is near the task, what the user does
on the whole and lately, and the task itself, has a straight path past its hidden layer, and gives several vectors
(docs/experiments.md says what each is worth); for some kinds it also sees what the LLM made of the prompt, as in
instance-dependent prompt generation (IDPG, arXiv 2204.04497); with labels (a closed kind) a committee of such bodies
gives a score for each label, learned without gradients through the LLM, and `verbalise` makes the persona vectors of
their mean; the scale is the LLM's own measured embedding norm; and a learned default answers users without a history.
"""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from embedder.durable import put, sync
from embedder.errors import InputMissing, PplugError
from embedder.fingerprints import require_finite
from embedder.plug_config import PlugConfig, model_card

WEIGHTS_FILE = "plug.safetensors"
CONFIG_FILE = "config.json"

DAMAGES = (PplugError, OSError, RuntimeError, TypeError, ValueError, KeyError, OverflowError)
"""What a damaged folder may raise."""


class HistoryWeights(nn.Module):
    """Weigh a user's vectors by how near they are to the task at hand.

    Shapes: B users, H vectors, D = vector width.
        task     (B, D)     encoded task input
        vectors  (B, H, D)  history vectors; padding may hold any finite number
        counts   (B, H)     items behind each vector; 0 marks padding; at least one above 0 per user
        returns  (B, H)     weights that sum to one over H
    """

    def __init__(self, width: int, temperature: float) -> None:
        super().__init__()
        self.query = nn.Linear(width, width, bias=False)
        nn.init.eye_(self.query.weight)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))

    def forward(self, task: Tensor, vectors: Tensor, counts: Tensor) -> Tensor:
        scores = torch.einsum("bd,bhd->bh", self.query(task), vectors) / self.log_temperature.exp()  # (B, H)
        return (scores + counts.log()).softmax(-1)  # log 0 = -inf: padding weighs nothing


class Body(nn.Module):
    """What sees a user's vectors and the task, and what it makes of them.

    Shapes as of `PersonaPlug`; N numbers come out: a score for each label, or all numbers of the persona vectors.
        returns  (B, N)  what the persona vectors are made of
                 (B, H)  weights over `vectors`; they sum to one, or to zero without a history
    """

    def __init__(self, config: PlugConfig, made: int) -> None:
        super().__init__()
        width = config.encoder_width
        self._seen = config.seen
        if "attended" in self._seen:
            self.weights = HistoryWeights(width, config.temperature)
        self.default = nn.Parameter(torch.randn(width) / math.sqrt(width))
        joined = sum(self._seen.values())
        self.hidden = nn.Sequential(nn.Linear(joined, config.llm_width), nn.GELU(), nn.Dropout(config.dropout))
        self.project = nn.Linear(config.llm_width, made)
        self.straight = nn.Linear(joined, made, bias=False)
        if config.values_width:
            self.values_mean = nn.Buffer(torch.zeros(config.values_width))
            self.values_deviation = nn.Buffer(torch.ones(config.values_width))

    def standardise(self, values: Tensor) -> None:
        """See values from now on with the mean 0 and the deviation 1 that these (n, V) then have."""
        self.values_mean.copy_(values.mean(0))
        self.values_deviation.copy_(values.std(0, correction=0).clamp(min=1e-6))

    def forward(
        self, task: Tensor, vectors: Tensor, counts: Tensor, recent: Tensor, values: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        shares = shares_of(counts)
        # One more slot holds the learned default; it counts only for users without a history.
        is_new = (counts.sum(1, keepdim=True) == 0).to(counts.dtype)
        counts, shares = torch.cat([counts, is_new], dim=1), torch.cat([shares, is_new], dim=1)
        vectors = torch.cat([vectors, self.default.expand(len(task), 1, -1)], dim=1)  # (B, H + 1, D)
        weights = self.weights(task, vectors, counts) if "attended" in self._seen else shares
        seen = {
            "attended": torch.einsum("bh,bhd->bd", weights, vectors),
            "mean": torch.einsum("bh,bhd->bd", shares, vectors),
            "recent": torch.where(is_new > 0, self.default, recent),
            "task": task,
        }
        if values is not None:
            seen["values"] = (values - self.values_mean) / self.values_deviation / math.sqrt(values.shape[1])
        joined = torch.cat([seen[name] for name in self._seen], dim=1)  # (B, n D)
        joined = joined * math.sqrt(joined.shape[1]) / len(self._seen)  # unit vectors to unit entries
        return self.project(self.hidden(joined)) + self.straight(joined), weights[:, :-1]


class PersonaPlug(nn.Module):
    """Soft prompt vectors for each user, and which of the user's vectors they came from.

    Shapes: B users, H vectors, D = encoder width, E = LLM width, I = instruction vectors, P = persona vectors.
        task     (B, D)          encoded task input
        vectors  (B, H, D)       history vectors; padding may hold any finite number; H may be 0
        counts   (B, H)          items behind each vector; 0 marks padding; all 0 marks a user without a history
        recent   (B, D)          mean of the newest items; anything finite for a user without a history
        values   (B, V)          the LLM's pooled values of the prompt; None where the plug does not see them
        returns  (B, I + P, E)   soft prompt, float32; P is 0 with the aggregation "none"
                 (B, H)          weights over `vectors`; they sum to one, or to zero without a history
    """

    def __init__(self, config: PlugConfig) -> None:
        super().__init__()
        self.config = config
        directions = F.normalize(torch.randn(config.instruction_count, config.llm_width), dim=-1)
        self.instruction = nn.Parameter(directions * config.embedding_norm)
        made, labels = config.persona_count * config.llm_width, len(config.labels)
        self.bodies = nn.ModuleList(Body(config, labels or made) for _ in range(config.body_count))
        if self.bodies:
            self.verbalise: nn.Module = nn.Linear(labels, made) if labels else nn.Identity()
            self.gain = nn.Parameter(torch.full((config.persona_count, 1), config.embedding_norm))

    def forward(
        self, task: Tensor, vectors: Tensor, counts: Tensor, recent: Tensor, values: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        if not self.bodies:
            return self.instruction.expand(len(task), -1, -1), shares_of(counts)
        made, weights = zip(*(body(task, vectors, counts, recent, values) for body in self.bodies), strict=True)
        return self.soft_prompt(torch.stack(made).mean(0)), torch.stack(weights).mean(0)

    def soft_prompt(self, made: Tensor) -> Tensor:
        """(B, I + P, E) of the (B, N) numbers of a body; with labels, N scores."""
        directions = self.verbalise(made).view(len(made), self.config.persona_count, -1)
        instruction = self.instruction.expand(len(made), -1, -1)  # (B, I, E)
        return torch.cat([instruction, F.normalize(directions, dim=-1) * self.gain], dim=1)

    def standardise(self, values: Tensor) -> None:
        """Let all bodies see values as deviations from these (n, V), the ones of the examples of a training."""
        for body in self.bodies:
            assert isinstance(body, Body)
            body.standardise(values)

    @property
    def has_committee(self) -> bool:
        """Whether the bodies are trained without the LLM, to score labels."""
        return bool(self.config.labels) and len(self.bodies) > 0

    @property
    def trained_through_llm(self) -> list[nn.Parameter]:
        """All weights but those of a committee."""
        apart = {id(weight) for weight in self.bodies.parameters()} if self.has_committee else set[int]()
        return [weight for weight in self.parameters() if id(weight) not in apart]

    def require(self, encoder_sha256: str, llm_sha256: str, values_width: int) -> None:
        """Refuse models other than those the plug was trained with.

        Args:
            encoder_sha256: the encoder's fingerprint.
            llm_sha256: the LLM's.
            values_width: V of the values that the LLM's engine gives; 0 if it gives none.

        Raises:
            PplugError: naming what does not fit and what to do.
        """
        for name, ours, theirs in (
            ("encoder", self.config.encoder_sha256, encoder_sha256),
            ("LLM", self.config.llm_sha256, llm_sha256),
        ):
            if ours != theirs:
                raise PplugError(
                    f"this plug was trained with {name} {ours[:8]}, not {theirs[:8]}: name that {name}, "
                    "or train a new plug with `pplug train`"
                )
        if self.config.values_width not in (0, values_width):
            raise PplugError(
                f"the plug for {', '.join(self.config.kinds)} sees values inside the LLM, which this engine does not "
                "give: answer with --engine transformers, or train it anew with sees_llm_values = false for the kind"
            )

    def save_pretrained(self, folder: Path | str) -> None:
        """Write plug.safetensors, config.json and a model card; the weights appear whole or not at all."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG_FILE).write_text(json.dumps(asdict(self.config), indent=2) + "\n", encoding="utf8")
        (folder / "README.md").write_text(model_card(self.config), encoding="utf8")
        fresh = folder / f"{WEIGHTS_FILE}.tmp"
        save_file({name: value.detach().contiguous() for name, value in self.state_dict().items()}, fresh)
        fresh.chmod((folder / CONFIG_FILE).stat().st_mode)  # safetensors lets nobody else read what it writes
        sync(folder / CONFIG_FILE)
        put(fresh, folder / WEIGHTS_FILE)

    @classmethod
    def from_pretrained(cls, folder: Path | str) -> Self:
        """Load a saved plug, ready to answer (dropout off).

        Raises:
            InputMissing: if the folder holds no plug.
            PplugError: if its files are damaged, or of another version of pplug.
        """
        folder = Path(folder)
        if not (folder / WEIGHTS_FILE).is_file() or not (folder / CONFIG_FILE).is_file():
            raise InputMissing(f"{folder} holds no plug: run `pplug train --plug {folder}`")
        try:
            settings = json.loads((folder / CONFIG_FILE).read_text(encoding="utf8"))
            config = PlugConfig(**settings | {name: tuple(settings[name]) for name in ("kinds", "labels")})
            plug = cls._loaded(config, folder / WEIGHTS_FILE)
        except (*DAMAGES, SafetensorError) as error:
            made = f"is damaged ({' '.join(str(error).split())[:200]}) or was made by another version of pplug"
            raise PplugError(f"the plug in {folder} {made}: run `pplug train --plug {folder}` again") from error
        return plug.eval()

    @classmethod
    def _loaded(cls, config: PlugConfig, file: Path) -> Self:
        """A plug with the weights of a file; no memory is taken for what a config says and the file does not hold."""
        with safe_open(file, framework="pt") as tensors:
            shapes = {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
        if config.body_count > len(shapes):
            raise PplugError(f"{config.body_count} bodies in {len(shapes)} tensors")
        with torch.device("meta"):
            plug = cls(config)
        wanted = {name: tuple(value.shape) for name, value in plug.state_dict().items()}
        if shapes != wanted:
            differs = min(name for name in shapes | wanted if shapes.get(name) != wanted.get(name))
            raise PplugError(f"{differs} is {shapes.get(differs, 'missing')}, not {wanted.get(differs, 'expected')}")
        plug.load_state_dict({name: value.float() for name, value in load_file(file).items()}, assign=True)
        require_finite(plug, str(file))
        return plug.requires_grad_()


def shares_of(counts: Tensor) -> Tensor:
    """(B, H) the share of a user's items behind each vector; all zero without a history."""
    return counts / counts.sum(1, keepdim=True).clamp(min=1)
