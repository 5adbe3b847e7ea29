"""The plug: what turns a user's history and the task at hand into an answer, or into soft prompts for a frozen LLM.

    user, task ─┬─▶ Reader ─▶ features ─▶ SoftPromptHead ─▶ soft prompt ─▶ the frozen LLM ─▶ free answer
                ├─▶ texts of the nearest items, as earlier turns (TurnsHead) ─▶ the frozen LLM ─▶ free answer
                └─▶ label_evidence ─────▶ PointingHead ──▶ log p(choice) ──────────────────▶ closed answer

After "LLMs + Persona-Plug = Personalized LLMs" (PPlug, arXiv 2409.11901, equations 3 to 5); reader.py,
soft_prompt.py and pointing.py say what differs from it.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from embedder.durable import put, sync
from embedder.earlier_turns import TurnsHead
from embedder.errors import InputMissing, PplugError
from embedder.fingerprints import require_finite
from embedder.plug_config import FORMAT, PUBLISHED, PlugConfig, model_card
from embedder.pointing import PointingHead
from embedder.published import PublishedHead
from embedder.reader import Reader, shares_of
from embedder.soft_prompt import SoftPromptHead

WEIGHTS_FILE = "plug.safetensors"
CONFIG_FILE = "config.json"

DAMAGES = (PplugError, OSError, RuntimeError, TypeError, ValueError, KeyError, OverflowError, AttributeError)
"""What a damaged folder may raise."""


class PersonaPlug(nn.Module):
    """A reader and a head. A plug without labels gives soft prompts; one with labels is asked through `head` alone.

    One of turns gives nothing: the LLM reads texts of the user's items (llm_jobs/turns.py).

    Shapes: B users, H vectors, D = encoder width, E = LLM width, I = instruction vectors, P = persona vectors.
        task     (B, D)          encoded task input
        vectors  (B, H, D)       history vectors; padding may hold any finite number; H may be 0
        counts   (B, H)          items behind each vector; 0 marks padding; all 0 marks a user without a history
        recent   (B, D)          mean of the newest items; anything finite for a user without a history
        returns  (B, I + P, E)   soft prompt, float32; P is 0 with the aggregation "none"
                 (B, H)          weights over `vectors`; they sum to one, or to zero without a history
    """

    head: PointingHead | SoftPromptHead | PublishedHead | TurnsHead

    def __init__(self, config: PlugConfig) -> None:
        super().__init__()
        self.config = config
        if config.labels:
            self.head = PointingHead(config)
            return
        if config.aggregation == PUBLISHED:
            self.head = PublishedHead(config)
            return
        if config.turns:
            self.head = TurnsHead()
            return
        self.reader = Reader(config) if config.seen else None
        self.head = SoftPromptHead(config, self.reader.width if self.reader else 0)

    def forward(self, task: Tensor, vectors: Tensor, counts: Tensor, recent: Tensor) -> tuple[Tensor, Tensor]:
        if isinstance(self.head, PublishedHead):
            return self.head(task, vectors, counts)
        assert isinstance(self.head, SoftPromptHead), "a plug with labels or turns gives no soft prompt"
        if self.reader is None:
            return self.head(None, len(task)), shares_of(counts)
        features, weights = self.reader(task, vectors, counts, recent)
        return self.head(features, len(task)), weights

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
            if settings.get("format") != FORMAT:
                raise ValueError(f"format {settings.get('format', 1)}, not {FORMAT}")
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
        with torch.device("meta"):
            plug = cls(config)
        wanted = {name: tuple(value.shape) for name, value in plug.state_dict().items()}
        if shapes != wanted:
            differs = min(name for name in shapes | wanted if shapes.get(name) != wanted.get(name))
            raise PplugError(f"{differs} is {shapes.get(differs, 'missing')}, not {wanted.get(differs, 'expected')}")
        plug.load_state_dict({name: value.float() for name, value in load_file(file).items()}, assign=True)
        require_finite(plug, str(file))
        return plug.requires_grad_()
