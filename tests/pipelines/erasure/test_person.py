import json
from collections.abc import Callable

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.erasure.person import BLACKED_OUT, CUT, Person, own_rows, without

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)

ANN = Person("ann")
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
        (run("no vector for anna"), False),
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
    rows = pa.concat_tables([run("no vector for 'ann' at line 3", files=["ann.jsonl", "bob.jsonl"], seed=1), run(None)])
    left = without(rows.append_column("run_id", [["r", "s"]]), ANN).to_pylist()
    config = json.dumps({"files": [f"{BLACKED_OUT}.jsonl", "bob.jsonl"], "seed": 1})
    error = f"no vector for '{BLACKED_OUT}' at line 3"
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


@given(texts, st.lists(texts, max_size=4))
def test_only_rows_with_the_very_id_are_taken_out(user_id: str, others: list[str]) -> None:
    rows = pa.table({"user_id": pa.array([*others, user_id, user_id + "x"], pa.string())})
    left = without(rows, Person(user_id))["user_id"].to_pylist()
    assert left == [other for other in [*others, user_id + "x"] if other != user_id]


@given(texts, st.sampled_from([json.dumps, repr, str]))
def test_an_id_that_is_cited_is_found_and_blacked_out(user_id: str, spell: Callable[[str], str]) -> None:
    person, said = Person(user_id), f"no row {spell(user_id)} of it"
    assert person.is_named(spell(user_id))
    assert person.is_named(said)
    assert not person.is_named(person.blacked_out(said))
