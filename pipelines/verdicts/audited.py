"""What the attacks of `pplug audit` got, in words."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.tables import Row

AUDITED: Mapping[str, str] = {
    "texts-found": "texts found in a list of known ones",
    "token-f1": "words of a text read back (F1)",
    "linked-nights": "users found again in another night",
    "linked-items": "texts whose writer is found",
    "membership-auc": "members of the training told from others (AUC)",
}
"""By the name in `evaluations.metric`: what an attack of `pplug audit` gets."""


def audit_lines(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A line for each attack, beside what chance gives."""
    chance = {(row["kind"], row["metric"]): row["value"] for row in rows if row["arm"] == "other"}
    return [
        {
            "attacked": row["kind"],
            "gets": AUDITED[row["metric"]],
            "value": row["value"],
            "low": row["low"],
            "high": row["high"],
            "by chance": chance.get((row["kind"], row["metric"]), 0.5),
        }
        for row in rows
        if row["arm"] == "own"
    ]
