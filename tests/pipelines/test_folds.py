import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ingesting import ingest_all
from one_night import encode_night
from small_night import NIGHT, item, task

from embedder.encoder import TextEncoder
from embedder.errors import InputMissing, UsageError
from embedder.histories import History
from llm_jobs.kinds import Kind
from llm_jobs.prompts import PromptParts
from llm_jobs.tasks import PersonalTask
from llm_jobs.training import labels as stages
from llm_jobs.training.data import Example, Tokenised, TrainConfig
from pipelines.answers.models import GenerateConfig
from pipelines.baselines.difference import PEERS, Peers
from pipelines.baselines.inputs import InputVectors
from pipelines.baselines.training import shuffled
from pipelines.compare import CompareConfig
from pipelines.encode import EncodeConfig
from pipelines.folds import CLOSED_ARMS, FoldConfig, compare_folds, fold_of, plan_folds
from pipelines.nights.runs import Progress, no_progress
from pipelines.tables.warehouse import Warehouse

USERS = [f"u{at}" for at in range(10)]
TAGS = ["red", "blue", "green"]
ITEMS = [
    item(user, at, f"{user} {TAGS[at % 3]} text {at}", TAGS[at % 3], day=9 - at) for user in USERS for at in range(6)
]
TASKS = [task(f"t-{user}", user, f"{user} asks", TAGS[at % 3]) for at, user in enumerate(USERS)]
FOLDS = FoldConfig(2, 2, TrainConfig(epochs=1, batch_size=8))


@pytest.fixture(scope="module")
def warehouse(
    kinds: dict[str, Kind], encode_config: EncodeConfig, tmp_path_factory: pytest.TempPathFactory
) -> Warehouse:
    folder = tmp_path_factory.mktemp("folds")
    made = ingest_all(Warehouse(folder / "w"), folder, ITEMS, TASKS, NIGHT, kinds)
    encode_night(made, NIGHT, encode_config, kinds)
    return made


@pytest.fixture
def folds_of(
    warehouse: Warehouse, kinds: dict[str, Kind], generate_config: GenerateConfig, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[dict[str, Any]]]:
    monkeypatch.setattr(stages, "STEPS", 8)

    def compared(*methods: str, folds: FoldConfig = FOLDS, progress: Progress = no_progress) -> list[dict[str, Any]]:
        what = (warehouse, NIGHT, kinds, generate_config, CompareConfig(methods=methods), folds)
        return compare_folds(*what, progress=progress).to_pylist()

    return compared


def test_every_task_is_answered_once_for_each_seed_by_what_never_met_its_user(
    folds_of: Callable[..., list[dict[str, Any]]],
) -> None:
    rows = folds_of()
    of_all = {row["arm"]: row for row in rows if row["slice"] == "all" and row["metric"] == "accuracy"}
    assert set(of_all) == set(CLOSED_ARMS)
    assert {row["task_count"] for row in of_all.values()} == {len(TASKS)}
    assert of_all["own"]["compared_with"] not in ("own", "met")
    assert of_all["met"]["compared_with"] == "own"
    sizes = {row["slice"]: row["task_count"] for row in rows if row["arm"] == "own"}
    assert sizes == {"all": 10, "history 4-15": 10} | {
        f"fold {fold}": sum(fold_of(user, 2) == fold for user in USERS) for fold in range(2)
    }


def test_a_soft_prompt_can_be_compared_on_folds_as_well(folds_of: Callable[..., list[dict[str, Any]]]) -> None:
    methods = "pplug_published", "pplug_published_input", "difference"
    assert {row["arm"] for row in folds_of(*methods)} == {"own", *methods}


def test_items_can_be_encoded_from_their_input_alone(kinds: dict[str, Kind], encode_config: EncodeConfig) -> None:
    encoder = TextEncoder.from_pretrained(encode_config.encoder)
    rows = [{"user_id": user, "kind": "note", "text": f"{user} {at}", "output": "red"} for user in "ab" for at in "01"]
    alone = encoder.encode(["b 0", "b 1"])
    vectors = InputVectors([*rows, {**rows[0], "kind": "unknown"}], kinds, encoder)
    history = np.zeros((1, encoder.width), np.float32)
    example = Tokenised(Example("b", "?", "red", alone[0], history), PromptParts((1,), ()), (1,))
    asked = PersonalTask("?", alone[0], History.of_items(history), None, 4)
    assert np.allclose(vectors.examples([example])[0].example.history, alone[:1], atol=1e-5)
    assert np.allclose(vectors.task(asked, "b").history.vectors, alone, atol=1e-5)
    assert not len(vectors.task(asked, "nobody").history.vectors)


def test_a_plug_is_trained_with_the_nearest_item_that_it_answers_with(
    kinds: dict[str, Kind], encode_config: EncodeConfig, generate_config: GenerateConfig, tmp_path: Path
) -> None:
    free = {"kind": "LaMP_4", "choices": None}
    made = ingest_all(
        Warehouse(tmp_path / "w"), tmp_path, [one | free for one in ITEMS], [one | free for one in TASKS], NIGHT, kinds
    )
    encode_night(made, NIGHT, encode_config, kinds)
    methods = CompareConfig(methods=("nearest", "nearest_default", "plug_nearest", "few_shot_plug", "few_shot_default"))
    folds = replace(FOLDS, seeds=1, folder=tmp_path / "kept")
    rows = compare_folds(made, NIGHT, kinds, generate_config, methods, folds).to_pylist()
    arms = {row["arm"]: row for row in rows if row["slice"] == "all" and row["metric"] == "rouge-1"}
    assert set(arms) == {"own", *methods.methods}
    assert len({arms[name]["mean_prompt_tokens"] for name in arms}) == 3
    assert arms["nearest"]["mean_prompt_tokens"] == arms["plug_nearest"]["mean_prompt_tokens"]
    reports = (tmp_path / "kept").glob("*/training.json")
    losses = {path.parent.name.split("-")[0]: str(json.loads(path.read_text())["losses"]) for path in reports}
    assert set(losses) == {"attention", "nearest", "few_shot_plug"}
    assert len({*losses.values()}) == 3


