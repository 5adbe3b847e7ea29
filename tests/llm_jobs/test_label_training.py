from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import save_model, tiny_llama

from embedder.compact import FloatArray
from embedder.errors import PplugError
from embedder.histories import History
from embedder.plug import PersonaPlug
from embedder.plug_config import PlugConfig
from embedder.pointing import PointingHead
from llm_jobs import FrozenLLM
from llm_jobs.answers import answer_tasks
from llm_jobs.closed import with_values
from llm_jobs.prompts import Answer, Placement, Refusal
from llm_jobs.tasks import PersonalTask
from llm_jobs.training import labels as stages
from llm_jobs.training.checkpoint import EpochLoss
from llm_jobs.training.data import Example, TrainConfig
from llm_jobs.training.fit import prepare, seeded_plug, train_plug
from llm_jobs.training.labels import bodies_without, inputs_of

WIDTH = 6
LABELS = ("red", "blue", "green")
CONFIG = TrainConfig(held_out=0.0)


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> FrozenLLM:
    folder = save_model(tmp_path_factory.mktemp("llama"), tiny_llama(5, 256), is_chat=True)
    return FrozenLLM.from_pretrained(str(folder))


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "STEPS", 120)
    monkeypatch.setattr(stages, "LEARNING_RATE", 0.02)
    monkeypatch.setattr(stages, "BATCH", 64)


def new_plug(llm: FrozenLLM, labels: tuple[str, ...] = LABELS, values_width: int = 0) -> PersonaPlug:
    config = PlugConfig(
        kinds=("note",),
        encoder_sha256="e",
        llm_sha256=llm.sha256,
        encoder_width=WIDTH,
        llm_width=llm.width,
        embedding_norm=llm.embedding_norm,
        labels=labels,
        values_width=values_width,
    )
    return seeded_plug(config, 0)


def unit(vectors: np.ndarray) -> FloatArray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def own_words(users: int, items: int, labels: Sequence[str] = LABELS) -> list[Example]:
    """Each user has a label of their own for each of three directions: only the history tells which."""
    made: list[Example] = []
    for user in range(users):
        rng = np.random.default_rng(user)
        names = [labels[at] for at in rng.permutation(len(labels))[:3]]
        topics = rng.integers(0, 3, items)
        vectors = unit(np.eye(WIDTH)[topics] + rng.normal(0, 0.1, (items, WIDTH)))
        outputs = tuple(names[topic] for topic in topics)
        for at in range(items):
            task = unit(np.eye(WIDTH)[topics[at]] + rng.normal(0, 0.1, WIDTH))
            made.append(Example(f"user {user}", f"what of {at}?", outputs[at], task, vectors[:at], outputs))
    return made


def quiet(label: str, done: int, total: int) -> None:
    assert 0 < done <= total
    assert label.startswith(("steps without the LLM, loss ", "text bodies without the LLM", "values of prompts"))


def fit(
    plug: PersonaPlug, llm: FrozenLLM, made: Sequence[Example], folder: Path, config: TrainConfig = CONFIG
) -> list[EpochLoss]:
    return train_plug(plug, llm, prepare(made, llm, Placement.AFTER), config, folder, quiet)


def answers(plug: PersonaPlug, llm: FrozenLLM, made: Sequence[Example], choices: tuple[str, ...] = LABELS) -> list[str]:
    tasks = [
        PersonalTask(one.prompt, one.task, History.of_items(one.history, one.outputs[: len(one.history)]), choices, 4)
        for one in made
    ]
    found = answer_tasks(llm, plug, tasks)
    assert all(isinstance(one, Answer) for one in found)
    return [one.text for one in found if isinstance(one, Answer)]


def accuracy(plug: PersonaPlug, llm: FrozenLLM, made: Sequence[Example], choices: tuple[str, ...] = LABELS) -> float:
    found = answers(plug, llm, made, choices)
    return sum(text == one.target for text, one in zip(found, made, strict=True)) / len(made)


