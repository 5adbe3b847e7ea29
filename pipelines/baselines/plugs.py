"""The plugs of a comparison: of one kind there may be several, told apart by how they sum up a history."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedder.errors import PplugError, UsageError
from embedder.plug import PersonaPlug
from llm_jobs.training import REPORT
from pipelines.answers.models import Models
from pipelines.baselines.registry import OWN_PLUG, TrainedPlug
from pipelines.erasure.user_key import UserKey
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
    """Hashes of the ids of the users whom any of them was trained on."""
    key_checks: frozenset[str]
    """Tells the keys of these hashes."""

    @property
    def points(self) -> bool:
        """Whether the plug answers without the LLM."""
        return bool(self.by_aggregation[OWN_PLUG].plug.config.labels)

    def require_unseen(self, users: Iterable[str], key: UserKey | None) -> None:
        """Refuse plugs that claim not to have seen some users and were trained on one of them.

        Raises:
            PplugError: naming no user; also if nobody can tell, as they were trained with another warehouse.
        """
        if not self.has_unseen:
            return
        if key is None or self.key_checks != frozenset({key.check}):
            raise PplugError("a plug was trained with --unseen-users of another warehouse: run `pplug train` again")
        if not self.trained_on.isdisjoint(key.hash(user) for user in users if is_unseen(user)):
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
            frozenset(user for report in reports[kind] for user in report.get("user_hmac_sha256", ())),
            frozenset(report.get("key_check", "") for report in reports[kind]),
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
