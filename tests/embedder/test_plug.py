import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from embedder.errors import InputMissing, PplugError
from embedder.histories import History, pad_histories
from embedder.plug import PersonaPlug
from embedder.plug_config import PlugConfig
from embedder.pointing import Standardised

CONFIG = PlugConfig(
    kinds=("LaMP_2N",),
    encoder_sha256="e" * 64,
    llm_sha256="f" * 64,
    encoder_width=8,
    llm_width=12,
    embedding_norm=3.0,
    temperature=0.2,
)


SEEING: dict[str, Any] = {"values_width": 5, "labels": ("red", "blue")}


def tiny_plug(aggregation: str = "attention", **more: Any) -> PersonaPlug:
    torch.manual_seed(0)
    return PersonaPlug(replace(CONFIG, aggregation=aggregation, **more)).eval()


def history(count: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, CONFIG.encoder_width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def recent_of(vectors: np.ndarray) -> np.ndarray:
    """Stands for the mean of the newest items."""
    return vectors[:1].sum(axis=0)


def run(
    plug: PersonaPlug, histories: list[np.ndarray], counts: list[np.ndarray], task: Tensor
) -> tuple[Tensor, Tensor]:
    padded = [
        History.of(own, sizes)._replace(recent=recent_of(own)) for own, sizes in zip(histories, counts, strict=True)
    ]
    return plug(task, *pad_histories(padded, CONFIG.encoder_width))


def slow_persona(plug: PersonaPlug, task: Tensor, vectors: np.ndarray, counts: np.ndarray) -> Tensor:
    """Equation 3 of the paper item by item, each item as often as it counts, with our projection and scale."""
    head = plug.head
    features = slow_features(plug.reader, plug.config.aggregation, task, vectors, counts)
    rows = (head.project(head.hidden(features)) + head.straight(features)).split(CONFIG.llm_width)
    return torch.stack([row / row.norm() * gain for row, gain in zip(rows, head.gain, strict=True)])


def slow_features(reader: nn.Module, aggregation: str, task: Tensor, vectors: np.ndarray, counts: np.ndarray) -> Tensor:
    items = [torch.from_numpy(v) for v, n in zip(vectors, counts, strict=True) for _ in range(int(n))] or [
        reader.default
    ]
    mean = torch.stack(items).mean(0)
    parts = {"mean": [mean], "task": [task]}.get(aggregation)
    if parts is None:
        query = reader.weights.query.weight @ task
        scores = torch.stack([(query @ item) / reader.weights.log_temperature.exp() for item in items])
        weights = scores.exp() / scores.exp().sum()
        attended = torch.stack([weight * item for weight, item in zip(weights, items, strict=True)]).sum(0)
        parts = [attended, mean, torch.from_numpy(recent_of(vectors)) if len(vectors) else reader.default, task]
    return torch.cat(parts) * math.sqrt(CONFIG.encoder_width / len(parts))


@pytest.mark.parametrize("aggregation", ["attention", "mean", "task", "none"])
@given(st.lists(st.integers(0, 6), min_size=1, max_size=5), st.integers(0, 1000))
def test_each_user_gets_what_the_slow_formula_gives_whoever_else_is_in_the_batch(
    aggregation: str, sizes: list[int], seed: int
) -> None:
    plug = tiny_plug(aggregation)
    histories = [history(size, seed + at) for at, size in enumerate(sizes)]
    counts = [np.arange(1, size + 1, dtype=np.float32) for size in sizes]
    task = torch.from_numpy(history(len(sizes), seed + 99))
    soft, weights = run(plug, histories, counts, task)
    assert soft.shape == (len(sizes), plug.config.soft_count, CONFIG.llm_width)
    fixed = CONFIG.instruction_count
    for row, size in enumerate(sizes):
        torch.testing.assert_close(soft[row, :fixed], plug.head.instruction, atol=0, rtol=0)
        if aggregation != "none":
            expected = slow_persona(plug, task[row], histories[row], counts[row])
            torch.testing.assert_close(soft[row, fixed:], expected, atol=1e-5, rtol=1e-4)
        assert weights[row].sum().item() == pytest.approx(1.0 if size else 0.0, abs=1e-5)
        assert weights[row, size:].abs().sum().item() == 0


@pytest.mark.parametrize(("aggregation", "sees_task", "sees_user"), [("mean", False, True), ("task", True, False)])
def test_an_aggregation_sees_what_its_name_says(aggregation: str, sees_task: bool, sees_user: bool) -> None:
    plug, ones = tiny_plug(aggregation), [np.ones(3, np.float32)]
    tasks = torch.from_numpy(history(2, 7))
    first = run(plug, [history(3, 0)], ones, tasks[:1])[0]
    assert torch.equal(first, run(plug, [history(3, 0)], ones, tasks[1:])[0]) == (not sees_task)
    assert torch.equal(first, run(plug, [history(3, 1)], ones, tasks[:1])[0]) == (not sees_user)


def test_values_of_the_llm_count_as_deviations_from_those_of_the_training() -> None:
    known = 7 + 3 * torch.randn(50, 5, generator=torch.Generator().manual_seed(0))
    known[:, 2] = 4  # the same in every prompt, like what all prompts begin with
    standardised = Standardised(5)
    standardised.fit(known)
    found = standardised(known)
    torch.testing.assert_close(found.mean(0), torch.zeros(5), atol=1e-6, rtol=0)
    assert found[:, 2].abs().max() == 0
    assert found.square().sum(1).mean() == pytest.approx(4 / 5)


@given(st.integers(1, 6), st.integers(0, 1000), st.floats(-1e4, 1e4, width=32))
def test_padding_is_invisible(size: int, seed: int, junk: float) -> None:
    plug = tiny_plug()
    vectors, counts, recent = pad_histories([History.of_items(history(size, seed))], CONFIG.encoder_width)
    task = torch.from_numpy(history(1, seed))
    padded = torch.cat([vectors, torch.full((1, 3, CONFIG.encoder_width), junk)], dim=1)
    soft, _ = plug(task, vectors, counts, recent)
    soft_padded, _ = plug(task, padded, torch.cat([counts, torch.zeros(1, 3)], dim=1), recent)
    torch.testing.assert_close(soft, soft_padded)


@given(st.integers(2, 6), st.integers(0, 1000))
def test_the_order_of_a_history_is_irrelevant(size: int, seed: int) -> None:
    plug, vectors, task = tiny_plug(), history(size, seed), torch.from_numpy(history(1, seed))
    own = History.of_items(vectors)
    turned = own._replace(vectors=vectors[::-1].copy())
    softs = [plug(task, *pad_histories([one], CONFIG.encoder_width))[0] for one in (own, turned)]
    torch.testing.assert_close(*softs)


def test_the_persona_starts_at_the_length_of_the_llms_embeddings() -> None:
    soft, _ = run(tiny_plug(), [history(4, 0)], [np.ones(4, np.float32)], torch.from_numpy(history(1, 1)))
    torch.testing.assert_close(soft.norm(dim=-1), torch.full((1, CONFIG.soft_count), CONFIG.embedding_norm))


def test_users_without_history_train_the_default_and_give_no_nan() -> None:
    plug = tiny_plug().train()
    soft, _ = run(
        plug, [history(0, 0), history(3, 0)], [np.zeros(0, np.float32), np.ones(3, np.float32)], torch.zeros(2, 8)
    )
    soft[0].sum().backward()
    assert torch.isfinite(soft).all()
    default = plug.reader.default
    assert default.grad is not None
    assert torch.isfinite(default.grad).all()
    assert default.grad.abs().sum() > 0


def test_a_user_with_a_history_never_touches_the_default() -> None:
    plug = tiny_plug()
    soft, _ = run(plug, [history(3, 0)], [np.ones(3, np.float32)], torch.zeros(1, 8))
    soft.sum().backward()
    default = plug.reader.default
    assert default.grad is not None
    assert default.grad.abs().sum() == 0


def test_forward_writes_into_none_of_its_arguments() -> None:
    plug = tiny_plug()
    given_tensors = (torch.from_numpy(history(1, 1)), *pad_histories([History.of_items(history(3, 0))], 8))
    before = [tensor.clone() for tensor in given_tensors]
    plug(*given_tensors)
    for old, new in zip(before, given_tensors, strict=True):
        assert torch.equal(old, new)


def test_saving_and_loading_is_the_identity(tmp_path: Path) -> None:
    plug = tiny_plug(**SEEING)
    plug.head.values.fit(torch.randn(9, 5))
    plug.save_pretrained(tmp_path)
    loaded = PersonaPlug.from_pretrained(tmp_path)
    assert loaded.config == plug.config
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in plug.state_dict().items())
    assert sorted(file.name for file in tmp_path.iterdir()) == ["README.md", "config.json", "plug.safetensors"]
    assert json.loads((tmp_path / "config.json").read_text())["kinds"] == ["LaMP_2N"]


