"""A small night as data: three users with histories, one without, and a kind of closed tasks."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

NIGHT = date(2026, 11, 2)

NOTE = {
    "metric": "accuracy",
    "query_marker": "note:",
    "prompt": "Which tag? {choices} note: {text}",
    "choices": ["red", "blue", "green"],
    "max_new_tokens": 4,
}
"""A kind as pplug.toml would spell it."""


def item(user: str, number: int, text: str, output: str | None, day: int = 0) -> dict[str, Any]:
    """One line of a histories file, posted `day` days before the night."""
    posted = datetime(2026, 11, 2, tzinfo=UTC) - timedelta(days=day)
    return {
        "user_id": user,
        "item_id": f"{user}-{number}",
        "kind": "note",
        "posted_at": posted.isoformat(),
        "text": text,
        "output": output,
    }


def task(task_id: str, user: str, text: str, reference: str | None = "red", kind: str = "note") -> dict[str, Any]:
    """One line of a tasks file."""
    return {
        "task_id": task_id,
        "user_id": user,
        "kind": kind,
        "queued_at": "2026-11-02T00:00:00Z",
        "input": f"Which tag? red, blue, green note: {text}",
        "choices": ["red", "blue", "green"],
        "reference": reference,
    }


ITEMS = [
    *(item("ann", at, f"apples and pears {at % 5}", "red", day=30 - at) for at in range(12)),
    *(item("bob", at, f"boats on the sea {at}", "blue", day=20 - at) for at in range(6)),
    item("cid", 0, "grass", "green", day=3),
]

TASKS = [
    task("t1", "ann", "apples again"),
    task("t2", "bob", "a boat", "blue"),
    task("t3", "cid", "more grass", "green"),
    task("t4", "eve", "who knows", "red"),
    task("t5", "ann", "pears", None),
    task("t6", "bob", "the sea", "blue"),
]
