import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from one_night import generate_night
from small_night import ITEMS, NIGHT, TASKS

from embedder.errors import InputMissing, UsageError
from embedder.histories import History
from embedder.soft_prompt import SoftPromptHead
from llm_jobs.answers import answer_tasks, personal_requests, plain_requests
from llm_jobs.kinds import Kind
from llm_jobs.prompts import Answer, Placement
from llm_jobs.tasks import PersonalTask
from llm_jobs.training.data import TrainConfig
from pipelines.answers.models import GenerateConfig, Models, load_models, load_plugs, trainable
from pipelines.answers.queue import personal_tasks, queued_tasks
from pipelines.baselines import cases
from pipelines.baselines.answering import answer_arms
from pipelines.baselines.cases import CaseReader, other_users
from pipelines.baselines.lora import LoraConfig
from pipelines.baselines.methods import BaselineContext
from pipelines.baselines.plugs import compared_plugs
from pipelines.baselines.registry import METHODS
from pipelines.command.evaluations import slice_tables
from pipelines.compare import CompareConfig, compare_night, plan_compare
from pipelines.evaluate import evaluate_night, referenced_tasks
from pipelines.personas.nights import newest_nights, nights_of
from pipelines.tables.views import connect
from pipelines.tables.warehouse import Warehouse
from pipelines.train import train_job
from pipelines.training_data import PlugChoice

AGGREGATIONS = ("attention", "mean", "task", "none")
TRAIN = TrainConfig(epochs=1, batch_size=4, held_out=0.0)
SCORED = sorted((one for one in TASKS if one["reference"]), key=lambda one: (one["user_id"], one["task_id"]))


@dataclass(frozen=True)
class Night:
    """A night that was trained for and encoded, and not answered."""

    warehouse: Warehouse
    plugs: list[Path]
    kinds: dict[str, Kind]
    config: GenerateConfig

    def compare(self, *methods: str, **settings: Any) -> list[dict[str, Any]]:
        what = self.warehouse, NIGHT, self.kinds, self.plugs, self.config
        return compare_night(*what, CompareConfig(methods=methods, **settings)).to_pylist()


