"""Wordings are LaMP's to the letter, and a kind that cannot work is refused before it is used."""

import pickle
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedder.errors import UsageError
from llm_jobs.kinds import Kind, Metric, field_meanings, load_kinds

KINDS = load_kinds()
LAMP_1 = (
    'For an author who has written the paper with the title "{title}", which reference is related? Just answer with '
    '[1] or [2] without explanation. [1]: "{one}" [2]: "{two}"'
)
PROMPTS = {
    "LaMP_2": (
        "Which tag does this movie relate to among the following tags? Just answer with the tag name without further "
        "explanation. tags: [sci-fi, based on a book, comedy, action, twist ending, dystopia, dark comedy, classic, "
        "psychology, fantasy, romance, thought-provoking, social commentary, violence, true story] description: TEXT"
    ),
    "LaMP_2N": (
        "Which category does this article relate to among the following categories? Just answer with the category "
        "name without further explanation. categories: [women, religion, politics, style & beauty, entertainment, "
        "culture & arts, sports, science & technology, travel, business, crime, education, healthy living, parents, "
        "food & drink] article: TEXT"
    ),
    "LaMP_3": (
        "What is the score of the following review on a scale of 1 to 5? just answer with 1, 2, 3, 4, or 5 without "
        "further explanation. review: TEXT"
    ),
    "LaMP_4": "Generate a headline for the following article: TEXT",
    "LaMP_5": "Generate a title for the following abstract of a paper: TEXT",
    "LaMP_6": "Generate a subject for the following email: TEXT",
}
RETRIEVED = {
    "LaMP_2": 'the tag for the movie: "T" is "O" , and the tag for the movie: "U" is "P" . INPUT',
    "LaMP_2N": 'the category for the article: "T" is "O" , and the category for the article: "U" is "P" . INPUT',
    "LaMP_3": 'O is the score for "T" , and P is the score for "U" . INPUT',
    "LaMP_4": '"O" is the title for "T" , and "P" is the title for "U" . INPUT',
    "LaMP_5": '"O" is a title for "T" , and "P" is a title for "U" . Following the given patterns INPUT',
    "LaMP_6": '"O" is the title for "T" , and "P" is the title for "U" . INPUT',
    "LaMP_7": '"T" , and "U"  are written by a person. Following the given patterns INPUT',
}


def test_the_eight_kinds_of_the_contract_are_built_in() -> None:
    assert list(KINDS) == ["LaMP_1", "LaMP_2", "LaMP_2N", "LaMP_3", "LaMP_4", "LaMP_5", "LaMP_6", "LaMP_7"]


@pytest.mark.parametrize("name", PROMPTS)
def test_training_prompts_are_worded_as_lamp_words_its_questions(name: str) -> None:
    kind = KINDS[name]
    prompt = kind.training_prompt("TEXT")
    assert prompt == PROMPTS[name]
    assert kind.query(prompt) == "TEXT"
    assert prompt.startswith(kind.lamp_prompt)
    assert kind.target.format(output="O") == "O"


def test_items_of_citations_and_tweets_are_no_targets() -> None:
    assert [name for name, kind in KINDS.items() if kind.prompt is None] == ["LaMP_1", "LaMP_7"]


def test_the_query_of_a_citation_is_the_two_references_and_of_a_tweet_the_tweet() -> None:
    question = LAMP_1.format(title="explanation. [1]", one="A", two="B")
    assert KINDS["LaMP_1"].query(question) == '[1]: "A" [2]: "B"'
    tweet = "Paraphrase the following tweet without any explanation before or after it: it: me"
    assert KINDS["LaMP_7"].query(tweet) == "it: me"


@pytest.mark.parametrize("name", RETRIEVED)
def test_retrieved_items_are_written_as_lamp_writes_them(name: str) -> None:
    assert KINDS[name].with_retrieved([("T", "O"), ("U", "P")], "INPUT") == RETRIEVED[name]
    assert KINDS[name].with_retrieved([], "INPUT") == "INPUT"


