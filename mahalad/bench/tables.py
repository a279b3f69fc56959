"""What a benchmark prints: tables and notes as text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from textwrap import wrap
from typing import Any

from mahalad.report.tables import WIDTH

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

PUBLISHED_FORMS = {
    "padim": "PaDiM, published form over these maps: a Gaussian per position, 100 features",
    "patchcore": "PatchCore, published form over these maps: coreset of 1 %, re-weighted maximum",
}

_NEEDED = re.compile(r"needs at least (\d+)")  # as CalibrationError says it


def describe_scorer(parameters: dict[str, Any], scorer: str | None = None) -> str:
    """Describe the scorer for a report's header, by its parameters unless `scorer` is given."""
    n_copies = parameters["n_augment"]
    copies = f", {n_copies} augmented copies" if n_copies else ""
    if parameters["scorer"] in PUBLISHED_FORMS:
        return f"{PUBLISHED_FORMS[parameters['scorer']]}; raw scores"
    if parameters["scope"] == "positions":
        steps = parameters["neighbourhood"]
        places = f"a Gaussian per position{f', neighbourhood {steps}' if steps else ''}"
        if steps == "nearest":
            places = "nearest patch and Gaussian of positions"
        return f"scope positions: {places}, one of the image{copies}; raw scores"
    reduction = parameters["reduction"] or "none"
    return (
        f"scope image: {scorer or parameters['scorer']}, reduction {reduction}{copies}; raw scores"
    )


def describe_tolerance(parameters: dict[str, Any]) -> list[tuple[str, str]]:
    """Say in a report's header what is tolerated, and turned, where that was asked: rows of it."""
    kinds = parameters["tolerate"]
    found = [] if kinds == "auto" else [("tolerated", ", ".join(kinds) or "nothing")]
    turned = parameters.get("any_orientation", "auto")
    return found if turned == "auto" else [*found, ("turned", "yes" if turned else "no")]


def describe_splits(images: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say below a table who split the images of a category where its folders do not."""
    lines: list[str] = []
    for name, about in images.items():
        if about["split"]:
            lines += wrap(f"split: {name}: {about['split']}", WIDTH, subsequent_indent="  ")
    return lines


def not_available(reason: str) -> str:
    """Give a table's cell for a rule that gives no threshold: "n/a (needs 99)"."""
    needed = _NEEDED.search(reason)
    return f"n/a (needs {needed[1]})" if needed else "n/a"


def footnotes(reasons: Iterable[str | None]) -> list[str]:
    """Say below a table why thresholds are not available."""
    given = dict.fromkeys(reason for reason in reasons if reason)
    needs = [reason for reason in given if _NEEDED.search(reason)]
    lines = [f"n/a: {reason}" for reason in given if reason not in needs]
    if needs:
        lines.append("n/a (needs N): that rule needs N calibration images at that rate.")
    return lines
