from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from one_night import encode_night, generate_night, plan_generate
from small_night import ITEMS, NIGHT, TASKS, item, task
from tiny_models import save_model, tiny_llama

from embedder.encoder import TextEncoder
from embedder.errors import InputMissing, PplugError, UsageError
from embedder.evidence import label_evidence
from embedder.histories import History, PastLabels, pad_histories
from embedder.plug import PersonaPlug
from embedder.pointing import ChoiceBatch, PointingHead
from llm_jobs import FrozenLLM
from llm_jobs.kinds import Kind, Metric
from llm_jobs.prompts import Placement
from llm_jobs.training.fit import seeded_plug
from pipelines.answers.models import GenerateConfig, answering_facts, load_models
from pipelines.encode import EncodeConfig
from pipelines.nights import working
from pipelines.tables.views import connect
from pipelines.tables.warehouse import Warehouse
from pipelines.train import plug_config

Fill = Callable[..., Warehouse]


def outputs_of(warehouse: Warehouse) -> list[dict[str, Any]]:
    with connect(warehouse) as db:
        return db.sql("select * exclude (run_id) from outputs order by task_id").to_arrow_table().to_pylist()


def rejects_of(warehouse: Warehouse) -> list[tuple[str, str]]:
    with connect(warehouse) as db:
        return db.sql("select row_id, reason from rejects where job = 'generate' order by all").fetchall()


@pytest.mark.beam
def test_each_task_gets_the_choice_that_is_most_probable_after_its_own_users_persona(
    night: Warehouse, plug: Path, kinds: dict[str, Kind], generate_config: GenerateConfig
) -> None:
    record = generate_night(night, NIGHT, [plug], generate_config, kinds)
    assert (record.rows_in, record.rows_out, record.rows_rejected) == (6, 6, 0)
    llm, loaded = FrozenLLM.from_pretrained(generate_config.llm), PersonaPlug.from_pretrained(plug)
    encoder = TextEncoder.from_pretrained(generate_config.encoder)
    with connect(night) as db:
        personas = {row["user_id"]: row for row in db.sql("from personas").to_arrow_table().to_pylist()}
    outputs = {row["task_id"]: row for row in outputs_of(night)}
    for queued in TASKS:
        nobody = {"vectors": np.zeros((0, 32)), "vector_scales": [], "counts": [], "items": []}
        persona = personas.get(queued["user_id"], nobody)
        vectors, scales, counts = (
            np.array(persona[name], np.float32) for name in ("vectors", "vector_scales", "counts")
        )
        history = History.of(vectors * scales[:, None], counts)
        query = encoder.encode([queued["input"].split("note: ")[1]], is_query=True)
        with torch.no_grad():
            soft, weights = loaded(torch.from_numpy(query), *pad_histories([history], 32))
        parts = llm.parts(queued["input"], Placement.AFTER, 0)
        scores = [llm.answer_log_probs([parts], soft, [llm.answer_ids(c)]).item() for c in queued["choices"]]
        output = outputs[queued["task_id"]]
        assert output["output"] == queued["choices"][int(np.argmax(scores))]
        assert output["score"] == pytest.approx(max(scores), abs=1e-4)
        assert output["finish_reason"] == "choice"
        assert output["persona_source"] == ("history" if len(history.vectors) else "default")
        assert output["persona_ds"] == (NIGHT if len(history.vectors) else None)
        best = np.argsort(-weights[0].numpy(), kind="stable")[:3]
        assert [top["item_id"] for top in output["top_items"]] == [persona["items"][at]["item_id"] for at in best]


@pytest.fixture
def pointing_plug(plug: Path, tmp_path: Path) -> Path:
    """A plug with labels whose weights are random, so that answers depend on all it sees."""
    config = PersonaPlug.from_pretrained(plug).config
    torch.manual_seed(0)
    pointing = PersonaPlug(replace(config, labels=("red", "blue", "green")))
    for weight in pointing.parameters():
        torch.nn.init.normal_(weight)
    pointing.save_pretrained(tmp_path / "pointing")
    return tmp_path / "pointing"