@pytest.mark.parametrize("which", ["encoder", "LLM"])
def test_a_plug_refuses_models_it_was_not_trained_with(which: str) -> None:
    given_shas = {"encoder": CONFIG.encoder_sha256, "LLM": CONFIG.llm_sha256} | {which: "0" * 64}
    with pytest.raises(PplugError, match=f"trained with {which} .*pplug train"):
        tiny_plug().require(given_shas["encoder"], given_shas["LLM"], 0)
    tiny_plug().require(CONFIG.encoder_sha256, CONFIG.llm_sha256, 0)


def test_a_plug_that_sees_the_llms_values_wants_an_engine_that_gives_them() -> None:
    plug, shas = tiny_plug(**SEEING), (CONFIG.encoder_sha256, CONFIG.llm_sha256)
    plug.require(*shas, 5)
    tiny_plug().require(*shas, 5)
    with pytest.raises(PplugError, match=r"for LaMP_2N sees values .*--engine transformers"):
        plug.require(*shas, 0)


def test_a_plug_from_before_formats_says_what_to_run(tmp_path: Path) -> None:
    tiny_plug().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["format"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(PplugError, match=r"format 1, not 2.*another version of pplug: run `pplug train"):
        PersonaPlug.from_pretrained(tmp_path)


@pytest.mark.parametrize("change", [{"persona_count": 2}, {"of_tomorrow": 1}, {"format": 1}])
def test_a_plug_of_another_version_says_what_to_run(tmp_path: Path, change: dict[str, int]) -> None:
    tiny_plug().save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(PplugError, match="another version of pplug: run `pplug train"):
        PersonaPlug.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"llm_width": 10**12},
        {"encoder_width": 10**15},
        {"persona_count": 10**9},
        {"labels": ["a"], "committee": 10**9},
        {"values_width": 10**12, "labels": ["a"]},
        {"placement": "above"},
        {"placement": 3},
        {"kinds": 5},
        {"aggregation": "sum"},
        {"temperature": "warm"},
        {"llm_width": None},
    ],
)
def test_a_plug_whose_config_does_not_fit_its_weights_is_refused_before_anything_is_made(
    tmp_path: Path, change: dict[str, object]
) -> None:
    tiny_plug().save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(PplugError, match=f"plug in {tmp_path} is damaged") as caught:
        PersonaPlug.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "plug.safetensors"])
