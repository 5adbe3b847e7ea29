"""Let a user's own items stand before a task as earlier turns of the conversation.

    items, best first ─▶ those that fit, their texts cut ─▶ turns, the best last ─▶ Request

In each turn the user says an item's text and the LLM answers with what the user produced for it. A small chat model
reads examples so, and hardly in any other wording (docs/experiments.md, 2026-11-29).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np

from embedder.compact import FloatArray
from llm_jobs.prompts import Ids, Placement, PromptRefused, Request, Turns
from llm_jobs.tasks import AnsweringLLM, Pair, PersonalTask

ITEM_TOKENS: Final = 256
"""Tokens that the text of an item may take; what one leaves unused goes to the next. LaMP's whole prompt has 256."""

ITEM_LETTERS: Final = 16 * ITEM_TOKENS
"""Letters of an item's text that are read at all: what four items' tokens hold in English."""

STOP_SHARE: Final = 0.9
"""A prompt that is still too long is tried again with this share of the tokens for its items."""


def with_turns(llm: AnsweringLLM, task: PersonalTask, request: Request, count: int) -> tuple[Request, FloatArray]:
    """A request with at most `count` of the nearest items as earlier turns, and how much each vector counts in it.

    Returns:
        The request, as it was without an item that fits.
        (n,) equal shares of the history's vectors whose items became turns, 0 for the others.
    """
    nearest = nearest_pairs(task)
    soft = 0 if request.soft_prompt is None else len(request.soft_prompt)
    pairs = [task.pairs[at] or ("", None) for at in nearest]
    shot = few_shot(task.prompt, task.query, pairs, llm, soft + answer_tokens(llm, task), count)
    weights = np.zeros(len(task.history.vectors), np.float32)
    weights[[nearest[place] for place in shot.places]] = 1 / max(1, len(shot.places))
    return replace(request, prompt=shot.prompt, turns=shot.turns), weights


def nearest_pairs(task: PersonalTask) -> list[int]:
    """Places of the history's vectors whose item may be a turn, the nearest first, of equal ones the newest.

    A vector that stands for several items is asked for by its most typical one.
    """
    usable = [at for at, pair in enumerate(task.pairs) if pair is not None and may_be_turn(pair, task.query)]
    vectors = task.history.vectors
    lengths = np.maximum(np.linalg.norm(vectors, axis=1), 1e-12)
    scores = vectors @ task.task / lengths
    return sorted(usable, key=lambda at: (float(scores[at]), at), reverse=True)


def may_be_turn(pair: Pair, asked: str) -> bool:
    """Whether an item has a text and an output, and is not what is asked, which would be answered by copying."""
    text, output = pair[0].strip()[:ITEM_LETTERS], (pair[1] or "").strip()
    return bool(text and output) and text != asked.strip()[:ITEM_LETTERS]


def answer_tokens(llm: AnsweringLLM, task: PersonalTask) -> int:
    """Most tokens that an answer takes."""
    return max((len(llm.answer_ids(choice)) for choice in task.choices or ()), default=task.max_new_tokens)


class FewShot(NamedTuple):
    """What is asked, and what stands before it."""

    prompt: str
    turns: Turns
    places: Sequence[int]
    """Places of the items that became turns, the best first."""


def few_shot(prompt: str, asked: str, items: Sequence[Pair], llm: AnsweringLLM, reserve: int, count: int) -> FewShot:
    """A task as one more turn of a conversation, and the turns before it, the best item last.

    An item whose output leaves no room for its text is passed over, and the next one takes its place; where the
    context has no room for all, the worst ones go. Texts are cut at their end, outputs and the task itself never are.

    Args:
        prompt: what is asked where no item fits.
        asked: what is asked where one does: the prompt without what its kind knows as instruction.
        items: text and output, best first.
        llm: whose tokens and context count.
        reserve: tokens that must fit behind it.
        count: most items.
    """
    form = llm.reader.format
    room = turns_room(asked, llm, reserve)
    around = len(form.turn.before_answer) + len(form.turn.behind_answer)
    places, sizes = list[int](), list[int]()
    for place, (_, output) in enumerate(items):
        if len(places) == count:
            break
        size = around + len(form.token_ids((output or "").strip()))
        if size < room:
            places.append(place)
            sizes.append(size)
    while places:
        chosen = [items[place] for place in places]
        left = min(len(places) * ITEM_TOKENS, room - sum(sizes))
        if turns := fitting_turns(asked, chosen, llm, reserve, left):
            return FewShot(asked, turns, places)
        places, sizes = places[:-1], sizes[:-1]
    return FewShot(prompt, (), ())


def turns_room(asked: str, llm: AnsweringLLM, reserve: int) -> int:
    """Tokens that earlier turns may take before what is asked; less than 1 where it fills the context by itself."""
    form = llm.reader.format
    return llm.context_length - reserve - len(form.header) - len(form.token_ids(asked)) - len(form.turn.footer)


def fitting_turns(asked: str, items: Sequence[Pair], llm: AnsweringLLM, reserve: int, room: int) -> Turns:
    """The items as turns, the first one last, with at most `room` tokens of text; none where a text would be empty."""
    texts = [text.strip()[:ITEM_LETTERS] for text, _ in items]
    ids = [llm.reader.format.token_ids(text) for text in texts]
    while room > 0 and all(cut := cut_texts(texts, ids, room, llm)):
        turns = turns_of([(text, output) for text, (_, output) in zip(cut, items, strict=True)])
        if fits(asked, llm, reserve, turns):
            return turns
        room = int(room * STOP_SHARE)  # what was cut may have more tokens by itself
    return ()


def turns_of(pairs: Sequence[Pair]) -> Turns:
    """The pairs as turns, the first one last."""
    return tuple((text.strip(), (output or "").strip()) for text, output in reversed(pairs))


def fits(prompt: str, llm: AnsweringLLM, reserve: int, turns: Turns = ()) -> bool:
    """Whether the LLM can read all of the prompt, and of the turns before it."""
    try:
        return not llm.parts(prompt, Placement.AFTER, reserve, turns).is_shortened
    except PromptRefused:
        return False


def cut_texts(texts: Sequence[str], ids: Sequence[Ids], room: int, llm: AnsweringLLM) -> list[str]:
    """The texts with at most `room` tokens in all: equal shares, and what one leaves unused goes to the next.

    Args:
        texts: what is cut at the end.
        ids: the tokens of each.
        room: tokens.
        llm: whose tokens they are.
    """
    cut: list[str] = []
    for at, (text, own) in enumerate(zip(texts, ids, strict=True)):
        share = room // (len(texts) - at)
        cut.append(text if len(own) <= share else beginning(text, own[:share], llm))
        room -= min(len(own), share)
    return cut


def beginning(text: str, ids: Ids, llm: AnsweringLLM) -> str:
    """What the first tokens of a text say, without half a character at its end."""
    decoded = str(llm.reader.format.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))
    return text[: len(decoded.rstrip("\N{REPLACEMENT CHARACTER}"))].rstrip()
