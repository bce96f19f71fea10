"""The seeds of each job of `compression_tables`, brought together."""

from statistics import median
from typing import Any, NamedTuple


class Summary(NamedTuple):
    """One job over its seeds; `row` is the median seed's.

    `of_chips` is the 5th percentile of simulated chips; 0 where none were simulated.
    """

    job: str
    row: dict[str, Any]
    accuracy: float
    lowest: float
    highest: float
    rate: float
    reduction: float
    seeds: int
    of_chips: float


def summaries(rows: list[dict[str, Any]]) -> list[Summary]:
    """The seeds of each job brought together."""
    found = []
    for name in dict.fromkeys(row["job"] for row in rows):
        own = sorted((r for r in rows if r["job"] == name), key=lambda row: row["test_accuracy"])
        scores = [row["test_accuracy"] for row in own]
        found.append(Summary(
            name, own[(len(own) - 1) // 2], median(scores), scores[0], scores[-1],
            median(row["rate"] for row in own), median(row["data_reduction"] for row in own),
            len(own), median(row.get("chips", {}).get("percentile_5", 0.0) for row in own),
        ))  # fmt: skip
    return found
