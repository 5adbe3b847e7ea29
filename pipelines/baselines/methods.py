"""What answers a task in a comparison, made of a plug, of the user's items or of past labels.

cases ─▶ requests: which prompt, whose history, which plug ─▶ FrozenLLM.answer ─┐
cases ─▶ texts: past labels, no LLM ────────────────────────────────────────────┴─▶ answers
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from embedder.plug import PersonaPlug
from llm_jobs.answers import personal_requests, plain_requests, soft_requests
from llm_jobs.closed import chosen_labels
from llm_jobs.frozen_llm import FrozenLLM
from llm_jobs.kinds import Kind
from llm_jobs.prompts import Placement, Request
from llm_jobs.tasks import AnsweringLLM, PersonalTask
from llm_jobs.turns import answer_tokens, few_shot, may_be_turn
from pipelines.answers.queue import pairs_of
from pipelines.baselines.cases import Case, Item
from pipelines.baselines.kept import (
    NUMBER_BYTES,
    Kept,
    kept_items,
    kept_labelled_vectors,
    kept_nothing,
    kept_persona,
    kept_persona_and_items,
)
from pipelines.baselines.labels import LabelRegression
from pipelines.baselines.retrieval import Ranking, by_cosine, items_of, retrieved_prompt
from pipelines.baselines.style import steered_answers
from pipelines.personas.stored import Persona

Whose = Callable[[Case], Sequence[Persona]]
"""The personas to answer a case with: one answer each."""


@dataclass(frozen=True, eq=False)
class TrainedPlug:
    """A plug and what it cost."""

    plug: PersonaPlug
    seconds: float | None
    """Time of its training; None where training.json does not say."""
    seen: Callable[[PersonalTask, str], PersonalTask] = lambda task, _: task
    """How the plug sees a task of a user."""

    @property
    def parameters(self) -> int:
        """Trained numbers."""
        return sum(weight.numel() for weight in self.plug.parameters())


@dataclass(frozen=True, eq=False)
class BaselineContext:
    """What methods of one kind are built from."""

    kind: Kind
    llm: AnsweringLLM
    """Its tokens count in the prompts of retrieval, and plugs with labels may see its values."""
    plugs: Mapping[str, TrainedPlug]
    """By the names that methods have for them: an aggregation, or another of `pipelines.baselines.registry`."""
    regression: LabelRegression | None = None
    common_label: str = ""
    """Everybody's most frequent label: the answer where a user has none."""


def own_history(case: Case) -> Sequence[Persona]:
    """The user's own."""
    return (case.task.persona,)


def no_history(case: Case) -> Sequence[Persona]:
    """As if the user had none."""
    return (Persona.empty(case.task.history.vectors.shape[1]),)


def others_histories(case: Case) -> Sequence[Persona]:
    """Those of other users."""
    return case.others


def known_of(case: Case, persona: Persona, kind: Kind) -> PersonalTask:
    """The case's task as if its user had a persona."""
    return replace(case.personal, history=persona.history, pairs=pairs_of(persona, kind))


@dataclass(frozen=True, eq=False)
class Method:
    """One way to answer: either with `requests` to the frozen LLM, or with `texts` of its own."""

    parameters: int = 0
    seconds: float | None = 0.0
    """Time of training; None where it is not known."""
    user_bytes: Kept = kept_nothing
    placement: Placement = Placement.AFTER
    draws: int = 1
    """Answers to each case; their mean counts."""
    requests: Callable[[Sequence[Case]], list[Request]] | None = None
    """All cases of the first draw, then all of the second, and so on."""
    texts: Callable[[Sequence[Case]], list[str]] | None = None


Build = Callable[[BaselineContext], Method]


def plug_method(name: str, whose: Whose = own_history, *, draws: int = 1, kept: Kept = kept_persona) -> Build:
    """Answer with a plug, and with the persona that `whose` gives."""

    def build(context: BaselineContext) -> Method:
        trained = context.plugs[name]

        def tasks_of(cases: Sequence[Case]) -> list[PersonalTask]:
            given = [known_of(case, whose(case)[draw], context.kind) for draw in range(draws) for case in cases]
            return [trained.seen(task, case.task.user_id) for task, case in zip(given, [*cases] * draws, strict=True)]

        def requests(cases: Sequence[Case]) -> list[Request]:
            return personal_requests(context.llm, trained.plug, tasks_of(cases))[0]

        def labels(cases: Sequence[Case]) -> list[str]:
            return chosen_labels(context.llm, trained.plug, tasks_of(cases))

        config = trained.plug.config
        stored = kept_persona_and_items if config.turns and kept is kept_persona else kept
        if config.labels:
            return Method(trained.parameters, trained.seconds, stored, draws=draws, texts=labels)
        return Method(trained.parameters, trained.seconds, stored, Placement(config.placement), draws, requests)

    return build


