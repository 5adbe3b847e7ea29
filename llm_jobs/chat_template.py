"""What an LLM's chat template writes around a prompt.

    template ─▶ process of its own, bounded (template_process.py) ─▶ text

The same on every day: templates that ask for the date get a fixed one, or plugs would expire at midnight.
"""

import json
import subprocess
import sys
from functools import lru_cache
from typing import Any

from transformers import PreTrainedTokenizerBase

from embedder.errors import PplugError
from llm_jobs import template_process

DATE = "2024-07-26"  # what `strftime_now` tells; nights stay comparable
DATE_STRING = "26 Jul 2024"  # the same day for templates of the Llama 3 family, which take it ready-made
MOST_CHARACTERS = 1 << 20  # of a rendered prompt

PATIENCE = 120
"""Seconds of the clock, where the system cannot bound those of the processor; starting takes one or two."""


def rendered_chat(tokenizer: PreTrainedTokenizerBase, *messages: str, thinking: bool) -> str:
    """Render messages of user and assistant in turn by the chat template, ready for the answer to the last one.

    Some templates let the LLM think aloud first.

    Raises:
        PplugError: if the template fails, or takes without end.
    """
    untyped: Any = tokenizer
    variables = untyped.special_tokens_map | {
        "conversations": [
            [{"role": ("user", "assistant")[at % 2], "content": message} for at, message in enumerate(messages)]
        ],
        "add_generation_prompt": True,
        "date_string": DATE_STRING,
        "enable_thinking": thinking,
        "thinking": thinking,
    }
    try:
        template: str = untyped.get_chat_template()
    except ValueError as error:  # several templates, none of them the default
        raise PplugError(f"the LLM's chat template cannot be used ({_line(error)}): choose another LLM") from error
    return _rendered(template, json.dumps(variables, default=str))


@lru_cache(maxsize=64)
def _rendered(template: str, variables: str) -> str:
    asked = {"template": template, "variables": json.loads(variables), "date": DATE, "most": MOST_CHARACTERS + 1}
    command = [sys.executable, "-P", str(template_process.__file__)]
    try:
        done = subprocess.run(
            command, input=json.dumps(asked), capture_output=True, text=True, encoding="utf8", timeout=PATIENCE
        )
    except subprocess.TimeoutExpired:
        done = None
    if done is None or done.returncode < 0:  # the system has ended it
        answer = {"error": "it goes on without end"}
    elif done.returncode > 0:
        answer = {"error": done.stderr.strip().rpartition("\n")[2]}
    else:
        answer = json.loads(done.stdout)
    text = answer.get("text")
    if text is None or len(text) > MOST_CHARACTERS:
        reason = _line(answer.get("error", "it writes without end"))
        raise PplugError(f"the LLM's chat template cannot be used ({reason}): choose another LLM")
    return text


def _line(error: object) -> str:
    return " ".join(str(error).split())[:200]
