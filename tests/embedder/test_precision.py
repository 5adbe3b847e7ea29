"""Which precision `auto` is; no test depends on how fast this machine is."""

from pathlib import Path

import pytest
import torch
from encoder_folders import BERT, bert, save
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import save_model, tiny_llama

from embedder import TextEncoder
from embedder.precision import MARGIN, _measured, chosen, decided_precision, faster_precision, matrix_shapes
from llm_jobs import FrozenLLM

LARGE = ((1024, 1024, 1), (256, 128, 2))

seconds = st.lists(st.floats(1e-4, 1), min_size=5, max_size=5)


@given(seconds, st.floats(1.0, 10.0))
def test_bfloat16_is_taken_only_where_it_is_clearly_faster(float32: list[float], speed: float) -> None:
    bfloat16 = [one / speed for one in float32]
    assert chosen(float32, bfloat16) == ("bfloat16" if speed > MARGIN else "float32") or abs(speed - MARGIN) < 1e-6
    assert chosen(bfloat16, float32) == "float32"


def test_one_slow_round_decides_nothing() -> None:
    assert chosen([1, 1, 1, 1, 9], [1, 1, 1, 1, 1]) == "float32"
    assert chosen([2, 2, 2, 2, 2], [1, 1, 1, 1, 9]) == "bfloat16"


def test_shapes_are_those_that_tokens_are_multiplied_with(tmp_path: Path) -> None:
    folder = save(tmp_path, bert(), BERT)
    # Two layers: up and down; query, key, value, output, and the pooler, which is saved with the model.
    assert matrix_shapes(folder) == ((32, 32, 9), (32, 64, 2), (64, 32, 2))


def test_a_small_model_runs_in_float32_without_a_measurement(tmp_path: Path) -> None:
    encoder, llm = tmp_path / "bert", tmp_path / "llama"
    save(encoder, bert(), BERT)
    save_model(llm, tiny_llama(0, 64), is_chat=True)
    measured = _measured.cache_info().misses
    assert TextEncoder.from_pretrained(str(encoder), dtype="auto").kernel.endswith(" float32")
    assert FrozenLLM.from_pretrained(str(llm), dtype="auto").kernel.endswith(" float32")
    assert _measured.cache_info().misses == measured


def test_a_processor_without_bfloat16_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    measured = _measured.cache_info().misses
    assert faster_precision(LARGE) == "float32"
    assert _measured.cache_info().misses == measured


def test_a_measurement_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    _measured.cache_clear()
    found = [faster_precision(LARGE) for _ in range(3)]
    assert found[0] in ("float32", "bfloat16")
    assert len(set(found)) == 1
    assert _measured.cache_info().misses == 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_precision_that_is_asked_for_stays(dtype: str, tmp_path: Path) -> None:
    assert decided_precision(dtype, tmp_path) == dtype  # type: ignore[arg-type]  # the two
