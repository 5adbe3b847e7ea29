import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tiny_models import save_model, tiny_llama
from transformers import T5Config, T5ForConditionalGeneration

from embedder.errors import PplugError
from embedder.fingerprints import weights_sha256
from embedder.plug import PersonaPlug
from embedder.plug_config import PlugConfig
from llm_jobs import FrozenLLM
from llm_jobs.prompts import Placement
from llm_jobs.training.checkpoint import EpochLoss
from llm_jobs.training.data import Example, TrainConfig, batches, drop_history, plug_inputs, split_users
from llm_jobs.training.descent import learning_rate_share
from llm_jobs.training.fit import prepare, seeded_plug, train_plug
from llm_jobs.training.prefix_cache import Progress
from llm_jobs.training.through_llm import TrainingRun, history_hashes, is_stuck

WIDTH = 6
LABELS = ("red", "blue")
CONFIG = TrainConfig(epochs=3, batch_size=4, learning_rate=0.02, held_out=0.0, cache_gib=0.001)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("llama"), tiny_llama(5, 256), is_chat=True)


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(6)
    config = T5Config(vocab_size=300, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0)
    config.eos_token_id, config.pad_token_id = 2, 0
    return save_model(tmp_path_factory.mktemp("t5"), T5ForConditionalGeneration(config), is_chat=False)


def new_plug(llm: FrozenLLM, seed: int = 0) -> PersonaPlug:
    return seeded_plug(
        PlugConfig(
            kinds=("note",),
            encoder_sha256="e",
            llm_sha256=llm.sha256,
            encoder_width=WIDTH,
            llm_width=llm.width,
            embedding_norm=llm.embedding_norm,
        ),
        seed,
    )


def examples(count: int = 24) -> list[Example]:
    """Two kinds of users: the history alone tells what they answer."""
    rng = np.random.default_rng(0)
    made: list[Example] = []
    for at in range(count):
        history = rng.normal(0, 0.1, (at % 5, WIDTH)).astype(np.float32)
        history[:, at % 2] += 1
        task = rng.normal(0, 1, WIDTH).astype(np.float32)
        made.append(Example(f"user {at % 8}", f"tag of {at}?", ("red", "blue")[at % 2], task, history))
    return made


def quiet(label: str, done: int, total: int) -> None:
    assert 0 < done <= total
    assert label.startswith(("steps, loss ", "prompts read", "values of prompts"))


def fit(
    plug: PersonaPlug, llm: FrozenLLM, made: list[Example], config: TrainConfig, folder: Path, progress: Progress
) -> list[EpochLoss]:
    return train_plug(plug, llm, prepare(made, llm, Placement(plug.config.placement)), config, folder, progress)


