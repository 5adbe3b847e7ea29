"""Chat templates are programs of others: fixed in time, bounded, and one line when they fail."""

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from tiny_models import TEMPLATE, save_model, tiny_llama, tiny_tokenizer
from transformers.utils import chat_template_utils

from embedder.errors import PplugError
from llm_jobs import FrozenLLM
from llm_jobs.chat_template import rendered_chat
from llm_jobs.prompts import PromptFormat

THINKING = (
    "<|im_start|>user\n{{ messages[0].content }}<|im_end|>\n<|im_start|>assistant\n"
    "{% if not enable_thinking %}<think></think>{% endif %}"
)
LLAMA_3 = (
    "{{ bos_token }}{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "{{ date_string }} {{ messages | map(attribute='content') | join }}"
)
NEVER_ENDS = (
    "{% for a in range(99999) %}{% for b in range(99999) %}{% set c = a * b %}{% endfor %}{% endfor %}",
    "{{ 'a' * 10 ** 11 }}",
    "{{ messages[0].content }}{{ 'a' * 2 ** 21 }}",
    "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
)


def with_template(template: Any) -> Any:
    tokenizer = tiny_tokenizer(is_chat=True)
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize("template", [TEMPLATE, THINKING, LLAMA_3])
def test_a_template_is_rendered_as_by_transformers(template: str) -> None:
    tokenizer = with_template(template)
    wanted = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hé?"}],
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=False,
        date_string="26 Jul 2024",
    )
    assert rendered_chat(tokenizer, "Hé?", thinking=False) == wanted


def test_a_plug_does_not_expire_at_midnight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_model(tmp_path, tiny_llama(0, 64), is_chat=True)
    (folder / "chat_template.jinja").write_text("{{ strftime_now('%d %B %Y, %H') }}: {{ messages[0].content }}")
    today = FrozenLLM.from_pretrained(str(folder))

    class Tomorrow(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:
            return datetime(2031, 1, 1)

    monkeypatch.setattr(chat_template_utils, "datetime", Tomorrow)
    tomorrow = FrozenLLM.from_pretrained(str(folder))
    assert today.format.tokenizer.decode(list(today.format.header)) == "26 July 2024, 00: "
    assert (tomorrow.sha256, tomorrow.format.header) == (today.sha256, today.format.header)


def test_thinking_is_off_unless_asked_for_and_part_of_the_fingerprint(tmp_path: Path) -> None:
    folder = save_model(tmp_path, tiny_llama(0, 64), is_chat=True)
    plain = [FrozenLLM.from_pretrained(str(folder), thinking=thinking) for thinking in (False, True)]
    assert plain[0].sha256 == plain[1].sha256  # the template has no such switch
    (folder / "chat_template.jinja").write_text(THINKING)
    silent, aloud = (FrozenLLM.from_pretrained(str(folder), thinking=thinking) for thinking in (False, True))
    assert silent.format.tokenizer.decode(list(silent.format.footer)).endswith("assistant\n<think></think>")
    assert aloud.format.tokenizer.decode(list(aloud.format.footer)).endswith("assistant\n")
    assert silent.sha256 != aloud.sha256


@pytest.mark.parametrize("template", NEVER_ENDS)
def test_a_template_that_never_ends_is_refused(template: str) -> None:
    with pytest.raises(PplugError, match="chat template cannot be used") as caught:
        PromptFormat.of(with_template(template), is_encoder_decoder=False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ raise_exception('only\nfor tools') }}", "only for tools"),
        ("{% if %}", "Expected an expression"),
        ("{{ messages[0].what.ever }}", "has no attribute 'what'"),
        ({"rag": TEMPLATE, "tool_use": TEMPLATE}, "no default specified"),
    ],
)
def test_a_template_that_fails_is_one_line(template: Any, said: str) -> None:
    with pytest.raises(PplugError, match=f"chat template cannot be used .*{said}") as caught:
        PromptFormat.of(with_template(template), is_encoder_decoder=False)
    assert "\n" not in str(caught.value)
