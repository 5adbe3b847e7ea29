"""What the words behind options mean."""

import pytest

from embedder.errors import UsageError
from pipelines.command.values import parse_size


def test_sizes_of_memory() -> None:
    assert [parse_size(size) for size in ("1K", "800m", "4G", 7)] == [1 << 10, 800 << 20, 4 << 30, 7]
    for size in ("", "4", "G", "-1G", "0G", "1.5G"):
        with pytest.raises(UsageError, match="--memory"):
            parse_size(size)
