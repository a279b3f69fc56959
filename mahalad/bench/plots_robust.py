"""The picture of a report of `bench robust`, drawn from the report alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mahalad.bench.changes import KINDS
from mahalad.bench.plots import BLUE, GREEN, GREY, ORANGE, new_figure
from mahalad.images.geometry import describe_input

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STYLES = {
    "fpr": (BLUE, "o", "good images flagged"),
    "tpr": (ORANGE, "s", "defects found"),
    "roc_auc": (GREEN, "^", "AUROC"),
}


def draw_robust(report: dict[str, Any]) -> Figure:
    """Draw figures against the strength of each kind of change: means, and categories in pale."""
    unchanged, *rows = report["rows"]
    figure, axes = new_figure(len(KINDS), 3, (3.1, 2.5))
    for panel, (name, kind) in zip(axes, KINDS.items(), strict=True):
        own = [(kind.none, unchanged)]
        own += [(row["strength"], row) for row in rows if row["change"] == name]
        if min(kind.strengths) < kind.none < max(kind.strengths):
            own.sort(key=lambda pair: pair[0])
        _draw_kind(panel, [row for _, row in own], report["parameters"]["fpr"])
        signs = "+" if name == "brightness" else ""
        labels = ["none" if row is unchanged else f"{at:{signs}g}" for at, row in own]
        panel.set_xticks(range(len(own)), labels)
        panel.set_xlabel(f"{name}{kind.unit and f' in {kind.unit.strip()}'}", fontsize=8)
    _legend(figure)
    network, p = report["network"], report["parameters"]
    counts = ", ".join(
        f"{name} {one['n_good']} good and {one['n_bad']} bad"
        for name, one in list(report["images"].items())[:3]
    )
    more = len(report["images"]) - 3
    figure.suptitle(
        f"Harmless changes of the test images: {counts}{f', {more} more sets' * (more > 0)}\n"
        f"{network['backbone']}, {describe_input(network)}, scope {p['scope']}, threshold "
        f"{p['threshold']} at {100 * p['fpr']:g} %",
        fontsize=9,
    )
    return figure


def _draw_kind(panel: Axes, rows: list[dict[str, Any]], asked: float) -> None:
    x = range(len(rows))
    panel.axhline(100 * asked, color=GREY, linewidth=0.8, linestyle=":")
    for figure, (color, marker, _) in _STYLES.items():
        names = rows[0]["categories"]
        for name in names if len(names) > 1 else ():
            values = [row["categories"][name][figure] for row in rows]
            if None not in values:
                panel.plot(x, [100 * v for v in values], color=color, linewidth=0.7, alpha=0.35)
        means = [row["mean"][figure] for row in rows]
        if all(mean["n"] for mean in means):
            panel.plot(x, [100 * mean["mean"] for mean in means], marker=marker, color=color,
                       markersize=4, linewidth=1.6, clip_on=False)  # fmt: skip
    panel.set(ylim=(0, 103))
    panel.set_ylabel("%", fontsize=8)


def _legend(figure: Figure) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=color, marker=marker, markersize=4, label=label)
        for color, marker, label in _STYLES.values()
    ]
    handles.append(Line2D([], [], color=GREY, linestyle=":", label="rate asked"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
