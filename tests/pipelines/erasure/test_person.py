import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.erasure.person import BLACKED_OUT, CUT, HEAD, Person, own_rows, texts_of, without

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)

POEM = "a poem about the sea and its ships"
ANN = Person("ann", frozenset({POEM}))
LONG = "ann of " + "green " * 50


def refusal(user_id: str | None, detail: str, row_id: str = "f.jsonl:1", source: str = "/in/f.jsonl") -> pa.Table:
    texts = {"user_id": user_id, "row_id": row_id, "detail": detail, "source": source}
    return pa.table({name: pa.array([text], pa.string()) for name, text in texts.items()})


def run(error: str | None, **config: object) -> pa.Table:
    return pa.table({"error": pa.array([error], pa.string()), "config": [json.dumps(config)]})


@pytest.mark.parametrize(
    ("rows", "is_own"),
    [
        (refusal("ann", ""), True),
        (refusal("bob", "a poem about the sea and its ships"), False),
        (refusal("bob", '{"user_id": "ann"}'), False),
        (refusal(None, '{"user_id": "ann", broken'), True),
        (refusal(None, "{'user_id': 'ann', 'text': 3}"), True),
        (refusal(None, '{"user_id": "bob", "text": "rain"'), False),
        (refusal(None, '{"user_id": "anna", broken'), False),
        (refusal(None, '{"user_id": "joann", broken'), False),
        (refusal(None, "ann,1,LaMP_4"), True),
        (refusal(None, "anna,1,LaMP_4"), False),
        (refusal(None, '{"ann": "is the name of a field"'), False),
        (refusal(None, "", "ann/3"), True),
        (refusal(None, "", "ann"), True),
        (refusal(None, "", "anna/3"), False),
        (refusal(None, ""), False),
        (refusal("bob", "", "ann.jsonl:1", "/in/ann.jsonl"), True),
        (refusal("bob", "", "f.jsonl:1", "/home/ann/f.jsonl"), True),
        (refusal("bob", "", "anna.jsonl:1", "/in/anna.jsonl"), False),
        (pa.table({"kind": ["ann"], "metric": ["ann"]}), False),
        (pa.table({"user_id": ["ann"], "vector": [[1.0]]}), True),
        (pa.table({"user_id": ["Ann"], "item_id": ["ann"]}), False),
        (run(None), False),
        (run("no vector for 'ann'"), True),
        (run(f"no vector for {POEM}"), True),
        (run(None, files=["ann.jsonl"]), True),
        (run(None, files=["of_ann.jsonl"]), True),
        (run(None, files=["joann.jsonl"], job="ann"), False),
        (run(None, plugs=["/plugs/ann", "/plugs/bob"]), True),
    ],
)
def test_whose_a_row_is(rows: pa.Table, is_own: bool) -> None:
    assert own_rows(rows, ANN).to_pylist() == [is_own]


def test_a_number_that_was_no_id_is_its_user() -> None:
    assert own_rows(refusal(None, "{'user_id': 17, 'text': 'x'}"), Person("17")).to_pylist() == [True]
    assert own_rows(refusal(None, "17"), Person("17")).to_pylist() == [True]
    assert own_rows(refusal(None, "177"), Person("17")).to_pylist() == [False]


@pytest.mark.parametrize(
    "row", [refusal(LONG[:CUT], ""), refusal(None, "", LONG[:CUT]), refusal(None, "", LONG + "/3")]
)
def test_an_id_that_was_cut_is_its_user(row: pa.Table) -> None:
    assert own_rows(row, Person(LONG)).to_pylist() == [True]
    assert own_rows(row, Person("b" + LONG)).to_pylist() == [False]


def test_a_run_stays_and_its_error_and_its_files_are_blacked_out() -> None:
    rows = pa.concat_tables(
        [run(f"no vector for 'ann' ({POEM}) at line 3", files=["ann.jsonl", "bob.jsonl"], seed=1), run(None)]
    )
    left = without(rows.append_column("run_id", [["r", "s"]]), ANN).to_pylist()
    config = json.dumps({"files": [f"{BLACKED_OUT}.jsonl", "bob.jsonl"], "seed": 1})
    error = f"no vector for '{BLACKED_OUT}' ({BLACKED_OUT}"
    assert left == [
        {"run_id": "r", "error": error, "config": config},
        {"run_id": "s", "error": None, "config": "{}"},
    ]


def test_a_refused_row_of_another_user_loses_the_name_of_its_file_alone() -> None:
    row = refusal("bob", "kept", "1.jsonl:1", "/of/1/1.jsonl")
    assert without(row, Person("1")).to_pylist() == [
        {"user_id": "bob", "row_id": f"{BLACKED_OUT}.jsonl:1", "detail": "kept"}
        | {"source": f"/of/{BLACKED_OUT}/{BLACKED_OUT}.jsonl"}
    ]
    assert own_rows(without(row, Person("1")), Person("1")).to_pylist() == [False]
    assert without(row, ANN).equals(row)
    for sign in ("█", "█████", "███"):
        rows = pa.concat_tables([without(refusal("bob", "", f"{sign}:1", f"/{sign}"), Person(sign))])
        assert own_rows(rows, Person(sign)).to_pylist() == [False]


def test_many_refusals_and_errors_of_a_user_with_many_texts_are_looked_through_once() -> None:
    """Every text against every row would take minutes."""
    person = Person("ann", frozenset(f"text number {number} of ann" for number in range(20_000)))
    refusals = refusal(None, "text number of bob: " + "x" * 180).take([0] * 2_000)
    runs = run("Error: text number 7 of ann " + "x" * 400).take([0] * 2_000)
    assert own_rows(refusals, person).true_count == 0
    assert own_rows(runs, person).true_count == 2_000


@given(texts, st.lists(texts, max_size=4), st.lists(texts, max_size=4))
def test_only_rows_with_the_very_id_are_taken_out(user_id: str, others: list[str], words: list[str]) -> None:
    rows = pa.table({"user_id": pa.array([*others, user_id, user_id + "x"], pa.string())})
    left = without(rows, Person(user_id, frozenset(words)))["user_id"].to_pylist()
    assert left == [other for other in [*others, user_id + "x"] if other != user_id]


@given(texts, texts, st.sampled_from([json.dumps, repr, str]))
def test_what_is_cited_is_found_and_blacked_out(user_id: str, text: str, spell: Callable[[str], str]) -> None:
    text = text.ljust(HEAD, ".")
    person = Person(user_id, frozenset({text}))
    for cited in (user_id, text):
        assert person.is_told(spell(cited))
        assert person.is_told(f"no row {spell(cited)} of it")
        assert not person.is_told(person.blacked_out(f"no row {spell(cited)} of it"))


def test_the_texts_of_a_user_are_found_in_all_files(tmp_path: Path) -> None:
    mine, ours, old = f"mine: {POEM}", f"ours: {POEM}", f"old: {POEM}"
    rows = {"user_id": ["ann", "ann", "bob"], "text": [mine, ours, ours], "output": ["red", None, f"his: {POEM}"]}
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    pq.write_table(pa.table({"user_id": ["ann"], "input": [old]}), tmp_path / "b.parquet")
    pq.write_table(pa.table({"metric": ["f1"]}), tmp_path / "c.parquet")
    assert texts_of("ann", sorted(tmp_path.iterdir())) == {mine, ours, old}
    assert texts_of("nobody", sorted(tmp_path.iterdir())) == frozenset()
