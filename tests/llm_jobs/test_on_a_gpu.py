"""What the engine does on a GPU, without one: the same answers, no number waited for, less memory than wanted."""

import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from prepared_requests import prepared
from tiny_models import tiny_llama
from torch.utils._python_dispatch import TorchDispatchMode

from embedder.errors import InputMissing
from llm_jobs import FrozenLLM
from llm_jobs.engine import scheduler
from llm_jobs.engine.kv_cache import KVCache, Prefix
from llm_jobs.engine.llama import LlamaTrunk
from llm_jobs.engine.packing import NewTokens
from llm_jobs.engine.prefill import PromptRows, read
from llm_jobs.engine.recorded import Recorded
from llm_jobs.engine.rules import Rules
from llm_jobs.prompts import Ids, Placement, Request
from llm_jobs.quantised import FrozenLinear

drawn_requests = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(1, 14), st.booleans()), min_size=1, max_size=12
)


def requests_of(llm: FrozenLLM, drawn: list[tuple[int, int, int, bool]]) -> list[Request]:
    """Prompts of mixed lengths, some of them equal; soft prompts that all differ; some closed."""
    labels, generator = ("arts & culture", "arts", "sports"), torch.Generator().manual_seed(len(drawn))
    soft = [torch.randn(size, llm.width, generator=generator) if size else None for _, size, _, _ in drawn]
    return [
        Request("which " * (1 + text), vectors, labels if closed else None, limit)
        for (text, _, limit, closed), vectors in zip(drawn, soft, strict=True)
    ]


@settings(max_examples=15, deadline=None)
@given(drawn=drawn_requests, most=st.integers(1, 6))
def test_steps_that_are_not_waited_for_give_the_same_answers(tiny_llm: FrozenLLM, drawn: Any, most: int) -> None:
    requests = requests_of(tiny_llm, drawn)
    wanted = tiny_llm.answer(requests, Placement.AFTER)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scheduler, "runs_ahead", lambda device: True)
        patch.setattr(scheduler, "MOST_ROWS", most)
        patch.setattr(vars(tiny_llm.engine)["trunk"], "_is_fused", True)
        found = tiny_llm.answer(requests, Placement.AFTER)
    for answer, other in zip(found, wanted, strict=True):
        score = other.score  # type: ignore[union-attr]  # none is refused
        assert vars(answer) | {"score": 0} == vars(other) | {"score": 0}
        assert answer.score == pytest.approx(score, abs=1e-4)  # type: ignore[union-attr]


def test_reading_and_a_step_wait_for_no_number() -> None:
    # Tensors on "meta" have no numbers: whatever asks for one, as a GPU's host would have to wait for it, fails.
    model: Any = tiny_llama(0, 64).eval().requires_grad_(False)
    rules = Rules(model, [2])
    model.to("meta")
    trunk = LlamaTrunk(model)
    cache = KVCache.empty(trunk.empty_prefix(), 4, 40)
    embeds = trunk.embed(torch.zeros(9, dtype=torch.long, device="meta"))
    assert [state.shape for state in read(trunk, cache, [NewTokens(0, 0, embeds), NewTokens(1, 3, embeds[:4])])] == [
        (9, 32),
        (4, 32),
    ]
    requests = [prepared((5, 6), limit=9) for _ in range(4)]
    end_ids = torch.arange(2, 300, device="meta")  # a kind's `stop`: every token that holds a line break
    decoding = scheduler._Decoding(PromptRows(trunk, cache, 0), requests, end_ids, rules, beams=1)
    with NothingThatWaits():
        decoding._step(4)
        decoding._step(2)


