"""What tells models and plugs from others: the driver plans with it, and workers compare theirs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_jobs.kinds import Kind
from pipelines.answers.models import GenerateConfig, load_models, load_plugs
from pipelines.nights.processes import found_out


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
        """List everything besides the tasks and the personas that an answer depends on."""
        known = {name: kinds[name] for name in sorted(self.plugs.keys() & kinds)}
        of_kinds = {name: [kind.sha256, kind.max_new_tokens, kind.stop, kind.no_repeat] for name, kind in known.items()}
        own = {name: value for name, value in vars(self).items() if name not in ("width", "context_length")}
        return own | {"plugs": dict(self.plugs), "kinds": of_kinds}


def answering_facts(config: GenerateConfig, folders: tuple[Path, ...], *, is_apart: bool) -> AnsweringFacts:
    """Find out what models and plugs are, if `is_apart` in a process of its own, so that this one holds no weights."""
    return found_out(_facts, config, folders, is_apart=is_apart)


def _facts(config: GenerateConfig, folders: tuple[Path, ...]) -> AnsweringFacts:
    models = load_models(config)
    plugs = {kind: loaded.sha256 for kind, loaded in load_plugs(folders, models).items()}
    encoder, llm = models.encoder, models.llm
    return AnsweringFacts(
        encoder.width, encoder.sha256, llm.sha256, llm.kernel, llm.num_beams, llm.kv_memory, llm.context_length, plugs
    )