def test_a_comparison_that_was_killed_trains_only_what_it_had_not_trained(
    folds_of: Callable[..., list[dict[str, Any]]], tmp_path: Path
) -> None:
    kept = replace(FOLDS, folder=tmp_path / "kept")

    def kill(told: str, done: int, count: int) -> None:
        if told == "compared tasks":
            raise KeyboardInterrupt(f"{done} of {count}")

    def reports() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").glob("*/training.json")}

    with pytest.raises(KeyboardInterrupt):
        folds_of("plug_mean", folds=kept, progress=kill)
    before_kill = reports()
    rows = folds_of("plug_mean", folds=kept)
    numbers = [(row["arm"], row["metric"], row["slice"], row["value"]) for row in rows]
    assert {path.parent.name.rsplit("-", 1)[0] for path in before_kill} == {"attention-0", "mean-0"}
    assert len(reports()) == 2 * 2 * 2
    assert before_kill.items() <= reports().items()
    assert numbers == [(row["arm"], row["metric"], row["slice"], row["value"]) for row in folds_of("plug_mean")]


def test_fewer_examples_of_all_users_make_other_plugs(
    folds_of: Callable[..., list[dict[str, Any]]], tmp_path: Path
) -> None:
    once = replace(FOLDS, seeds=1, folder=tmp_path)
    folds_of("label_mode", folds=once)
    folds_of("label_mode", folds=replace(once, limit=20))
    counts = [json.loads(path.read_text())["example_count"] for path in tmp_path.glob("*/training.json")]
    assert sum(counts) == len(ITEMS) + 20


def test_a_difference_is_to_the_nearest_items_of_others_and_none_without_others() -> None:
    def user(name: str, *vectors: Sequence[float]) -> Tokenised:
        history = np.array(vectors, np.float32)
        return Tokenised(Example(name, "?", "red", history[0], history), PromptParts((1,), ()), (1,))

    made = [user("a", (1, 0), (0, 1)), user("b", *[(1, 0.5)] * PEERS, *[(-1, 0)] * PEERS), user("b", (1, 0.5))]
    wide = Peers(made).examples(made)
    asked = PersonalTask("?", made[0].example.task, History.of_items(made[0].example.history), None, 4)
    assert wide[0].example.history.tolist() == [[1, 0, 0, -0.5], [0, 1, -1, 0.5]]
    assert np.shares_memory(wide[1].example.history, wide[2].example.history)
    assert Peers(made[1:]).examples(made[1:])[1].example.history.tolist() == [[1, 0.5, 0, 0]]
    assert Peers(made[1:]).task(asked, "c").history.vectors.tolist() == wide[0].example.history.tolist()


def test_the_fold_of_a_user_depends_on_the_id_alone() -> None:
    found = [fold_of(user, 5) for user in map(str, range(500))]
    assert set(found) == set(range(5))
    assert min(found.count(fold) for fold in range(5)) > 60


@given(st.lists(st.integers(0, 5), min_size=2, max_size=6), st.integers(0, 9))
def test_shuffled_histories_are_anothers_and_no_longer(sizes: list[int], seed: int) -> None:
    made = [
        Example(f"u{user}", "?", "red", np.ones(2, np.float32), np.full((at, 2), user, np.float32), (f"l{user}",) * 9)
        for user, size in enumerate(sizes)
        for at in range(size + 1)
    ]
    for before, after in zip(made, shuffled(made, seed), strict=True):
        assert (after.user_id, after.prompt, after.target) == (before.user_id, before.prompt, before.target)
        assert len(after.history) <= len(before.history)
        assert after.outputs != before.outputs
        assert all(f"l{int(value)}" == after.outputs[0] for value in after.history[:, 0])


def test_what_cannot_be_compared_is_one_line(
    warehouse: Warehouse, kinds: dict[str, Kind], generate_config: GenerateConfig
) -> None:
    with pytest.raises(InputMissing, match="no task of kind LaMP_4"):
        compare_folds(warehouse, NIGHT, kinds, generate_config, CompareConfig("LaMP_4"), FOLDS)
    with pytest.raises(UsageError, match="at least 2 folds and 1 seed"):
        FoldConfig(1)
    plan = plan_folds(warehouse, NIGHT, kinds, CompareConfig(methods=("own", "other", "label_vote")), FOLDS)
    assert plan.row_count == (2 * (1 + 5) + 1) * len(TASKS)


def test_free_methods_of_a_closed_kind_are_refused_before_anything_is_trained(
    folds_of: Callable[..., list[dict[str, Any]]], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="few_shot_plug answers free texts, and kind note is closed"):
        folds_of("few_shot_plug", folds=replace(FOLDS, folder=tmp_path / "kept"))
    assert not (tmp_path / "kept").exists()
