"""Answer all cases in all arms, and measure what an answer costs.

    first chunk of cases ─▶ arm by arm, timed ────────────┐
    other chunks ─▶ all arms in one call of the LLM, so ──┴─▶ Arm: answers, prompt tokens, answers per second
                    that equal prompts are read once

What is answered beside it changes an answer only where tokens are within rounding (`FrozenLLM.answer`), so both ways
give the same answers but for such ties. Only texts and numbers are kept of a chunk.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from llm_jobs.metrics import Scored
from llm_jobs.prompts import Answer, Placement, Refusal, Request
from llm_jobs.tasks import AnsweringLLM
from pipelines.baselines.cases import Case
from pipelines.baselines.methods import Method
from pipelines.nights.runs import Progress

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Arm:
    """What a method answered, and what it cost."""

    parameters: int = 0
    """Trained numbers behind one answer."""
    train_seconds: float | None = None
    scored: dict[str, list[Scored]] = field(default_factory=dict[str, list[Scored]])
    """By task: one answer for each draw. A refused one counts as wrong."""
    user_bytes: dict[str, int] = field(default_factory=dict[str, int])
    """By user: bytes kept of him."""
    prompt_tokens: int = 0
    read_count: int = 0
    """Answers that `prompt_tokens` are of."""
    shortened_count: int = 0
    """Answers to prompts that lost their middle."""
    timed_count: int = 0
    seconds: float = 0.0
    """Time of the answers that were timed."""

    def add(self, case: Case, text: str, user_bytes: int) -> None:
        """Keep an answer."""
        task = case.task
        scored = Scored.of(task.user_id, text, task.reference or "", task.choices)
        self.scored.setdefault(task.task_id, []).append(scored)
        self.user_bytes[task.user_id] = user_bytes

    def add_all(self, other: "Arm") -> None:
        """Add the answers of another training, or to other tasks."""
        for task, answers in other.scored.items():
            self.scored.setdefault(task, []).extend(answers)
        self.user_bytes |= other.user_bytes
        self.parameters = other.parameters
        self.train_seconds = other.train_seconds
        self.prompt_tokens += other.prompt_tokens
        self.read_count += other.read_count
        self.timed_count += other.timed_count
        self.seconds += other.seconds

    @property
    def answers(self) -> list[Scored]:
        """Every answer, all draws of a task one after the other."""
        return [answer for task in self.scored.values() for answer in task]

    @property
    def costs(self) -> dict[str, float | int | None]:
        """The columns of `evaluations` that are about cost."""
        return {
            "parameters": self.parameters,
            "train_seconds": self.train_seconds,
            "user_bytes": round(sum(self.user_bytes.values()) / max(1, len(self.user_bytes))),
            "mean_prompt_tokens": self.prompt_tokens / self.read_count if self.read_count else 0.0,
            "answers_per_second": self.timed_count / self.seconds if self.seconds else None,
        }


def answer_arms(
    chunks: Iterable[Sequence[Case]], methods: Mapping[str, Method], llm: AnsweringLLM, total: int, progress: Progress
) -> dict[str, Arm]:
    """The answers of every method to every case.

    Args:
        chunks: the cases, a few at a time.
        methods: by the name of their arm.
        llm: the frozen LLM.
        total: how many cases there are.
        progress: told of the cases done.
    """
    arms = {name: Arm(method.parameters, method.seconds) for name, method in methods.items()}
    progress("compared tasks", done := 0, total)  # the first chunk may take minutes
    for cases in chunks:
        if not cases:
            continue
        if done:
            answer_chunk(cases, methods, arms, llm)
        else:
            answer_timed(cases, methods, arms, llm)
        done += len(cases)
        progress("compared tasks", done, total)
    return arms


def tell_of_shortened(arms: Iterable[Arm]) -> int:
    """Count the answers to prompts that lost their middle, and warn if there are any."""
    found = list(arms)
    count = sum(arm.shortened_count for arm in found)
    if count:
        told = "%d of %d answers are to prompts that lost their middle to fit the LLM's context"
        logger.warning(told, count, sum(arm.read_count for arm in found))
    return count


def answer_timed(
    cases: Sequence[Case], methods: Mapping[str, Method], arms: Mapping[str, Arm], llm: AnsweringLLM
) -> None:
    """Answer arm by arm. What the first arm would pay for all, memory that is touched first, is paid before."""
    answer_chunk(cases[:1], methods, {name: Arm() for name in methods}, llm)
    for name, method in methods.items():
        start = time.perf_counter()
        answer_chunk(cases, {name: method}, arms, llm)
        arms[name].seconds += time.perf_counter() - start
        arms[name].timed_count += len(cases) * method.draws


def answer_chunk(
    cases: Sequence[Case], methods: Mapping[str, Method], arms: Mapping[str, Arm], llm: AnsweringLLM
) -> None:
    """Answer cases in all arms, those of one placement in one call."""
    asked = defaultdict[Placement, list[tuple[str, Case, Request]]](list)
    for name, method in methods.items():
        if method.texts is not None:
            for at, text in enumerate(method.texts(cases)):
                case = cases[at % len(cases)]
                arms[name].add(case, text, method.user_bytes(case))
        if method.requests is not None:
            requests = method.requests(cases)
            asked[method.placement] += [(name, cases[at % len(cases)], request) for at, request in enumerate(requests)]
    for placement, entries in asked.items():
        answers = llm.answer([request for _, _, request in entries], placement)
        for (name, case, _), answer in zip(entries, answers, strict=True):
            keep_answer(arms[name], case, answer, methods[name].user_bytes(case))


def keep_answer(arm: Arm, case: Case, answer: Answer | Refusal, user_bytes: int) -> None:
    """Count an answer of the LLM."""
    if isinstance(answer, Refusal):
        return arm.add(case, "", user_bytes)
    arm.add(case, answer.text, user_bytes)
    arm.prompt_tokens += answer.prompt_tokens
    arm.read_count += 1
    arm.shortened_count += answer.is_shortened
    return None
