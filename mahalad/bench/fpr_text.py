"""Write a report of `bench fpr` as text, from the report alone."""

from __future__ import annotations

from typing import Any

from mahalad.bench.tables import describe_scorer, describe_tolerance, footnotes, not_available
from mahalad.images.geometry import describe_input
from mahalad.report.tables import format_table, percent

FIGURES = ("fpr", "tpr", "official_fpr")

_ABOUT = {
    "conformal": "calibrated by leaving images out",
    "holdout": "calibrated on 30 % of the images fitted",
    "tolerance": "as conformal, but at most the rate asked in 95 % of fits, not on average",
    "chi2": "a chi-square, matched to the scores of images left out",
    "chi2-nominal": "the paper's rule, as a reference",
}


def as_text(report: dict[str, Any]) -> str:
    """Write a report as aligned text, for a terminal of 100 columns."""
    p, network, categories = report["parameters"], report["network"], report["categories"]
    about = [
        ("protocol", f"{p['splits']} random splits of train/good + test/good, 30 % held out"),
        ("network", f"{network['backbone']} at {describe_input(network)}, weights from "
                    f"{network['weights_source']}"),
        ("scorer", describe_scorer(p)),
        *describe_tolerance(p),
        ("data", ", ".join(map(str, p["roots"]))),
        *(("images", f"{name}: {_counts(one)}") for name, one in categories.items()),
        ("figures", "in %; FPR ± standard deviation over splits (last rows: ± standard error over"),
        ("", "categories); official: FPR of a fit to train/good on test/good"),
    ]  # fmt: skip
    reasons = [result["reason"] for one in categories.values() for result in one["results"]]
    return "\n".join(
        [
            "bench fpr: asked (columns) against achieved false-positive rate",
            *(f"  {key:9} {value}" for key, value in about),
            "",
            _table(report),
            "",
            *(f"{rule}: {_ABOUT[rule]}" for rule in p["thresholds"]),
            *footnotes(reasons),
        ]
    )


def _counts(one: dict[str, Any]) -> str:
    n_good, n_groups = one["n_train"] + one["n_test_good"], one["n_groups"]
    grouped = "" if n_groups is None else f", in {n_groups} groups"
    if n_groups == n_good:  # a typing error, or names that do not say what is wanted
        grouped += " (each image its own: --group joins nothing)"
    return f"{one['n_train']} + {one['n_test_good']} good{grouped}; {one['n_bad']} bad"


def _table(report: dict[str, Any]) -> str:
    alphas = list(dict.fromkeys(row["alpha"] for row in report["mean"]))
    header = ["category", "rule"]
    for alpha in alphas:
        header += [f"FPR at {100 * alpha:g} %", "TPR", "official"]
    rows = []
    for name, one in report["categories"].items():
        for rule in report["parameters"]["thresholds"]:
            cells = []
            for result in (r for r in one["results"] if r["rule"] == rule):
                missing = not_available(result["reason"]) if result["reason"] else "-"
                cells += [
                    missing if result["fpr"] is None else percent(result["fpr"], result["fpr_std"]),
                    percent(result["tpr"]),
                    percent(result["official_fpr"]),
                ]
            rows.append([name, rule, *cells])
    n = len(report["categories"])
    for rule in report["parameters"]["thresholds"]:
        cells = []
        for row in (row for row in report["mean"] if row["rule"] == rule):
            cells += [_mean_cell(row[name], n, name == "fpr") for name in FIGURES]
        rows.append([f"mean of {n}", rule, *cells])
    return format_table(header, rows, n_keys=2, n_together=3)


def _mean_cell(mean: dict[str, Any], n: int, spread: bool) -> str:
    if mean["n"] == 0:
        return "-"
    text = percent(mean["mean"], mean["sem"] if spread else None)
    return text if mean["n"] == n else f"{text} (of {mean['n']})"
