"""Write a report of `bench mvtec` as text, from the report alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

from mahalad.bench.pixels import FPR_LIMIT
from mahalad.bench.tables import (
    describe_scorer,
    describe_splits,
    describe_tolerance,
    footnotes,
    not_available,
)
from mahalad.images.geometry import describe_input
from mahalad.report.tables import WIDTH, format_table, percent

METRICS = {
    "roc_auc": "AUROC",
    "average_precision": "AP",
    "f1_max": "F1-max*",
    "fpr": "FPR",
    "tpr": "TPR",
}
PIXEL_METRICS = {
    "pixel_roc_auc": "pixel AUROC",
    "pixel_aupro": "AUPRO",
    "pixel_f1_max": "pixel F1-max*",
}
PROTOCOLS = {
    "paper": "paper (5 folds, fit on 80 % of train/good, whole test set, mean over folds)",
    "official": "official (fit on all of train/good, whole test set)",
}


def as_text(report: dict[str, Any]) -> str:
    """Write a report as aligned text, for a terminal of 100 columns."""
    p = report["parameters"]
    ran = [row for row in report["rows"] if not row["not_run"]]
    missing = [row for row in report["rows"] if row["not_run"]]
    lines = [_header(report, ran), "", _table(report, ran), ""]
    for row in missing:
        reason = row["not_run"].removeprefix(f"{row['name']}: ")
        lines.append(f"not run: {row['name']}: {reason}")
    if missing:
        lines.append("")
    reasons = [result["reason"] for row in ran for result in row["categories"].values()]
    if p["table"] == "thresholds":
        lines.append("FPR, TPR: achieved on the test set, against the rate asked for.")
    else:
        lines.append(
            f"FPR, TPR: shares of good and bad test images above the {p['threshold']} threshold "
            f"for {percent(p['fpr'])} %."
        )
        lines.append("* F1-max is tuned on the test labels: a bound, not what a detector reaches.")
    lines += describe_splits(report["images"]) + _left_out(report) + footnotes(reasons)
    return "\n".join(lines)


def _header(report: dict[str, Any], ran: Sequence[dict[str, Any]]) -> str:
    p = report["parameters"]
    networks = {row["network"]["backbone"]: row["network"] for row in ran}
    described = [
        f"{name} at {describe_input(record)}, weights from {record['weights_source']}"
        for name, record in networks.items()
    ]
    rows = [
        ("protocol", PROTOCOLS[p["protocol"]]),
        *(("network", text) for text in described),
        ("scorer", describe_scorer(p, "one per row" if p["table"] == "distances" else None)),
        *describe_tolerance(p),
        ("data", ", ".join(map(str, p["roots"]))),
        ("figures", "in %; ± is the standard error of the mean over categories"),
    ]
    if _has_pixels(ran):
        limit = f"AUPRO up to {100 * FPR_LIMIT:g} % false positives"
        rows.append(("pixels", f"of maps enlarged to the masks' size; {limit}"))
    return "\n".join([f"bench mvtec: {p['table']}", *(f"  {k:9} {v}" for k, v in rows)])


def _table(report: dict[str, Any], ran: Sequence[dict[str, Any]]) -> str:
    p = report["parameters"]
    if p["table"] == "thresholds":
        blocks = [{metric: METRICS[metric] for metric in ("fpr", "tpr")}]
    else:
        blocks = [METRICS, *([PIXEL_METRICS] if _has_pixels(ran) else [])]
    if p["table"] == "categories":
        return "\n\n".join(_category_table(report, ran[0], metrics) for metrics in blocks)
    n = len(report["images"])
    tables = []
    for metrics in blocks:
        means = [
            [row["name"], "not run", *[""] * (len(metrics) - 1)]
            if row["not_run"]
            else [row["name"], *(_mean_cell(row["mean"], metric, n) for metric in metrics)]
            for row in report["rows"]
        ]
        tables.append(format_table([_over(n), *metrics.values()], means))
    for metric in ("fpr", "tpr") if p["table"] == "thresholds" else ("roc_auc",):
        rows = [
            [row["name"], *(_cell(result, metric) for result in row["categories"].values())]
            for row in ran
        ]
        tables.append(format_table([f"{METRICS[metric]} per category", *report["images"]], rows))
    return "\n\n".join(tables)


def _category_table(report: dict[str, Any], row: dict[str, Any], metrics: Mapping[str, str]) -> str:
    """Write one line per category, with the metrics of images or those of pixels."""
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
    return format_table(["category", *counted, *metrics.values()], rows)


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


def _over(n: int) -> str:
    return f"mean over {n} categor{'y' if n == 1 else 'ies'}"


def _cell(result: dict[str, Any], metric: str) -> str:
    value = result[metric]
    if value is None and metric not in PIXEL_METRICS:
        return not_available(result["reason"])
    return percent(value)


def _mean_cell(means: dict[str, Any], metric: str, n: int, spread: bool = True) -> str:
    """Write mean ± SEM, and over how many categories if some have no figure."""
    mean = means[metric]
    if not mean["n"]:
        return "-" if metric in PIXEL_METRICS else "n/a"
    text = percent(mean["mean"], mean["sem"] if spread else None)
    return text if mean["n"] == n else f"{text} (of {mean['n']})"
