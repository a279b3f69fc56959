"""What a benchmark prints: tables and notes as text."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

Progress = Callable[[Iterable[Any], int], Iterable[Any]]
WIDTH = 100
_NEEDED = re.compile(r"needs at least (\d+)")  # as CalibrationError says it


def no_progress(items: Iterable[Any], total: int) -> Iterable[Any]:
    """Iterate without a progress bar."""
    return items


def describe_scorer(parameters: dict[str, Any], scorer: str | None = None) -> str:
    """What a report's header says of the scorer: of its parameters, unless `scorer` is given."""
    n_copies = parameters["n_augment"]
    copies = f", {n_copies} augmented copies" if n_copies else ""
    if parameters["scope"] == "positions":
        steps = parameters.get("neighbourhood", 0)
        share = f", neighbourhood {steps}" if steps else ""
        return (
            f"scope positions: a Gaussian per position{share}, one of the image{copies}; raw scores"
        )
    reduction = parameters["reduction"] or "none"
    return (
        f"scope image: {scorer or parameters['scorer']}, reduction {reduction}{copies}; raw scores"
    )


def not_available(reason: str) -> str:
    """What a table shows where a rule gives no threshold: "n/a (needs 99)"."""
    needed = _NEEDED.search(reason)
    return f"n/a (needs {needed[1]})" if needed else "n/a"


def footnotes(reasons: Iterable[str | None]) -> list[str]:
    """What a text says below a table about thresholds that are not available."""
    given = dict.fromkeys(reason for reason in reasons if reason)
    needs = [reason for reason in given if _NEEDED.search(reason)]
    lines = [f"n/a: {reason}" for reason in given if reason not in needs]
    if needs:
        lines.append("n/a (needs N): that rule needs N calibration images at that rate.")
    return lines


def percent(value: float | None, spread: float | None = None) -> str:
    """A share as text in per cent, with one decimal."""
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
    """Align a table; columns that do not fit 100 characters go below, after the same keys.

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
