"""The real vLLM with the real SmolLM2, next to the default engine; needs vLLM, see docs/vllm.md."""

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from one_night import encode_night, generate_night
from small_night import NIGHT

from embedder.errors import InputMissing, UsageError
from llm_jobs.kinds import Kind, load_kinds
from llm_jobs.prompts import Answer, Placement, Refusal, Request
from llm_jobs.tasks import AnsweringLLM
from llm_jobs.training.fit import seeded_plug
from llm_jobs.vllm_engine import INSTALL, choice_scores, forks_of, load_vllm
from pipelines.answers.models import GenerateConfig, load_models, trainable
from pipelines.encode import EncodeConfig
from pipelines.sample import SampleConfig, users
from pipelines.tables.views import connect
from pipelines.tables.warehouse import Warehouse
from pipelines.train import plug_config

needs_vllm = pytest.mark.skipif(find_spec("vllm") is None, reason=f"vLLM is not installed: {INSTALL}")
pytestmark = pytest.mark.filterwarnings("ignore")  # what vLLM says to itself when it is imported

TIE = 1e-4
"""Engines may differ where two tokens are this close."""

CATEGORIES = ("politics", "science & technology", "travel", "travel news", "sports", "arts & culture", "arts")


@pytest.fixture(scope="module")
def kinds() -> dict[str, Kind]:
    return load_kinds()


@pytest.fixture(scope="module")
def both(encoder_folder: Path) -> tuple[GenerateConfig, GenerateConfig]:
    """The default engine and vLLM."""
    config = GenerateConfig(llm_dtype="float32", encoder=str(encoder_folder), shard_tasks=4)
    return config, replace(config, engine="vllm")


@pytest.fixture(scope="module")
def pair(both: tuple[GenerateConfig, GenerateConfig]) -> list[AnsweringLLM]:
    return [load_models(config).llm for config in both]


@pytest.fixture(scope="module")
def articles() -> list[tuple[str, str, str]]:
    """User, article and category of a generated sample."""
    return [(user.name, *user.article(is_neutral=False)[:2]) for user in users(SampleConfig(users=6)) for _ in "ab"]


def requests_of(articles: list[tuple[str, str, str]], choices: tuple[str, ...] | None) -> list[Request]:
    """Each article with a persona of its own, of the size of token embeddings."""
    wording = load_kinds()["LaMP_4"].prompt or ""
    drawn = torch.randn(len(articles), 3, 576, generator=torch.Generator().manual_seed(0))
    personas = drawn / drawn.norm(dim=2, keepdim=True) * 3
    texts = [wording.format(text=text) for _, text, _ in articles]
    return [Request(text, persona, choices, 16) for text, persona in zip(texts, personas, strict=True)]


def assert_same(ours: list[Answer | Refusal], theirs: list[Answer | Refusal]) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        assert isinstance(mine, Answer)
        assert isinstance(other, Answer)
        assert (mine.text, mine.finish_reason) == (other.text, other.finish_reason)
        assert (mine.prompt_tokens, mine.output_tokens) == (other.prompt_tokens, other.output_tokens)
        assert mine.score == pytest.approx(other.score, abs=TIE)


@needs_vllm
@pytest.mark.parametrize("placement", list(Placement))
def test_free_answers_are_those_of_the_default_engine(
    pair: list[AnsweringLLM], articles: list[tuple[str, str, str]], placement: Placement
) -> None:
    ours, theirs = (llm.answer(requests_of(articles, None), placement) for llm in pair)
    assert len({answer.text for answer in ours if isinstance(answer, Answer)}) > len(articles) / 2
    assert_same(ours, theirs)


@needs_vllm
@pytest.mark.parametrize("choices", [CATEGORIES, tuple(f"{number} stars" for number in range(150))])
def test_closed_answers_are_those_of_the_default_engine(
    pair: list[AnsweringLLM], articles: list[tuple[str, str, str]], choices: tuple[str, ...]
) -> None:
    ours, theirs = (llm.answer(requests_of(articles[:2], choices), Placement.BEFORE) for llm in pair)
    assert_same(ours, theirs)


@needs_vllm
def test_users_with_the_same_text_get_answers_of_their_own_from_the_prefix_cache(
    pair: list[AnsweringLLM], articles: list[tuple[str, str, str]]
) -> None:
    text = requests_of(articles[:1], None)[0]
    requests = [replace(text, soft_prompt=other.soft_prompt) for other in requests_of(articles[:6], None)]
    for placement in Placement:  # the second time the whole prompt is in the cache
        together, again, ours = (llm.answer(requests, placement) for llm in (pair[1], pair[1], pair[0]))
        assert_same(ours, together)
        assert_same(again, together)
        assert len({answer.text for answer in together if isinstance(answer, Answer)}) > 1


