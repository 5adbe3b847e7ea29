"""What tells models and plugs from others: the driver plans with it, and workers compare theirs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_jobs.kinds import Kind
from pipelines.answers.models import GenerateConfig, load_models, load_plugs
from pipelines.nights.loading import load_once
from pipelines.nights.processes import elsewhere


@dataclass(frozen=True)
class AnsweringFacts:
    """What tells models and plugs from others."""

    width: int
    """Of the encoder's vectors."""
    encoder_sha256: str
    llm_sha256: str
    llm_kernel: str
    num_beams: int
    kv_memory: int | None
    context_length: int
    plugs: Mapping[str, str]
    """Fingerprint of the plug of each kind."""

    def settings(self, kinds: Mapping[str, Kind]) -> dict[str, Any]:
        """List everything besides the tasks and the personas that an answer depends on.

        Greedy decoding is not named, so that nights from before there were beams are still done; nor is the memory
        where it changes no answer.
        """
        named = {"num_beams": self.num_beams, "kv_memory": self.kv_memory}
        left_out = {"num_beams": 1, "kv_memory": None}
        return {name: value for name, value in named.items() if value != left_out[name]} | {
            "encoder_sha256": self.encoder_sha256,
            "llm_sha256": self.llm_sha256,
            "llm_kernel": self.llm_kernel,
            "plugs": dict(self.plugs),
            "kinds": {
                name: [kinds[name].sha256, kinds[name].max_new_tokens, *_endings(kinds[name])]
                for name in sorted(self.plugs.keys() & kinds)
            },
        }


def _endings(kind: Kind) -> list[Any]:
    """What else ends the kind's answers; nothing where only their length does."""
    return [list(kind.stop), kind.no_repeat] if kind.stop or kind.no_repeat else []


def answering_facts(config: GenerateConfig, folders: tuple[Path, ...], *, is_apart: bool) -> AnsweringFacts:
    """Find out what models and plugs are, if `is_apart` in a process of its own, so that this one holds no weights."""
    return _facts_apart(config, folders) if is_apart else _facts(config, folders)


@load_once
def _facts_apart(config: GenerateConfig, folders: tuple[Path, ...]) -> AnsweringFacts:
    return elsewhere(_facts, config, folders)


def _facts(config: GenerateConfig, folders: tuple[Path, ...]) -> AnsweringFacts:
    models = load_models(config)
    plugs = {kind: loaded.sha256 for kind, loaded in load_plugs(folders, models).items()}
    encoder, llm = models.encoder, models.llm
    return AnsweringFacts(
        encoder.width, encoder.sha256, llm.sha256, llm.kernel, llm.num_beams, llm.kv_memory, llm.context_length, plugs
    )
