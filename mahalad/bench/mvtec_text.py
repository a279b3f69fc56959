"""Write a report of `bench mvtec` as text, from the report alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

from mahalad.bench.pixels import FPR_LIMIT
from mahalad.bench.tables import (
    METRICS,
    PIXEL_METRICS,
    PUBLISHED_FORMS,
    describe_scorer,
    describe_splits,
    describe_tolerance,
    footnotes,
    not_available,
)
from mahalad.images.geometry import describe_input
from mahalad.report.tables import WIDTH, format_table, percent

Table = tuple[list[str], list[list[str]]]
"""Header and rows, as cells of text."""

_OF_SHOTS = ("roc_auc", "fpr", "tpr", "pixel_roc_auc", "pixel_aupro")
"""Figures that few images have tables of; a report has them all."""
PROTOCOLS = {
    "paper": "paper (5 folds, fit on 80 % of train/good, whole test set, mean over folds)",
    "official": "official (fit on all of train/good, whole test set)",
}


def as_text(report: dict[str, Any]) -> str:
    """Write a report as aligned text, for a terminal of 100 columns."""
    p = report["parameters"]
    ran = [row for row in report["rows"] if not row["not_run"]]
    missing = [row for row in report["rows"] if row["not_run"]]
    tables = [format_table(header, rows) for header, rows in tables_of(report)]
    lines = [describe(report), "", "\n\n".join(tables), ""]
    for row in missing:
        reason = row["not_run"].removeprefix(f"{row['name']}: ")
        lines.append(f"not run: {row['name']}: {reason}")
    if missing:
        lines.append("")
    if p["shots"]:
        lines += [*_not_possible(ran), "± over draws: standard deviation of the mean."]
    reasons = [result["reason"] for row in ran for result in row["categories"].values()]
    if p["table"] == "thresholds":
        lines.append("FPR, TPR: achieved on the test set, against the rate asked for.")
    elif p["scorer"] not in PUBLISHED_FORMS:
        lines.append(
            f"FPR, TPR: shares of good and bad test images above the {p['threshold']} threshold "
            f"for {percent(p['fpr'])} %."
        )
    if p["table"] != "thresholds" and not p["shots"]:
        lines.append("* F1-max is tuned on the test labels: a bound, not what a detector reaches.")
    lines += describe_splits(report["images"]) + _left_out(report) + footnotes(reasons)
    return "\n".join(lines)


def describe(report: dict[str, Any]) -> str:
    """Say what was measured, and how: lines of a title and its details."""
    p, ran = report["parameters"], [row for row in report["rows"] if not row["not_run"]]
    networks = {row["network"]["backbone"]: row["network"] for row in ran}
    described = [
        f"{name} at {describe_input(record)}, weights from {record['weights_source']}"
        for name, record in networks.items()
    ]
    protocol = PROTOCOLS[p["protocol"]]
    if p["shots"]:
        drawn = "once" if p["draws"] == 1 else f"{p['draws']} times"
        protocol = f"fit on a few of train/good, drawn at random {drawn}, whole test set"
    rows = [
        ("protocol", protocol),
        *(("network", text) for text in described),
        ("scorer", describe_scorer(p, "one per row" if p["table"] == "distances" else None)),
        *describe_tolerance(p),
        ("data", ", ".join(map(str, p["roots"]))),
        ("figures", "in %; ± is the standard error of the mean over categories"),
    ]
    if _has_spread(ran):
        rows.append(("spread", f"of one category, ± is the standard deviation over {_fits(p)}"))
    if _has_pixels(ran):
        limit = f"AUPRO up to {100 * FPR_LIMIT:g} % false positives"
        rows.append(("pixels", f"of maps enlarged to the masks' size; {limit}"))
    title = "shots" if p["shots"] else p["table"]
    return "\n".join([f"bench mvtec: {title}", *(f"  {k:9} {v}" for k, v in rows)])


def tables_of(report: dict[str, Any]) -> list[Table]:
    """Make the tables of a report, as cells of text."""
    p, ran = report["parameters"], [row for row in report["rows"] if not row["not_run"]]
    if p["table"] == "thresholds":
        blocks = [{metric: METRICS[metric] for metric in ("fpr", "tpr")}]
    else:
        blocks = [METRICS, *([PIXEL_METRICS] if _has_pixels(ran) else [])]
    if p["shots"]:
        named = METRICS | (PIXEL_METRICS if blocks[1:] else {})
        return [_shots_table(report, m, name) for m, name in named.items() if m in _OF_SHOTS]
    if p["table"] == "categories":
        return [_category_table(report, ran[0], metrics) for metrics in blocks]
    n = len(report["images"])
    tables = []
    for metrics in blocks:
        means = [
            [row["name"], "not run", *[""] * (len(metrics) - 1)]
            if row["not_run"]
            else [row["name"], *(_mean_cell(row["mean"], metric, n) for metric in metrics)]
            for row in report["rows"]
        ]
        tables.append(([_over(n), *metrics.values()], means))
    for metric in ("fpr", "tpr") if p["table"] == "thresholds" else ("roc_auc",):
        rows = [
            [row["name"], *(_cell(result, metric, False) for result in row["categories"].values())]
            for row in ran
        ]
        tables.append(([f"{METRICS[metric]} per category", *report["images"]], rows))
    return tables


def _category_table(
    report: dict[str, Any], row: dict[str, Any], metrics: Mapping[str, str]
) -> Table:
    """Make one line per category, with the metrics of images or those of pixels."""
    n, of_pixels = len(report["images"]), metrics is PIXEL_METRICS
    counted = ["masks"] if of_pixels else ["train", "good", "bad"]
    rows = []
    for name, result in row["categories"].items():
        about = report["images"][name]
        n_bad = sum(about["is_anomaly"])
        counts = [about["n_train"], len(about["test"]) - n_bad, n_bad]
        if of_pixels:
            counts = [about["n_masks"] or "-"]
        rows.append([name, *map(str, counts), *(_cell(result, metric) for metric in metrics)])
    blank = [""] * len(counted)
    means = [_mean_cell(row["mean"], metric, n, spread=False) for metric in metrics]
    errors = [percent(row["mean"][metric]["sem"]) for metric in metrics]
    rows += [[_over(n), *blank, *means], ["± standard error", *blank, *errors]]
    if _has_spread([row]):
        spreads = [percent(row["mean"][metric]["spread"]) for metric in metrics]
        rows.append([f"± over {_fits(report['parameters'])}", *blank, *spreads])
    return ["category", *counted, *metrics.values()], rows


def _shots_table(report: dict[str, Any], metric: str, name: str) -> Table:
    """Make one line per number of images, with one metric of every category."""
    n = len(report["images"])
    rows = []
    for row in report["rows"]:
        cells = [_cell(result, metric) for result in row["categories"].values()]
        mean = _mean_cell(row["mean"], metric, n)
        rows.append([row["name"], *cells, mean, percent(row["mean"][metric]["spread"])])
    return [name, *report["images"], f"mean of {n}", "± over draws"], rows


def _fits(parameters: dict[str, Any]) -> str:
    return "draws" if parameters["shots"] else "folds"


def _has_spread(ran: Sequence[dict[str, Any]]) -> bool:
    return any(row["mean"][metric]["spread"] is not None for row in ran for metric in METRICS)


def _has_pixels(ran: Sequence[dict[str, Any]]) -> bool:
    return any(row["mean"][metric]["n"] for row in ran for metric in PIXEL_METRICS)


def _left_out(report: dict[str, Any]) -> list[str]:
    """Name the defective images that no pixel figure includes."""
    lines = []
    for name, about in report["images"].items():
        paths = [Path(path) for path in about["left_out_of_pixels"]]
        if paths:
            named = ", ".join(f"{path.parent.name}/{path.name}" for path in paths)
            text = (
                f"pixels: {name}: {len(paths)} of {sum(about['is_anomaly'])} bad images left out, "
                f"because their masks mark nothing: {named}"
            )
            lines += wrap(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    return lines


def _not_possible(ran: Sequence[dict[str, Any]]) -> list[str]:
    """Say why fits to so few images are not possible, where the table does not say it."""
    lines = []
    for row in ran:
        for name, result in row["categories"].items():
            reason = result["not_possible"]
            if reason and _shortened(reason) != reason:
                text = f"not possible: {row['name']} of {name}: {reason}"
                lines += wrap(text, WIDTH, subsequent_indent="  ")
    return lines


def _over(n: int) -> str:
    return f"mean over {n} categor{'y' if n == 1 else 'ies'}"


def _cell(result: dict[str, Any], metric: str, spread: bool = True) -> str:
    value = result[metric]
    if result["not_possible"]:
        return f"not possible: {_shortened(result['not_possible'])}"
    if value is None and metric not in PIXEL_METRICS:
        return not_available(result["reason"])
    return percent(value, result["spread"][metric] if spread else None)


def _shortened(reason: str) -> str:
    """Give a reason as a cell has it; one that is longer stands below the table."""
    return reason if reason.startswith("needs ") else "see below"


def _mean_cell(means: dict[str, Any], metric: str, n: int, spread: bool = True) -> str:
    """Write mean ± SEM, and over how many categories if some have no figure."""
    mean = means[metric]
    if not mean["n"]:
        return "-" if metric in PIXEL_METRICS else "n/a"
    text = percent(mean["mean"], mean["sem"] if spread else None)
    return text if mean["n"] == n else f"{text} (of {mean['n']})"
