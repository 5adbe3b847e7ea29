"""Attacks that succeed on what is stored by default, and fail where it is protected."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from one_night import encode_night
from small_night import ITEMS, NIGHT, item

from embedder.errors import InputMissing
from embedder.plug import PersonaPlug
from embedder.pointing import PointingHead
from llm_jobs.kinds import Kind
from llm_jobs.training.data import Example
from pipelines.answers.models import GenerateConfig, load_models
from pipelines.audit.attacks import Scene, attack_on_soft_prompts, link_items, link_nights
from pipelines.audit.audit import AuditConfig, audit_night
from pipelines.audit.inversion import ridge
from pipelines.audit.membership import area, chosen_users
from pipelines.encode import EncodeConfig
from pipelines.examples import examples_of
from pipelines.personas.protection import Protection
from pipelines.tables.queries import run_checks
from pipelines.tables.views import connect
from pipelines.tables.warehouse import Warehouse
from pipelines.training_data import PlugChoice, training_data

Fill = Callable[..., Warehouse]
Train = Callable[..., object]
BEFORE = NIGHT - timedelta(days=5)
WORDS = [
    first + second
    for first in ("sea", "sun", "oak", "ice", "owl", "fog", "ash")
    for second in ("bay", "way", "fox", "hut")
]


@pytest.fixture(scope="module")
def encode_config(encode_config: EncodeConfig) -> EncodeConfig:
    """A night of all diaries in one shard: an audit reads what is stored, however it was cut."""
    return replace(encode_config, shard_items=240)


def diaries() -> list[dict[str, Any]]:
    """Ten items of each of 24 users, every one a text of its own; eight of them of the earlier night."""
    drawn = random.Random(3)
    texts = dict.fromkeys(" ".join(drawn.sample(WORDS, 5)) for _ in range(400))
    return [
        item(f"user {user}", at, text, ("red", "blue")[user % 2], day=20 - at if at < 8 else 2)
        for (user, at), text in zip(((user, at) for user in range(24) for at in range(10)), texts, strict=False)
    ]


@pytest.fixture
def audited(
    fill: Fill, kinds: dict[str, Kind], encode_config: EncodeConfig, generate_config: GenerateConfig
) -> Callable[..., dict[tuple[str, str], dict[str, Any]]]:
    """What an audit finds where personas are stored in some way."""

    def run(plugs: list[Path] | None = None, **stored: Any) -> dict[tuple[str, str], dict[str, Any]]:
        for ds, is_fresh in ((BEFORE, False), (NIGHT, True)):
            warehouse = fill([one for at, one in enumerate(diaries()) if (at % 10 >= 8) == is_fresh], ds=ds)
            encode_night(warehouse, ds, replace(encode_config, **{"max_vectors": 64} | stored), kinds)
        found = audit_night(warehouse, NIGHT, kinds, AuditConfig(24), generate_config, plugs or []).to_pylist()
        with connect(warehouse) as db:
            assert not [name for name, rows in run_checks(db, None).items() if rows.num_rows]
            assert db.sql("select count(*) from evaluations where slice = 'audit'").fetchall() == [(len(found),)]
            assert db.sql("select status, rows_out from runs where job = 'audit'").fetchall() == [("done", 240)]
        return {(row["kind"], row["metric"]): row for row in found if row["arm"] == "own"}

    return run


def test_without_protection_every_text_is_found_and_every_user_linked(audited: Callable[..., Any]) -> None:
    found = audited()
    for kind in ("history_vectors", "personas"):
        texts = found[kind, "texts-found"]
        assert texts["value"] == 1
        assert texts["difference_low"] > 0.9
        assert found[kind, "token-f1"]["difference_low"] > 0
    assert found["personas", "linked-nights"]["value"] > 0.9
    assert set(found) >= {("personas", "linked-items")}


@pytest.mark.parametrize(
    ("stored", "most"),
    [
        ({"protection": Protection(5)}, 0.25),
        ({"protection": Protection(item_vectors=False), "max_vectors": 2}, 0.25),
        ({"protection": Protection(noise=4.0)}, 0.4),
    ],
)
def test_with_protection_few_texts_are_found(stored: dict[str, Any], most: float, audited: Callable[..., Any]) -> None:
    found = audited(**stored)
    assert found["history_vectors", "texts-found"]["value"] <= most
    assert found["personas", "texts-found"]["value"] <= most
    assert found["history_vectors", "token-f1"]["value"] <= found["personas", "token-f1"]["value"] + 0.05


def test_what_older_nights_left_is_attacked_too(
    fill: Fill, kinds: dict[str, Kind], encode_config: EncodeConfig, generate_config: GenerateConfig
) -> None:
    warehouse = fill(diaries(), ds=BEFORE)
    encode_night(warehouse, BEFORE, encode_config, kinds)
    encode_night(warehouse, NIGHT, replace(encode_config, protection=Protection(5)), kinds)
    rows = audit_night(warehouse, NIGHT, kinds, AuditConfig(24), generate_config).to_pylist()
    values = {(row["kind"], row["metric"]): row["value"] for row in rows if row["arm"] == "own"}
    assert values["history_vectors", "texts-found"] > 0.7
    assert values["personas", "texts-found"] < 0.25


@pytest.mark.parametrize("is_by_heart", [True, False])
def test_members_are_told_where_a_plug_knows_their_answers_by_heart_and_not_where_it_knows_nothing(
    fill: Fill,
    kinds: dict[str, Kind],
    encode_config: EncodeConfig,
    generate_config: GenerateConfig,
    train_notes: Train,
    tmp_path: Path,
    *,
    is_by_heart: bool,
) -> None:
    drawn = random.Random(5)
    few = [one | {"output": drawn.choice(("red", "blue"))} for at, one in enumerate(diaries()) if at % 10 >= 7]
    warehouse, folder = fill(few[:27], ds=BEFORE), tmp_path / "plug"
    train_notes(warehouse, folder, batch_size=16)
    data, encoder = training_data(warehouse, PlugChoice("note", NIGHT), kinds), load_models(generate_config).encoder
    examples = examples_of(data.targets.found, data.items, kinds, encoder)
    learn_by_heart(folder, examples, 4.0 if is_by_heart else 0.0)
    fill(few[27:], ds=NIGHT)
    encode_night(warehouse, NIGHT, encode_config, kinds)
    rows = audit_night(warehouse, NIGHT, kinds, AuditConfig(24), generate_config, [folder]).to_pylist()
    (auc,) = [row for row in rows if row["metric"] == "membership-auc"]
    assert (auc["kind"], auc["task_count"]) == ("plug of note", 18)
    assert 0 <= auc["low"] <= auc["value"] <= auc["high"] <= 1
    assert auc["low"] > 0.5 if is_by_heart else auc["value"] == 0.5


def learn_by_heart(folder: Path, examples: Sequence[Example], surety: float) -> None:
    """Have a plug score labels by nothing but its text bodies, and these give just what the examples' users gave.

    With a `surety` of 0 all labels are alike to it.
    """
    plug = PersonaPlug.from_pretrained(folder)
    assert isinstance(plug.head, PointingHead)
    seen = np.array([[*example.task, 1] for example in examples])
    scores = [[surety * (label == example.target) for label in plug.config.labels] for example in examples]
    weights = torch.from_numpy(np.linalg.lstsq(seen, np.array(scores), rcond=None)[0]).float()
    with torch.no_grad():
        plug.head.text_weight.copy_(weights[:-1])
        plug.head.text_bias.copy_(weights[-1])
        for weight in plug.head.scorers.parameters():
            weight.zero_()
        plug.head.scorers.straight.weight[:, 0] = 1
        plug.head.feature_mean.zero_()
        plug.head.feature_deviation.fill_(1)
    plug.save_pretrained(folder)


@pytest.mark.parametrize(("noise", "is_read"), [(0.0, True), (4.0, False)])
def test_soft_prompts_tell_a_users_words_unless_noise_hides_them(
    fill: Fill,
    kinds: dict[str, Kind],
    encode_config: EncodeConfig,
    generate_config: GenerateConfig,
    plug: Path,
    *,
    noise: float,
    is_read: bool,
) -> None:
    drawn = random.Random(3)
    subjects = [drawn.sample(WORDS, 4) for _ in range(60)]
    texts = [(user, at, " ".join(drawn.sample(own, 3))) for user, own in enumerate(subjects) for at in range(5)]
    warehouse = fill([item(f"user {user}", at, text, "red", day=at) for user, at, text in texts])
    protected = replace(encode_config, protection=Protection(noise=noise), shard_items=300)
    encode_night(warehouse, NIGHT, protected, kinds)
    models = load_models(generate_config)
    with connect(warehouse) as db:
        scene = Scene.of(db, NIGHT, kinds, models.encoder, 60, 0)
    rows = list(attack_on_soft_prompts(scene, "note", PersonaPlug.from_pretrained(plug)))
    assert {row["kind"] for row in rows} == {"soft prompts of note"}
    more = {row["metric"]: row["difference_low"] for row in rows if row["arm"] == "own"}
    assert set(more) == {"texts-found", "token-f1"}
    assert {least > 0 for least in more.values()} == {is_read}


def test_a_plug_that_was_trained_with_everybody_is_told_of(
    fill: Fill,
    kinds: dict[str, Kind],
    encode_config: EncodeConfig,
    generate_config: GenerateConfig,
    train_notes: Train,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    warehouse, plug = fill(diaries()[:60]), tmp_path / "plug"
    train_notes(warehouse, plug, batch_size=16)
    encode_night(warehouse, NIGHT, encode_config, kinds)
    rows = audit_night(warehouse, NIGHT, kinds, AuditConfig(6), generate_config, [plug]).to_pylist()
    assert "membership-auc" not in {row["metric"] for row in rows}
    assert "two who were not are needed to tell them apart" in caplog.text


def test_too_few_users_are_refused(
    fill: Fill, kinds: dict[str, Kind], encode_config: EncodeConfig, generate_config: GenerateConfig
) -> None:
    warehouse = fill(ITEMS)
    encode_night(warehouse, NIGHT, encode_config, kinds)
    with pytest.raises(InputMissing, match="3 users have a history"):
        audit_night(warehouse, NIGHT, kinds, AuditConfig(), generate_config)


@pytest.mark.parametrize(("pairs", "width"), [(200, 12), (30, 60)])
def test_a_linear_map_is_learned_with_more_pairs_than_numbers_and_with_fewer(pairs: int, width: int) -> None:
    rng = np.random.default_rng(1)
    hidden = rng.normal(size=(pairs + 20, 4))
    seen = (hidden @ rng.normal(size=(4, width)) + 3).astype(np.float32)
    found = ridge(seen[:pairs], hidden[:pairs], 1e-6, seen[pairs:])
    np.testing.assert_allclose(found, hidden[pairs:], atol=0.05)


@given(st.integers(2, 30), st.integers(0, 9))
def test_users_with_one_direction_each_are_always_linked(count: int, seed: int) -> None:
    personas = np.eye(count, dtype=np.float32)
    linked = link_nights(personas, personas)
    assert linked.sum(0).tolist() == [count, count, 0]
    owners = np.random.default_rng(seed).integers(count, size=2 * count)
    assert link_items(personas, personas[owners], owners).sum(0).tolist() == [2 * count, 2 * count, 0]
    assert not link_items(personas, personas[:0], owners[:0]).size
    nobody = np.zeros_like(personas)
    assert not link_nights(nobody, personas).size


def test_the_area_tells_how_well_losses_tell_members() -> None:
    assert area([1, 2, 3], [4, 5, 6]) == (1, 1, 1)
    assert area([4, 5, 6], [1, 2, 3]) == (0, 0, 0)
    assert area([1, 1], [1, 1]).value == 0.5
    chance = area(list(range(0, 200, 2)), list(range(1, 200, 2)))
    assert chance.low < 0.5 < chance.high


@given(st.sets(st.integers(0, 40)), st.integers(0, 30))
def test_as_many_members_as_others_are_chosen(members: set[int], most: int) -> None:
    inside = {str(member) for member in members}
    chosen = chosen_users([str(user) for user in range(41)], inside, most)
    count = sum(user in inside for user in chosen)
    assert 2 * count == len(chosen) <= most
    assert len(set(chosen)) == len(chosen)
