"""Put the user's own items into the prompt: the newest, or those nearest to the task.

    items ─▶ rank (recency, BM25, cosine) ─▶ the k first ─▶ their texts cut to fit ─┬─▶ LaMP's prompt
                                                                                    └─▶ turns (llm_jobs/turns.py)

An item is cut at the end of its text, its output and the task itself never are.
"""

import logging
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from llm_jobs.frozen_llm import FrozenLLM
from llm_jobs.kinds import Kind
from llm_jobs.tasks import Pair
from llm_jobs.training.data import Example
from llm_jobs.training.fit import SOFT_ROOM
from llm_jobs.turns import ITEM_TOKENS, STOP_SHARE, answer_tokens, cut_texts, few_shot, fits, may_be_turn
from pipelines.baselines.cases import Case, Item
from pipelines.baselines.extra import required
from pipelines.tables import Row

Ranking = Callable[[Case], list[Item]]
"""A user's items, best first."""


def by_recency(case: Case) -> list[Item]:
    """The newest first; of equal times the last id."""
    return sorted(case.items, key=lambda item: (item.posted_at, item.item_id), reverse=True)


def by_cosine(case: Case) -> list[Item]:
    """The nearest first, by the stored vectors, which are of text and output; of equally near ones the newest."""
    newest = by_recency(case)
    return [newest[at] for at in descending([float(item.vector @ case.personal.task) for item in newest])]


def by_bm25(kind: Kind) -> Ranking:
    """The best match first, of text with task; of equal ones the newest.

    Lucene's BM25 (idf never negative, k1 = 1.5, b = .75) over the user's own items. LaMP splits at blanks and keeps
    case; words in lower case match better, and the baseline shall be strong.
    """

    def rank(case: Case) -> list[Item]:
        newest = by_recency(case)
        query = words(kind.query(case.task.input) or case.task.input)
        scores = bm25_scores([item.text for item in newest], query)
        return [newest[at] for at in descending(scores)]

    return rank


def descending(scores: Sequence[float]) -> list[int]:
    """Places of the scores, highest first; equal ones in their own order."""
    return sorted(range(len(scores)), key=lambda at: -scores[at])


def words(text: str) -> list[str]:
    """Words in lower case."""
    return re.findall(r"\w+", text.lower())


def bm25_scores(texts: Sequence[str], query: Sequence[str]) -> list[float]:
    """BM25 of each text; 0 for one without a word of the query."""
    corpus = [words(text) for text in texts]
    known = {word for text in corpus for word in text}
    asked = [word for word in query if word in known]
    if not asked:
        return [0.0] * len(texts)
    bm25s: Any = required("bm25s")
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it sets DEBUG itself, and tells of every index
    index = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
    index.index(corpus, show_progress=False)
    return [float(score) for score in np.asarray(index.get_scores(asked))]


def retrieved_prompt(case: Case, items: Sequence[Item], kind: Kind, llm: FrozenLLM, soft: int) -> str:
    """The task's prompt with the items before it, as many and as much of them as the context has room for.

    Args:
        case: the task.
        items: best first.
        kind: says how items and task stand in the prompt.
        llm: whose tokens and context count.
        soft: soft prompt vectors that must fit too.
    """
    return fitting_prompt(case.task.input, items_of(items), kind, llm, soft + answer_tokens(llm, case.personal))


def items_of(items: Sequence[Item]) -> list[Pair]:
    """Text and output of each."""
    return [(item.text, item.output) for item in items]


def fitting_prompt(asked: str, items: Sequence[Pair], kind: Kind, llm: FrozenLLM, reserve: int) -> str:
    """The same of a prompt and items' texts and outputs, where so many tokens must fit behind it."""

    def takes(pairs: Sequence[Pair]) -> bool:
        return fits(kind.with_retrieved(pairs, asked), llm, reserve)

    return kind.with_retrieved(fitting(items, llm, takes), asked)


def fitting(items: Sequence[Pair], llm: FrozenLLM, takes: Callable[[Sequence[Pair]], bool]) -> Sequence[Pair]:
    """As many of the items, best first, and as much of their texts as is taken; none where not even one is."""
    if not takes([]):
        return []
    for count in range(len(items), 0, -1):
        room = count * ITEM_TOKENS
        texts = [text for text, _ in items[:count]]
        ids = [llm.format.token_ids(text) for text in texts]
        while room:
            cut = cut_texts(texts, ids, room, llm)
            pairs = [(text, output) for text, (_, output) in zip(cut, items, strict=False)]
            if takes(pairs):
                return pairs
            room = int(room * STOP_SHARE)
    return []


@dataclass(frozen=True, eq=False)
class WithItems:
    """Makes training examples with items of their own history in the prompt, as `retrieved_prompt` and `few_shot`."""

    items: Sequence[Row]
    """All items of all users, sorted by user and then by time."""
    kinds: Mapping[str, Kind]
    """The known ones; items of others are in no history."""
    kind: Kind
    """Of the examples; items of other kinds are in no prompt."""
    llm: FrozenLLM
    """Whose tokens and context count."""
    soft: int
    """Soft prompt vectors that must fit too."""

    def nearest(self, examples: Sequence[Example]) -> list[Example]:
        """With the nearest item in the prompt; examples without such a history as they are."""

        def worded(example: Example, pairs: Sequence[Pair]) -> Example:
            prompt = fitting_prompt(example.prompt, pairs[:1], self.kind, self.llm, self._reserve(example))
            return replace(example, prompt=prompt)

        return [worded(example, pairs) if pairs else example for example, pairs in self._nearest(examples)]

    def few_shot(self, examples: Sequence[Example], count: int) -> list[Example]:
        """With the nearest items as earlier turns; examples without such a history as they are."""

        def worded(example: Example, pairs: Sequence[Pair]) -> Example:
            asked = self.kind.query(example.prompt) or example.prompt
            usable = [pair for pair in pairs if may_be_turn(pair, asked)]
            shot = few_shot(example.prompt, asked, usable, self.llm, self._reserve(example), count)
            return replace(example, prompt=shot.prompt, turns=shot.turns)

        return [worded(example, pairs) if pairs else example for example, pairs in self._nearest(examples)]

    def _reserve(self, example: Example) -> int:
        return max(self.soft, SOFT_ROOM) + len(self.llm.answer_ids(example.target))

    def _nearest(self, examples: Sequence[Example]) -> Iterator[tuple[Example, list[Pair]]]:
        """Each example with the items of its history that have an output, the nearest first."""
        of_user = defaultdict[str, list[Row]](list)
        for item in self.items:
            if item["kind"] in self.kinds:
                of_user[item["user_id"]].append(item)
        for example in examples:
            past = of_user[example.user_id][: len(example.history)]
            usable = [at for at, item in enumerate(past) if item["kind"] == self.kind.name and item["output"]]
            near = sorted(usable, key=lambda at: (float(example.history[at] @ example.task), at), reverse=True)
            yield example, [(past[at]["text"], past[at]["output"]) for at in near]