def test_each_task_gets_the_choice_that_its_own_users_history_makes_most_probable(
    night: Warehouse, pointing_plug: Path, kinds: dict[str, Kind], generate_config: GenerateConfig
) -> None:
    record = generate_night(night, NIGHT, [pointing_plug], generate_config, kinds)
    assert (record.rows_in, record.rows_out, record.rows_rejected) == (6, 6, 0)
    head = PersonaPlug.from_pretrained(pointing_plug).head
    assert isinstance(head, PointingHead)
    encoder = TextEncoder.from_pretrained(generate_config.encoder)
    with connect(night) as db:
        personas = {row["user_id"]: row for row in db.sql("from personas").to_arrow_table().to_pylist()}
    outputs = {row["task_id"]: row for row in outputs_of(night)}
    for queued in TASKS:
        nobody = {"vectors": np.zeros((0, 32)), "vector_scales": [], "counts": [], "items": []}
        persona = personas.get(queued["user_id"], nobody)
        vectors, scales, counts = (
            np.array(persona[name], np.float32) for name in ("vectors", "vector_scales", "counts")
        )
        own = [one["output"] for one in ITEMS if one["user_id"] == queued["user_id"]]
        assert len(set(own)) <= 1  # so every vector has that one label behind it, merged or not
        past = PastLabels(tuple(own[:1]), np.ones((len(vectors), len(own[:1])), np.float32), (0,) * len(own))
        history = History.of(vectors * scales[:, None], counts, past)
        query = encoder.encode([queued["input"].split("note: ")[1]], is_query=True)
        choices = queued["choices"]
        evidence = label_evidence(query[0], history, choices)
        named = torch.from_numpy(query @ encoder.encode(choices).T)
        scores = head.log_probs(torch.from_numpy(query), None, ChoiceBatch.of([evidence], named), choices)[0].tolist()
        weights = np.exp(20 * history.vectors @ query[0]) * counts
        output = outputs[queued["task_id"]]
        assert output["output"] == queued["choices"][int(np.argmax(scores))]
        assert output["score"] == pytest.approx(max(scores), abs=1e-4)
        assert output["finish_reason"] == "choice"
        assert output["persona_source"] == ("history" if len(history.vectors) else "default")
        assert output["persona_ds"] == (NIGHT if len(history.vectors) else None)
        assert (output["prompt_tokens"], output["output_tokens"]) == (0, 0)  # nothing is asked of the LLM
        best = np.argsort(-weights, kind="stable")[:3]
        assert [top["item_id"] for top in output["top_items"]] == [persona["items"][at]["item_id"] for at in best]


