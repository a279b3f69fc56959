"""Write a report of `bench knn` as text, from the report alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mahalad.bench.knn_methods import METHODS, SUPERVISED
from mahalad.report.tables import format_table, percent


def as_text(report: dict[str, Any]) -> str:
    """Write a report as tables."""
    p, images, results = report["parameters"], report["images"], report["results"]
    network = report["encoder"] or {}
    what = network.get("backbone") or network.get("kind") or "features"
    lines = [
        f"{p['root']}: {images['train']} train, {images['test']} test; {what}, "
        f"{images['features']} features, standardised by all of train",
        f"means over {p['seeds']} draws of the labels, in %; margin, k, C and weights of classes "
        "chosen on parts of the labels drawn; triplets: linear head, votes of k neighbours",
    ]
    for task in dict.fromkeys(r["task"] for r in results):
        header = ["macro F1", *(f"{n} labels" for n in p["labels"])]
        rows = []
        for method in METHODS:
            values = [
                [r["macro_f1"] for r in results_of(results, task, n, method)] for n in p["labels"]
            ]
            if any(values):
                rows.append([method, *(percent(float(np.mean(v)), float(np.std(v)))
                                       for v in values)])  # fmt: skip
        supervised = next(r for r in results if (r["task"], r["method"]) == (task, SUPERVISED))
        rows.append([f"{SUPERVISED} ({supervised['labels']})", percent(supervised["macro_f1"])])
        rows[-1] += [""] * (len(header) - 2)
        lines += ["", f"{task}", format_table(header, rows)]
        lines += ["", *_details(report, task)]
    return "\n".join(lines)


def _details(report: dict[str, Any], task: str) -> list[str]:
    """Write F1, precision and recall of the positive class, and the paired differences."""
    p, results = report["parameters"], report["results"]
    header = [f"of {p['positive']}", "F1", "precision", "recall"]
    lines = []
    for n in p["labels"]:
        rows = []
        for method in METHODS:
            found = results_of(results, task, n, method)
            if found:
                keys = ("f1", "precision", "recall")
                means = [float(np.mean([r[key] for r in found])) for key in keys]
                rows.append([method, *map(percent, means)])
        lines += [f"{n} labels", format_table(header, rows)]
        for d in report["differences"]:
            if (d["task"], d["labels"]) == (task, n):
                lines.append(
                    f"{d['method']} less {d['against']}: {100 * d['mean']:+.1f} points of macro F1 "
                    f"(95 % interval {100 * (d['mean'] - d['half_width']):+.1f} to "
                    f"{100 * (d['mean'] + d['half_width']):+.1f})"
                )
        lines.append("")
    return lines


def results_of(
    results: Sequence[dict[str, Any]], task: str, n: int, method: str
) -> list[dict[str, Any]]:
    """Give the results of a method with n labels, one for each seed."""
    return [r for r in results if (r["task"], r["labels"], r["method"]) == (task, n, method)]
