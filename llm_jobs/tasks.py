"""What answers tasks, and what it takes: a frozen LLM of any engine, and tasks with what is known of their users."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from embedder.compact import FloatArray
from embedder.encoder import Tell
from embedder.errors import PplugError
from embedder.histories import History
from llm_jobs.engine.engine import Engine, run_halving, untold
from llm_jobs.prompts import Answer, Ids, Placement, PromptParts, Refusal, Request, Turns
from llm_jobs.request_reader import RequestReader

Pair = tuple[str, str | None]
"""Text and output of an item: what a user read or wrote, and what the user produced for it."""


class AnsweringLLM:
    """A frozen LLM that answers: what reads for it, and the engine that runs it."""

    num_beams = 1
    """Beams that free answers are decoded with; 1 is greedy."""
    kv_memory: int | None = None
    """Bytes for keys and values; None where answers do not depend on them, or the engine decides."""
    values_width = 0
    """V, the length of the pooled values of a prompt; 0 where soft prompts cannot depend on them."""

    def __init__(self, reader: RequestReader, engine: Engine, sha256: str, kernel: str) -> None:
        self.reader, self.engine = reader, engine
        self.sha256 = sha256
        """Fingerprint of the weights, prompt format, tokenizer and decoding rules; not of the precision, so a plug
        trained in bfloat16 also answers in float32, and not of the engine."""
        self.kernel = kernel
        """Which code and precision runs, for the run record."""
        self.context_length = reader.context_length
        """Most tokens of prompt and answer together."""

    def answer(self, requests: Sequence[Request], placement: Placement, tell: Tell = untold) -> list[Answer | Refusal]:
        """Answer or refuse requests, in their order; closed ones by log-probability, with beams or without.

        In float32 an answer is the same whatever the other requests are, and that of `transformers`, up to two tokens
        whose logits are within 1e-4 (`Answer.tie_count`). In bfloat16 at least 98% are as if asked one by one.
        `tell` hears how many more are done.

        Raises:
            Exception: the engine's own, if it fails on every request that could be put to it.
        """
        prepared = self.reader.prepare(requests, placement)
        decoded = run_halving(self.engine, prepared, tell)
        return self.reader.render(prepared, decoded)

    def parts(self, prompt: str, placement: Placement, reserve: int, turns: Turns = ()) -> PromptParts:
        """Cut a prompt around the place of its soft prompt, with `reserve` tokens kept free for that and the answer.

        Earlier `turns` are never cut.

        Raises:
            PromptRefused: if the prompt is empty, or nothing of it fits.
        """
        return self.reader.parts(prompt, placement, reserve, turns)

    def answer_ids(self, text: str) -> Ids:
        return self.reader.answer_ids(text)

    def pooled_values(self, befores: Sequence[Ids]) -> Tensor:
        """Pool the LLM's values of the tokens before n soft prompts: (n, V), on the CPU (engine/kv_cache.py).

        Raises:
            PplugError: if the engine does not tell what is inside the LLM.
        """
        raise PplugError(f"an LLM that runs in {self.kernel} does not tell what is inside it: leave its values out")


@dataclass(frozen=True, eq=False)
class PersonalTask:
    """A task with what its plug needs to know of the user."""

    prompt: str
    task: FloatArray  # (D,) encoded task input
    history: History
    choices: tuple[str, ...] | None
    max_new_tokens: int
    names: FloatArray | None = None  # (C, D) encoded names of the choices
    values: FloatArray | None = None
    """(V,) the LLM's pooled values of the prompt, where they are known already."""
    stop: tuple[str, ...] = ()
    no_repeat: int = 0
    is_scale: bool = False  # the choices are ratings, of which the nearer one is the better answer
    query: str = ""  # the prompt without what its kind knows as instruction
    pairs: Sequence[Pair | None] = ()
    """(n,) the most typical item behind each vector of the history, where it may be an earlier turn; none where texts
    were not read."""