def test_what_users_mean_by_their_labels_is_read_from_the_history_of_users_never_met(
    llm: FrozenLLM, tmp_path: Path
) -> None:
    plug = new_plug(llm)
    [losses] = fit(plug, llm, own_words(24, 16), tmp_path / "plug")
    assert losses.train < np.log(3) / 2
    unmet = [one for one in own_words(40, 16)[24 * 16 :] if len(one.history) > 9]
    assert accuracy(plug, llm, unmet) > 0.9
    assert accuracy(plug, llm, [replace(one, history=one.history[:0]) for one in unmet]) < 0.6


def test_labels_that_training_never_saw_are_pointed_at_as_well(llm: FrozenLLM, tmp_path: Path) -> None:
    plug, others = new_plug(llm), ("cat", "dog", "cow")
    fit(plug, llm, own_words(24, 16), tmp_path / "plug")
    unmet = [one for one in own_words(40, 16, others)[24 * 16 :] if len(one.history) > 9]
    assert accuracy(plug, llm, unmet, others) > 0.8


def test_the_order_of_the_choices_changes_nothing(llm: FrozenLLM, tmp_path: Path) -> None:
    plug, made = new_plug(llm), own_words(8, 8)
    fit(plug, llm, made, tmp_path / "plug")
    assert answers(plug, llm, made, LABELS) == answers(plug, llm, made, LABELS[::-1])


