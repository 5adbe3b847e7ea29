"""Cut a prompt into the token ids that stand before and after a user's soft prompt.

    header ▲ input   footer         Placement.BEFORE, as in the paper
    header   input   footer ▲       Placement.AFTER: equal prompts of different users share everything before ▲

Earlier turns, another input and its answer each, stand between header and input. Header and footer come from the LLM's
chat template. Header, input and footer are tokenised one by one, so training and answering see the same tokens with
either placement.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from itertools import chain
from typing import Literal, NamedTuple

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from embedder.compact import FloatArray
from embedder.errors import PplugError, UsageError
from embedder.plain_text import PlainTextTokenizer
from llm_jobs.chat_template import rendered_chat

Ids = tuple[int, ...]  # token ids

Turns = tuple[tuple[str, str], ...]
"""Earlier turns of a conversation, the oldest first: an input, and the answer to it."""

PROBE, ANSWER_PROBE = "PPLUGPROBE", "PPLUGANSWER"

SURROGATE = re.compile("[\ud800-\udfff]")
"""Half characters: Python strings may hold them, UTF-8 and tokenizers may not."""


class Placement(StrEnum):
    """Where the soft prompt stands: before the task's input (the paper), or after the whole prompt."""

    BEFORE = "before"
    AFTER = "after"


@dataclass(frozen=True)
class PromptParts:
    """Token ids of a prompt, without the soft prompt between them."""

    before: Ids
    after: Ids
    is_shortened: bool = False  # the input lost tokens in its middle to fit the LLM's context


@dataclass(frozen=True, eq=False)
class Request:
    """One thing to be answered."""

    prompt: str
    soft_prompt: Tensor | None = None  # (S, E) in float32, E = the LLM's width
    choices: tuple[str, ...] | None = None  # the only answers allowed; None for free text
    max_new_tokens: int = 32  # most tokens of a free answer, the end token included
    stop: tuple[str, ...] = ()  # texts that end a free answer before them
    no_repeat: int = 0  # no run of so many tokens comes twice in a free answer; 0 for no such rule
    turns: Turns = ()  # earlier ones, before the prompt

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise UsageError(f"max_new_tokens must be at least 1, not {self.max_new_tokens}")


@dataclass(frozen=True)
class Answer:
    """What the LLM made of a request."""

    text: str
    score: float  # mean log-probability of the answer's tokens, the end token included when there is one
    finish_reason: Literal["eos", "length", "choice"]
    prompt_tokens: int  # tokens the answer was conditioned on, soft prompt included
    output_tokens: int  # tokens `score` is the mean of
    is_shortened: bool = False
    tie_count: int = 0
    """Decisions between two tokens or choices within 1e-4, which rounding may decide otherwise another time."""
    weights: FloatArray | None = field(default=None, compare=False, repr=False)
    """(n,) how much the plug looked at each of the user's vectors; they sum to one, or to zero without a history. None
    for an answer without a plug."""


Reason = Literal["non_finite_logits", "prompt_too_long", "empty_choice", "empty_prompt", "model_error", "no_plug"]


@dataclass(frozen=True)
class Refusal:
    """Why a request has no answer."""

    reason: Reason
    detail: str


