"""Write a report of `bench mvtec` for other programs: CSV and LaTeX, from the report alone."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from mahalad.bench.mvtec_text import describe, tables_of
from mahalad.bench.tables import METRICS, PIXEL_METRICS

COLUMNS = (
    "row", "category", "n_fits", "metric", "value", "std_over_fits", "sem_over_categories",
    "n_categories", "note",
)  # fmt: skip
_ESCAPED = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
}


def as_csv(report: dict[str, Any]) -> str:
    """Write one line per figure, as shares (0.98 is 98 %).

    Lines without a category are means over categories. The note says why there is no figure.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in report["rows"]:
        if row["not_run"]:
            writer.writerow([row["name"], *[""] * (len(COLUMNS) - 2), row["not_run"]])
        else:
            writer.writerows(_lines_of(row))
    return text.getvalue()


def _lines_of(row: dict[str, Any]) -> Iterator[list[Any]]:
    metrics = [*METRICS, *PIXEL_METRICS]
    for name, result in row["categories"].items():
        why = result["not_possible"] and f"not possible: {result['not_possible']}"
        for metric in metrics:
            value, spread = result[metric], result["spread"][metric]
            note = why or (result["reason"] if metric in ("fpr", "tpr") else None)
            note = note if value is None else None
            yield [row["name"], name, len(result["folds"]), metric, *_cells(value, spread), "", "",
                   note or ""]  # fmt: skip
    for metric in metrics:
        mean = row["mean"][metric]
        value = mean["mean"] if mean["n"] else None
        sem = mean["sem"] if mean["n"] > 1 else None
        yield [row["name"], "", "", metric, *_cells(value, mean["spread"], sem), mean["n"], ""]


def _cells(*values: float | None) -> list[str]:
    return ["" if value is None else repr(float(value)) for value in values]


def as_latex(report: dict[str, Any]) -> str:
    """Write the tables as tabular environments, which need no package."""
    lines = [f"% mahalad {line.strip()}" for line in describe(report).splitlines()]
    for header, rows in tables_of(report):
        lines += ["", rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}", r"\hline"]
        lines += [_latex_row(header), r"\hline", *map(_latex_row, rows)]
        lines += [r"\hline", r"\end{tabular}"]
    return "\n".join(lines) + "\n"


def _latex_row(cells: list[str]) -> str:
    escaped = ["".join(_ESCAPED.get(sign, sign) for sign in cell) for cell in cells]
    return " & ".join(escaped) + r" \\"
