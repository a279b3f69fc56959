"""Where to set the threshold on a probability: precision and recall of honest votes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from mahalad.checks import Real, check_parameters
from mahalad.errors import InputError
from mahalad.protocols import Floats
from mahalad.thresholds.ranking import Ranking


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold, with what it gave on the votes it was chosen from.

    Attributes
    ----------
    threshold : float
        Images whose probability reaches it get the positive label.
    precision, recall : float
        In [0, 1].
    """

    threshold: float
    precision: float
    recall: float


@dataclass(frozen=True)
class Curve:
    """Precision and recall at every threshold.

    Attributes
    ----------
    precision, recall, thresholds : ndarray of shape (n_thresholds,)
        Thresholds ascend, one for each different probability.
    """

    precision: Floats
    recall: Floats
    thresholds: Floats


def precision_recall_curve(
    probabilities: ArrayLike, is_positive: ArrayLike, weights: ArrayLike | None = None
) -> Curve:
    """Compute precision and recall of "probability >= threshold" for each different probability.

    Parameters
    ----------
    probabilities : array of shape (n,)
        Of the positive label.
    is_positive : array of bool, shape (n,)
    weights : array of shape (n,), optional
        Copies of one picture share the weight 1; 1 for every image unless it is given.

    Raises
    ------
    InputError
        No positive image.

    Examples
    --------
    >>> curve = precision_recall_curve([0.2, 0.6, 0.6, 1.0], [False, True, False, True])
    >>> curve.thresholds.tolist(), curve.precision.round(2).tolist(), curve.recall.tolist()
    ([0.2, 0.6, 1.0], [0.5, 0.67, 1.0], [1.0, 1.0, 0.5])
    """
    values = np.asarray(probabilities, dtype=np.float64)
    truth = np.asarray(is_positive, dtype=bool)
    if values.shape != truth.shape or values.ndim != 1:
        raise InputError(
            f"one probability and one truth per image are needed, got shapes {values.shape} and "
            f"{truth.shape}"
        )
    if not truth.any():
        raise InputError(f"none of the {len(truth)} images is positive: there is no recall")
    counts = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=np.float64)
    all_, positive = (Ranking.of(values[some], counts[some]) for some in (slice(None), truth))
    thresholds = np.unique(values)
    flagged, hits = all_.at_least(thresholds), positive.at_least(thresholds)
    return Curve(hits / flagged, hits / positive.total, thresholds)


def choose(
    curve: Curve, precision: float | None = None, recall: float | None = None
) -> OperatingPoint:
    """Choose the threshold that keeps the asked precision or recall, and has most of the other.

    If both are asked for, the threshold keeps both and makes recall as large as it can be. It is
    never 0: that would give the positive label to images without a single vote for it.

    Raises
    ------
    InputError
        Neither is given, one is not in (0, 1], or no threshold reaches what is asked for; then
        the best that can be reached is named.
    """
    if precision is None and recall is None:
        raise InputError("give precision=..., recall=... or both")
    both = {"precision": precision, "recall": recall}
    asked = {name: share for name, share in both.items() if share is not None}
    check_parameters(dict.fromkeys(asked, Real("(0, 1]")), asked)
    p, r, voted = curve.precision, curve.recall, curve.thresholds > 0
    tiny = 1e-12  # 0.9 asked for, 9/10 found
    keeps_recall = voted & (r >= (recall or 0) - tiny)
    kept = keeps_recall & (p >= (precision or 0) - tiny)
    if not kept.any():
        if keeps_recall.any():
            at = np.where(keeps_recall, p, -1).argmax()
            best = f"precision is {p[at]:.3f}, with recall {r[at]:.3f}"
        else:
            at = voted.argmax()
            best = f"recall is {r[at]:.3f}, with precision {p[at]:.3f}"
        wanted = [f"{name} {share:g}" for name, share in asked.items()]
        raise InputError(
            f"{' with '.join(wanted)} cannot be reached on the labelled images: the best {best}; "
            "ask for less, label more images, or let more neighbours vote"
        )
    first, second = (p, r) if precision is None else (r, p)
    # The last key sorts first; at equal figures the highest threshold.
    order = np.lexsort((curve.thresholds, second, first))
    at = order[kept[order]][-1]
    # Midway to the next value below: what votes are worth changes a little with every image added.
    below = curve.thresholds[at - 1] if at else 0.0
    threshold = (below + curve.thresholds[at]) / 2
    return OperatingPoint(float(threshold), float(p[at]), float(r[at]))