def test_retrieved_papers_stand_after_the_first_word_title() -> None:
    question = LAMP_1.format(title="The title", one="A", two="B")
    found = KINDS["LaMP_1"].with_retrieved([("abstract", "P1"), ("abstract", "P2")], question)
    assert found == question.replace('title "The', 'title, and "P1", and "P2" "The', 1)
    assert KINDS["LaMP_1"].with_retrieved([("abstract", "P1")], "no such word") == "no such word"


@pytest.mark.parametrize("name", KINDS)
def test_the_encoder_reads_what_the_user_produced(name: str) -> None:
    kind = KINDS[name]
    assert "TEXT" in kind.encoder_text("TEXT", "OUTPUT")
    assert "OUTPUT" in kind.encoder_text("TEXT", "OUTPUT")
    assert kind.encoder_text("TEXT", None) == "TEXT"


def test_metrics_and_choices_are_those_of_the_benchmark() -> None:
    assert {name: kind.metric for name, kind in KINDS.items()} == {
        "LaMP_1": Metric.ACCURACY,
        "LaMP_2": Metric.ACCURACY,
        "LaMP_2N": Metric.ACCURACY,
        "LaMP_3": Metric.RATING,
        **dict.fromkeys(["LaMP_4", "LaMP_5", "LaMP_6", "LaMP_7"], Metric.ROUGE),
    }
    assert {name: len(kind.choices) for name, kind in KINDS.items() if kind.choices} == {
        "LaMP_1": 2,
        "LaMP_2": 15,
        "LaMP_2N": 15,
        "LaMP_3": 5,
    }


def test_choices_that_the_prompt_names_come_before_the_official_ones() -> None:
    kind = KINDS["LaMP_2N"]
    assert kind.choices_in("categories: [a, b & c , a] article: x") == ("a", "b & c")
    assert kind.choices_in(kind.training_prompt("x", ["u", "v w"])) == ("u", "v w")
    assert kind.choices_in("article: x") == kind.choices
    assert kind.choices_in("categories: [] article: x") == kind.choices
    assert KINDS["LaMP_4"].choices_in("categories: [a, b]") is None


@pytest.mark.parametrize(
    "task_input", ["", "no marker", "Generate a headline for the following article:", "article: \n"]
)
def test_an_input_without_query_has_none_and_is_encoded_whole(task_input: str) -> None:
    assert KINDS["LaMP_4"].query(task_input) is None
    assert KINDS["LaMP_4"].query_encoder_text(task_input) == task_input


@given(st.text(), st.text(min_size=1), st.sampled_from(sorted(PROMPTS)))
def test_braces_and_markers_in_a_users_text_mean_nothing(text: str, output: str, name: str) -> None:
    kind, text = KINDS[name], f"{{text}} {{0}} {text} article: description: }}{{ x"
    assert text in kind.encoder_text(text, output)
    assert kind.query(kind.training_prompt(text)) == text
    assert kind.with_retrieved([(text, output)], text).endswith(text)


USERS = {"metric": "rouge", "prompt": "Reply to: {text}", "query_marker": "to:"}


def test_a_user_adds_a_kind_with_three_lines() -> None:
    kind = load_kinds({"reply": USERS})["reply"]
    assert kind.training_prompt("hi") == "Reply to: hi"
    assert kind.encoder_text("hi", "hello") == "hello\nhi"


