"""Where models compute, and what happens where memory does not suffice; no GPU is needed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from encoder_folders import BERT, bert, save
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from embedder import TextEncoder
from embedder.devices import chosen_device, device_facts, gpu_of_worker, in_halves
from embedder.errors import UsageError
from embedder.linear import Projection
from embedder.packed_bert import PackedBert, attend_at_once
from embedder.pooling import Pooling
from embedder.text_settings import TextSettings

TEXTS = ["rain", "a harbour festival in the rain", "rain at the market", "", "people of the world", "festival"]


@pytest.fixture(params=["cuda", "mps", None])
def best(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The best device of a machine that has it, or nothing but a CPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: request.param == "cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2 * (request.param == "cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "A card")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: request.param == "mps")
    return request.param or "cpu"


def test_auto_is_the_first_device_that_is_there(best: str) -> None:
    assert chosen_device("auto").type == best
    assert device_facts("auto") == {"device": best} | ({"card": "A card"} if best == "cuda" else {})
    assert chosen_device("cpu").type == "cpu"


def test_a_device_that_is_not_there_is_wrong_usage(best: str) -> None:
    for name in {"cuda", "cuda:1", "mps"} - ({"cuda", "cuda:1"} if best == "cuda" else {best}):
        with pytest.raises(UsageError, match=rf"device {name}: torch .* sees none: use --device cpu"):
            chosen_device(name)
    for name in ("tpu", "cpu:1", "cuda:x"):
        with pytest.raises(UsageError, match=f"device '{name}' is not known: use one of auto, cpu, cuda, mps"):
            chosen_device(name)
    if best == "cuda":
        assert str(chosen_device("cuda:1")) == "cuda:1"
        with pytest.raises(UsageError, match="device cuda:2"):
            chosen_device("cuda:2")


def test_each_process_gets_a_gpu_of_those_that_its_parent_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [gpu_of_worker(at, 2) for at in range(3)] == [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in "010"]
    assert gpu_of_worker(1, 0) == gpu_of_worker(1, 1) == {}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert [gpu_of_worker(at, 2)["CUDA_VISIBLE_DEVICES"] for at in range(2)] == ["5", "7"]


@given(st.lists(st.integers(), max_size=30), st.integers(1, 8))
def test_halves_that_fit_give_what_the_whole_would(items: list[int], most: int) -> None:
    def work(some: Sequence[int]) -> list[int]:
        if len(some) > most:
            raise torch.OutOfMemoryError
        return [2 * one for one in some]

    assert [one for part in in_halves(work, items) for one in part] == [2 * one for one in items]


def test_what_does_not_fit_alone_fails() -> None:
    def work(some: Sequence[int]) -> None:
        raise torch.OutOfMemoryError(f"{len(some)}")

    with pytest.raises(torch.OutOfMemoryError, match="1"):
        in_halves(work, [1, 2, 3])


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> TextEncoder:
    return TextEncoder.from_pretrained(str(save(tmp_path_factory.mktemp("bert"), bert(), BERT)), device="cpu")


def test_an_encoder_without_memory_goes_on_with_smaller_batches(
    encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = encoder.encode(TEXTS)
    model: Any = vars(encoder)["_model"]

    def small(runs: Sequence[Tensor]) -> Tensor:
        if sum(run.shape[1] for run in runs) > 2:
            raise torch.OutOfMemoryError
        return model(runs)

    monkeypatch.setattr(encoder, "_model", small)
    torch.testing.assert_close(encoder.encode(TEXTS), wanted)
    assert "no memory for 6 at once: going on with 3" in caplog.text


def test_on_a_gpu_nothing_waits_for_a_number(tmp_path: Path) -> None:
    # Tensors on "meta" have no numbers: whatever asks for one, as a GPU's host would have to wait for it, fails.
    model: Any = bert().eval()
    model.to("meta")
    for settings in (TextSettings(), TextSettings(Pooling.CLS)):
        packed = PackedBert(model, settings, torch.bfloat16, Projection)
        runs = [torch.randint(20, (3, 4)), torch.randint(20, (17, 2))]
        found = packed(runs)
        assert (found.shape, found.device.type, found.dtype) == ((6, 32), "meta", torch.float32)


def test_the_way_of_a_gpu_gives_the_same_vectors(encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = encoder.encode(TEXTS)
    packed: PackedBert = vars(encoder)["_model"]
    for layer in packed.layers:
        monkeypatch.setattr(layer, "attend", attend_at_once)
    torch.testing.assert_close(encoder.encode(TEXTS), wanted, atol=1e-5, rtol=0)