def retrieval_method(rank: Callable[[Kind], Ranking], count: int, kept: Kept) -> Build:
    """Put the best of the user's own items into the prompt; no soft prompt."""

    def build(context: BaselineContext) -> Method:
        ranking = rank(context.kind)
        return Method(
            user_bytes=kept,
            requests=lambda cases: plain_requests(with_items(cases, ranking, count, context, soft=0)),
        )

    return build


def few_shot_method(count: int) -> Build:
    """Let the user's nearest items be earlier turns of the conversation; no soft prompt."""

    def build(context: BaselineContext) -> Method:
        def requests(cases: Sequence[Case]) -> list[Request]:
            return with_turns(cases, without_persona(cases), count, context)

        return Method(user_bytes=kept_items, requests=requests)

    return build


def few_shot_plug_method(name: str, count: int, whose: Whose, kept: Kept) -> Build:
    """A plug that was trained with such turns."""

    def build(context: BaselineContext) -> Method:
        trained = context.plugs[name]

        def requests(cases: Sequence[Case]) -> list[Request]:
            given = [known_of(case, whose(case)[0], context.kind) for case in cases]
            return with_turns(cases, soft_requests(trained.plug, given)[0], count, context)

        placement = Placement(trained.plug.config.placement)
        return Method(trained.parameters, trained.seconds, kept, placement, requests=requests)

    return build


def with_turns(
    cases: Sequence[Case], requests: Sequence[Request], count: int, context: BaselineContext
) -> list[Request]:
    """The requests with the nearest of the user's own items that have an output as earlier turns."""

    def worded(case: Case, request: Request) -> Request:
        asked, llm = case.personal.query, context.llm
        nearest = items_of(by_cosine(replace(case, items=case.labelled)))
        usable = [pair for pair in nearest if may_be_turn(pair, asked)]
        soft = 0 if request.soft_prompt is None else len(request.soft_prompt)
        shot = few_shot(case.task.input, asked, usable, llm, soft + answer_tokens(llm, case.personal), count)
        return replace(request, prompt=shot.prompt, turns=shot.turns)

    return [worded(case, request) for case, request in zip(cases, requests, strict=True)]


def nearest_method(name: str, whose: Whose = own_history) -> Build:
    """A plug, and the user's one nearest item in the prompt."""

    def build(context: BaselineContext) -> Method:
        trained = context.plugs[name]

        def requests(cases: Sequence[Case]) -> list[Request]:
            tasks = with_items(cases, by_cosine, 1, context, trained.plug.config.soft_count)
            given = [replace(task, history=whose(case)[0].history) for task, case in zip(tasks, cases, strict=True)]
            return soft_requests(trained.plug, given)[0]

        placement = Placement(trained.plug.config.placement)
        return Method(trained.parameters, trained.seconds, kept_persona_and_items, placement, requests=requests)

    return build


def with_items(
    cases: Sequence[Case], rank: Ranking, count: int, context: BaselineContext, soft: int
) -> list[PersonalTask]:
    """The tasks with the best of the user's own items in their prompts."""

    def prompt(case: Case) -> str:
        items: list[Item] = [item for item in rank(case) if item.output or not needs_output]
        assert isinstance(context.llm, FrozenLLM), "no method retrieves for another engine"
        return retrieved_prompt(case, items[:count], context.kind, context.llm, soft)

    needs_output = "{output}" in context.kind.retrieved_item

    return [replace(case.personal, prompt=prompt(case)) for case in cases]


def style_method(context: BaselineContext) -> Method:
    """The LLM, steered by what sets the user's texts apart from its own."""
    assert isinstance(context.llm, FrozenLLM), "no method steers another engine"
    width = context.llm.width
    return Method(user_bytes=lambda _: NUMBER_BYTES * width, texts=steered_answers(context.llm, context.kind))


def without_persona(cases: Sequence[Case]) -> list[Request]:
    """The tasks as they are."""
    return plain_requests([case.personal for case in cases])


def label_method(answers: Callable[[Sequence[Case], str], list[str]], kept: Kept) -> Build:
    """Answer with the user's past labels, or with everybody's most frequent one."""
    return lambda context: Method(user_bytes=kept, texts=lambda cases: answers(cases, context.common_label))


def regression_method(context: BaselineContext) -> Method:
    """A logistic regression on the task's vector, the shares of the user's past labels and their vote."""
    regression = context.regression
    assert regression is not None
    return Method(regression.parameters, regression.seconds, kept_labelled_vectors, texts=regression.answers)
