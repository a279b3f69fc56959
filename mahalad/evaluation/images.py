"""Figures of merit for anomaly scores (up = abnormal) of images whose kind is known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from mahalad.errors import InputError
from mahalad.protocols import Floats

Booleans = NDArray[np.bool_]


def roc_auc(scores: Floats, is_anomaly: Booleans) -> float:
    """Compute the area under the ROC curve: how often an anomaly scores above a good image.

    Parameters
    ----------
    scores : ndarray of shape (n_images,)
        Up = abnormal.
    is_anomaly : ndarray of bool, shape (n_images,)

    Returns
    -------
    float
        In [0, 1]; ties count half.

    Raises
    ------
    InputError
        There is not one score per label, a score is not finite, or all images are of one kind.

    Examples
    --------
    >>> roc_auc(np.array([1.0, 2.0, 3.0, 4.0]), np.array([False, True, False, True]))
    0.75
    """
    return float(roc_auc_score(*_checked(scores, is_anomaly)))


def average_precision(scores: Floats, is_anomaly: Booleans) -> float:
    """Average precision over the anomalies, from the highest score down; errors as `roc_auc`."""
    return float(average_precision_score(*_checked(scores, is_anomaly)))


def f1_max(scores: Floats, is_anomaly: Booleans) -> float:
    """Compute the best F1 over all thresholds; errors as `roc_auc`.

    The threshold is chosen with the labels of the same images, so this is a bound on what a
    detector could reach, not what a detector without labels does reach.
    """
    precision, recall, _ = precision_recall_curve(*_checked(scores, is_anomaly))
    total = precision + recall
    # Precision and recall are both 0 above the highest score of an anomaly.
    return float(np.max(2 * precision * recall / np.where(total > 0, total, 1)))


def rates_at(is_anomaly: Booleans, flagged: Booleans) -> tuple[float, float]:
    """Compute the shares of good images and of anomalies that are flagged.

    Parameters
    ----------
    is_anomaly, flagged : ndarray of bool, shape (n_images,)

    Returns
    -------
    tuple of float
        False-positive and true-positive rate; NaN where there is no image of that kind.

    Raises
    ------
    InputError
        The arrays differ in shape, or are not one-dimensional.
    """
    is_anomaly, flagged = np.asarray(is_anomaly, bool), np.asarray(flagged, bool)
    if is_anomaly.shape != flagged.shape or is_anomaly.ndim != 1:
        raise InputError(
            f"is_anomaly and flagged must be one array each of the same length, got shapes "
            f"{is_anomaly.shape} and {flagged.shape}"
        )
    good, bad = flagged[~is_anomaly], flagged[is_anomaly]
    return _mean(good), _mean(bad)


def mean_and_sem(values: Any) -> tuple[float, float]:
    """Compute mean and standard error, std(ddof=1) / sqrt(n); NaN if there are too few values.

    Examples
    --------
    >>> mean_and_sem([1.0, 3.0])
    (2.0, 1.0)
    """
    mean, deviation = mean_and_deviation(values)
    return mean, deviation / math.sqrt(max(len(values), 1))


def mean_and_deviation(values: Any) -> tuple[float, float]:
    """Compute mean and standard deviation (ddof=1); NaN if there are too few values."""
    values = np.asarray(values, dtype=np.float64)
    return _mean(values), float(values.std(ddof=1)) if len(values) > 1 else math.nan


def _mean(values: NDArray[Any]) -> float:
    return float(values.mean()) if len(values) else math.nan


def _checked(scores: Floats, is_anomaly: Booleans) -> tuple[Booleans, Floats]:
    """Check labels and scores, and give them in scikit-learn's order."""
    is_anomaly, scores = np.asarray(is_anomaly, bool), np.asarray(scores, np.float64)
    if scores.ndim != 1 or scores.shape != is_anomaly.shape:
        raise InputError(
            f"one score and one label per image are needed, got shapes {scores.shape} and "
            f"{is_anomaly.shape}"
        )
    if not np.isfinite(scores).all():
        raise InputError(f"scores must be finite; {np.sum(~np.isfinite(scores))} are not")
    if is_anomaly.all() or not is_anomaly.any():
        raise InputError(
            f"good images and anomalies are both needed, got {np.sum(~is_anomaly)} good of "
            f"{len(is_anomaly)}"
        )
    return is_anomaly, scores
