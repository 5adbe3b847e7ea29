"""What data allow before a training, what came of it, and what comes next, in a sentence each.

The numbers of examples and users are those of "How many examples a plug takes" in docs/quality.md.
"""

import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, Final

from llm_jobs.training.checkpoint import EpochLoss

CLOSED: Final = (200, 10)
"""Examples and users from which on a plug of labels was of use."""
FREE: Final = (5_700, 122)
"""The same of headlines, the only free answers that were measured to be personal."""


def what_data_allow(example_count: int, user_count: int, *, is_closed: bool) -> str:
    """Say before a training whether the examples are enough."""
    examples, users = CLOSED if is_closed else FREE
    told = f"{example_count:,} examples of {user_count:,} users"
    least = f"{examples:,} examples of {users:,} users"
    is_enough = example_count >= examples and user_count >= users
    if is_closed and is_enough:
        return f"{told}: enough to learn from (plugs helped from {least} on in our measurements)"
    if is_closed:
        return f"{told}: few; plugs began to be of use at about {least} in our measurements"
    shown = f"about {least} made headlines a little personal in our measurements"
    if is_enough:
        return f"{told}: may be enough; {shown}"
    return f"{told}: few; {shown}, fewer were not shown to; --aggregation turns takes none"


def without_plug_name(*, is_closed: bool) -> str:
    """What the loss without a plug is of."""
    return "guessing as often as each label occurs" if is_closed else "the language model alone"


def training_verdict(
    losses: Sequence[EpochLoss],
    held_out_users: int,
    without: float | None,
    without_history: float | None,
    *,
    is_closed: bool,
) -> str:
    """Say what came of a training.

    Args:
        losses: of each epoch.
        held_out_users: users whose examples only measured; their loss is what counts.
        without: the loss without a plug on the same examples; None if it is not known.
        without_history: the plug's loss on them as if these users were new; None if it is not known.
        is_closed: answers are labels.
    """
    if not held_out_users:
        return "Nobody was held out, so this tells nothing about users that the plug has not met."
    best = min(loss.held_out for loss in losses)
    told = f"On {held_out_users:,} users that it had not met the plug's loss is {best:.3f}"
    if without is None:
        return f"{told}."
    name = without_plug_name(is_closed=is_closed)
    if best >= without:
        told += f", no better than {name} ({without:.3f})"
        return f"{told}: do not use it; train on more users, or with another --seed."
    told += f"; that of {name} is {without:.3f}: it has learned something ({(1 - best / without):.0%} less)."
    if without_history is None:
        return told
    told += f" Without their histories, as for new users, it is {without_history:.3f}"
    if without_history >= without:
        return f"{told}, no better than {name}: for new users train again with another --seed, or on more users."
    return f"{told}."


def next_line(
    plug: Path, kind: str, queued: Iterable[Mapping[str, Any]], learned_from: Collection[date], today: date
) -> str:
    """Say which commands to type after a training.

    Args:
        plug: the folder of the plug.
        kind: what it answers.
        queued: the nights of `tasks` by kind, the oldest first, with their `reference_count`.
        learned_from: nights whose references were examples, which no longer tell whether the plug helps.
        today: the day of the tasks that are still to come, where there are none.
    """
    own = [night for night in queued if night["kind"] == kind]
    night = f"--ds {own[-1]['ds'] if own else today}"
    with_plug = f"{night} --plug {shlex.quote(str(plug))}"
    steps = [] if own else [f"ingest tasks FILE {night}"]
    steps.append(f"nightly {with_plug}")
    if own and own[-1]["reference_count"] and own[-1]["ds"] not in learned_from:
        steps.append(f"evaluate {with_plug} --controls")
    return f"next: {', then '.join(f'`pplug {step}`' for step in steps)}"