def test_the_same_seed_gives_the_same_plug_and_another_a_different_one(llm: FrozenLLM, tmp_path: Path) -> None:
    weights = []
    for at, seed in enumerate((0, 0, 1)):
        plug = new_plug(llm)
        fit(plug, llm, own_words(6, 6), tmp_path / str(at), replace(CONFIG, seed=seed))
        weights.append(torch.cat([value.flatten() for value in plug.state_dict().values()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_no_example_is_scored_by_a_body_that_has_met_its_user(llm: FrozenLLM, tmp_path: Path) -> None:
    made = own_words(12, 4)
    prepared = prepare(made, llm, Placement.AFTER)
    plugs = new_plug(llm), new_plug(llm)
    heads = [plug.head for plug in plugs]
    assert isinstance(heads[0], PointingHead)
    bodies = bodies_without(heads[0], prepared)
    assert len({int(body) for one, body in zip(made, bodies, strict=True) if one.user_id == "user 3"}) == 1
    chosen = int(bodies[0])
    flipped = [
        replace(one, target=LABELS[0]) if body == chosen else one for one, body in zip(made, bodies, strict=True)
    ]
    scores = []
    for at, (plug, told) in enumerate(zip(plugs, (made, flipped), strict=True)):
        fit(plug, llm, told, tmp_path / str(at))
        assert isinstance(plug.head, PointingHead)
        scores.append(plug.head.text_log_probs(inputs_of(plug.head, prepared), bodies))
    assert torch.equal(scores[0][bodies == chosen], scores[1][bodies == chosen])
    assert (scores[0][bodies != chosen] != scores[1][bodies != chosen]).any()


def test_the_loss_is_told_of_users_left_out_and_the_plug_is_then_fitted_to_all(llm: FrozenLLM, tmp_path: Path) -> None:
    made = own_words(20, 8)
    told, all_users = new_plug(llm), new_plug(llm)
    [loss] = fit(told, llm, made, tmp_path / "told", replace(CONFIG, held_out=0.3))
    fit(all_users, llm, made, tmp_path / "all")
    assert loss.train != loss.held_out
    for name, value in told.state_dict().items():
        assert torch.equal(value, all_users.state_dict()[name]), name


@pytest.mark.parametrize("sees_values", [False, True])
def test_what_only_the_llm_reads_in_a_prompt_is_learned_from_its_values(
    llm: FrozenLLM, tmp_path: Path, *, sees_values: bool
) -> None:
    plug = new_plug(llm, LABELS[:2], llm.values_width if sees_values else 0)
    rng, made = np.random.default_rng(0), list[Example]()
    for at in range(160):
        noise = unit(rng.normal(0, 1, (3, WIDTH)))
        prompt = f"{('sunny', 'rainy')[at % 2] * 3} day {at} of {at % 7}"
        outputs = (LABELS[rng.integers(2)], LABELS[rng.integers(2)])
        made.append(Example(f"user {at % 8}", prompt, LABELS[at % 2], noise[0], noise[1:], outputs))
    fit(plug, llm, made[:120], tmp_path / "plug")
    right = accuracy(plug, llm, made[120:], LABELS[:2])
    assert (right > 0.9) == sees_values
    assert right > 0.25


def test_labels_that_are_nobodys_answers_are_refused(llm: FrozenLLM, tmp_path: Path) -> None:
    with pytest.raises(PplugError, match=r"no target is one of the labels \(white, grey\): correct the choices"):
        fit(new_plug(llm, ("white", "grey")), llm, own_words(2, 3), tmp_path / "plug")


def test_a_target_that_is_no_label_is_passed_over(llm: FrozenLLM, tmp_path: Path) -> None:
    plug, made = new_plug(llm, ("red", "blue")), own_words(8, 8)
    fit(plug, llm, made, tmp_path / "with")
    again = new_plug(llm, ("red", "blue"))
    fit(again, llm, [one for one in made if one.target != "green"], tmp_path / "without")
    assert torch.equal(plug.head.text_weight, again.head.text_weight)


def test_one_user_alone_can_be_learned_from(llm: FrozenLLM, tmp_path: Path) -> None:
    [loss] = fit(new_plug(llm), llm, own_words(1, 40), tmp_path / "plug")
    assert loss.train < 0.5


def test_a_task_without_choices_gets_a_label_and_one_with_an_empty_choice_is_refused(
    llm: FrozenLLM, tmp_path: Path
) -> None:
    plug, made = new_plug(llm), own_words(6, 6)
    fit(plug, llm, made, tmp_path / "plug")
    task = PersonalTask("what?", made[0].task, History.empty(WIDTH), None, 4)
    free, empty, none, blank = answer_tasks(
        llm, plug, [task, replace(task, choices=("red", "")), replace(task, choices=()), replace(task, prompt="")]
    )
    assert isinstance(free, Answer)
    assert free.text in LABELS
    assert free.finish_reason == "choice"
    assert free.score < 0
    assert [one.reason for one in (empty, none, blank) if isinstance(one, Refusal)] == [
        "empty_choice",
        "empty_choice",
        "empty_prompt",
    ]


def test_a_label_is_the_same_in_every_spelling(llm: FrozenLLM, tmp_path: Path) -> None:
    plug, made = new_plug(llm), own_words(12, 12)
    fit(plug, llm, made, tmp_path / "plug")
    late = [one for one in made if len(one.history) > 8]
    shouted = [replace(one, outputs=tuple(output.upper() for output in one.outputs if output)) for one in late]
    assert answers(plug, llm, late) == answers(plug, llm, shouted)
    spelled = answers(plug, llm, late, ("Red", "Blue", "Green"))
    assert [text.lower() for text in spelled] == answers(plug, llm, late)


def test_of_ratings_the_median_is_answered(llm: FrozenLLM) -> None:
    labels = ("1", "2", "3")
    plug = new_plug(llm, labels).eval()
    with torch.no_grad():
        plug.head.text_bias[:] = torch.tensor([0.4, 0.3, 0.31]).log()
        plug.head.scorers.straight.weight.zero_()
        plug.head.scorers.straight.weight[:, 0] = 1  # the text's log-probability alone
        plug.head.scorers.out.zero_()
    nobody = PersonalTask("how many stars?", unit(np.ones(WIDTH)), History.empty(WIDTH), labels, 4)
    found = answer_tasks(llm, plug, [nobody, replace(nobody, is_scale=True)])
    assert [one.text for one in found if isinstance(one, Answer)] == ["1", "2"]


def test_the_llms_values_of_a_prompt_are_read_once(llm: FrozenLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    plug = new_plug(llm, values_width=llm.values_width).eval()
    tasks = [PersonalTask(f"what of {at}?", unit(np.ones(WIDTH)), History.empty(WIDTH), LABELS, 4) for at in range(3)]
    read, plain = list[int](), llm.prefixes
    monkeypatch.setattr(llm, "prefixes", lambda befores: read.append(len(befores)) or plain(befores))
    known = with_values(llm, tasks)
    for some in (known, [*known[:2], tasks[2]]):
        assert all(isinstance(one, Answer) for one in answer_tasks(llm, plug, some))
    assert read == [3, 1]
