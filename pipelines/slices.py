"""The parts of a comparison: tasks by the length of their user's history, and users whom training never saw.

Every task is in `all` and in one slice of history length; where the plug was trained with --unseen-users also in `seen`
or `unseen`.
"""

from typing import Final

from embedder.hashing import hash_share

ALL: Final = "all"

HISTORY_LENGTHS: Final[dict[str, int]] = {
    "history 0": 0,
    "history 1-3": 1,
    "history 4-15": 4,
    "history 16-63": 16,
    "history 64+": 64,
}
"""Slices by the items of a user, each from its least number on to the next one's."""

SEEN, UNSEEN = "seen", "unseen"

ORDER: Final = (ALL, *HISTORY_LENGTHS, SEEN, UNSEEN)
"""In which a table shows them."""

UNSEEN_SHARE: Final = 0.2


def is_unseen(user_id: str) -> bool:
    """Whether `--unseen-users` keeps this user out of training: one user in five, by a hash of the id alone.

    The hash has words of its own before the id, so that the choice is independent of the users who only tell when
    training stops (`llm_jobs.training.data.split_users`), who are chosen by the plain id.
    """
    return hash_share(f"unseen user {user_id}") < UNSEEN_SHARE


def slices_of(user_id: str, item_count: int, *, has_unseen: bool) -> list[str]:
    """The slices of a task, `all` first.

    Args:
        user_id: whose task it is.
        item_count: items that the user's persona was made of; 0 without one.
        has_unseen: the plug was trained with --unseen-users.
    """
    length = [name for name, least in HISTORY_LENGTHS.items() if item_count >= least][-1]
    return [ALL, length, *([UNSEEN if is_unseen(user_id) else SEEN] if has_unseen else [])]
