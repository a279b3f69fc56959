"""Write a report of `bench robust` as text, from the report alone."""

from __future__ import annotations

from typing import Any

from mahalad.bench.tables import (
    describe_scorer,
    describe_splits,
    describe_tolerance,
    footnotes,
    not_available,
)
from mahalad.images.geometry import describe_input
from mahalad.report.tables import format_table, percent

FIGURES = {"fpr": "good flagged", "tpr": "found", "roc_auc": "AUROC"}


def as_text(report: dict[str, Any]) -> str:
    """Write a report as aligned text, for a terminal of 100 columns."""
    p, network = report["parameters"], report["network"]
    about = [
        ("network", f"{network['backbone']} at {describe_input(network)}, weights from "
                    f"{network['weights_source']}"),
        ("scorer", describe_scorer(p)),
        *describe_tolerance(p),
        ("threshold", f"{p['threshold']}, {100 * p['fpr']:g} % of good images asked"),
        ("data", ", ".join(map(str, p["roots"]))),
        *(("images", f"{name}: {_counts(one)}") for name, one in report["images"].items()),
        ("figures", "in %; changes are of the stored pixels of test images, the fit sees none"),
    ]  # fmt: skip
    reasons = [one["reason"] for row in report["rows"] for one in row["categories"].values()]
    return "\n".join(
        [
            "bench robust: harmless changes of the test images",
            *(f"  {key:9} {value}" for key, value in about),
            "",
            _table(report),
            "",
            "good flagged, found: shares of good and of defective test images above the threshold.",
            "Strengths: % of the light, standard deviations of noise in grey levels of 255 and of "
            "blur,",
            "pixels of the stored images; what comes from outside mirrors what is within.",
            *describe_splits(report["images"]),
            *footnotes(reasons),
        ]
    )


def _counts(one: dict[str, Any]) -> str:
    sizes = " to ".join(f"{width} x {height}" for width, height in one["sizes"])
    return (
        f"{one['n_train']} to fit; test: {one['n_good']} good (steps of "
        f"{100 / one['n_good']:.3g} points), {one['n_bad']} bad, {sizes} px"
    )


def _table(report: dict[str, Any]) -> str:
    names = list(report["images"])
    header = ["change"]
    for name in names:
        header += [f"{name}: good flagged", "found", "AUROC"]
    if len(names) > 1:
        header += [f"mean of {len(names)}: good flagged", "found", "AUROC"]
    rows = []
    for row in report["rows"]:
        cells = [_cell(one, figure) for one in row["categories"].values() for figure in FIGURES]
        if len(names) > 1:
            cells += [_mean_cell(row["mean"][figure], len(names)) for figure in FIGURES]
        rows.append([row["name"], *cells])
    return format_table(header, rows, n_together=len(FIGURES))


def _cell(result: dict[str, Any], figure: str) -> str:
    value = result[figure]
    return not_available(result["reason"]) if value is None else percent(value)


def _mean_cell(mean: dict[str, Any], n: int) -> str:
    if not mean["n"]:
        return "n/a"
    text = percent(mean["mean"])
    return text if mean["n"] == n else f"{text} (of {mean['n']})"
