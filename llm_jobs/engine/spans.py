"""How far back the layers of a causal LLM look: at everything, within a sliding window, or within a chunk.

window 3    position 5 looks at 3 4 5
chunk 4     position 5 looks at 4 5
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Span:
    """What the layers of one kind may look at, among the tokens up to their own."""

    name: str = "full_attention"  # the kind, as `layer_types` of a configuration names it
    window: int | None = None  # most tokens that are looked at, the token itself included; None for all
    chunk: int | None = None  # only tokens whose positions lie in the same chunk of so many; None for all

    def hides(self, queries: Tensor, keys: Tensor) -> Tensor | None:
        """Tell where a token at position `keys` is out of reach of one at `queries`, broadcast; None: nowhere."""
        if self.chunk is not None:
            return queries // self.chunk != keys // self.chunk
        return None if self.window is None else keys <= queries - self.window


EVERYTHING = Span()


def layer_spans(config: Any, layers: int) -> list[Span]:
    """Read the span of each of `layers` layers off the configuration."""
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    spans = {
        "sliding_attention": Span("sliding_attention", window=window),
        "chunked_attention": Span("chunked_attention", chunk=getattr(config, "attention_chunk_size", None)),
    }
    types: list[str] | None = getattr(config, "layer_types", None)
    if types is None:
        return [spans["sliding_attention"] if window else EVERYTHING] * layers
    return [spans.get(kind, Span(kind)) for kind in types[:layers]]
