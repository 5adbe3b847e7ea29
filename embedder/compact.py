"""Keep vectors in 8 bits a number: whole numbers from -127 to 127, and one scale a vector.

    vectors (n, D) float32 ─▶ codes (n, D) int8, scales (n,) float32 ─▶ vectors: codes * scales

An error is at most half a scale. A step is so long that rounding turns a vector by a cosine of about 1 - ROUNDING_LOSS:
the errors are uniform in a step, so D * step^2 / 12 is the square of their length (Bennett 1948, Spectra of quantized
signals). Shorter steps would spend bytes on nothing that a plug sees: 361 instead of 336 for MiniLM's 384 numbers. Only
where the largest number of a vector is more than 127 such steps the step is longer. Cosines between vectors need no
scale. Products of codes are whole numbers
below 2^24 (while D is at most 1,040), which float32 adds without rounding, so they are the same on every machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
Codes = NDArray[np.int8]

LARGEST_CODE = 127

ROUNDING_LOSS = 5e-5  # one minus the cosine of a vector to the exact one
MOST_EXACT_WIDTH = 2**24 // LARGEST_CODE**2  # width up to which float32 adds the products of codes exactly


@dataclass(frozen=True, eq=False)
class CompactVectors:
    """n vectors of width D."""

    codes: Codes  # (n, D)
    scales: FloatArray  # (n,) what one step of a code is worth; 0 for a vector of zeros

    @classmethod
    def of(cls, vectors: FloatArray | NDArray[np.float64]) -> Self:
        """Round vectors (n, D); a ValueError if a number is not finite."""
        if not np.isfinite(vectors).all():
            raise ValueError("vectors have numbers that are not finite")
        steps = np.linalg.norm(vectors, axis=1) * np.sqrt(24 * ROUNDING_LOSS / max(1, vectors.shape[1]))
        scales = np.maximum(np.abs(vectors).max(axis=1, initial=0.0) / LARGEST_CODE, steps).astype(np.float32)
        divisors = np.where(scales > 0, scales, np.float32(1))
        return cls(np.rint(vectors / divisors[:, None]).clip(-LARGEST_CODE, LARGEST_CODE).astype(np.int8), scales)

    @classmethod
    def empty(cls, width: int) -> Self:
        return cls(np.zeros((0, width), np.int8), np.zeros(0, np.float32))

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, chosen: slice | NDArray[np.int64]) -> "CompactVectors":
        return CompactVectors(self.codes[chosen], self.scales[chosen])

    @property
    def width(self) -> int:
        return self.codes.shape[1]

    @classmethod
    def concatenate(cls, parts: Sequence["CompactVectors"]) -> Self:
        """The vectors of all parts, of which there is at least one, one part after the other."""
        return cls(np.concatenate([part.codes for part in parts]), np.concatenate([part.scales for part in parts]))

    @cached_property
    def code_squares(self) -> NDArray[np.int64]:
        """(n,) sum of the squares of each vector's codes."""
        return np.einsum("nd,nd->n", self.codes, self.codes, dtype=np.int64)

    @cached_property
    def squares(self) -> NDArray[np.float64]:
        """(n,) squared length of each vector."""
        return self.code_squares * self.scales.astype(np.float64) ** 2

    @cached_property
    def _wide_codes(self) -> NDArray[np.floating[Any]]:
        return self.codes.astype(np.float32 if self.width <= MOST_EXACT_WIDTH else np.float64)

    def products(self, other: "CompactVectors") -> NDArray[np.float64]:
        """(n, m) inner products of the codes, exact."""
        return np.asarray(self._wide_codes @ other._wide_codes.T, np.float64)

    def floats(self) -> FloatArray:
        """(n, D) the vectors as they were rounded."""
        return self.codes * self.scales[:, None]
