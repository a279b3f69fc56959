"""Results as rows of text: a table, CSV, or one JSON object per line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import chain
from typing import Any

from mahalad.report.text import columns, printable, shortened
from mahalad.result import LabelledResult, Result

Row = dict[str, Any]
_LABEL_COLUMNS = ("label", "probability", "novel", "distance")
"""Further columns of a classifier's rows; JSON also has the neighbours."""


class Counted:
    """Iterate over results and count them; `scores` are of images that are not in the fit."""

    def __init__(self, results: Iterable[Result]) -> None:
        self._results = results
        self.n_scored = self.n_flagged = self.n_in_fit = 0
        self.unreadable: list[Result] = []
        self.scores: list[float] = []

    def __iter__(self) -> Iterator[Result]:
        for result in self._results:
            if result.error is not None:
                self.unreadable.append(result)
            else:
                self.n_scored += 1
                self.n_flagged += bool(result.anomaly)
                self.n_in_fit += result.in_fit
                if result.score is not None and not result.in_fit:
                    self.scores.append(result.score)
            yield result


def row_of(result: Result) -> Row:
    """Turn a result into a row; only an unreadable image's row has an ``error``."""
    row: Row = {
        "path": result.name,
        "score": result.score,
        "threshold": result.threshold,
        "p_value": result.p_value,
        "anomaly": result.anomaly,
    }
    if isinstance(result, LabelledResult):
        row |= {
            "label": result.label,
            "probability": result.probability,
            "novel": result.novel,
            "distance": result.distance,
            "neighbours": [asdict(neighbour) for neighbour in result.neighbours],
        }
    else:
        row["in_fit"] = result.in_fit
    if result.error is not None:
        row["error"] = result.error
    return row


def lines(
    rows: Iterable[Row], style: str, more: Sequence[str] = (), width: int | None = None
) -> Iterator[str]:
    """Write rows as lines of text, one at a time; nothing comes before the first row.

    Parameters
    ----------
    rows : iterable of dict
        From `row_of`, with any further entries.
    style : {"table", "csv", "jsonl"}
    more : sequence of str
        Further entries that a CSV has as columns. JSON has all there are, a table none.
    width : int, optional
        Columns of a terminal: longer paths of a table are shortened in the middle.

    Notes
    -----
    A line of CSV has text in quotes, and so may have line breaks of a path within. A table writes
    control characters of a path as escapes. Bytes of a path that are no text are as
    `os.fsdecode` has them, and in JSON so escaped (``\\udc..``).
    """
    rows = iter(rows)
    first = next(rows, None)
    if first is None:
        return
    rows = chain([first], rows)
    if style == "jsonl":
        for row in rows:
            yield json.dumps(row)
        return
    if style == "csv":
        yield from _csv_lines(rows, columns_of(first, more))
        return
    if "label" in first:
        yield from _label_lines(rows, width)
        return
    yield f"{'score':>10}  {'threshold':>10}  {'p-value':>8}  {'verdict':<10}  path"
    for row in rows:
        if row.get("error") is not None:
            start = f"{'-':>10}  {'-':>10}  {'-':>8}  {'UNREADABLE':<10}  "
            yield _fitting(start, row["error"], "", width)
            continue
        limit = "-" if row["threshold"] is None else f"{row['threshold']:.4g}"
        verdict = "ANOMALY" if row["anomaly"] else "good"
        mark = "  (in the fit)" if row["in_fit"] else ""
        start = f"{row['score']:>10.4g}  {limit:>10}  {row['p_value']:>8.4f}  {verdict:<10}  "
        yield _fitting(start, row["path"], mark, width)


def _fitting(start: str, path: str, end: str, width: int | None) -> str:
    """Put a line together, with the path shortened where the line is wider than the terminal."""
    path = printable(path)
    room = None if width is None else width - columns(start + end)
    return start + (path if room is None else shortened(path, room)) + end


def _label_lines(rows: Iterable[Row], room: int | None) -> Iterator[str]:
    width = 16
    # The p-value is of novelty: it says nothing about the label beside it.
    yield f"{'label':<{width}}  {'probability':>11}  {'novelty-p':>9}  {'verdict':<13}  path"
    for row in rows:
        if row.get("error") is not None:
            start = f"{'-':<{width}}  {'-':>11}  {'-':>9}  {'UNREADABLE':<13}  "
            yield _fitting(start, row["error"], "", room)
            continue
        p_value = "-" if row["p_value"] is None else f"{row['p_value']:.4f}"
        verdict = " ".join(name for name in ("anomaly", "novel") if row[name]).upper()
        label = printable(row["label"])
        label = label if room is None else shortened(label, width)
        start = (
            f"{label}{' ' * (width - columns(label))}  {row['probability']:>11.3f}  {p_value:>9}  "
            f"{verdict:<13}  "
        )
        yield _fitting(start, row["path"], "", room)


def columns_of(first: Row, more: Sequence[str] = ()) -> list[str]:
    """Name the columns of rows like the first one, with `more` of its entries."""
    further = [name for name in (*_LABEL_COLUMNS, "in_fit") if name in first]
    return ["path", "score", "threshold", "p_value", "anomaly", *further, *more, "error"]


def _csv_lines(rows: Iterable[Row], columns: Sequence[str]) -> Iterator[str]:
    yield ",".join(map(_csv_value, columns))
    for row in rows:
        yield ",".join(_csv_value(row.get(name)) for name in columns)


def _csv_value(value: Any) -> str:
    """Write text in quotes always, for readers that take lines apart; nothing for None."""
    if isinstance(value, str):
        return '"' + value.replace('"', '""') + '"'
    return "" if value is None else str(value)