@needs_vllm
def test_a_broken_request_is_refused_and_spoils_no_other(pair: list[AnsweringLLM]) -> None:
    good = Request("Write a headline: it rained.", torch.full((2, 576), 0.1), None, 6)
    bad = [
        Request("Write a headline: NaN.", torch.full((2, 576), float("nan")), None, 6),
        Request("Write a headline: narrow.", torch.zeros(2, 5), None, 6),
        Request("", None, None, 6),
        Request("Which?", None, ("yes", ""), 6),
    ]
    (alone,) = pair[1].answer([good], Placement.BEFORE)
    said = pair[1].answer([bad[0], good, *bad[1:]], Placement.BEFORE)
    assert isinstance(alone, Answer)
    assert isinstance(said[1], Answer)
    assert said[1].text == alone.text
    reasons = [found.reason for found in said if isinstance(found, Refusal)]
    assert reasons == ["non_finite_logits", "model_error", "empty_prompt", "empty_choice"]


@needs_vllm
def test_a_night_has_the_same_rows_with_either_engine(
    fill: Callable[..., Warehouse],
    kinds: dict[str, Kind],
    both: tuple[GenerateConfig, GenerateConfig],
    articles: list[tuple[str, str, str]],
    tmp_path: Path,
) -> None:
    plugs = [tmp_path / "LaMP_4", tmp_path / "LaMP_2N"]
    for folder in plugs:
        models = load_models(both[0])
        seeded_plug(plug_config(kinds[folder.name], models), seed=1).save_pretrained(folder)
    warehouse = fill([item_row(at, *article) for at, article in enumerate(articles)], task_rows(articles, kinds))
    encode_night(warehouse, NIGHT, EncodeConfig(encoder=both[0].encoder), kinds)
    nights = []
    for config in both:
        record = generate_night(warehouse, NIGHT, plugs, config, kinds)
        assert (record.rows_in, record.rows_out, record.rows_rejected) == (9, 8, 1)
        with connect(warehouse) as db:
            rejects = db.sql("select row_id, reason from rejects where job = 'generate'").fetchall()
            outputs = db.sql("select * exclude (run_id, score) from outputs order by task_id").to_arrow_table()
        nights.append((rejects, outputs.drop(["settings_sha256"]).to_pylist(), outputs["settings_sha256"].unique()))
    assert nights[0][:2] == nights[1][:2]
    assert nights[0][2] != nights[1][2]


def item_row(at: int, user: str, text: str, category: str) -> dict[str, Any]:
    return {
        "user_id": user,
        "item_id": str(at),
        "kind": "LaMP_2N",
        "posted_at": "2026-10-01T00:00:00Z",
        "text": text,
        "output": category,
    }


def task_rows(articles: list[tuple[str, str, str]], kinds: dict[str, Kind]) -> list[dict[str, Any]]:
    """Four free tasks, four closed ones, and one that no plug answers."""
    rows: list[dict[str, Any]] = []
    for at, (user, text, _) in enumerate(articles[:9]):
        name = ("LaMP_4", "LaMP_2N", "LaMP_7")[at // 4]
        choices = list(kinds[name].choices or ()) or None
        wording = kinds[name].prompt or "{text}"
        asked = wording.format(text=text, choices=", ".join(choices or ()))
        row = {"task_id": f"t{at}", "user_id": user, "kind": name, "queued_at": "2026-11-01T00:00:00Z"}
        rows.append(row | {"input": asked, "choices": choices, "reference": None})
    return rows


@needs_vllm
def test_no_plug_is_trained_through_vllm(pair: list[AnsweringLLM]) -> None:
    with pytest.raises(UsageError, match="engine transformers"):
        trainable(pair[1])


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_the_error_says_how_to_get_it() -> None:
    with pytest.raises(InputMissing, match="docs/requirements-vllm"):
        load_vllm("smollm2")


def test_forks_ask_for_every_token_of_every_choice_once() -> None:
    choices = [(1, 2, 0), (1, 3, 0), *((token, 0) for token in range(4, 300))]
    forks = forks_of(choices)
    asked = [(*fork.path, token) for fork in forks for token in fork.tokens]
    assert len(asked) == len(set(asked))
    assert set(asked) == {choice[: end + 1] for choice in choices for end in range(len(choice))}
    assert max(len(fork.tokens) for fork in forks) <= 128
    scores = choice_scores(choices, {edge: -float(sum(edge)) for edge in asked})
    assert isinstance(scores, torch.Tensor)
    assert scores[:3].tolist() == pytest.approx([-(1 + 3 + 3) / 3, -(1 + 4 + 4) / 3, -(4 + 4) / 2])


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_quantised_weights_are_for_the_default_engine(dtype: Any) -> None:
    with pytest.raises(UsageError, match=f"--engine vllm has no --llm-dtype {dtype}"):
        GenerateConfig(engine="vllm", llm_dtype=dtype)
