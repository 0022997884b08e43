"""Tables of measurements in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence


def spread(rows: Mapping[str, Sequence[float]]) -> str:
    """For each name the median, least and most of its values."""
    lines = ["| | median | least | most |", "| --- | --- | --- | --- |"]
    for name, values in rows.items():
        shown = [statistics.median(values), min(values), max(values)]
        lines.append(f"| {name} | " + " | ".join(f"{value:.4g}" for value in shown) + " |")
    return "\n".join(lines)
