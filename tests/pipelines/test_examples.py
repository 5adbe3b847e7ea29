from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from llm_jobs.kinds import Kind, load_kinds
from pipelines.examples import ChoiceLists, Target, examples_of, held_texts, history_targets, task_targets

NOTE = {"metric": "accuracy", "query_marker": "note:", "prompt": "Tag? {choices} note: {text}", "choices": ["a", "b"]}
KINDS = load_kinds({"note": NOTE})
KIND: Kind = KINDS["note"]
START = datetime(2026, 1, 1, tzinfo=UTC)
NO_TASKS = ChoiceLists([], KIND)


class CountingEncoder:
    """Vectors that name the text: one number, in the order the texts came."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def encode(self, texts: list[str], is_query: bool = False) -> np.ndarray:
        del is_query
        self.seen += texts
        return np.array([[float(self.seen.index(text))] for text in texts], np.float32).reshape(-1, 1)


def row(user: str, day: int, text: str, output: str | None = "a", kind: str = "note") -> dict[str, Any]:
    posted = START + timedelta(days=day)
    return {"user_id": user, "item_id": text, "kind": kind, "posted_at": posted, "text": text, "output": output}


histories = st.lists(
    st.tuples(st.sampled_from("uvw"), st.integers(0, 5), st.sampled_from(["a", "b", None])), max_size=25
)


@given(histories)
def test_a_targets_history_is_only_what_was_posted_strictly_before_it(spec: list[tuple[str, int, str | None]]) -> None:
    items = [row(user, day, f"text {at}", output) for at, (user, day, output) in enumerate(spec)]
    items.sort(key=lambda item: (item["user_id"], item["posted_at"], item["item_id"]))
    targets = history_targets(items, KIND, NO_TASKS, set())
    encoder = CountingEncoder()
    examples = examples_of(targets.found, items, KINDS, encoder)  # pyright: ignore[reportArgumentType]
    assert len(examples) == sum(item["output"] is not None for item in items)
    for target, example in zip(targets.found, examples, strict=True):
        expected = [
            KIND.encoder_text(item["text"], item["output"])
            for item in items
            if item["user_id"] == target.user_id and item["posted_at"] < target.moment
        ]
        assert [encoder.seen[int(vector[0])] for vector in example.history] == expected
        assert target.prompt.endswith(encoder.seen[int(example.task[0])])


def test_a_text_that_a_task_of_an_unnamed_night_asks_about_is_no_target_and_is_counted() -> None:
    night, named = date(2026, 2, 1), date(2026, 2, 2)
    tasks = [
        {"ds": night, "user_id": "u", "input": "Tag? a, b note:  secret ", "reference": "a", "choices": None},
        {
            "ds": named,
            "user_id": "v",
            "input": "Tag? a, b note: open",
            "reference": "b",
            "choices": None,
            "queued_at": START,
        },
    ]
    items = [row("u", 0, "secret"), row("w", 1, " secret"), row("u", 2, "open"), row("u", 3, "else")]
    targets = history_targets(items, KIND, NO_TASKS, held_texts(tasks, KIND, {named}))
    assert [target.prompt.split("note: ")[1] for target in targets.found] == ["open", "else"]
    assert targets.skipped_leak_count == 2


def test_references_are_used_of_the_named_nights_only() -> None:
    tasks = [
        {
            "ds": date(2026, 2, day),
            "task_id": f"t{day}",
            "user_id": "u",
            "input": f"note: {day}",
            "choices": ["a", "b"],
            "reference": reference,
            "queued_at": START,
        }
        for day, reference in ((1, "a"), (2, "B "), (2, None))
    ]
    assert task_targets(tasks, KIND, set()) == []
    found = task_targets(tasks, KIND, {date(2026, 2, 2)})
    assert found == [Target("u", "note: 2", "b", "2", START)]


def test_items_of_other_kinds_are_history_but_no_targets() -> None:
    items = [row("u", 0, "a title", "headline", kind="LaMP_4"), row("u", 1, "mine")]
    targets = history_targets(items, KIND, NO_TASKS, set())
    (example,) = examples_of(targets.found, items, KINDS, CountingEncoder())  # pyright: ignore[reportArgumentType]
    assert len(example.history) == 1


def closed(user: str, *choices: str) -> dict[str, Any]:
    return {"user_id": user, "choices": list(choices) or None}


def test_a_prompt_lists_the_choices_of_its_own_users_tasks() -> None:
    tasks = [closed("u", "x", "y"), closed("v", "y", "z"), closed("u", "w", "x"), closed("v")]
    lists = ChoiceLists(tasks, KIND)
    wanted = {
        ("u", "x"): ("w", "x"),  # the newest of both that hold it
        ("u", "Y "): ("x", "y"),
        ("v", "y"): ("y", "z"),
        ("v", "x"): ("w", "x"),  # of another user, as none of their own holds it
        ("v", "else"): ("y", "z"),
        ("new", "z"): ("y", "z"),
        ("new", "else"): ("w", "x"),
    }
    assert {key: lists.of(*key) for key in wanted} == wanted
    assert lists.labels == ("x", "y", "z", "w")
    assert lists.differ
    items = [row("u", 0, "one", "Y "), row("v", 1, "two", "y")]
    targets = history_targets(items, KIND, lists, set())
    assert [target.prompt for target in targets.found] == ["Tag? x, y note: one", "Tag? y, z note: two"]
    assert [target.target for target in targets.found] == ["y", "y"]
    assert targets.respelled_count == 1


@given(st.lists(st.tuples(st.sampled_from("uvw"), st.lists(st.sampled_from("abcd"), unique=True)), max_size=8))
def test_choices_that_hold_the_answer_are_listed_where_any_task_has_them(spec: list[tuple[str, list[str]]]) -> None:
    lists = ChoiceLists([closed(user, *choices) for user, choices in spec], KIND)
    for user in "uvwx":
        for output in "abcd":
            mine = [choices for name, choices in spec if name == user and output in choices]
            anybodys = [choices for _, choices in spec if output in choices]
            found = lists.of(user, output)
            if mine or anybodys:
                assert list(found or ()) == (mine or anybodys)[-1]
            assert (found == KIND.choices) or any(choices for _, choices in spec)


def test_the_choices_of_the_tasks_come_before_those_of_the_kind() -> None:
    lists = ChoiceLists([closed("u"), closed("u", "x", "y")], KIND)
    assert (lists.labels, lists.of("u", "a"), lists.differ) == (("x", "y"), ("x", "y"), False)
    assert (NO_TASKS.labels, NO_TASKS.of("u", "a"), NO_TASKS.differ) == (("a", "b"), ("a", "b"), False)
    free = ChoiceLists([closed("u")], KINDS["LaMP_4"])
    assert (free.labels, free.of("u", "a")) == (None, None)