def test_every_answer_of_a_shard_is_counted_as_progress(
    night: Warehouse,
    plug: Path,
    kinds: dict[str, Kind],
    generate_config: GenerateConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[int] = []
    monkeypatch.setattr(working, "count", told.append)
    record = generate_night(night, NIGHT, [plug], generate_config, kinds)
    assert sum(told) == record.rows_out == 6


@pytest.mark.parametrize("force", [False, True])
def test_a_second_run_changes_nothing_but_the_run(
    night: Warehouse, plug: Path, kinds: dict[str, Kind], generate_config: GenerateConfig, force: bool
) -> None:
    generate_night(night, NIGHT, [plug], generate_config, kinds)
    before = outputs_of(night)
    generate_night(night, NIGHT, [plug], generate_config, kinds, force=force)
    after = outputs_of(night)
    for left, right in zip(before, after, strict=True):
        assert left.pop("score") == pytest.approx(right.pop("score"), abs=1e-5)
        tops = left.pop("top_items"), right.pop("top_items")
        for ours, theirs in zip(*tops, strict=True):
            assert ours == pytest.approx(theirs, abs=1e-5)
        assert left == right


@pytest.mark.beam
def test_every_task_is_answered_or_rejected_exactly_once(
    fill: Fill, plug: Path, kinds: dict[str, Kind], encode_config: EncodeConfig, generate_config: GenerateConfig
) -> None:
    free = task("free", "ann", "say something", None) | {"choices": None}
    other_kind = task("other", "ann", "a headline", None, kind="LaMP_4") | {"choices": None}
    same_ids = task("twin", "ann", "equal") | {"choices": ["red", " "]}
    warehouse = fill(ITEMS, [*TASKS, free, other_kind, same_ids])
    encode_night(warehouse, NIGHT, encode_config, kinds)
    record = generate_night(warehouse, NIGHT, [plug], generate_config, kinds)
    answered = {row["task_id"] for row in outputs_of(warehouse)}
    rejected = dict(rejects_of(warehouse))
    assert rejected["other"] == "no_plug"
    assert not answered & rejected.keys()
    with connect(warehouse) as db:
        queued = {row[0] for row in db.sql("select task_id from tasks").fetchall()}
    assert answered | rejected.keys() == queued
    assert record.rows_in == record.rows_out + record.rows_rejected == len(queued)


def test_the_newest_night_of_personas_that_is_not_later_is_used(
    night: Warehouse, plug: Path, kinds: dict[str, Kind], encode_config: EncodeConfig, generate_config: GenerateConfig
) -> None:
    encode_night(night, NIGHT + timedelta(days=1), encode_config, kinds)
    generate_night(night, NIGHT, [plug], generate_config, kinds)
    assert {row["persona_ds"] for row in outputs_of(night)} == {NIGHT, None}


def test_missing_inputs_say_what_to_run(
    fill: Fill, night: Warehouse, plug: Path, kinds: dict[str, Kind], generate_config: GenerateConfig
) -> None:
    later = NIGHT + timedelta(days=1)
    with pytest.raises(InputMissing, match="pplug ingest tasks"):
        generate_night(night, later, [plug], generate_config, kinds)
    unencoded = fill(ITEMS, TASKS, name="unencoded")
    with pytest.raises(InputMissing, match="pplug encode --ds 2026-11-02"):
        generate_night(unencoded, NIGHT, [plug], generate_config, kinds)
    with pytest.raises(UsageError, match="two plugs answer kind note"):
        generate_night(night, NIGHT, [plug, plug], generate_config, kinds)


def test_personas_of_another_encoder_are_refused(
    night: Warehouse, plug: Path, kinds: dict[str, Kind], generate_config: GenerateConfig, tmp_path: Path
) -> None:
    loaded = PersonaPlug.from_pretrained(plug)
    loaded.config = replace(loaded.config, encoder_sha256="0" * 64)
    loaded.save_pretrained(tmp_path / "strange")
    with pytest.raises(PplugError, match="trained with encoder 00000000"):
        generate_night(night, NIGHT, [tmp_path / "strange"], generate_config, kinds)


def test_a_plan_counts_the_tasks_and_writes_nothing(
    night: Warehouse, plug: Path, kinds: dict[str, Kind], generate_config: GenerateConfig
) -> None:
    before = night.versions()
    plan = plan_generate(night, NIGHT, [plug], generate_config, kinds)
    assert (plan.user_count, plan.row_count, plan.unique_text_count) == (4, 6, 6)
    assert plan.tokens > 0
    assert night.versions() == before


def test_a_users_persona_depends_on_nobody_else(
    fill: Fill, plug: Path, kinds: dict[str, Kind], encode_config: EncodeConfig, generate_config: GenerateConfig
) -> None:
    alone = fill([row for row in ITEMS if row["user_id"] == "bob"], [TASKS[1], TASKS[5]], name="alone")
    crowd = fill([*ITEMS, *(item(f"x{at}", 0, "noise", "red") for at in range(30))], TASKS, name="crowd")
    for warehouse in (alone, crowd):
        encode_night(warehouse, NIGHT, encode_config, kinds)
        generate_night(warehouse, NIGHT, [plug], generate_config, kinds)
    theirs = {row["task_id"]: row for row in outputs_of(crowd)}
    for row in outputs_of(alone):
        assert row["output"] == theirs[row["task_id"]]["output"]
        assert row["score"] == pytest.approx(theirs[row["task_id"]]["score"], abs=1e-4)


def changed_llm(folder: Path, change: Callable[[Any, Any], None]) -> Path:
    """The tiny LLM with something done to the rows of its tokens: embeddings, and weights of the logits."""
    model = tiny_llama(4, 512)
    with torch.no_grad():
        change(model.model.embed_tokens.weight, model.lm_head.weight)
    return save_model(folder, model, is_chat=True)


def test_a_broken_task_gets_the_default_persona_or_a_row_in_rejects(
    fill: Fill,
    plug: Path,
    kinds: dict[str, Kind],
    encode_config: EncodeConfig,
    generate_config: GenerateConfig,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tilde,) = FrozenLLM.from_pretrained(generate_config.llm).format.token_ids("~")
    spoilt = changed_llm(tmp_path / "spoilt", lambda embeddings, _: embeddings[tilde].fill_(torch.nan))
    loaded = PersonaPlug.from_pretrained(plug)
    loaded.config = replace(loaded.config, llm_sha256=FrozenLLM.from_pretrained(str(spoilt)).sha256)
    loaded.save_pretrained(plug)
    broken = [
        task("empty", "ann", "") | {"input": " \n"},
        task("strange", "ann", "what", kind="no such kind"),
        task("wordless", "ann", "what") | {"choices": ["red", " "]},
        task("no plug", "ann", "what", kind="LaMP_4"),
        task("long", "ann", "apples and pears " * 60_000),
        task("nobody", "stranger", "who knows"),
        task("spoilt", "bob", "a boat ~ again and again"),
    ]
    warehouse = fill(ITEMS, [*TASKS, *broken])
    encode_night(warehouse, NIGHT, encode_config, kinds)
    record = generate_night(warehouse, NIGHT, [plug], replace(generate_config, llm=str(spoilt), shard_tasks=99), kinds)
    assert record.config["shortened_count"] == 1
    told = [line for line in caplog.messages if "lost their middle" in line]
    assert told == [
        f"1 of {record.rows_in} prompts lost their middle to fit the 512 tokens that the LLM reads "
        "(is_shortened in outputs)"
    ]
    with connect(warehouse) as db:
        rejected = dict(db.sql("select coalesce(row_id, ''), reason from rejects").fetchall())
    outputs = {row["task_id"]: row for row in outputs_of(warehouse)}
    assert sorted(rejected.values()) == ["empty_choice", "empty_input", "no_plug", "non_finite_logits", "unknown_kind"]
    assert (rejected["no plug"], rejected["spoilt"]) == ("no_plug", "non_finite_logits")
    assert outputs.keys() == {"long", "nobody", *(queued["task_id"] for queued in TASKS)}
    assert [name for name, row in outputs.items() if row["is_shortened"]] == ["long"]
    assert (outputs["nobody"]["persona_source"], outputs["nobody"]["persona_ds"]) == ("default", None)


def test_a_run_tells_how_many_answers_depend_on_a_tie(
    fill: Fill, kinds: dict[str, Kind], encode_config: EncodeConfig, generate_config: GenerateConfig, tmp_path: Path
) -> None:
    (one,), (other,) = map(FrozenLLM.from_pretrained(generate_config.llm).format.token_ids, ("X", "Y"))

    def make_twins(*weights: Any) -> None:
        for weight in weights:
            weight[one] = weight[other]

    config = replace(generate_config, llm=str(changed_llm(tmp_path / "twins", make_twins)))
    seeded_plug(plug_config(kinds["note"], load_models(config)), seed=1).save_pretrained(tmp_path / "plug")
    twins = [task(f"twins {at}", "ann", f"apples {at}") | {"choices": ["X", "Y"]} for at in range(3)]
    warehouse = fill(ITEMS, [*TASKS, *twins])
    encode_night(warehouse, NIGHT, encode_config, kinds)
    generate_night(warehouse, NIGHT, [tmp_path / "plug"], config, kinds)
    with connect(warehouse) as db:
        assert db.sql("select config ->> 'tied_count' from runs where job = 'generate'").fetchall() == [("3",)]


def test_free_answers_are_decoded_with_beams(
    fill: Fill, kinds: dict[str, Kind], encode_config: EncodeConfig, generate_config: GenerateConfig, tmp_path: Path
) -> None:
    kinds = kinds | {"LaMP_4": replace(kinds["LaMP_4"], max_new_tokens=6)}
    config, plug = replace(generate_config, num_beams=3), tmp_path / "plug"
    seeded_plug(plug_config(kinds["LaMP_4"], load_models(config)), seed=1).save_pretrained(plug)
    tasks = [task(f"t{at}", "eve", f"article: {at}", kind="LaMP_4") | {"choices": None} for at in range(5)]
    warehouse = fill(ITEMS, tasks)
    encode_night(warehouse, NIGHT, encode_config, kinds)
    greedy = generate_night(warehouse, NIGHT, [plug], generate_config, kinds)
    before = outputs_of(warehouse)
    record = generate_night(warehouse, NIGHT, [plug], config, kinds)
    assert (greedy.config["num_beams"], record.config["num_beams"]) == (1, 3)
    outputs, llm = outputs_of(warehouse), FrozenLLM.from_pretrained(generate_config.llm, num_beams=3)
    prompts = [row["input"] for row in tasks]
    texts = [kinds["LaMP_4"].query_encoder_text(prompt) for prompt in prompts]
    queries = TextEncoder.from_pretrained(generate_config.encoder).encode(texts, is_query=True)
    with torch.no_grad():
        soft, _ = PersonaPlug.from_pretrained(plug).eval()(
            torch.from_numpy(queries), *pad_histories([History.empty(32)] * 5, 32)
        )
    found = llm.generate(prompts, list(soft), max_new_tokens=6, placement=Placement.AFTER)
    assert [row["output"] for row in outputs] == [answer.text for answer in found]
    assert sum(row["score"] for row in outputs) > sum(row["score"] for row in before)
    assert {row["settings_sha256"] for row in outputs}.isdisjoint(row["settings_sha256"] for row in before)


def test_beams_are_a_setting_of_a_night(plug: Path, kinds: dict[str, Kind], generate_config: GenerateConfig) -> None:
    configs = [replace(generate_config, num_beams=num_beams) for num_beams in (1, 2)]
    settings = [answering_facts(config, (plug,), is_apart=False).settings(kinds) for config in configs]
    assert settings[1] == settings[0] | {"num_beams": 2}


@pytest.mark.parametrize(
    "other",
    [{"metric": Metric.RATING}, {"max_new_tokens": 5}, {"stop": ("!",)}, {"no_repeat": 2}, {"query_text": "{query}?"}],
)
def test_what_answers_depend_on_in_a_kind_is_a_setting_of_a_night(
    other: dict[str, Any], plug: Path, kinds: dict[str, Kind], generate_config: GenerateConfig
) -> None:
    facts = answering_facts(generate_config, (plug,), is_apart=False)
    assert facts.settings(kinds) != facts.settings(kinds | {"note": replace(kinds["note"], **other)})