def test_a_user_changes_one_line_of_a_built_in_kind() -> None:
    kind = load_kinds({"LaMP_4": {"max_new_tokens": 9}})["LaMP_4"]
    assert kind.max_new_tokens == 9
    assert kind.prompt == KINDS["LaMP_4"].prompt
    assert kind.sha256 == KINDS["LaMP_4"].sha256


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"metric": "bleu"}, "metric = 'bleu'"),
        ({"promt": "x"}, "promt = 'x'"),
        ({"prompt": "no text"}, "prompt = 'no text': must hold {text}"),
        ({"prompt": "{text} {output}"}, "may hold {text}, {choices} only"),
        ({"prompt": 5}, "prompt = 5"),
        ({"prompt": "{text"}, "prompt = '{text'"),
        ({"item_text": "{text} {output.__class__}"}, "may hold {text}, {output} only"),
        ({"item_text": "{} {output}"}, "may hold {text}, {output} only"),
        ({"item_text": "{text}"}, "must hold {output}"),
        ({"query_text": "static"}, "must hold {query}"),
        ({"retrieved_prompt": "{input}"}, "must hold {items}"),
        ({"choices": "ab"}, "choices = 'ab'"),
        ({"choices": ["a"]}, "choices = "),
        ({"choices": ["a", "a"]}, "must be different texts"),
        ({"choices": ["a", " "]}, "none empty"),
        ({"choices": ["a", 1]}, "choices.1 = 1"),
        ({"choices_pattern": "("}, "is no regular expression"),
        ({"choices_pattern": "x"}, "must have one group"),
        ({"max_new_tokens": 0}, "max_new_tokens = 0"),
        ({"max_new_tokens": "9"}, "max_new_tokens = '9'"),
        ({"max_new_tokens": True}, "max_new_tokens = True"),
    ],
)
def test_a_kind_that_cannot_work_is_refused_in_one_line(change: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError) as error:
        load_kinds({"reply": {**USERS, **change}})
    assert told in str(error.value)
    assert "pplug.toml [kinds.reply]" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("prompt", ["Reply: {text}", "Reply: {text} to: me", "{text} to: {choices}"])
def test_a_kind_whose_prompt_lacks_its_marker_before_the_text_is_refused(prompt: str) -> None:
    with pytest.raises(UsageError, match=r"\[kinds.reply\]: prompt = .* must hold the query_marker 'to:' before"):
        load_kinds({"reply": {**USERS, "prompt": prompt}})
    with pytest.raises(UsageError, match="must hold the query_marker 'article:'"):
        load_kinds({"LaMP_4": {"prompt": "Title of this: {text}"}})
    assert load_kinds({"reply": {**USERS, "prompt": prompt, "query_marker": ""}})["reply"].prompt == prompt


def test_every_field_of_a_kind_has_a_meaning() -> None:
    meanings = field_meanings()
    assert list(meanings) == [field.name for field in fields(Kind)]
    assert [name for name, meaning in meanings.items() if not meaning] == []


@pytest.mark.parametrize("table", [5, "x", [USERS], None])
def test_what_is_no_table_is_refused(table: object) -> None:
    with pytest.raises(UsageError, match=r"write \[kinds.reply\]"):
        load_kinds({"reply": table})


def test_a_kind_without_metric_is_refused() -> None:
    with pytest.raises(UsageError, match="metric: Field required"):
        load_kinds({"reply": {}})


@pytest.mark.parametrize("field", ["item_text", "item_text_without_output", "query_marker", "query_text"])
def test_the_fingerprint_changes_with_what_the_encoder_reads(field: str) -> None:
    changed = {"query_marker": "following article:"}.get(field, "new {text} {output} {query}")
    if field != "query_marker":
        allowed = {"item_text": "{text} {output}!", "item_text_without_output": "{text}!", "query_text": "{query}!"}
        changed = allowed[field]
    assert load_kinds({"LaMP_4": {field: changed}})["LaMP_4"].sha256 != KINDS["LaMP_4"].sha256


def test_kinds_travel_to_workers() -> None:
    assert pickle.loads(pickle.dumps(KINDS)) == KINDS
    assert all(isinstance(hash(kind), int) for kind in KINDS.values())
    assert isinstance(KINDS["LaMP_4"], Kind)
