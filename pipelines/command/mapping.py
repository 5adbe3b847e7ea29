"""What stands behind --map: our columns and what a file calls them."""

from embedder.errors import UsageError


def column_map(text: str) -> dict[str, str]:
    """Split user_id=author,text=body.

    Raises:
        UsageError: if a part is no pair.
    """
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    for ours, _, theirs in pairs:
        if not (ours.strip() and theirs.strip()):
            raise UsageError(f"--map {text!r} is not column=column: write for example --map user_id=author,text=body")
    return {ours.strip(): theirs.strip() for ours, _, theirs in pairs}
