"""Pictures of benchmark reports, drawn from the report alone and written whole or not at all."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mahalad.files.container import write_atomically
from mahalad.files.recognition import MARK
from mahalad.images.geometry import describe_input

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which stay apart for colour-blind readers.
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
SKY = "#56B4E9"
GREY = "#666666"
RULE_STYLES = {
    "conformal": (BLUE, "o"),
    "chi2": (GREEN, "s"),
    "holdout": (PURPLE, "D"),
    "tolerance": (SKY, "v"),
    "chi2-nominal": (ORANGE, "^"),
}


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure; the suffix (.png, .svg, .pdf) says how."""
    buffer = io.BytesIO()
    style = Path(path).suffix.lower().lstrip(".")
    entry = {"png": "Software", "svg": "Title", "pdf": "Creator"}.get(style)
    mark = None if entry is None else {entry: MARK}
    figure.savefig(buffer, format=style, dpi=130, metadata=mark)
    write_atomically(path, buffer.getvalue())


def draw_mvtec(report: dict[str, Any]) -> Figure:
    """Draw a report of `bench mvtec`: curves per category, or one line per row."""
    if report["parameters"]["table"] == "categories":
        return _draw_categories(report)
    if report["parameters"]["table"] == "thresholds":
        return _draw_thresholds(report)
    return _draw_rows(report)


def draw_fpr(report: dict[str, Any]) -> Figure:
    """Draw a report of `bench fpr`: asked against achieved rate, one panel per category."""
    panels = {
        name: [
            (r["rule"], r["alpha"], r["fpr"], r["fpr_std"], r["official_fpr"])
            for r in one["results"]
        ]
        for name, one in report["categories"].items()
    }
    network, p = report["network"], report["parameters"]
    title = (
        f"False-positive rate asked and achieved, {p['splits']} random splits\n"
        f"{network['backbone']}, {describe_input(network)}, scope {p['scope']}; "
        "bars: standard deviation over splits; hollow: official split"
    )
    return _draw_rates(panels, title)


def _draw_thresholds(report: dict[str, Any]) -> Figure:
    panels: dict[str, list[Any]] = {name: [] for name in report["images"]}
    for row in report["rows"]:
        for name, result in (row.get("categories") or {}).items():
            target = row["target"]
            panels[name].append((target["rule"], target["fpr"], result["fpr"], None, None))
    return _draw_rates(panels, "False-positive rate asked and achieved on the test set")


def new_figure(
    n_panels: int, n_columns: int, size: tuple[float, float]
) -> tuple[Figure, list[Axes]]:
    """Make a figure with a grid of panels; those beyond `n_panels` are hidden."""
    from matplotlib.figure import Figure

    n_rows = math.ceil(n_panels / n_columns)
    figure = Figure(figsize=(size[0] * n_columns, size[1] * n_rows + 0.8), layout="constrained")
    axes = list(figure.subplots(n_rows, n_columns, squeeze=False).flat)
    for unused in axes[n_panels:]:
        unused.set_visible(False)
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=8, color=GREY)
    return figure, axes[:n_panels]


