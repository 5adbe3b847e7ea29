"""The plugs of a comparison: of one kind there may be several, told apart by what they see of a history."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from embedder.errors import UsageError
from embedder.plug import PersonaPlug
from embedder.plug_config import TURNS
from llm_jobs.training import read_report
from pipelines.answers.models import Models
from pipelines.baselines.methods import TrainedPlug
from pipelines.baselines.registry import ATTENTION, OWN_PLUG

OWN: Final = (ATTENTION, TURNS)
"""Aggregations of the plug itself, the first one that is there; a second one is compared with it."""


@dataclass(frozen=True, eq=False)
class PlugsOfKind:
    """The plugs that answer one kind of task."""

    plugs: Mapping[str, TrainedPlug]
    """By aggregation; the one that the others are compared with as OWN_PLUG."""
    own: Path
    """Folder of the plug that the others are compared with."""

    @property
    def points(self) -> bool:
        """Whether the plug answers without the LLM."""
        return bool(self.plugs[OWN_PLUG].plug.config.labels)


def compared_plugs(folders: Sequence[Path], models: Models) -> dict[str, PlugsOfKind]:
    """The plugs of each kind, each fit for `models`.

    Raises:
        UsageError: if two plugs of a kind have one aggregation, or none is one of OWN.
        PplugError: if a plug was trained with other models.
    """
    found: dict[str, dict[str, TrainedPlug]] = {}
    places: dict[tuple[str, str], Path] = {}
    for folder in folders:
        plug = PersonaPlug.from_pretrained(folder)
        plug.require(models.encoder.sha256, models.llm.sha256, models.llm.values_width)
        name = plug.config.aggregation
        for kind in plug.config.kinds:
            if name in found.setdefault(kind, {}):
                raise UsageError(f"two plugs answer kind {kind} with aggregation {name}, the second is {folder}")
            found[kind][name] = TrainedPlug(plug, read_report(folder).get("seconds"))
            places[kind, name] = folder
    chosen = dict[str, PlugsOfKind]()
    for kind, plugs in found.items():
        own = next((name for name in OWN if name in plugs), None)
        if own is None:
            told = f"no plug of kind {kind} has aggregation {' or '.join(OWN)}"
            raise UsageError(f"{told}: pass the plug itself with --plug too")
        chosen[kind] = PlugsOfKind(
            {OWN_PLUG if name == own else name: one for name, one in plugs.items()}, places[kind, own]
        )
    return chosen