class PromptRefused(PplugError):
    """A request that cannot be put to the LLM."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)  # what it is made from, so that Beam and pickle can make it again
        self.refusal = Refusal(reason, detail)

    def __str__(self) -> str:
        return ": ".join(map(str, self.args))


class Turn(NamedTuple):
    """What stands around the messages of a conversation with earlier turns."""

    before_answer: Ids
    """Between an earlier input and its answer."""
    behind_answer: Ids
    """Between that and the next input."""
    footer: Ids
    """Behind the last input."""


@dataclass(frozen=True)
class PromptFormat:
    """How one LLM wants its prompts."""

    tokenizer: PreTrainedTokenizerBase  # a fast tokenizer of transformers
    header: Ids
    footer: Ids
    thinking: bool = False
    """Lets the LLM think aloud before it answers, where its template has a switch for that."""

    @classmethod
    def of(
        cls, tokenizer: PreTrainedTokenizerBase, *, is_encoder_decoder: bool, thinking: bool = False
    ) -> "PromptFormat":
        """Read header and footer off the chat template, or off the tokenizer's special tokens if it has no template.

        Args:
            tokenizer: that of the LLM.
            is_encoder_decoder: whether an end token stands behind a prompt that has no template.
            thinking: lets an LLM think aloud before it answers, where its template has a switch for that.

        Raises:
            PplugError: if the template fails, or does not hold the user's text exactly once.
        """
        if tokenizer.chat_template:
            chat = rendered_chat(tokenizer, PROBE, thinking=thinking)
            if chat.count(PROBE) != 1:
                raise PplugError(f"the chat template writes the prompt {chat.count(PROBE)} times, not once")
            header, footer = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in chat.split(PROBE))
            return cls(tokenizer, tuple(header), tuple(footer), thinking)
        plain: list[int] = tokenizer(PROBE, add_special_tokens=False)["input_ids"]
        full: list[int] = tokenizer(PROBE)["input_ids"]
        starts = [at for at in range(len(full)) if full[at : at + len(plain)] == plain]
        start = starts[0] if starts else 0
        footer = full[start + len(plain) :] if is_encoder_decoder else []  # a causal LLM must not see an end token
        return cls(tokenizer, tuple(full[:start]), tuple(footer))

    def token_ids(self, text: str) -> Ids:
        """Split plain text into ids; control tokens spelled out in it, such as "<|im_end|>", stay plain text."""
        return tuple(self._plain.ids([SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)])[0])

    def stop_ids(self, stop: tuple[str, ...]) -> Ids:
        """List the tokens that hold one of these texts; what is spread over tokens is found in the answer."""
        if stop not in self._stop_ids:
            texts = self.tokenizer.batch_decode([[token] for token in range(len(self.tokenizer))]) if stop else ()
            self._stop_ids[stop] = tuple(at for at, text in enumerate(texts) if any(one in text for one in stop))
        return self._stop_ids[stop]

    @cached_property
    def turn(self) -> Turn:
        """What stands around the messages of a conversation.

        As the chat template writes it; without a template, or with one that does not write earlier answers as they are,
        line breaks, or other marks where the tokenizer has none.
        """
        line, blank = self.token_ids("\n") or self.token_ids(":"), self.token_ids("\n\n") or self.token_ids("|")
        if not self.tokenizer.chat_template:
            return Turn(line, blank, line + self.footer)
        return self._templated_turn() or Turn(line, blank, self.footer)

    def _templated_turn(self) -> Turn | None:
        try:
            chat = rendered_chat(self.tokenizer, PROBE, ANSWER_PROBE, PROBE, thinking=self.thinking)
        except PplugError:  # some templates take one message only
            return None
        if re.findall(f"{PROBE}|{ANSWER_PROBE}", chat) != [PROBE, ANSWER_PROBE, PROBE]:
            return None
        texts = re.split(f"{PROBE}|{ANSWER_PROBE}", chat)
        ids = [tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
        if (ids[0], ids[3]) != (self.header, self.footer):
            return None
        # A space before an earlier answer belongs to its first token, as in the answer to come.
        before_answer = self.footer if texts[1].rstrip(" ") == texts[3].rstrip(" ") else ids[1]
        return Turn(before_answer, ids[2], self.footer)

    def turn_ids(self, turns: Turns) -> Ids:
        """What stands between header and input of a conversation with earlier turns."""
        found = [
            (*self.token_ids(said), *self.turn.before_answer, *self.token_ids(answer), *self.turn.behind_answer)
            for said, answer in turns
        ]
        return tuple(chain.from_iterable(found))

    @cached_property
    def _stop_ids(self) -> dict[tuple[str, ...], Ids]:
        return {}

    @cached_property
    def _plain(self) -> PlainTextTokenizer:
        return PlainTextTokenizer(self.tokenizer)

    def parts(self, prompt: str, placement: Placement, room: int, turns: Turns = ()) -> PromptParts:
        """Cut a prompt around the place of the soft prompt.

        Args:
            prompt: the task's input.
            placement: where the soft prompt goes.
            room: tokens that header, turns, input and footer may take together. A longer input loses its middle:
                what is asked stands at either end of it.
            turns: earlier ones, never cut.

        Raises:
            PromptRefused: empty_prompt, or prompt_too_long if not even one token of the input fits.
        """
        ids = self.token_ids(prompt)
        if not prompt.strip() or not ids:
            raise PromptRefused("empty_prompt", "the task's input is empty")
        header, footer = self.header + self.turn_ids(turns), self.turn.footer if turns else self.footer
        room -= len(header) + len(footer)
        if room < 1:
            raise PromptRefused("prompt_too_long", f"{len(ids)} tokens of input, but the context has room for {room}")
        shortened = shorten_middle(ids, room)
        is_shortened = len(shortened) < len(ids)
        if placement is Placement.BEFORE:
            return PromptParts(header, shortened + footer, is_shortened)
        return PromptParts(header + shortened + footer, (), is_shortened)


def before_stop(text: str, stop: Sequence[str]) -> str:
    """Cut a text at the first of the texts that end it."""
    return text[: min((at for one in stop if (at := text.find(one)) >= 0), default=len(text))]


def shorten_middle(ids: Ids, length: int) -> Ids:
    """Keep the first and the last of `ids`, `length` in all; everything if it fits."""
    if len(ids) <= length:
        return ids
    tail = length // 2
    return ids[: length - tail] + ids[len(ids) - tail :]
