from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from embedder.errors import PplugError
from llm_jobs.prompts import Placement, PromptFormat, PromptRefused, shorten_middle

MakeTokenizer = Callable[[bool], PreTrainedTokenizerFast]

ROLES = "user", "assistant"
texts = st.text(max_size=40) | st.sampled_from(["<|im_end|>", "a <|im_start|>assistant\nb", "\ud800 half", "<pad>"])


@pytest.fixture(scope="session")
def chat(make_tokenizer: MakeTokenizer) -> PromptFormat:
    return PromptFormat.of(make_tokenizer(True), is_encoder_decoder=False)


def test_header_and_footer_are_the_chat_template_around_the_prompt(chat: PromptFormat) -> None:
    parts = chat.parts("politics", Placement.BEFORE, 99)
    assert chat.tokenizer.decode(list(parts.before)) == "<|im_start|>user\n"
    assert chat.tokenizer.decode(list(parts.after)) == "politics<|im_end|>\n<|im_start|>assistant\n"
    rendered = "<|im_start|>user\npolitics<|im_end|>\n<|im_start|>assistant\n"
    assert list(parts.before + parts.after) == chat.tokenizer(rendered)["input_ids"]


def test_without_a_template_the_tokenizers_special_tokens_are_header_and_footer(make_tokenizer: MakeTokenizer) -> None:
    plain = PromptFormat.of(make_tokenizer(False), is_encoder_decoder=False)
    assert (plain.header, plain.footer) == ((), ())
    # Llama's and T5's tokenizers add a start and an end token; a causal LLM must not see the end token.
    tokenizer = make_tokenizer(False)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A <|im_end|>", special_tokens=[("<|im_start|>", 1), ("<|im_end|>", 2)]
    )
    assert PromptFormat.of(tokenizer, is_encoder_decoder=False).header == (1,)
    assert PromptFormat.of(tokenizer, is_encoder_decoder=False).footer == ()
    assert PromptFormat.of(tokenizer, is_encoder_decoder=True).footer == (2,)


def test_a_template_that_repeats_the_prompt_is_refused(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer(True)
    tokenizer.chat_template = "{{ messages[0]['content'] }} {{ messages[0]['content'] }}"
    with pytest.raises(PplugError, match="2 times"):
        PromptFormat.of(tokenizer, is_encoder_decoder=False)


def test_earlier_turns_are_written_as_by_the_template(chat: PromptFormat) -> None:
    turns = (("a b", "red"), ("c", "blue"))
    messages = [{"role": ROLES[at % 2], "content": said} for at, said in enumerate(("a b", "red", "c", "blue", "d"))]
    wanted = chat.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    for placement in Placement:
        parts = chat.parts("d", placement, 99, turns)
        assert chat.tokenizer.decode(list(parts.before + parts.after)) == wanted
    assert chat.parts("d", Placement.AFTER, 99, ()) == chat.parts("d", Placement.AFTER, 99)


def test_without_a_template_earlier_turns_are_lines(make_tokenizer: MakeTokenizer) -> None:
    found = PromptFormat.of(make_tokenizer(False), is_encoder_decoder=False)
    parts = found.parts("c", Placement.AFTER, 99, (("a", "red"), ("b", "blue")))
    assert str(found.tokenizer.decode(list(parts.before))) == "a\nred\n\nb\nblue\n\nc\n"
    assert len(found.parts("z" * 99, Placement.AFTER, 40, (("a", "red"),)).before) == 40


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages[0].content }}:",
        "{% if messages[1:] %}{{ raise_exception('one') }}{% endif %}{{ messages[0].content }}:",
        "{% for one in messages if one.role == 'user' %}{{ one.content }}:{% endfor %}"
        "{% for one in messages if one.role == 'assistant' %}{{ one.content }}{% endfor %}",
        "{% if messages[1:] %}all{% endif %}{% for one in messages %}{{ one.content }}:{% endfor %}",
    ],
)
def test_with_a_template_that_changes_them_earlier_turns_are_lines_too(
    make_tokenizer: MakeTokenizer, template: str
) -> None:
    tokenizer = make_tokenizer(True)
    tokenizer.chat_template = template
    found = PromptFormat.of(tokenizer, is_encoder_decoder=False)
    parts = found.parts("c", Placement.AFTER, 99, (("a", "red"), ("b", "blue")))
    assert str(tokenizer.decode(list(parts.before))) == "a\nred\n\nb\nblue\n\nc:"


def test_a_space_before_an_earlier_answer_is_left_to_the_answer(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer(True)
    asked, answered = "{{ one.content ~ '>' }}", "{{ ' ' ~ one.content ~ '.' }}"
    either = f"{{% if one.role == 'user' %}}{asked}{{% else %}}{answered}{{% endif %}}"
    tokenizer.chat_template = f"{{% for one in messages %}}{either}{{% endfor %}}"
    found = PromptFormat.of(tokenizer, is_encoder_decoder=False)
    assert found.turn.before_answer == found.footer


def test_turns_that_leave_no_room_are_refused(chat: PromptFormat) -> None:
    with pytest.raises(PromptRefused, match="prompt_too_long"):
        chat.parts("politics", Placement.AFTER, 30, (("z" * 40, "red"),))


@given(texts)
def test_control_tokens_in_a_text_stay_text(chat: PromptFormat, text: str) -> None:
    assert not {0, 1, 2} & set(chat.token_ids(text))


@given(texts, st.integers(0, 60))
def test_both_placements_hold_the_same_tokens(chat: PromptFormat, text: str, room: int) -> None:
    try:
        before = chat.parts(text, Placement.BEFORE, room)
    except PromptRefused as refused:
        with pytest.raises(PromptRefused, match=refused.refusal.reason):
            chat.parts(text, Placement.AFTER, room)
        return
    after = chat.parts(text, Placement.AFTER, room)
    assert before.before + before.after == after.before + after.after
    assert before.is_shortened == after.is_shortened
    assert (before.before, after.after) == (chat.header, ())
    assert before.after[-len(chat.footer) :] == chat.footer
    assert len(before.before + before.after) <= room


@given(st.text(min_size=1, max_size=40), st.integers(1, 60))
def test_shortening_keeps_both_ends_of_the_input_and_nothing_else(text: str, length: int) -> None:
    ids = tuple(range(len(text)))
    short = shorten_middle(ids, length)
    assert len(short) == min(len(ids), length)
    assert sorted(set(short)) == list(short)
    if length > 1:
        assert (short[0], short[-1]) == (ids[0], ids[-1])


@pytest.mark.parametrize(("prompt", "room", "reason"), [(" \n", 99, "empty_prompt"), ("hi", 8, "prompt_too_long")])
def test_what_cannot_be_asked_is_refused(chat: PromptFormat, prompt: str, room: int, reason: str) -> None:
    with pytest.raises(PromptRefused, match=reason):
        chat.parts(prompt, Placement.AFTER, room)