@settings(max_examples=20)
@given(kept=st.floats(0, 0.95))
def test_a_damaged_plug_is_one_line(name: str, kept: float, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("plug")
    tiny_plug().save_pretrained(folder)
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(PplugError, match="is damaged") as caught:
        PersonaPlug.from_pretrained(folder)
    assert "\n" not in str(caught.value)


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    plug = tiny_plug()
    with torch.no_grad():
        plug.head.instruction[0, 0] = float("nan")
    plug.save_pretrained(tmp_path)
    with pytest.raises(PplugError, match=r"instruction hold NaN"):
        PersonaPlug.from_pretrained(tmp_path)


def test_a_folder_without_a_plug_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(InputMissing, match="pplug train"):
        PersonaPlug.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kinds": ()},
        {"embedding_norm": 0.0},
        {"temperature": -1.0},
        {"aggregation": "sum"},
        {"placement": "above"},
        {"llm_width": 0},
        {"encoder_width": "8"},
        {"instruction_count": -1},
        {"persona_count": 2.0},
        {"committee": True},
        {"dropout": 1.5},
        {"values_width": 5},
    ],
)
def test_a_config_that_cannot_be_right_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(PplugError):
        replace(CONFIG, **wrong)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=4), st.integers(0, 1000))
def test_the_published_plug_is_what_its_equations_say(sizes: list[int], seed: int) -> None:
    plug = tiny_plug("published")
    histories = [history(size, seed + at) for at, size in enumerate(sizes)]
    task = torch.from_numpy(history(len(sizes), seed + 99))
    soft, weights = run(plug, histories, [np.ones(size, np.float32) for size in sizes], task)
    assert soft.shape == (len(sizes), 2, CONFIG.llm_width)
    torch.testing.assert_close(soft[:, 0].norm(dim=1), torch.full((len(sizes),), CONFIG.embedding_norm))
    for row, size in enumerate(sizes):
        items = torch.from_numpy(histories[row])
        expected = torch.softmax(items @ task[row], 0) if size else torch.zeros(0)  # equation 3
        torch.testing.assert_close(weights[row, :size], expected)
        persona = sum((w * plug.head.project(item) for w, item in zip(expected, items, strict=True)), torch.zeros(12))
        torch.testing.assert_close(soft[row, 1], persona * plug.head.scale, atol=1e-5, rtol=1e-4)  # equation 4