def same_weights(one: PersonaPlug, two: PersonaPlug) -> bool:
    return all(torch.equal(value, two.state_dict()[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize("model", ["llama", "t5"])
def test_training_lowers_the_loss_and_never_touches_the_llm(
    model: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder: Path = request.getfixturevalue(model)
    llm = FrozenLLM.from_pretrained(str(folder))
    before = {name: value.clone() for name, value in llm.model.state_dict().items()}
    plug = new_plug(llm)
    losses = fit(plug, llm, examples(), replace(CONFIG, epochs=6), tmp_path / "plug", quiet)
    assert losses[-1].train < losses[0].train - 0.2
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in llm.model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in llm.model.state_dict().items())
    assert FrozenLLM.from_pretrained(str(folder)).sha256 == llm.sha256


def test_the_weights_on_disk_hash_the_same_before_and_after(llama: Path, tmp_path: Path) -> None:
    before = weights_sha256(llama)
    llm = FrozenLLM.from_pretrained(str(llama))
    fit(new_plug(llm), llm, examples(8), replace(CONFIG, epochs=1), tmp_path / "plug", quiet)
    assert weights_sha256(llama) == before


def test_the_same_seed_gives_the_same_plug_twice(llama: Path, tmp_path: Path) -> None:
    llm = FrozenLLM.from_pretrained(str(llama))
    plugs = [new_plug(llm), new_plug(llm)]
    for at, plug in enumerate(plugs):
        fit(plug, llm, examples(), CONFIG, tmp_path / str(at), quiet)
    assert same_weights(*plugs)
    assert not same_weights(plugs[0], new_plug(llm, seed=1))


class KilledError(Exception):
    """Stands for a kill in the middle of an epoch."""


@pytest.mark.parametrize("kill_at", [1, 8, 14])
def test_a_killed_run_resumes_to_the_same_weights(llama: Path, tmp_path: Path, kill_at: int) -> None:
    llm = FrozenLLM.from_pretrained(str(llama))
    undisturbed, killed, resumed = (new_plug(llm) for _ in range(3))
    losses = fit(undisturbed, llm, examples(), CONFIG, tmp_path / "whole", quiet)

    def kill(label: str, done: int, total: int) -> None:
        del total
        if label.startswith("steps, ") and done == kill_at:
            raise KilledError

    with pytest.raises(KilledError):
        fit(killed, llm, examples(), CONFIG, tmp_path / "killed", kill)
    assert fit(resumed, llm, examples(), CONFIG, tmp_path / "killed", quiet) == losses
    assert same_weights(undisturbed, resumed)
    assert same_weights(undisturbed, PersonaPlug.from_pretrained(tmp_path / "killed"))


def test_the_state_of_another_run_is_not_taken_over(llama: Path, tmp_path: Path) -> None:
    llm = FrozenLLM.from_pretrained(str(llama))

    def kill(label: str, done: int, total: int) -> None:
        del total
        if label.startswith("steps") and done == 8:
            raise KilledError

    with pytest.raises(KilledError):
        fit(new_plug(llm), llm, examples(), CONFIG, tmp_path / "plug", kill)
    other = replace(CONFIG, learning_rate=0.01)
    fresh, after = new_plug(llm), new_plug(llm)
    fit(fresh, llm, examples(), other, tmp_path / "fresh", quiet)
    fit(after, llm, examples(), other, tmp_path / "plug", quiet)
    assert same_weights(fresh, after)


def test_the_folder_holds_the_plug_its_card_and_how_it_was_trained(llama: Path, tmp_path: Path) -> None:
    llm = FrozenLLM.from_pretrained(str(llama))
    fit(new_plug(llm), llm, examples(), replace(CONFIG, epochs=1), tmp_path / "plug", quiet)
    files = sorted(file.name for file in (tmp_path / "plug").iterdir())
    assert files == ["README.md", "config.json", "plug.safetensors", "training.json"]
    report = json.loads((tmp_path / "plug" / "training.json").read_text())
    assert report["example_count"] == 24
    assert hashlib.sha256(b"user 3").hexdigest() not in json.dumps(report)
    assert "user 3" not in json.dumps(report)


def test_the_best_epoch_on_held_out_users_is_kept(llama: Path, tmp_path: Path) -> None:
    llm = FrozenLLM.from_pretrained(str(llama))
    plug = new_plug(llm)
    wild = replace(CONFIG, epochs=5, held_out=0.3, learning_rate=0.1, patience=5)
    losses = fit(plug, llm, examples(), wild, tmp_path / "plug", quiet)
    assert len({loss.held_out for loss in losses}) == 5
    assert same_weights(plug, PersonaPlug.from_pretrained(tmp_path / "plug"))


@given(st.lists(st.sampled_from([0.5, 0.6, 0.7]), min_size=1, max_size=8), st.integers(1, 4))
def test_training_is_stuck_when_no_late_epoch_beats_an_earlier_one(held_out: list[float], patience: int) -> None:
    losses = [EpochLoss(at, 1.0, loss) for at, loss in enumerate(held_out)]
    best_at = held_out.index(min(held_out))
    assert is_stuck(losses, patience) == (len(losses) - 1 - best_at >= patience)


def test_training_stops_when_it_is_stuck(llama: Path, tmp_path: Path) -> None:
    llm = FrozenLLM.from_pretrained(str(llama))
    still = replace(CONFIG, epochs=30, held_out=0.3, learning_rate=0.0, patience=2)
    assert len(fit(new_plug(llm), llm, examples(), still, tmp_path / "plug", quiet)) == 3


def test_nothing_to_train_on_is_one_clear_line(llama: Path, tmp_path: Path) -> None:
    llm = FrozenLLM.from_pretrained(str(llama))
    with pytest.raises(PplugError, match="--tasks"):
        fit(new_plug(llm), llm, [], CONFIG, tmp_path, quiet)


@given(st.integers(0, 40), st.integers(0, 10_000), st.integers(1, 12))
def test_dropping_history_keeps_order_and_invents_nothing(count: int, seed: int, limit: int) -> None:
    history: NDArray[np.float32] = np.arange(count, dtype=np.float32)[:, None]
    kept = drop_history(history, replace(CONFIG, history_limit=limit), np.random.default_rng(seed))[:, 0]
    assert len(kept) <= min(count, limit)
    assert (np.diff(kept) > 0).all()
    assert set(kept) <= set(range(count))


def test_dropping_history_sometimes_leaves_all_and_sometimes_nothing() -> None:
    rng, history = np.random.default_rng(0), np.ones((4, WIDTH), np.float32)
    sizes = {len(drop_history(history, CONFIG, rng)) for _ in range(300)}
    assert {0, 4} <= sizes


@given(st.integers(1, 70), st.integers(1, 9), st.booleans())
def test_batches_hold_every_example_once(
    llama_parts: Callable[[int], list], count: int, size: int, shuffled: bool
) -> None:
    prepared = llama_parts(count)
    found = list(batches(prepared, size, np.random.default_rng(0) if shuffled else None))
    assert all(len(batch) <= size for batch in found)
    assert sorted(id(item) for batch in found for item in batch) == sorted(map(id, prepared))


def test_losses_are_those_of_one_example_at_a_time_in_the_order_of_the_batch(
    llama: Path,
) -> None:
    llm = FrozenLLM.from_pretrained(str(llama))
    made = [replace(example, target="red " * (1 + at % 4)) for at, example in enumerate(examples(21))]
    prepared = prepare(made, llm, Placement.AFTER)
    run = TrainingRun(new_plug(llm).eval(), llm, CONFIG, prepared, quiet)
    alone = torch.cat([run.losses([item], None) for item in prepared])
    torch.testing.assert_close(run.losses(prepared, None), alone, rtol=1e-4, atol=1e-5)


def test_a_batch_without_memory_is_halved_and_gives_the_same_gradient(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = FrozenLLM.from_pretrained(str(llama))
    prepared = prepare(examples(7), llm, Placement.AFTER)
    run = TrainingRun(new_plug(llm).eval(), llm, CONFIG, prepared, quiet)
    weights, plain = list(run.plug.parameters()), llm.answer_log_probs
    whole = torch.cat(
        [plain([one.parts], run.plug(*plug_inputs([one], CONFIG, None))[0], [one.answer]) for one in prepared]
    )
    wanted = torch.autograd.grad(-whole.mean(), weights)

    def small(parts: Sequence[Any], *rest: Any) -> torch.Tensor:
        if len(parts) > 2:
            raise torch.OutOfMemoryError
        return plain(parts, *rest)

    monkeypatch.setattr(llm, "answer_log_probs", small)
    losses = run.losses(prepared, None)
    torch.testing.assert_close(losses, -whole)
    torch.testing.assert_close(torch.autograd.grad(losses.mean(), weights), wanted, rtol=1e-3, atol=1e-6)


@pytest.fixture(scope="module")
def llama_parts(llama: Path) -> Callable[[int], list]:
    prepared = prepare(examples(70), FrozenLLM.from_pretrained(str(llama)), Placement.AFTER)
    return lambda count: prepared[:count]


def test_users_who_would_all_be_held_out_are_trained_on(llama: Path, tmp_path: Path) -> None:
    llm = FrozenLLM.from_pretrained(str(llama))
    alone = [replace(one, user_id="ann") for one in examples(8)]
    assert [len(part) for part in split_users(prepare(alone, llm, Placement.AFTER), 1.0)] == [8, 0]
    told: list[str] = []
    config = replace(CONFIG, held_out=1.0, epochs=2)
    losses = fit(new_plug(llm), llm, alone, config, tmp_path / "plug", lambda label, *_: told.append(label))
    assert losses[0].held_out == losses[0].train
    assert "held out" not in " ".join(told)


def test_a_loss_that_is_no_number_ends_the_training_at_once(llama: Path, tmp_path: Path) -> None:
    llm = FrozenLLM.from_pretrained(str(llama))
    wild = replace(CONFIG, learning_rate=1e30, epochs=2)
    with pytest.raises(PplugError, match=r"plug of kind note is .* at step 2 of 12.*--llm-dtype float32"):
        fit(new_plug(llm), llm, examples(), wild, tmp_path / "plug", quiet)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=8))
def test_histories_are_told_apart_by_their_bytes_however_they_share_them(spans: list[tuple[int, int]]) -> None:
    vectors = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    shared = [vectors[start : start + count] for start, count in spans]
    wanted = [hashlib.sha256(history.tobytes()).digest() for history in shared]
    assert history_hashes(shared) == wanted
    assert history_hashes([history.copy() for history in shared]) == wanted
    assert history_hashes([vectors[::2], vectors, vectors[:1]])[0] == hashlib.sha256(vectors[::2].tobytes()).digest()


def test_users_are_held_out_whole(llama_parts: Callable[[int], list]) -> None:
    train, held_out = split_users(llama_parts(70), 0.4)
    users = [{item.example.user_id for item in part} for part in (train, held_out)]
    assert users[0]
    assert users[1]
    assert not users[0] & users[1]


def test_the_learning_rate_warms_up_and_ends_near_zero() -> None:
    shares = [learning_rate_share(step, 100) for step in range(100)]
    assert shares[0] < shares[4]
    assert max(shares) == 1
    assert shares[-1] < 0.01
