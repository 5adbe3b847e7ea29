"""How large a row may be, and how much of a file is in memory at once: always bytes, since rows come in any size."""

from typing import Final

ROW_BYTES: Final = 2**20
"""Most bytes of all texts of a row; a larger one is refused. A thousand times what encoders read of a text."""
ID_CHARACTERS: Final = 1_000  # most characters of an id or a kind
LINE_BYTES: Final = 8 * 2**20
"""Most bytes of a line of JSON or CSV, where letters may be escaped; of a longer one nothing is kept."""
BATCH_BYTES: Final = 16 * 2**20  # what is read before it is checked and put aside
BATCH_ROWS: Final = 16_384
