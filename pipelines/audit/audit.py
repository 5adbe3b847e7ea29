"""Measure what a warehouse and its plugs give away: attack them, and append what came of it to `evaluations`.

    histories ─▶ Known ─┬─▶ invert      history_vectors, personas, soft prompts
    what is stored ─────┼─▶ link        personas of two nights, items that came since
    plugs ──────────────┴─▶ membership  users of the training and others

Each number stands beside that of the same attack with another user's vectors: what chance gives.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from embedder.plug import PersonaPlug
from llm_jobs.kinds import Kind
from pipelines.answers.models import GenerateConfig, Models, load_models, load_plugs
from pipelines.audit.attacks import Attack, Scene, attack_on_soft_prompts, attacks_on_tables
from pipelines.audit.membership import TARGETS, area, chosen_users, user_losses
from pipelines.audit.sample import MOST_ITEMS
from pipelines.evaluate import keep_rows
from pipelines.examples import examples_of
from pipelines.forget import training_users
from pipelines.nights.precisions import with_precisions
from pipelines.nights.runs import Progress, no_progress, recorded_run
from pipelines.personas.encoders import EncoderConfig, load_encoder
from pipelines.slices import AUDIT
from pipelines.tables import Row
from pipelines.tables.views import connect
from pipelines.tables.warehouse import Warehouse
from pipelines.training_data import PlugChoice, limited, training_data

logger = logging.getLogger(__name__)

JOB = "audit"

MEMBERSHIP = "membership-auc"


@dataclass(frozen=True)
class AuditConfig:
    """How much is looked at."""

    users: int = 200
    """Most users; half of them are attacked with what is known of the others."""
    seed: int = 0
    """Chooses the users."""


def audit_night(
    warehouse: Warehouse,
    ds: date,
    kinds: Mapping[str, Kind],
    config: AuditConfig,
    named: GenerateConfig,
    plugs: Sequence[Path] = (),
    *,
    progress: Progress = no_progress,
) -> pa.Table:
    """Attack the personas as of a night, and plugs, with whatever the warehouse holds.

    Appends to `evaluations` what it returns. Without `plugs` neither soft prompts nor membership are attacked; `named`
    are the encoder of the night and the LLM of the plugs.

    Raises:
        InputMissing: if no night up to `ds` was encoded, or there are too few users.
        PplugError: if the night or a plug was made with other models.
    """
    settings = asdict(named) | asdict(config) | {"plugs": [str(folder) for folder in plugs]}
    with recorded_run(warehouse, JOB, ds, settings) as record:
        if plugs:
            models = load_models(with_precisions(warehouse, named, record))
            encoder, loaded = models.encoder, load_plugs(plugs, models)
        else:
            one = EncoderConfig(named.encoder, named.dtype, named.cache, named.device)
            models, encoder, loaded = None, load_encoder(with_precisions(warehouse, one, record)), {}
        with connect(warehouse) as db:
            scene, rows = Scene.of(db, ds, kinds, encoder, config.users, config.seed), list[Row]()
            attacks: list[Attack] = attacks_on_tables(db, scene)
            attacks += [partial(attack_on_soft_prompts, scene, kind, plug.plug) for kind, plug in loaded.items()]
            if models:
                attacks += [partial(membership, warehouse, ds, kinds, config, models, folder) for folder in plugs]
            for done, attack in enumerate(attacks, 1):
                rows += attack()
                progress("attacks", done, len(attacks))
        record.rows_in = record.rows_out = len(scene.known.texts)
        return keep_rows(warehouse, ds, record, [{"slice": AUDIT, **row} for row in rows])


def membership(
    warehouse: Warehouse, ds: date, kinds: Mapping[str, Kind], config: AuditConfig, models: Models, folder: Path
) -> list[Row]:
    """The row of one plug; none, and a warning, if all users, or none, were in its training."""
    plug = PersonaPlug.from_pretrained(folder)
    if not plug.head.STAGES:
        logger.info("%s has no weights, so nobody was in its training", folder)
        return []
    members = training_users(warehouse, folder)
    data = training_data(warehouse, PlugChoice(plug.config.kinds[0], ds), kinds)
    rng = np.random.default_rng(config.seed)
    users = sorted({target.user_id for target in data.targets.found})
    chosen = {*chosen_users([users[at] for at in rng.permutation(len(users))], members, config.users)}
    targets = limited([target for target in data.targets.found if target.user_id in chosen], TARGETS * len(chosen))
    items = [item for item in data.items if item["user_id"] in chosen]
    examples = examples_of(targets, newest(items), kinds, models.encoder) if chosen else []
    losses = user_losses(models.llm, plug, examples) if examples else {}
    inside, outside = ([loss for user, loss in losses.items() if (user in members) == is_in] for is_in in (True, False))
    if not (inside and outside):
        told = "%s: two users who were in its training and two who were not are needed to tell them apart"
        logger.warning(told, folder)
        return []
    row = {"kind": f"plug of {plug.config.kinds[0]}", "arm": "own", "metric": MEMBERSHIP, "task_count": len(losses)}
    return [row | area(inside, outside)._asdict()]


def newest(items: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The newest items of each user, so that little is encoded; in the order they had."""
    counts, kept = dict[str, int](), list[Mapping[str, Any]]()
    for item in reversed(items):
        counts[item["user_id"]] = counts.get(item["user_id"], 0) + 1
        if counts[item["user_id"]] <= 2 * MOST_ITEMS:
            kept.append(item)
    return kept[::-1]
