"""The parts of a comparison: every task is in `all` and in one slice by the length of its user's history."""

ALL = "all"

HISTORY_LENGTHS: dict[str, int] = {
    "history 0": 0,
    "history 1-3": 1,
    "history 4-15": 4,
    "history 16-63": 16,
    "history 64+": 64,
}
"""Slices by the items of a user, each from its least number on to the next one's."""

AUDIT = "audit"
"""What `pplug audit` measured is no part of the tasks; it has a name of its own so that nothing takes it for one."""

ORDER = (ALL, *HISTORY_LENGTHS)  # in which a table shows them


def slices_of(item_count: int) -> list[str]:
    """The slices of a task whose user's persona was made of so many items, 0 without one; `all` first."""
    return [ALL, [name for name, least in HISTORY_LENGTHS.items() if item_count >= least][-1]]
