"""What a plug is made for and what it sees: saved beside its weights, as JSON and as a card to read."""

from collections.abc import Mapping
from dataclasses import dataclass

from embedder.errors import PplugError

FORMAT = 2
"""Version of what a plug's folder holds; another one is refused. 2: a reader and a head (2026-11-28)."""

PROJECTED: Mapping[str, tuple[str, ...]] = {
    "attention": ("attended", "mean", "recent", "task"),
    "mean": ("mean",),
    "task": ("task",),
    "none": (),
    "published": ("items", "task"),
    "turns": (),
}
"""What the projector sees, by the name of the aggregation. The others are what the first is compared with: the plain
mean knows nothing of the task, `task` nothing of the user, `none` has instruction vectors only, `published` is the
plug of its authors (published.py), and `turns` has no soft prompt (earlier_turns.py)."""

PUBLISHED = "published"
"""The aggregation of the plug as its authors published it: one instruction and one persona vector before the input."""

TURNS = "turns"
"""The aggregation without a soft prompt: the user's nearest items stand before the task as earlier turns."""

DEFAULT_TURNS = 4
"""Items that become earlier turns; eight were hardly better for twice the time (docs/experiments.md, 2026-11-29)."""

PLACEMENTS = ("before", "after")
"""Where the soft prompt stands from the task's input."""

MOST_TURNS = 32
"""More would fill the context of small LLMs, and take as many times the LLM's time as there are turns."""

COUNTS = ("encoder_width", "llm_width", "instruction_count", "persona_count", "committee", "values_width", "turns")
"""Settings that are whole numbers."""

POSITIVE = ("encoder_width", "llm_width", "committee")
"""Those of them that cannot be 0."""


@dataclass(frozen=True)
class PlugConfig:
    """What a plug is made for; saved beside its weights."""

    kinds: tuple[str, ...]
    """Kinds of tasks it answers."""
    encoder_sha256: str
    """Fingerprint of the encoder of the history vectors."""
    llm_sha256: str
    """Fingerprint of the LLM it was trained through."""
    encoder_width: int
    llm_width: int
    embedding_norm: float
    """Mean L2 norm of the LLM's token embeddings; the persona starts at this length."""
    placement: str = "after"
    """Where the soft prompt stands: "before" the task's input (the paper) or "after" it."""
    aggregation: str = "attention"
    """How a history becomes a persona: a name in PROJECTED."""
    instruction_count: int = 4
    """Trained vectors that are the same for everybody."""
    persona_count: int = 3
    """Vectors that depend on the user."""
    temperature: float = 0.06
    """Start value. BGE and MiniLM cosines spread over about 0.5, so that weights differ by up to e^8."""
    dropout: float = 0.3
    """Share of the projector's hidden units dropped in training."""
    labels: tuple[str, ...] = ()
    """Answers of a closed kind. The plug then points at one of a task's choices, and needs no LLM to do so."""
    committee: int = 5
    """Text bodies of a plug with labels, each fitted without its own fold of the users."""
    values_width: int = 0
    """Length of the LLM's pooled values of a prompt (llm_jobs/engine/kv_cache.py), where a plug sees them."""
    turns: int = 0
    """Most items that stand before a task as earlier turns; with the aggregation "turns" only."""
    format: int = FORMAT
    """Version of the folder's files."""

    def __post_init__(self) -> None:
        for name in COUNTS:
            if type(value := getattr(self, name)) is not int or value < (name in POSITIVE):
                raise PplugError(f"a plug cannot have {name} = {value!r}: it takes a whole number")
        if self.placement not in PLACEMENTS:
            raise PplugError(f"no placement {self.placement!r}: use one of {', '.join(PLACEMENTS)}")
        if not 0 <= self.dropout < 1:
            raise PplugError(f"a plug cannot have dropout = {self.dropout}: it takes a share below 1")
        if not self.kinds:
            raise PplugError("a plug needs at least one kind of task: pass --kind")
        if self.embedding_norm <= 0 or self.temperature <= 0:
            raise PplugError(f"a plug needs positive scales, not {self.embedding_norm} and {self.temperature}")
        if self.aggregation not in PROJECTED:
            raise PplugError(f"no aggregation {self.aggregation!r}: use one of {', '.join(PROJECTED)}")
        self._require_fitting()

    def _require_fitting(self) -> None:
        """Refuse settings that do not go together."""
        if bool(self.turns) != (self.aggregation == TURNS):
            raise PplugError(f"a plug with aggregation {self.aggregation!r} cannot have turns = {self.turns}")
        if self.turns > MOST_TURNS:
            raise PplugError(f"a plug cannot have turns = {self.turns}: {MOST_TURNS} at most")
        if self.turns and self.labels:
            raise PplugError("a plug with labels reads no earlier turns")
        if self.values_width and not self.labels:
            raise PplugError("a plug that sees the LLM's values has to have labels")

    @property
    def seen(self) -> tuple[str, ...]:
        """What the projector sees."""
        return PROJECTED[self.aggregation]

    @property
    def soft_count(self) -> int:
        """Vectors of the soft prompt; a plug with labels or turns has none."""
        if self.labels or self.turns:
            return 0
        return self.instruction_count + (self.persona_count if self.seen else 0)


def model_card(config: PlugConfig) -> str:
    """A README for the plug's folder."""
    made, seen, answers = _described(config)
    source = "" if config.turns else "\n(PPlug, arXiv 2409.11901)"
    fitted = "but its weights were fitted to the histories of\nmany: see `training.json` beside this file for whose"
    if config.turns:
        fitted = "and has no weights that were fitted to anybody"
    return f"""---
library_name: pplug
license: apache-2.0
---
# A persona plug for {", ".join(config.kinds)}

{made}{source}. It holds nothing of any one user, {fitted}.

| | |
|---|---|
| encoder | width {config.encoder_width}, sha256 `{config.encoder_sha256}` |
| LLM | width {config.llm_width}, sha256 `{config.llm_sha256}` |
| sees | {seen} |
| answers | {answers} |

    from embedder import PersonaPlug
    plug = PersonaPlug.from_pretrained("this folder")
"""


def _described(config: PlugConfig) -> tuple[str, str, str]:
    """What a plug makes, sees and answers."""
    if config.labels:
        made = "Points at one of a task's choices by what a user's history says of each"
        seen = ", ".join(["task", *(["values"] if config.values_width else []), "labels of the history"])
        return made, seen, f"closed, trained on {len(config.labels)} labels; tasks may have others"
    if config.turns:
        made = f"Lets a frozen LLM read the {config.turns} items of a user that are nearest to a task as earlier turns"
        return made, "task, texts of the history", "free, without a soft prompt"
    made = f"Turns a user's history vectors into {config.soft_count} soft prompt vectors for a frozen LLM"
    answers = f"free, with the soft prompt {config.placement} the task's input"
    return made, ", ".join(config.seen) or "nothing", answers