@pytest.fixture(scope="module")
def trained_night(
    encoded_night: Path,
    kinds: dict[str, Kind],
    generate_config: GenerateConfig,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    shutil.copytree(encoded_night, folder / "w")
    for name in AGGREGATIONS:
        choice = PlugChoice("note", NIGHT, aggregation=name)
        train_job(Warehouse(folder / "w"), folder / name, choice, generate_config, TRAIN, kinds)
    return folder


@pytest.fixture
def night(trained_night: Path, kinds: dict[str, Kind], generate_config: GenerateConfig, tmp_path: Path) -> Night:
    folder = tmp_path / "trained"
    shutil.copytree(trained_night, folder)
    return Night(Warehouse(folder / "w"), [folder / name for name in AGGREGATIONS], kinds, generate_config)


def by_arm(rows: list[dict[str, Any]], metric: str = "accuracy", part: str = "all") -> dict[str, dict[str, Any]]:
    return {row["arm"]: row for row in rows if row["metric"] == metric and row["slice"] == part}


def answers_of(night: Night, names: list[str], chunk: int) -> dict[str, dict[str, list[str]]]:
    """By arm and task, through the code under test."""
    models = load_models(night.config)
    with connect(night.warehouse) as db, pytest.MonkeyPatch.context() as patch:
        patch.setattr(cases, "CHUNK", chunk)
        reader = CaseReader(db, NIGHT, night.kinds["note"], models.encoder, referenced_tasks(night.warehouse, NIGHT))
        plugs = compared_plugs(night.plugs, models)["note"].plugs
        context = BaselineContext(night.kinds["note"], trainable(models.llm), plugs, None, "red")
        methods = {name: METHODS[name].build(context) for name in names}
        told = list[tuple[str, int, int]]()
        arms = answer_arms(reader.chunks(), methods, models.llm, reader.task_count, lambda *one: told.append(one))
        assert (told[0], told[-1]) == tuple(("compared tasks", done, reader.task_count) for done in (0, len(SCORED)))
    return {
        name: {task: [one.prediction for one in found] for task, found in arm.scored.items()}
        for name, arm in arms.items()
    }


def asked(models: Models, requests: list[Any], placement: Placement) -> list[str]:
    found = models.llm.answer(requests, placement)
    assert all(isinstance(answer, Answer) for answer in found)
    return [answer.text for answer in found if isinstance(answer, Answer)]


def slow_items(user: str) -> list[dict[str, Any]]:
    """A user's items, newest first."""
    return sorted(
        (one for one in ITEMS if one["user_id"] == user),
        key=lambda one: (one["posted_at"], one["item_id"]),
        reverse=True,
    )


@pytest.mark.parametrize("chunk", [1, 64])
def test_every_arm_says_what_a_slow_oracle_says_whatever_the_chunk(night: Night, chunk: int) -> None:
    models, kind = load_models(night.config), night.kinds["note"]
    with connect(night.warehouse) as db:
        nights = newest_nights(nights_of(db), NIGHT, models.encoder.sha256).params
        queue = queued_tasks(db, NIGHT, nights, ("", "~"), models.encoder.width)
        vectors = dict(db.sql("select item_id, vector from history_vectors").fetchall())
    tasks = [one for one in queue if one.reference is not None]
    personal = personal_tasks(tasks, night.kinds, models.encoder)
    (loaded,) = load_plugs(night.plugs[:1], models).values()
    placement = Placement(loaded.plug.config.placement)

    def with_items(count: int, rank: Callable[[Any, Any], list[dict[str, Any]]]) -> list[str]:
        prompts = []
        for one, own in zip(tasks, personal, strict=True):
            chosen = [(found["text"], found["output"]) for found in rank(one, own)[:count]]
            prompts.append(kind.with_retrieved(chosen, one.input))
        return prompts

    def nearest(one: Any, own: Any) -> list[dict[str, Any]]:
        return sorted(
            slow_items(one.user_id), key=lambda found: -float(sum(vectors[found["item_id"]] * own.task)), reverse=False
        )

    def few_shot_requests(count: int) -> list[Any]:
        chosen = [nearest(one, own)[:count] for one, own in zip(tasks, personal, strict=True)]
        return [
            few_shot_request(request, kind, items)
            for request, items in zip(plain_requests(personal), chosen, strict=True)
        ]

    def plain(prompts: list[str]) -> list[str]:
        requests = [
            request_with(request, prompt) for request, prompt in zip(plain_requests(personal), prompts, strict=True)
        ]
        return asked(models, requests, Placement.AFTER)

    def pointed(given: list[PersonalTask]) -> list[str]:
        answers = answer_tasks(models.llm, loaded.plug, given)
        return [answer.text for answer in answers if isinstance(answer, Answer)]

    wanted: dict[str, list[str]] = {
        "own": pointed(personal),
        "default": pointed([replace(own, history=History.empty(own.task.size)) for own in personal]),
        "none": asked(models, plain_requests(personal), Placement.AFTER),
        "recency_1": plain(with_items(1, lambda one, _: slow_items(one.user_id))),
        "recency_4": plain(with_items(4, lambda one, _: slow_items(one.user_id))),
        "dense_1": plain(with_items(1, nearest)),
        "dense_4": plain(with_items(4, nearest)),
        "few_shot_8": asked(models, few_shot_requests(8), Placement.AFTER),
        "few_shot_4": asked(models, few_shot_requests(4), Placement.AFTER),
        "label_mode": [
            Counter(found["output"] for found in slow_items(one.user_id)).most_common(1)[0][0]
            if slow_items(one.user_id)
            else "red"
            for one in tasks
        ],
    }
    for arm, folder in {
        "plug_mean": night.plugs[1],
        "plug_task": night.plugs[2],
        "instruction": night.plugs[3],
    }.items():
        (method,) = load_plugs([folder], models).values()
        wanted[arm] = asked(models, personal_requests(models.llm, method.plug, personal)[0], placement)
    found = answers_of(night, list(wanted), chunk)
    for name, texts in wanted.items():
        assert [found[name][one.task_id] for one in tasks] == [[text] for text in texts], name
    histories = {one.user_id: one.history for one in tasks if len(one.history.vectors)}
    lent = answers_of(night, ["other"], chunk)["other"]
    for draw in range(5):
        given = other_users([one.user_id for one in tasks], list(histories), draw)
        swapped = [
            replace(own, history=histories[given[one.user_id]]) for one, own in zip(tasks, personal, strict=True)
        ]
        assert [lent[one.task_id][draw] for one in tasks] == pointed(swapped)


NOT_HERE = {
    "plug_nearest",
    "nearest",
    "nearest_default",
    "few_shot_plug",
    "plug_turns",
    "plug_attention",
    "few_shot_default",
    "style_vector",
    "pplug_published",
    "pplug_published_input",
    "difference",
    "shuffled",
    "met",
}
"""Of free answers only, not given, or trained for folds."""


def request_with(request: Any, prompt: str) -> Any:
    return replace(request, prompt=prompt)


def few_shot_request(request: Any, kind: Kind, items: list[dict[str, Any]]) -> Any:
    """Of items that all have an output, nearest first."""
    if not items:
        return request
    turns = tuple((found["text"], found["output"]) for found in reversed(items))
    return replace(request, prompt=kind.query(request.prompt), turns=turns)


def test_the_table_has_every_arm_in_every_slice_and_writes_nothing_but_numbers(night: Night) -> None:
    versions = night.warehouse.versions()
    rows = night.compare()
    changed = night.warehouse.versions()
    assert {name for name in changed if changed[name] != versions.get(name)} == {"evaluations", "runs"}
    assert set(by_arm(rows)) == set(METHODS) - NOT_HERE
    sizes = {row["slice"]: row["task_count"] for row in rows}
    assert sizes == {"all": 5, "history 0": 1, "history 1-3": 1, "history 4-15": 3}
    for row in rows:
        assert row["low"] <= row["value"] <= row["high"]
        assert row["difference_low"] <= row["difference"] <= row["difference_high"]
        other = by_arm(rows, row["metric"], row["slice"])[row["compared_with"]]
        assert row["difference"] == pytest.approx(row["value"] - other["value"], abs=1e-6)
        assert (row["compared_with"] == "own") == (row["arm"] != "own")
        if row["arm"] == "own":
            arms = by_arm(rows, row["metric"], row["slice"])
            assert other["value"] == max(arms[name]["value"] for name in arms if name != "own")
    assert by_arm(rows)["label_mode"]["value"] == 1.0


def test_what_an_arm_costs(night: Night) -> None:
    arms = by_arm(
        night.compare("none", "instruction", "default", "recency_1", "dense_1", "label_mode", "label_regression")
    )
    width = load_models(night.config).encoder.width
    (loaded,) = load_plugs(night.plugs[:1], load_models(night.config)).values()
    (instruction,) = load_plugs(night.plugs[3:], load_models(night.config)).values()
    head = instruction.plug.head
    assert isinstance(head, SoftPromptHead)
    assert arms["instruction"]["parameters"] == head.instruction.numel()
    assert arms["own"]["parameters"] == sum(weight.numel() for weight in loaded.plug.parameters())
    assert arms["own"]["train_seconds"] == pytest.approx(
        json.loads((night.plugs[0] / "training.json").read_text(encoding="utf8"))["seconds"]
    )
    assert arms["label_regression"]["parameters"] == 3 * (width + 3 + 3 + 1)
    assert [arms[name]["parameters"] for name in ("none", "recency_1", "label_mode")] == [0, 0, 0]
    text_bytes = sum(len(one["text"] + one["output"]) for one in ITEMS) / 4  # four users have tasks
    assert arms["recency_1"]["user_bytes"] == round(text_bytes)
    assert arms["dense_1"]["user_bytes"] == round(text_bytes + (width + 4) * len(ITEMS) / 4)
    assert arms["label_mode"]["user_bytes"] == 3  # one label each of three users, 4 bytes
    assert arms["own"]["mean_prompt_tokens"] == 0
    soft = arms["instruction"]["mean_prompt_tokens"] - arms["none"]["mean_prompt_tokens"]
    assert soft == instruction.plug.config.soft_count
    assert arms["default"]["user_bytes"] == arms["label_mode"]["mean_prompt_tokens"] == 0
    assert all(row["answers_per_second"] > 0 for row in arms.values())


def test_the_same_twice_apart_from_time(night: Night) -> None:
    first, second = (
        [{k: v for k, v in row.items() if k not in ("run_id", "answers_per_second", "train_seconds")} for row in rows]
        for rows in (night.compare(), night.compare())
    )
    assert first == second


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft 0.21 uses the old name
def test_adapters_are_compared_on_the_tasks_of_their_users_only(night: Night) -> None:
    rows = night.compare("none", lora_users=2, lora=LoraConfig(epochs=1))
    assert "lora" not in by_arm(rows)
    arms = by_arm(rows, part="lora users")
    assert set(arms) == {"own", "none", "lora"}
    assert {row["task_count"] for row in arms.values()} == {3}  # ann and bob
    assert arms["lora"]["user_bytes"] == 4 * arms["lora"]["parameters"] > 0


def test_controls_of_evaluate_are_the_same_arms(night: Night) -> None:
    generate_night(night.warehouse, NIGHT, night.plugs[:1], night.config, night.kinds)
    compared = by_arm(night.compare("other", "default", "none"))
    controls = by_arm(
        evaluate_night(night.warehouse, NIGHT, night.kinds, plugs=night.plugs[:1], config=night.config).to_pylist()
    )
    assert {arm: row["value"] for arm, row in controls.items()} == {arm: row["value"] for arm, row in compared.items()}


def test_what_does_not_fit_is_one_line_with_the_next_command(night: Night, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--methods 'bm26'"):
        CompareConfig(methods=("bm26",))
    with pytest.raises(UsageError, match=r"--methods shuffled .* --folds 5"):
        night.compare("shuffled")
    with pytest.raises(UsageError, match="--lora-users"):
        CompareConfig(methods=("lora",))
    with pytest.raises(UsageError, match="--kind"):
        night.compare(kind="LaMP_4")
    with pytest.raises(UsageError, match="--engine"):
        replace(night, config=replace(night.config, engine="vllm")).compare("none")
    with pytest.raises(UsageError, match="two plugs answer kind note with aggregation attention"):
        compared_plugs([night.plugs[0], night.plugs[0]], load_models(night.config))
    with pytest.raises(UsageError, match="--aggregation mean"):
        replace(night, plugs=night.plugs[:1]).compare("plug_mean")
    with pytest.raises(UsageError, match="pass the plug itself"):
        compared_plugs(night.plugs[1:], load_models(night.config))
    with pytest.raises(InputMissing, match="no task of 2026"):
        compare_night(Warehouse(tmp_path / "none"), NIGHT, night.kinds, night.plugs, night.config, CompareConfig())


def test_the_plan_counts_the_answers_and_writes_nothing(night: Night) -> None:
    before = night.warehouse.versions()
    compare = CompareConfig(methods=("other", "none", "label_mode"))
    plan = plan_compare(night.warehouse, NIGHT, night.kinds, night.plugs, night.config, compare)
    assert plan.row_count == (1 + 5 + 1) * len(TASKS)
    assert night.warehouse.versions() == before


def test_a_kind_is_shown_with_the_values_of_its_slices_beside_each_other(night: Night) -> None:
    rows = night.compare("none", "default")
    ((heading, lines),) = slice_tables(rows)
    assert heading == "note · accuracy by items of the history, or part (tasks)"
    found = {(row["arm"], row["slice"]): row["value"] for row in rows if row["metric"] == "accuracy"}
    assert {line["arm"] for line in lines} == {arm for arm, _ in found}
    values = [found[line["arm"], "all"] for line in lines]
    assert values == sorted(values, reverse=True)
    for line in lines:
        shown = [value for name, value in line.items() if name not in ("arm", "answered with")]
        assert shown == [found[line["arm"], name] for name in ("history 0", "history 1-3", "history 4-15")]
