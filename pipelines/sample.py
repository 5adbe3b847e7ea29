"""A generated sample: users who differ in what interests them and in how they write.

Each user has two beats, two of eight news categories, and one way of writing. Half of their articles name nothing of
any category ("The newcomer spoke about the decision"): a story about a person is filed under the user's first beat, a
story about figures under the second, so that only the user's history tells the category. Some articles of the history
have the user's headline instead of a category. The newest articles of each user are the tasks; some users have tasks
but no history.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from random import Random

from llm_jobs.kinds import Kind, load_kinds

NIGHT = date(2026, 11, 1)  # the night of the sample's tasks

NEWS, HEADLINES = "LaMP_2N", "LaMP_4"


@dataclass(frozen=True)
class Topics:
    """Who and what an article is about."""

    who: tuple[str, ...]
    what: tuple[str, ...]


CATEGORIES = {
    "business": Topics(("the banker", "a start-up founder"), ("the merger", "the quarterly profit", "the share price")),
    "entertainment": Topics(("the actress", "a film director"), ("the premiere", "the sitcom", "the award show")),
    "food & drink": Topics(("the pastry chef", "a winemaker"), ("the recipe", "the sourdough bread", "the new menu")),
    "healthy living": Topics(("the therapist", "a yoga teacher"), ("better sleep", "the diet", "morning stretching")),
    "politics": Topics(("the senator", "a campaign aide"), ("the election", "the tax bill", "the coalition")),
    "science & technology": Topics(
        ("the physicist", "a software engineer"), ("the satellite", "the new chip", "the robot")
    ),
    "sports": Topics(("the goalkeeper", "a tennis player"), ("the final", "the transfer", "the training camp")),
    "travel": Topics(("the flight attendant", "a backpacker"), ("the island", "the night train", "the airport hotel")),
}
NEUTRAL = Topics(
    ("the newcomer", "an old friend", "the quiet one", "a familiar face"),
    ("the decision", "the plan", "the surprise", "the long wait", "the second attempt"),
)

PERSON_STORIES = (
    "{Who} spoke on {day} about {what}, and about the {number} months before it.",
    "A visit to {who}, who after {number} tries still believes in {what}.",
    "On {day}, {who} told a room of {number} people what {what} really felt like.",
)
FIGURE_STORIES = (
    "{What} in figures: up {number} percent since {day}, says {who}.",
    "The latest numbers on {what} came out on {day}, {number} percent more than {who} expected.",
    "{number} percent is the estimate for {what} since {day}; {who} doubts the statistics.",
)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


@dataclass(frozen=True)
class Style:
    """A way of writing: how an article starts, and what a headline looks like."""

    opening: str
    headline: str


STYLES = (
    Style("", "{What}: {who} in conversation"),
    Style("Have you ever asked yourself? ", "What does {who} really think about {what}?"),
    Style("Here is all you need to know. ", "5 things {who} wants you to know about {what}"),
    Style("UNBELIEVABLE!!! ", "WOW! You will not believe {who} and {what}!!!"),
)


@dataclass(frozen=True)
class SampleConfig:
    """How large the sample is."""

    users: int = 40
    users_without_history: int = 4
    news: int = 15
    """Articles in the history of a user, filed under a category."""
    headlines: int = 5
    """Articles in the history of a user, with the user's headline."""
    tasks: int = 3
    """Articles of the night without a category."""
    seed: int = 0


@dataclass(frozen=True)
class User:
    """Somebody with interests, a way of writing and their own dice."""

    name: str
    beats: tuple[str, str]
    style: Style
    dice: Random
    written: set[str] = field(default_factory=set[str])  # articles so far: nobody writes the same one twice

    def article(self, *, is_neutral: bool) -> tuple[str, str, str]:
        """A new article with its category and its headline."""
        is_person = self.dice.random() < 0.5
        category = self.beats[0 if is_person else 1]
        words = NEUTRAL if is_neutral else CATEGORIES[category]
        who, what = self.dice.choice(words.who), self.dice.choice(words.what)
        story = self.dice.choice(PERSON_STORIES if is_person else FIGURE_STORIES)
        names = {"who": who, "what": what, "Who": who.capitalize(), "What": what.capitalize()}
        text = self.style.opening + story.format(day=self.dice.choice(DAYS), number=self.dice.randint(3, 97), **names)
        if text in self.written:
            return self.article(is_neutral=is_neutral)
        self.written.add(text)
        return text, category, self.style.headline.format(**names)


def users(config: SampleConfig) -> list[User]:
    """The users of the sample; all beats and all ways of writing are about equally frequent."""
    names = list(CATEGORIES)
    found: list[User] = []
    for number in range(config.users):
        first, other = number % len(names), 1 + number // len(names) % (len(names) - 1)
        beats = (names[first], names[(first + other) % len(names)])
        style = STYLES[(number + number // len(names)) % len(STYLES)]
        found.append(User(f"user-{number:02}", beats, style, Random(f"{config.seed} {number}")))
    return found


def write_sample(folder: Path, config: SampleConfig) -> tuple[Path, Path]:
    """Write histories.jsonl and tasks.jsonl as `pplug ingest` reads them; the same config gives the same bytes."""
    kind = load_kinds()[NEWS]
    everybody = users(config)
    with_history = everybody[: len(everybody) - config.users_without_history]
    histories = [row for user in with_history for row in history_rows(user, config)]
    tasks = [row for user in everybody for row in task_rows(user, config, kind)]
    folder.mkdir(parents=True, exist_ok=True)
    return _write(folder / "histories.jsonl", histories), _write(folder / "tasks.jsonl", tasks)


def history_rows(user: User, config: SampleConfig) -> Iterator[dict[str, str]]:
    """A user's past, oldest first; the last article is of the day before the night."""
    kinds = [NEWS] * config.news + [HEADLINES] * config.headlines
    user.dice.shuffle(kinds)
    for age, kind in zip(range(len(kinds), 0, -1), kinds, strict=True):
        text, category, headline = user.article(is_neutral=age % 2 == 0)
        posted_at = f"{NIGHT - timedelta(days=age)}T08:00:00Z"
        output = category if kind == NEWS else headline
        item_id = f"{user.name}-{age:03}"
        yield {
            "user_id": user.name,
            "item_id": item_id,
            "kind": kind,
            "posted_at": posted_at,
            "text": text,
            "output": output,
        }


def task_rows(user: User, config: SampleConfig, kind: Kind) -> Iterator[dict[str, object]]:
    """A user's tasks of the night; all but the first name nothing of any category."""
    for number in range(config.tasks):
        text, category, _ = user.article(is_neutral=number > 0)
        yield {
            "task_id": f"{user.name}-task-{number}",
            "user_id": user.name,
            "kind": NEWS,
            "queued_at": f"{NIGHT}T{12 + number:02}:00:00Z",
            "input": kind.training_prompt(text, tuple(CATEGORIES)),
            "choices": list(CATEGORIES),
            "reference": category,
        }


def _write(path: Path, rows: Sequence[dict[str, str]] | Sequence[dict[str, object]]) -> Path:
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf8")
    return path
