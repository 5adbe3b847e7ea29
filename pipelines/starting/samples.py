"""Small made-up texts for each kind of task: two users with a taste of their own, and one who is new.

Sample ─▶ histories: items of both users      ─▶ tasks: one for each user, answered from the history or without
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from llm_jobs.kinds import Kind

USERS: Final[tuple[str, str]] = ("ann", "bob")
NEWCOMER: Final = "cem"

SampleItems = Sequence[tuple[str, str | None]]  # texts and outputs, the oldest first


@dataclass(frozen=True)
class Sample:
    """What two users wrote or did, and a text nobody has answered yet."""

    items: tuple[SampleItems, SampleItems]
    new_text: str
    new_input: str | None = None  # the task's own prompt, for kinds that have none to write
    references: tuple[str, str] | None = None  # the right answers, for kinds that learn from tasks


_CITATION: Final = (
    'For an author who has written the paper with the title "Reading at night", which reference is related? '
    'Just answer with [1] or [2] without explanation. [1]: "How children learn to read" [2]: "Lamps of low power"'
)
_TWEET: Final = "The train is late again and it is raining."

SAMPLES: Final[Mapping[str, Sample]] = {
    "LaMP_1": Sample(
        (
            [("We follow pupils through their first school year.", "Early reading"), ("Letters before words.", "ABC")],
            [("We measure the light of cheap bulbs.", "Bulbs compared"), ("A lamp that needs no cable.", "Free light")],
        ),
        "Reading at night",
        _CITATION,
        ("[1]", "[2]"),
    ),
    "LaMP_2": Sample(
        (
            [("Two strangers meet on a night train.", "romance"), ("A letter comes forty years late.", "romance")],
            [("A baker is taken for a spy.", "comedy"), ("Three brothers inherit one goat.", "comedy")],
        ),
        "A cook and a judge are locked in a cellar.",
    ),
    "LaMP_2N": Sample(
        (
            [("The club has a new owner.", "business"), ("Tickets cost more this year.", "business")],
            [("The striker is back after his injury.", "sports"), ("The final ended in a draw.", "sports")],
        ),
        "The club sells its best player for a record sum.",
    ),
    "LaMP_3": Sample(
        (
            [
                ("Works, but the cable is short.", "2"),
                ("Nice colour, weak battery.", "2"),
                ("Fine, nothing more.", "3"),
            ],
            [("Works, the cable could be longer.", "4"), ("Weak battery, great colour!", "5"), ("Does its job.", "5")],
        ),
        "Does what it should, though the lid is loose.",
    ),
    "LaMP_4": Sample(
        (
            [
                ("The council opened the bridge after two years of work.", "The bridge is open"),
                ("A storm took the roofs of ten houses.", "Ten roofs are gone"),
            ],
            [
                ("The library lends tools now, too.", "Need a drill? Ask the library!"),
                ("The baker sells yesterday's bread for half.", "Hungry? Wait a day!"),
            ],
        ),
        "The swimming pool opens at six in the morning from May on.",
    ),
    "LaMP_5": Sample(
        (
            [
                ("We count birds on roofs with cheap cameras.", "Counting birds: a study of cheap cameras"),
                ("We test how far a seed flies.", "Flying seeds: a study of distance"),
            ],
            [
                ("We ask whether bees sleep.", "Do bees sleep?"),
                ("We ask whether fish hear traffic.", "Can fish hear cars?"),
            ],
        ),
        "We look at whether street lamps keep trees awake.",
    ),
    "LaMP_6": Sample(
        (
            [
                ("Could you send me the figures of March? Thanks, Ann", "Request: figures of March"),
                ("Please tell me who has the key. Thanks, Ann", "Request: key"),
            ],
            [
                ("the room is double booked, we need another by noon", "room!!"),
                ("printer is out of paper again", "paper!!"),
            ],
        ),
        "The meeting on Friday has to start an hour earlier.",
    ),
    "LaMP_7": Sample(
        (
            [("What a morning! Sun, coffee, no mails.", None), ("What a game! Four goals, no fouls.", None)],
            [("ok so the bus just drove past me", None), ("ok so there is no coffee left", None)],
        ),
        _TWEET,
        f"Paraphrase the following tweet without any explanation before or after it: {_TWEET}",
        ("What a trip! A late train and rain.", "ok so the train is late and it rains"),
    ),
}


def sample_of(kind: Kind) -> Sample:
    """The texts of a built-in kind; for any other, texts that only hold the place."""
    if kind.name in SAMPLES:
        return SAMPLES[kind.name]
    first, second = (kind.choices or ("A first answer", "A second answer"))[:2]
    items = [
        [(f"Text {number} of {user}", output) for number in (1, 2)]
        for user, output in zip(USERS, (first, second), strict=True)
    ]
    own = None if kind.prompt else f"{kind.query_marker} A new text".strip()
    return Sample((items[0], items[1]), "A new text", own, None if kind.prompt else (first, second))


def sample_input(kind: Kind) -> str:
    """The filled prompt of a task."""
    sample = sample_of(kind)
    return sample.new_input or kind.training_prompt(sample.new_text)


def history_rows(kind: Kind, spoken: str, today: date) -> Iterator[dict[str, Any]]:
    """Lines of a histories file: an item a day until yesterday."""
    for user, items in zip(USERS, sample_of(kind).items, strict=True):
        for number, (text, output) in enumerate(items, 1):
            posted = _midnight(today) - timedelta(days=len(items) + 1 - number)
            yield {
                "user_id": user,
                "item_id": f"{user}-{number}",
                "kind": spoken,
                "posted_at": f"{posted:%Y-%m-%dT%H:%M:%SZ}",
                "text": text,
                "output": output,
            }


def task_rows(kind: Kind, spoken: str, today: date, users: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Lines of a tasks file: the same task for each user."""
    sample = sample_of(kind)
    references: dict[str, str] = dict(zip(USERS, sample.references or (), strict=False))
    for number, user in enumerate(users, 1):
        task = {"task_id": f"task-{number}", "user_id": user, "kind": spoken, "queued_at": f"{today}"}
        yield task | (
            {"text": sample.new_text}
            if sample.new_input is None
            else {"input": sample.new_input, "choices": kind.choices, "reference": references.get(user)}
        )


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
