"""Figures of fits, and their means over fits and over categories."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mahalad.bench.evaluation import Evaluation
from mahalad.bench.tables import METRICS, PIXEL_METRICS
from mahalad.evaluation.images import (
    average_precision,
    f1_max,
    mean_and_deviation,
    mean_and_sem,
    rates_at,
    roc_auc,
)


def summarise(
    is_anomaly: NDArray[np.bool_], judged: Sequence[tuple[int, Evaluation]]
) -> dict[str, Any]:
    """Compute the figures of each fit (number of images, what it says) and their means."""
    folds = []
    for n_fitted, found in judged:
        rates = (None, None) if found.flagged is None else rates_at(is_anomaly, found.flagged)
        figures = {
            "roc_auc": roc_auc(found.scores, is_anomaly),
            "average_precision": average_precision(found.scores, is_anomaly),
            "f1_max": f1_max(found.scores, is_anomaly),
            "fpr": rates[0],
            "tpr": rates[1],
            "pixel_roc_auc": found.pixels and found.pixels.roc_auc,
            "pixel_aupro": found.pixels and found.pixels.aupro,
            "pixel_f1_max": found.pixels and found.pixels.f1_max,
        }
        about = {"n_fitted": n_fitted, "threshold": found.threshold, "reason": found.reason}
        folds.append(figures | about | {"scores": found.scores.tolist()})
    reasons = [fold["reason"] for fold in folds if fold["reason"]]
    means: dict[str, float | None] = {}
    spread: dict[str, float | None] = {}
    for metric in METRICS | PIXEL_METRICS:
        values = [fold[metric] for fold in folds]
        has_all = bool(values) and None not in values
        means[metric] = float(np.mean(values)) if has_all else None
        spread[metric] = mean_and_deviation(values)[1] if has_all and values[1:] else None
    about = {"reason": reasons[0] if reasons else None, "not_possible": None}
    return means | about | {"spread": spread, "folds": folds}


def mean_over(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Average each metric over the categories that have it.

    With the standard error, and, where there are several fits, the standard deviation over fits
    of the mean over categories.
    """
    means = {}
    for metric in METRICS | PIXEL_METRICS:
        having = [result for result in results if result[metric] is not None]
        mean, sem = mean_and_sem([result[metric] for result in having])
        by_fit = np.array([[fold[metric] for fold in result["folds"]] for result in having])
        spread = mean_and_deviation(by_fit.mean(axis=0))[1] if by_fit.shape[1:] > (1,) else None
        means[metric] = {"mean": mean, "sem": sem, "spread": spread, "n": len(having)}
    return means
