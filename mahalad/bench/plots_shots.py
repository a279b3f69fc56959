"""Draw what few images give: AUROC against their number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mahalad.bench.plots import BLUE, GREY, new_figure
from mahalad.images.geometry import describe_input

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_shots(report: dict[str, Any]) -> Figure:
    """Draw the mean AUROC of each category over draws, a bar for their standard deviation."""
    names = list(report["images"])
    figure, axes = new_figure(len(names), min(len(names), 4), (3.1, 2.6))
    for panel, name in zip(axes, names, strict=True):
        results = [row["categories"][name] for row in report["rows"]]
        done = [i for i, result in enumerate(results) if result["folds"]]
        panel.errorbar(
            done,
            [100 * results[i]["roc_auc"] for i in done],
            yerr=[100 * (results[i]["spread"]["roc_auc"] or 0.0) for i in done],
            fmt="o-",
            color=BLUE,
            capsize=3,
            markersize=5,
        )
        panel.set_xticks(range(len(results)), [row["name"].split()[0] for row in report["rows"]])
        panel.set_xlim(-0.5, len(results) - 0.5)
        for i in set(range(len(results))) - set(done):
            panel.text(i, 0.05, "not possible", rotation=90, fontsize=7, color=GREY,
                       ha="center", transform=panel.get_xaxis_transform())  # fmt: skip
        panel.set_title(name, fontsize=9)
        panel.set_xlabel("good images", fontsize=8)
        panel.set_ylabel("AUROC in %", fontsize=8)
    network, p = report["rows"][0]["network"], report["parameters"]
    figure.suptitle(
        f"{network['backbone']}, {describe_input(network)}, scope {p['scope']}, "
        f"{p['draws']} draws (bars: standard deviation)",
        fontsize=10,
    )
    return figure
