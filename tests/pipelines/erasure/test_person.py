import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.erasure.person import BLACKED_OUT, Person, own_rows, texts_of, without
from pipelines.intake.rows import shown

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)

ANN = Person("ann", frozenset({"a poem about the sea and its ships", "rain"}))


def refusal(user_id: str | None, detail: str, row_id: str = "f.jsonl:1") -> pa.Table:
    return pa.table({"user_id": pa.array([user_id], pa.string()), "row_id": [row_id], "detail": [detail]})


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
        (refusal(None, '{"text": "rain", "broken'), True),
        (refusal(None, '{"text": "rainbow", "broken'), False),
        (refusal(None, shown('{"a": "' + "x" * 150 + '", "text": "a poem about the sea and its ships')), True),
        (refusal(None, shown('{"a": "' + "x" * 150 + '", "text": "a poem about the sun and its moons')), False),
        (refusal(None, '{"text": "a poem about the sea"'), False),
        (refusal(None, "", "ann/3"), True),
        (refusal(None, "", "ann"), True),
        (refusal(None, "", "anna/3"), False),
        (refusal(None, ""), False),
        (pa.table({"kind": ["ann"], "metric": ["ann"]}), False),
        (pa.table({"user_id": ["ann"], "vector": [[1.0]]}), True),
        (pa.table({"user_id": ["Ann"], "item_id": ["ann"]}), False),
        (pa.table({"error": pa.array([None], pa.string())}), False),
        (pa.table({"error": ["no vector for 'ann'"]}), True),
    ],
)
def test_whose_a_row_is(rows: pa.Table, is_own: bool) -> None:
    assert own_rows(rows, ANN).to_pylist() == [is_own]


def test_a_number_that_was_no_id_is_its_user() -> None:
    assert own_rows(refusal(None, "{'user_id': 17, 'text': 'x'}"), Person("17", frozenset())).to_pylist() == [True]
    assert own_rows(refusal(None, "17"), Person("17", frozenset())).to_pylist() == [True]
    assert own_rows(refusal(None, "177"), Person("17", frozenset())).to_pylist() == [False]


def test_a_run_stays_and_its_error_is_blacked_out() -> None:
    rows = pa.table({"run_id": ["r", "s"], "error": ["no vector for 'ann' (rain)", None]})
    assert without(rows, ANN).to_pylist() == [
        {"run_id": "r", "error": f"no vector for '{BLACKED_OUT}' ({BLACKED_OUT})"},
        {"run_id": "s", "error": None},
    ]


@given(texts, st.lists(texts, max_size=4), st.lists(texts, max_size=4))
def test_only_rows_with_the_very_id_are_taken_out(user_id: str, others: list[str], words: list[str]) -> None:
    rows = pa.table({"user_id": pa.array([*others, user_id, user_id + "x"], pa.string())})
    left = without(rows, Person(user_id, frozenset(words)))["user_id"].to_pylist()
    assert left == [other for other in [*others, user_id + "x"] if other != user_id]


@given(texts, texts, st.sampled_from([json.dumps, repr, str]))
def test_what_is_cited_is_found_and_blacked_out(user_id: str, text: str, spell: Callable[[str], str]) -> None:
    person = Person(user_id, frozenset({text}))
    for cited in (user_id, text):
        assert person.is_told(spell(cited))
        assert not person.is_told(person.blacked_out(f"no row {spell(cited)} of it"))


def test_a_text_that_another_user_has_too_is_not_the_users_alone(tmp_path: Path) -> None:
    rows = {"user_id": ["ann", "ann", "bob"], "text": ["mine", "ours", "ours"], "output": ["red", None, "red"]}
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    pq.write_table(pa.table({"user_id": ["ann"], "input": ["old"]}), tmp_path / "b.parquet")
    pq.write_table(pa.table({"metric": ["f1"]}), tmp_path / "c.parquet")
    assert texts_of("ann", sorted(tmp_path.iterdir())) == {"mine", "old"}
    assert texts_of("nobody", sorted(tmp_path.iterdir())) == frozenset()
