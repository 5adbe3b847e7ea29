"""The plugs of a comparison: of one kind there may be several, told apart by how they sum up a history."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from embedder.errors import UsageError
from embedder.plug import PersonaPlug
from llm_jobs.training import read_report
from pipelines.answers.models import Models
from pipelines.baselines.registry import OWN_PLUG, TrainedPlug


@dataclass(frozen=True, eq=False)
class PlugsOfKind:
    """The plugs that answer one kind of task."""

    by_aggregation: Mapping[str, TrainedPlug]
    own: Path
    """Folder of the plug that the others are compared with."""

    @property
    def points(self) -> bool:
        """Whether the plug answers without the LLM."""
        return bool(self.by_aggregation[OWN_PLUG].plug.config.labels)


def compared_plugs(folders: Sequence[Path], models: Models) -> dict[str, PlugsOfKind]:
    """The plugs of each kind, each fit for `models`.

    Raises:
        UsageError: if two plugs of a kind have one aggregation, or none is the plug itself ("attention").
        PplugError: if a plug was trained with other models.
    """
    found: dict[str, dict[str, TrainedPlug]] = {}
    own: dict[str, Path] = {}
    for folder in folders:
        plug = PersonaPlug.from_pretrained(folder)
        plug.require(models.encoder.sha256, models.llm.sha256, models.llm.values_width)
        name = plug.config.aggregation
        for kind in plug.config.kinds:
            if name in found.setdefault(kind, {}):
                raise UsageError(f"two plugs answer kind {kind} with aggregation {name}, the second is {folder}")
            found[kind][name] = TrainedPlug(plug, read_report(folder).get("seconds"))
            if name == OWN_PLUG:
                own[kind] = folder
    for kind in found.keys() - own.keys():
        raise UsageError(f"no plug of kind {kind} has aggregation {OWN_PLUG}: pass the plug itself with --plug too")
    return {kind: PlugsOfKind(plugs, own[kind]) for kind, plugs in found.items()}
