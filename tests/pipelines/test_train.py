import math
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from small_night import NIGHT, item

from embedder.histories import History, pad_histories
from embedder.plug import PersonaPlug
from embedder.plug_config import PROJECTED
from llm_jobs.kinds import Kind, load_kinds
from llm_jobs.prompts import Placement
from llm_jobs.training.checkpoint import EpochLoss
from llm_jobs.training.data import Example, TrainConfig
from llm_jobs.training.fit import guessing_loss, prepare
from pipelines.answers.models import GenerateConfig, load_models, trainable
from pipelines.examples import Target, Targets
from pipelines.tables.warehouse import Warehouse
from pipelines.train import loss_without_history, plug_config, train_job, warn_of_failure
from pipelines.training_data import PlugChoice, TrainingData

KINDS = load_kinds()


@pytest.mark.parametrize(
    ("kind", "choices", "outputs", "labels"),
    [
        ("LaMP_3", ["1", "2"], ["1", "2", "3"], ("1", "2")),
        ("LaMP_3", ["1", "2"], ["7", "8", "1"], ()),  # no choices: the scores would mean nothing
        ("LaMP_3", ["1"], ["1", "1"], ()),  # nothing to tell apart
        ("LaMP_4", None, ["A headline"], ()),
        ("LaMP_4", ["yes", "no"], ["A headline", "Another", "yes"], ()),  # one task among free ones has choices
        ("LaMP_1", ["[1]", "[2]"], ["[1]", "[2]"], ()),  # items are no targets, so the choices are of the task alone
    ],
)
def test_labels_are_the_choices_that_users_answer_with(
    kind: str, choices: list[str] | None, outputs: list[str], labels: tuple[str, ...]
) -> None:
    found = [Target("ann", "", output, "", datetime(2026, 1, 1, tzinfo=UTC)) for output in outputs]
    assert TrainingData(KINDS[kind], [], Targets(found, 0), choices).labels == labels


def test_a_plug_that_points_sees_the_llms_values_where_its_kind_says_so(generate_config: GenerateConfig) -> None:
    models = load_models(generate_config)
    widths = {
        (kind, aggregation, labels): plug_config(KINDS[kind], models, aggregation, labels).values_width
        for kind in ("LaMP_3", "LaMP_2N")
        for aggregation in PROJECTED
        for labels in ((), ("1", "2"))
    }
    assert models.llm.values_width > 0
    wanted = {("LaMP_3", "attention", ("1", "2"))}
    assert widths == {key: models.llm.values_width if key in wanted else 0 for key in widths}


@pytest.mark.parametrize(("held_out", "is_told"), [(1.62, True), (1.60, False)])
def test_a_training_that_ends_worse_than_guessing_says_so(
    held_out: float, caplog: pytest.LogCaptureFixture, *, is_told: bool
) -> None:
    guessing = guessing_loss("12345")
    assert guessing == pytest.approx(math.log(5))
    losses = [EpochLoss(0, 0.1, 3.0), EpochLoss(1, 0.1, held_out), EpochLoss(2, 0.1, 2.0)]
    warn_of_failure(losses, guessing)
    assert ("another --seed or more --epochs" in caplog.text) == is_told
    assert (f"held-out users {held_out:.3f}, of guessing among the labels 1.609" in caplog.text) == is_told


def test_a_training_tells_how_new_users_are_answered(
    fill: Callable[..., Warehouse], kinds: dict[str, Kind], generate_config: GenerateConfig, tmp_path: Path
) -> None:
    free = {"kind": "LaMP_4"}
    rows = [(f"u{user}", at) for user in range(9) for at in (1, 2)]
    items = [item(user, at, f"text {at}", f"title of {user}", day=9 - at) | free for user, at in rows]
    train, choice = TrainConfig(epochs=1, batch_size=8, held_out=0.5), PlugChoice("LaMP_4", NIGHT)
    result = train_job(fill(items), tmp_path / "plug", choice, generate_config, train, kinds)
    assert result.record.config["loss_without_history"] == result.loss_without_history
    assert result.loss_without_history not in (None, result.losses[0].held_out)
    models = load_models(generate_config)
    plug, llm = PersonaPlug.from_pretrained(tmp_path / "plug"), trainable(models.llm)
    tasks = models.encoder.encode(["a", "b"], is_query=True)
    history = models.encoder.encode(["c", "d", "e"])
    prepared = prepare(
        [Example("ann", f"Write {at}", "a title" * (at + 1), task, history[: at + 1]) for at, task in enumerate(tasks)],
        llm,
        Placement.AFTER,
    )
    with torch.no_grad():
        nothing = pad_histories([History.empty(history.shape[1])] * 2, history.shape[1])
        soft, _ = plug.eval()(torch.from_numpy(tasks), *nothing)
        wanted = -llm.answer_log_probs([one.parts for one in prepared], soft, [one.answer for one in prepared]).mean()
    assert loss_without_history(plug, llm, prepared, train) == pytest.approx(wanted.item(), abs=1e-5)
    assert loss_without_history(plug, llm, [], train) is None