def _draw_categories(report: dict[str, Any]) -> Figure:
    """Draw ROC and histogram of raw scores, side by side, for every category."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    row = report["rows"][0]
    results = row["categories"]
    figure, axes = new_figure(2 * len(results), 4 if len(results) > 1 else 2, (3.1, 2.6))
    for i, (name, result) in enumerate(results.items()):
        is_anomaly = np.array(report["images"][name]["is_anomaly"])
        _draw_roc(axes[2 * i], name, result, is_anomaly)
        _draw_scores(axes[2 * i + 1], name, result, is_anomaly)
    handles = [
        Patch(color=BLUE, alpha=0.75, label="good"),
        Patch(color=ORANGE, alpha=0.55, label="bad"),
        Line2D([], [], color="black", linestyle="--", label="threshold"),
        Line2D([], [], color="black", marker="o", linestyle="", label="rates at the threshold"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    network, p = row["network"], report["parameters"]
    how = f"scope {p['scope']}"
    if p["scope"] == "image":
        how += f", {p['scorer']}, reduction {p['reduction'] or 'none'}"
    figure.suptitle(
        f"{network['backbone']}, {describe_input(network)}, {how}, {p['protocol']} protocol",
        fontsize=10,
    )
    return figure


def _draw_roc(panel: Axes, name: str, result: dict[str, Any], is_anomaly: Any) -> None:
    from sklearn.metrics import roc_curve

    for fold in result["folds"]:
        fpr, tpr, _ = roc_curve(is_anomaly, fold["scores"])
        panel.plot(fpr, tpr, color=BLUE, linewidth=1.6, alpha=max(0.35, 1 / len(result["folds"])))
        if fold["fpr"] is not None:
            panel.plot(fold["fpr"], fold["tpr"], "o", color="black", markersize=5, clip_on=False)
    panel.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
    panel.set_title(f"{name}: AUROC {100 * result['roc_auc']:.1f} %", fontsize=9)
    panel.set_xlabel("false-positive rate", fontsize=8)
    panel.set_ylabel("true-positive rate", fontsize=8)
    panel.set(xlim=(-0.02, 1), ylim=(0, 1.03))


def _draw_scores(panel: Axes, name: str, result: dict[str, Any], is_anomaly: Any) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    fold = result["folds"][0]
    scores = np.array(fold["scores"])
    if scores.min() > 0:  # distances: bad images may lie far out
        bins = np.geomspace(scores.min(), scores.max(), 31).tolist()
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        panel.xaxis.set_minor_formatter(NullFormatter())
    else:
        bins = np.histogram_bin_edges(scores, bins=30).tolist()
    panel.hist(scores[is_anomaly], bins, color=ORANGE, alpha=0.55)
    panel.hist(scores[~is_anomaly], bins, color=BLUE, alpha=0.75)
    if fold["threshold"] is not None:
        panel.axvline(fold["threshold"], color="black", linewidth=1, linestyle="--")
    which = f" (fold 1 of {len(result['folds'])})" if len(result["folds"]) > 1 else ""
    panel.set_title(f"{name}: test scores{which}", fontsize=9)
    panel.set_xlabel("anomaly score", fontsize=8)
    panel.set_ylabel("images", fontsize=8)


def _draw_rows(report: dict[str, Any]) -> Figure:
    """Draw each row's mean AUROC with its standard error, and every category as a light dot."""
    rows = [row for row in report["rows"] if not row["not_run"]]
    figure, (panel,) = new_figure(1, 1, (7.5, 0.5 + 0.33 * len(rows)))
    for y, row in enumerate(rows):
        values = [100 * result["roc_auc"] for result in row["categories"].values()]
        mean = row["mean"]["roc_auc"]
        panel.plot(values, [y] * len(values), "o", color=BLUE, alpha=0.3, markersize=5)
        sem = 0.0 if mean["n"] < 2 else 100 * mean["sem"]
        panel.errorbar(100 * mean["mean"], y, xerr=sem, fmt="D", color=ORANGE, capsize=3,
                       markersize=5)  # fmt: skip
    panel.set_yticks(range(len(rows)), [row["name"] for row in rows], fontsize=8)
    panel.invert_yaxis()
    panel.grid(axis="x", color="#dddddd", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.set_xlabel("AUROC in %", fontsize=8)
    figure.suptitle(
        f"{report['parameters']['table']}: mean over {len(report['images'])} categories (orange, "
        "bar: standard error) and each category (blue)",
        fontsize=9,
    )
    return figure


def _draw_rates(panels: dict[str, list[Any]], title: str) -> Figure:
    """Draw achieved against asked rates, with the rules side by side at every asked rate.

    `panels` maps a category to tuples of rule, asked rate, achieved rate, its standard
    deviation and the rate on the official split (the last three may be None).
    """
    figure, axes = new_figure(len(panels), min(len(panels), 4), (3.2, 3.1))
    alphas = sorted({point[1] for points in panels.values() for point in points})
    top = 2.6 * alphas[-1]
    for panel, (name, points) in zip(axes, panels.items(), strict=True):
        panel.plot(range(len(alphas)), alphas, color=GREY, linewidth=0.8, linestyle=":")
        for i, alpha in enumerate(alphas):
            panel.plot([i - 0.42, i + 0.42], [alpha, alpha], color=GREY, linewidth=1)
        for k, (rule, (color, marker)) in enumerate(RULE_STYLES.items()):
            for _, alpha, achieved, deviation, official in (p for p in points if p[0] == rule):
                x = alphas.index(alpha) + 0.22 * (k - 1.5)
                _draw_point(panel, x, achieved, deviation, top, color, marker)
                if official is not None:
                    y = min(official, top)
                    panel.plot(x + 0.08, y, marker, markerfacecolor="none", color=color,
                               markersize=5, clip_on=False)  # fmt: skip
        panel.set(xlim=(-0.5, len(alphas) - 0.5), ylim=(0, top))
        panel.set_xticks(range(len(alphas)), [f"{100 * alpha:g}" for alpha in alphas])
        panel.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}")
        panel.set_title(name, fontsize=9)
        panel.set_xlabel("asked FPR in %", fontsize=8)
        panel.set_ylabel("achieved FPR in %", fontsize=8)
    _legend(figure)
    figure.suptitle(title, fontsize=9)
    return figure


def _draw_point(
    panel: Axes,
    x: float,
    y: float | None,
    deviation: float | None,
    top: float,
    color: str,
    marker: str,
) -> None:
    """Draw one achieved rate; one above the panel stands at its edge, with its value."""
    if y is None:
        return
    if y > top:
        panel.annotate(f"{100 * y:.0f}", (x, top), (0, -11), textcoords="offset points",
                       ha="center", fontsize=7, color=color)  # fmt: skip
        panel.plot(x, top, marker, color=color, markersize=5, clip_on=False)
        return
    panel.errorbar(x, y, yerr=deviation, fmt=marker, color=color, markersize=5, capsize=2,
                   linewidth=1)  # fmt: skip


def _legend(figure: Figure) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=color, marker=marker, linestyle="", markersize=5, label=rule)
        for rule, (color, marker) in RULE_STYLES.items()
    ]
    handles.append(Line2D([], [], color=GREY, label="achieved = asked"))
    figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=8, frameon=False)
