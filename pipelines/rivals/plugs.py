"""The plugs of a comparison: of one kind there may be several, told apart by how they sum up a history."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedder.errors import PplugError, UsageError
from embedder.hashing import text_sha256
from embedder.plug import PersonaPlug
from llm_jobs.training import REPORT
from pipelines.answers.models import Models
from pipelines.rivals.registry import OWN_PLUG, TrainedPlug
from pipelines.slices import is_unseen


@dataclass(frozen=True, eq=False)
class PlugsOfKind:
    """The plugs that answer one kind of task."""

    by_aggregation: Mapping[str, TrainedPlug]
    own: Path
    """Folder of the plug that the others are compared with."""
    has_unseen: bool
    """They were trained with --unseen-users, all of them."""
    trained_on: frozenset[str]
    """sha256 of the ids of the users whom any of them was trained on."""

    def require_unseen(self, users: Iterable[str]) -> None:
        """Refuse plugs that claim not to have seen some users and were trained on one of them.

        Raises:
            PplugError: naming no user.
        """
        unseen = (text_sha256(user) for user in users if is_unseen(user))
        if self.has_unseen and not self.trained_on.isdisjoint(unseen):
            raise PplugError("a plug was trained on users that --unseen-users keeps out: run `pplug train` again")


def compared_plugs(folders: Sequence[Path], models: Models) -> dict[str, PlugsOfKind]:
    """The plugs of each kind, each fit for `models`.

    Raises:
        UsageError: if two plugs of a kind have one aggregation, none is the plug itself ("attention"), or some were
            trained with --unseen-users and some not.
        PplugError: if a plug was trained with other models, or on users whom it should not have seen.
    """
    found: dict[str, dict[str, TrainedPlug]] = {}
    folder_of: dict[tuple[str, str], Path] = {}
    reports: dict[str, list[Mapping[str, Any]]] = {}
    for folder in folders:
        plug, report = PersonaPlug.from_pretrained(folder), training_report(folder)
        plug.require(models.encoder.sha256, models.llm.sha256, models.llm.values_width)
        name = plug.config.aggregation
        for kind in plug.config.kinds:
            if name in found.setdefault(kind, {}):
                raise UsageError(f"two plugs answer kind {kind} with aggregation {name}, the second is {folder}")
            found[kind][name] = TrainedPlug(plug, report.get("seconds"))
            folder_of[kind, name] = folder
            reports.setdefault(kind, []).append(report)
    told = {kind: has_unseen(kind, plugs, reports[kind]) for kind, plugs in found.items()}
    return {
        kind: PlugsOfKind(
            plugs,
            folder_of[kind, OWN_PLUG],
            told[kind],
            frozenset(user for report in reports[kind] for user in report.get("user_id_sha256", ())),
        )
        for kind, plugs in found.items()
    }


def has_unseen(kind: str, plugs: Iterable[str], reports: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the plugs of a kind were all trained without the unseen users."""
    if OWN_PLUG not in plugs:
        raise UsageError(f"no plug of kind {kind} has aggregation {OWN_PLUG}: pass the plug itself with --plug too")
    told = {bool(report.get("unseen_users")) for report in reports}
    if len(told) > 1:
        raise UsageError(f"some plugs of kind {kind} were trained with --unseen-users and some not: train them alike")
    return told == {True}


def training_report(folder: Path) -> Mapping[str, Any]:
    """What training.json says; nothing where there is none."""
    path = folder / REPORT
    return json.loads(path.read_text(encoding="utf8")) if path.is_file() else {}
