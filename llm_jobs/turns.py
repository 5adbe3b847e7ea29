"""Let a user's own items stand before a task as earlier turns of the conversation.

    items, best first ─▶ as many as fit, their texts cut ─▶ turns, the best last ─▶ Request

In each turn the user says an item's text and the LLM answers with what the user produced for it. A small chat model
reads examples so, and hardly in any other wording (docs/experiments.md, 2026-11-29).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from embedder.compact import FloatArray
from llm_jobs.prompts import Placement, PromptRefused, Request, Turns
from llm_jobs.tasks import AnsweringLLM, Pair, PersonalTask

ITEM_TOKENS = 256
"""Tokens that the text of an item may take; what one leaves unused goes to the next. LaMP's whole prompt has 256."""

STOP_SHARE = 0.9
"""A prompt that is still too long is tried again with this share of the tokens for its items."""


def with_turns(llm: AnsweringLLM, task: PersonalTask, request: Request, count: int) -> tuple[Request, FloatArray]:
    """A request with at most `count` of the nearest items as earlier turns, and how much each vector counts in it.

    Returns:
        The request, as it was without an item that fits.
        (n,) equal shares of the history's vectors whose items became turns, 0 for the others.
    """
    nearest = nearest_pairs(task)[:count]
    soft = 0 if request.soft_prompt is None else len(request.soft_prompt)
    pairs = [task.pairs[at] or ("", None) for at in nearest]
    prompt, turns = few_shot(task.prompt, task.query, pairs, llm, soft + answer_tokens(llm, task))
    weights = np.zeros(len(task.history.vectors), np.float32)
    weights[nearest[: len(turns)]] = 1 / max(1, len(turns))
    return replace(request, prompt=prompt, turns=turns), weights


def nearest_pairs(task: PersonalTask) -> list[int]:
    """Places of the history's vectors whose item has a text and an output, the nearest first, of equal ones the newest.

    A vector that stands for several items is asked for by its most typical one.
    """
    usable = [at for at, pair in enumerate(task.pairs) if pair is not None and pair[0].strip() and pair[1]]
    vectors = task.history.vectors
    lengths = np.maximum(np.linalg.norm(vectors, axis=1), 1e-12)
    scores = vectors @ task.task / lengths
    return sorted(usable, key=lambda at: (float(scores[at]), at), reverse=True)


def answer_tokens(llm: AnsweringLLM, task: PersonalTask) -> int:
    """Most tokens that an answer takes."""
    return max((len(llm.answer_ids(choice)) for choice in task.choices or ()), default=task.max_new_tokens)


def few_shot(prompt: str, asked: str, items: Sequence[Pair], llm: AnsweringLLM, reserve: int) -> tuple[str, Turns]:
    """A task as one more turn of a conversation, and the turns before it, the best item last.

    Args:
        prompt: what is asked where no item fits.
        asked: what is asked where one does: the prompt without what its kind knows as instruction.
        items: text and output, best first.
        llm: whose tokens and context count.
        reserve: tokens that must fit behind it.
    """

    def takes(pairs: Sequence[Pair]) -> bool:
        return all(text for text, _ in pairs) and fits(asked, llm, reserve, turns_of(pairs))

    found = fitting(items, llm, takes)
    return (asked, turns_of(found)) if found else (prompt, ())


def turns_of(pairs: Sequence[Pair]) -> Turns:
    """The pairs as turns, the first one last."""
    return tuple((text.strip(), (output or "").strip()) for text, output in reversed(pairs))


def fitting(items: Sequence[Pair], llm: AnsweringLLM, takes: Callable[[Sequence[Pair]], bool]) -> Sequence[Pair]:
    """As many of the items, best first, and as much of their texts as is taken; none where not even one is."""
    if not takes([]):
        return []
    for count in range(len(items), 0, -1):
        room = count * ITEM_TOKENS
        while room:
            texts = cut_texts([text for text, _ in items[:count]], room, llm)
            pairs = [(text, output) for text, (_, output) in zip(texts, items, strict=False)]
            if takes(pairs):
                return pairs
            room = int(room * STOP_SHARE)
    return []


def fits(prompt: str, llm: AnsweringLLM, reserve: int, turns: Turns = ()) -> bool:
    """Whether the LLM can read all of the prompt, and of the turns before it."""
    try:
        return not llm.parts(prompt, Placement.AFTER, reserve, turns).is_shortened
    except PromptRefused:
        return False


def cut_texts(texts: Sequence[str], room: int, llm: AnsweringLLM) -> list[str]:
    """The texts with at most `room` tokens in all: equal shares, and what one leaves unused goes to the next."""
    cut: list[str] = []
    for at, text in enumerate(texts):
        share = room // (len(texts) - at)
        ids = llm.reader.format.token_ids(text)
        cut.append(text if len(ids) <= share else beginning(text, ids[:share], llm))
        room -= min(len(ids), share)
    return cut


def beginning(text: str, ids: tuple[int, ...], llm: AnsweringLLM) -> str:
    """What the first tokens of a text say, without half a character at its end."""
    decoded = str(llm.reader.format.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))
    return text[: len(decoded.rstrip("\N{REPLACEMENT CHARACTER}"))].rstrip()
