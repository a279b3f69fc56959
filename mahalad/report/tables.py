"""Tables for a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

WIDTH = 100


def percent(value: float | None, spread: float | None = None) -> str:
    """Write a share in per cent, with one decimal; "-" if there is none."""
    if value is None or math.isnan(value):
        return "-"
    text = f"{100 * value:.1f}"
    return text if spread is None or math.isnan(spread) else f"{text} ± {100 * spread:.1f}"


def format_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    n_keys: int = 1,
    n_together: int = 1,
) -> str:
    """Align a table; columns beyond 100 characters go below, after the same keys.

    Parameters
    ----------
    header, rows : sequences of str
    n_keys : int
        The first columns, aligned left; the others are aligned right.
    n_together : int
        Columns that are not parted.
    """
    table = [list(header), *map(list, rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    blocks: list[list[int]] = [[]]
    room = WIDTH - sum(width + 2 for width in widths[:n_keys])
    for start in range(n_keys, len(header), n_together):
        together = range(start, min(start + n_together, len(header)))
        if blocks[-1] and sum(widths[i] + 2 for i in (*blocks[-1], *together)) - 2 > room:
            blocks.append([])
        blocks[-1] += together
    texts = []
    for block in blocks:
        lines = []
        for row in table:
            cells = [row[i].ljust(widths[i]) for i in range(n_keys)]
            cells += [row[i].rjust(widths[i]) for i in block]
            lines.append("  ".join(cells).rstrip())
        lines.insert(1, "-" * max(map(len, lines)))
        texts.append("\n".join(lines))
    return "\n\n".join(texts)
