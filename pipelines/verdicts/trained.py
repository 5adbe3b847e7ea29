"""What data allow before a training, and what came of it, in a sentence each.

The numbers of examples and users are those of the learning curve in docs/quality.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from llm_jobs.training.checkpoint import EpochLoss


@dataclass(frozen=True)
class Measured:
    """From how many examples on plugs were measured to help."""

    examples: int
    users: int
    is_curve: bool
    """Fewer were measured, too, and helped less; else this is the least that was measured."""


CLOSED: Final = Measured(200, 10, is_curve=True)
FREE: Final = Measured(1_500, 100, is_curve=False)


def what_data_allow(example_count: int, user_count: int, *, is_closed: bool) -> str:
    """Say before a training whether the examples are enough."""
    measured = CLOSED if is_closed else FREE
    told = f"{example_count:,} examples of {user_count:,} users"
    least = f"{measured.examples:,} examples of {measured.users:,} users"
    if example_count >= measured.examples and user_count >= measured.users:
        return f"{told}: enough to learn from (plugs helped from {least} on in our measurements)"
    if measured.is_curve:
        return f"{told}: few; plugs began to be of use at about {least} in our measurements"
    return f"{told}: few; {least} is the least that we have measured for free answers"


def without_plug_name(*, is_closed: bool) -> str:
    """What the loss without a plug is of."""
    return "guessing as often as each label occurs" if is_closed else "the language model alone"


def training_verdict(
    losses: Sequence[EpochLoss], held_out_users: int, without: float | None, *, is_closed: bool
) -> str:
    """Say what came of a training.

    Args:
        losses: of each epoch.
        held_out_users: users whose examples only measured; their loss is what counts.
        without: the loss without a plug on the same examples; None if it is not known.
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
    return f"{told}; that of {name} is {without:.3f}: it has learned something ({(1 - best / without):.0%} less)."
