"""Training a plug through the frozen LLM: examples, the loop, what is kept between epochs, checkpoints."""

from typing import Final

REPORT: Final = "training.json"
"""What training leaves in a plug's folder beside the plug: settings, losses and, as hashes, whose histories it saw."""