class NothingThatWaits(TorchDispatchMode):
    """Refuses what needs no number on "meta" but waits inside on CUDA; `isin` sorts out equal ids if there are many."""

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert operator.overloadpacket.__name__ not in ("isin", "_unique2", "nonzero", "masked_select", "bincount")
        return operator(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("can_be_recorded", "waits", "wanted"),
    [
        (True, False, ["step 4", "record", "replay", "replay", "step 2", "replay", "record", "replay"]),
        (False, False, ["step 4", "record", "step 4", "step 4", "step 2", "step 4", "step 2"]),
        (True, True, ["step 4", "step 4", "step 4", "step 2", "step 4", "record", "replay"]),
        (False, True, ["step 4", "step 4", "step 4", "step 2", "step 4", "record", "step 2"]),
    ],
)
def test_a_step_is_recorded_when_it_comes_again_unless_it_waits(
    can_be_recorded: bool, waits: bool, wanted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    modes: list[str] = []

    def step(size: int) -> None:
        done.append(f"step {size}")
        if waits and size == 4 and modes[-1:] == ["warn"]:
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)

    class Graph:
        """What torch does with a GPU."""

        def replay(self) -> None:
            done.append("replay")

        def pool(self) -> int:
            return 1

    @contextmanager
    def recording(*_: object, **__: object) -> Generator[None]:
        yield
        done[-1] = "record"
        if not can_be_recorded:
            raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", recording)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    advance = Recorded(step, torch.device("cuda"))
    for size in (4, 4, 4, 2, 4, 2):
        advance(size)
    assert done == wanted
    assert modes == ["warn", "default"] * (len(modes) // 2)


def test_a_queue_without_memory_goes_on_with_fewer_rows(
    tiny_llm: FrozenLLM, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    requests = requests_of(tiny_llm, [(at % 4, 2, 1 + at, at % 3 == 0) for at in range(9)])
    wanted = tiny_llm.answer(requests, Placement.AFTER)
    plain = KVCache.empty

    def small(like: Any, rows: int, cells: int) -> KVCache:
        if rows > 2:
            raise torch.OutOfMemoryError
        return plain(like, rows, cells)

    monkeypatch.setattr(KVCache, "empty", small)
    found = tiny_llm.answer(requests, Placement.AFTER)
    assert [vars(answer) | {"score": 0} for answer in found] == [vars(answer) | {"score": 0} for answer in wanted]
    assert "requests at once: going on with" in caplog.text
    monkeypatch.setattr(KVCache, "empty", lambda *_: small(None, 9, 9))
    with pytest.raises(torch.OutOfMemoryError):
        tiny_llm.answer(requests, Placement.AFTER)


def test_prompts_of_a_training_that_do_not_fit_are_read_in_halves(
    tiny_llm: FrozenLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    befores = [tiny_llm.parts("which " * (1 + at % 4), Placement.AFTER, 20).before for at in range(7)]
    wanted = tiny_llm.pooled_values(befores)
    plain = tiny_llm.engine.prefixes  # type: ignore[union-attr]  # it is causal

    def small(some: Sequence[Ids]) -> list[Prefix]:
        if len(some) > 2:
            raise torch.OutOfMemoryError
        return plain(some)

    monkeypatch.setattr(tiny_llm.engine, "prefixes", small)
    torch.testing.assert_close(tiny_llm.pooled_values(befores), wanted)


@pytest.mark.skipif(find_spec("torchao") is not None, reason="torchao is installed")
def test_without_torchao_the_error_says_how_to_get_it(tiny_llm_folder: Path) -> None:
    with pytest.raises(InputMissing, match=r"--llm-dtype int8 needs torchao: run `pip install 'pplug\[quantised\]'`"):
        FrozenLLM.from_pretrained(str(tiny_llm_folder), "int8")


def test_weights_of_eight_bits_answer_and_let_gradients_through(tiny_llm_folder: Path, tiny_llm: FrozenLLM) -> None:
    pytest.importorskip("torchao", reason="the extra `quantised` is not installed")
    parts = [tiny_llm.parts("which category", Placement.AFTER, 20)]
    answers, soft = [tiny_llm.answer_ids("arts")], torch.randn(1, 3, tiny_llm.width)
    for dtype in ("int8", "int4"):
        llm = FrozenLLM.from_pretrained(str(tiny_llm_folder), dtype)  # type: ignore[arg-type]  # the two
        assert llm.kernel.startswith(("transformers bfloat16", "transformers float32"))
        assert llm.kernel.endswith(f", weights {dtype}")
        assert llm.sha256 == tiny_llm.sha256
        assert len(llm.generate(["which category", "arts"], max_new_tokens=5)) == 2
        vectors = soft.clone().requires_grad_()
        found = llm.answer_log_probs(parts, vectors, answers)
        exact = tiny_llm.answer_log_probs(parts, soft, answers)
        assert (found - exact).abs().max() < (0.5 if dtype == "int8" else 3)
        (gradient,) = torch.autograd.grad(found.sum(), vectors)
        assert gradient.abs().sum() > 0


class WithoutGradient(torch.Tensor):
    """A weight as torchao's of 4 bits on a GPU: the product with it is an operator that has no gradient."""

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is not torch.nn.functional.linear:
            return super().__torch_function__(function, types, args, kwargs or {})
        x, weight, *bias = args
        return torch.nn.functional.linear(x.detach(), weight.as_subclass(torch.Tensor), *bias)


def test_a_gradient_goes_through_a_product_that_has_none() -> None:
    torch.manual_seed(0)
    plain, x = torch.nn.Linear(6, 4).requires_grad_(False), torch.randn(2, 3, 6, requires_grad=True)
    factor = torch.randn(2, 3, 4)
    wanted = torch.autograd.grad((plain(x) * factor).sum(), x)[0]
    frozen = torch.nn.Linear(6, 4).requires_grad_(False)
    frozen.bias = plain.bias
    frozen.weight = torch.nn.Parameter(plain.weight.data.as_subclass(WithoutGradient), requires_grad=False)
    assert not frozen(x).requires_grad
    frozen.__class__ = FrozenLinear
    torch.testing.assert_close(frozen(x), plain(x))
    torch.testing.assert_close(torch.autograd.grad((frozen(x) * factor).sum(), x)[0], wanted)
