"""Pictures of `bench knn`: F1 against the number of labels, and embeddings in two dimensions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mahalad.bench.knn_methods import SUPERVISED
from mahalad.bench.plots import BLUE, GREEN, GREY, ORANGE, PURPLE, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLES = {
    "encoder": (GREY, "o"),
    "batch-all": (PURPLE, "s"),
    "batch-hard": (ORANGE, "^"),
    "batch-hard-scaled": (BLUE, "D"),
    "scaled, self-trained": (BLUE, "*"),
    "semi-hard": (GREEN, "v"),
    "logistic": ("black", "x"),
}
COLOURS = (ORANGE, BLUE, GREEN, PURPLE, GREY, "#F0E442", "#56B4E9", "black")

Views = dict[str, tuple[NDArray[Any], NDArray[Any]]]
"""Title to places (n, 2) and labels (n,)."""


def draw_knn(report: dict[str, Any], views: Views) -> Figure:
    """Draw a report of `bench knn`, one panel per task and per view of the embeddings."""
    tasks = list(dict.fromkeys(row["task"] for row in report["results"]))
    figure, panels = new_figure(len(tasks) + len(views), 2, (5.6, 4.2))
    for panel, task in zip(panels, tasks, strict=False):
        _draw_f1(panel, task, [row for row in report["results"] if row["task"] == task])
    for panel, (title, (places, labels)) in zip(panels[len(tasks) :], views.items(), strict=False):
        _draw_view(panel, title, places, labels)
    return figure


def _draw_f1(panel: Axes, task: str, rows: list[dict[str, Any]]) -> None:
    for method, (colour, marker) in STYLES.items():
        counts = sorted({row["labels"] for row in rows if row["method"] == method})
        values = [
            [row["macro_f1"] for row in rows if (row["method"], row["labels"]) == (method, n)]
            for n in counts
        ]
        if counts:
            means, spreads = [np.mean(v) for v in values], [np.std(v) for v in values]
            panel.errorbar(counts, means, spreads, color=colour, marker=marker, ms=5, lw=1.2,
                           capsize=2, label=method)  # fmt: skip
    for row in rows:
        if row["method"] == SUPERVISED:
            panel.axhline(row["macro_f1"], color="black", ls=":", lw=1,
                          label=f"{SUPERVISED} ({row['labels']})")  # fmt: skip
    panel.set(title=task, xlabel="labels", ylabel="macro F1", xscale="log")
    ticks = sorted({row["labels"] for row in rows if row["method"] != SUPERVISED})
    panel.set_xticks(ticks, [str(n) for n in ticks], minor=False)
    panel.minorticks_off()
    panel.legend(fontsize=7, frameon=False)


def _draw_view(panel: Axes, title: str, places: NDArray[Any], labels: NDArray[Any]) -> None:
    for i, name in enumerate(np.unique(labels)):
        own = places[labels == name]
        panel.scatter(own[:, 0], own[:, 1], s=5, color=COLOURS[i % len(COLOURS)], label=str(name))
    panel.set(title=f"test images: {title}", xticks=[], yticks=[],
              xlabel="principal components 1 and 2")  # fmt: skip
    panel.legend(fontsize=7, frameon=False, markerscale=2)
