"""The models and plugs that the second job, training and evaluation work with, loaded once per process.

What tells them from others is found out by the driver, which plans with it; workers compare theirs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from embedder.devices import LLMDtype
from embedder.encoder import TextEncoder
from embedder.errors import UsageError
from embedder.fingerprints import fingerprint
from embedder.plug import PersonaPlug
from llm_jobs.frozen_llm import FrozenLLM
from llm_jobs.kinds import Kind
from llm_jobs.tasks import AnsweringLLM
from llm_jobs.vllm_engine import load_vllm
from pipelines.nights.loading import load_once
from pipelines.nights.processes import found_out
from pipelines.personas.encoders import EncoderConfig, load_encoder

EngineName = Literal["transformers", "vllm"]


@dataclass(frozen=True)
class GenerateConfig(EncoderConfig):
    """Which models answer, and how."""

    llm: str = "smollm2"
    """Alias, folder or hub id of the frozen LLM."""
    llm_dtype: LLMDtype = "auto"
    """float32, bfloat16, float16, int8, int4 or auto: the LLM's precision (see nights/precisions.py)."""
    shard_tasks: int = 500
    """Most tasks of a shard: a unit of work, of memory and of resuming."""
    memory: int | None = None
    """Bytes that the LLM's keys and values may take; unless given 2 GiB, or what vLLM finds free."""
    engine: EngineName = "transformers"
    """What runs the LLM: our own code on top of transformers, or vLLM."""
    num_beams: int = 1
    """Beams that free answers are decoded with; 1 is greedy. Closed answers need none."""
    thinking: bool = False
    """The LLM may think aloud before it answers, where its chat template has a switch for that."""

    def __post_init__(self) -> None:
        if self.engine == "vllm" and self.llm_dtype in ("int8", "int4"):
            raise UsageError(f"--engine vllm has no --llm-dtype {self.llm_dtype}: leave one out")
        if self.engine == "vllm" and self.num_beams > 1:
            raise UsageError(f"--engine vllm decodes greedily, not with --num-beams {self.num_beams}: leave one out")


class Models(NamedTuple):
    """The two frozen models."""

    encoder: TextEncoder
    llm: AnsweringLLM


class LoadedPlug(NamedTuple):
    """A plug and its fingerprint."""

    plug: PersonaPlug
    sha256: str


@load_once
def load_models(config: GenerateConfig) -> Models:
    """Load encoder and LLM; they are kept, so that a process loads them once however many steps and threads ask."""
    encoder = load_encoder(config)
    named = (config.llm, config.llm_dtype, config.cache)
    more: dict[str, Any] = {"memory": config.memory, "thinking": config.thinking}
    if config.engine == "vllm":
        return Models(encoder, load_vllm(*named, **more))
    return Models(encoder, FrozenLLM.from_pretrained(*named, config.device, **more, num_beams=config.num_beams))


def trainable(llm: AnsweringLLM) -> FrozenLLM:
    """Return the LLM if gradients pass through it to a soft prompt; raises UsageError if it is in another engine."""
    if not isinstance(llm, FrozenLLM):
        raise UsageError(f"a plug cannot be trained through {llm.kernel}: train with the engine transformers")
    return llm


def load_plugs(folders: Sequence[Path], models: Models) -> dict[str, LoadedPlug]:
    """Load the plug of each kind, each fit for `models`.

    Raises:
        UsageError: if two plugs name the same kind.
        PplugError: if a plug was trained with other models.
    """
    plugs: dict[str, LoadedPlug] = {}
    for folder in folders:
        plug = PersonaPlug.from_pretrained(folder)
        plug.require(models.encoder.sha256, models.llm.sha256, models.llm.values_width)
        for kind in plug.config.kinds:
            if kind in plugs:
                raise UsageError(f"two plugs answer kind {kind}, the second is {folder}: pass one --plug for each kind")
            plugs[kind] = LoadedPlug(plug, fingerprint(folder))
    return plugs


@dataclass(frozen=True)
class AnsweringFacts:
    """What tells models and plugs from others."""

    width: int  # of the encoder's vectors
    encoder_sha256: str
    llm_sha256: str
    llm_kernel: str
    num_beams: int
    kv_memory: int | None
    context_length: int
    plugs: Mapping[str, str]  # fingerprint of the plug of each kind
    text_kinds: frozenset[str] = frozenset()  # kinds whose plug reads texts of the history

    def settings(self, kinds: Mapping[str, Kind]) -> dict[str, Any]:
        """List everything besides the tasks and the personas that an answer depends on."""
        known = {name: kinds[name] for name in sorted(self.plugs.keys() & kinds)}
        of_kinds = {
            name: [kind.sha256, kind.metric, kind.max_new_tokens, kind.stop, kind.no_repeat]
            for name, kind in known.items()
        }
        told_by_others = ("width", "context_length", "text_kinds")
        own = {name: value for name, value in vars(self).items() if name not in told_by_others}
        return own | {"plugs": dict(self.plugs), "kinds": of_kinds}


def answering_facts(config: GenerateConfig, folders: tuple[Path, ...], *, is_apart: bool) -> AnsweringFacts:
    """Find out what models and plugs are, if `is_apart` in a process of its own, so that this one holds no weights."""
    return found_out(_facts, config, folders, is_apart=is_apart)


def _facts(config: GenerateConfig, folders: tuple[Path, ...]) -> AnsweringFacts:
    models = load_models(config)
    loaded = load_plugs(folders, models)
    encoder, llm = models.encoder, models.llm
    return AnsweringFacts(
        width=encoder.width,
        encoder_sha256=encoder.sha256,
        llm_sha256=llm.sha256,
        llm_kernel=llm.kernel,
        num_beams=llm.num_beams,
        kv_memory=llm.kv_memory,
        context_length=llm.context_length,
        plugs={kind: plug.sha256 for kind, plug in loaded.items()},
        text_kinds=frozenset(kind for kind, plug in loaded.items() if plug.plug.config.turns),
    )
