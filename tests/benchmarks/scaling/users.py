"""Made-up users whose histories have a heavy tail, and what is new of them each night.

At a mean of 20 items, 6% of the users have more than 64, and a hundredth as many new items touches every seventh user.
"""

from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

FIRST_NIGHT = date(2026, 10, 1)
TAIL = 1.2
"""Deviation of the logarithm of a history's length."""
LONGEST = 2_000
"""Items of a user, at most."""
SHARE_NEW = 0.01
"""New items of a night, of all items of the first night."""

ITEMS = """
    copy (
        select
            printf('u%08d', user_number) as user_id,
            $prefix || item_number as item_id,
            'LaMP_4' as kind,
            $posted::timestamptz - to_hours((item_number * 7 % $hours)::integer) as posted_at,
            printf(
                'word%d word%d word%d of item %d',
                hash(user_number, item_number) % 5000,
                hash(item_number, user_number) % 5000,
                user_number % 5000,
                item_number
            ) as text
        from histories
        cross join lateral unnest(range(first_item, first_item + size)) as item(item_number)
        order by hash(user_number, item_number)
    ) to '{file}' (format {form})"""
"""Files come in no order of users: the worst that can be brought in."""

TASKS = """
    copy (
        select
            printf('t%08d', task_number) as task_id,
            printf('u%08d', user_number) as user_id,
            'LaMP_4' as kind,
            $queued::timestamptz as queued_at,
            printf('Generate a headline for the following article: word%d', task_number) as input
        from tasks
    ) to '{file}' (format {form})"""


@dataclass(frozen=True)
class Users:
    """So many users with so many items each on average; the same in every process."""

    count: int
    items_each: int

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """(count,) items of each user in the first night, at least one."""
        middle = np.log(self.items_each) - TAIL**2 / 2
        drawn = np.random.default_rng(1).lognormal(middle, TAIL, self.count)
        return np.clip(np.round(drawn), 1, LONGEST).astype(np.int64)

    @property
    def item_count(self) -> int:
        """Items of the first night."""
        return int(self.sizes.sum())

    def night(self, number: int) -> date:
        """The date of a night."""
        return FIRST_NIGHT + timedelta(number)

    def write_items(self, file: Path, number: int) -> int:
        """Write the items that are new in a night; who has many gets more. Returns how many."""
        if number == 0:
            users, sizes = np.arange(self.count), self.sizes
        else:
            drawn = np.random.default_rng(number).integers(0, self.item_count, round(self.item_count * SHARE_NEW))
            users, sizes = np.unique(np.searchsorted(self.sizes.cumsum(), drawn, side="right"), return_counts=True)
        first = np.zeros_like(sizes) if number == 0 else np.full_like(sizes, LONGEST + number * 1000)
        rows = pa.table({"user_number": users, "size": sizes, "first_item": first})
        hours = 24 * 300 if number == 0 else 24
        params = {"posted": f"{self.night(number)}T00:00:00Z", "hours": hours, "prefix": "i"}
        _copy("histories", rows, ITEMS, file, params)
        return int(sizes.sum())

    def write_tasks(self, file: Path, number: int, count: int) -> None:
        """Write tasks of a night, of users drawn by chance."""
        users = np.random.default_rng(1000 + number).integers(0, self.count, count)
        rows = pa.table({"task_number": np.arange(count), "user_number": users})
        _copy("tasks", rows, TASKS, file, {"queued": f"{self.night(number)}T00:00:00Z"})


def _copy(name: str, rows: pa.Table, query: str, file: Path, params: dict[str, object]) -> None:
    form = {".parquet": "parquet", ".jsonl": "json"}[file.suffix]
    fresh = file.with_suffix(".new")
    with duckdb.connect(config={"memory_limit": "2GB", "temp_directory": str(file.parent / "spill")}) as db:
        db.execute("set TimeZone = 'UTC'")
        db.register(name, rows)
        db.execute(query.format(file=fresh, form=form), params)
    fresh.replace(file)
