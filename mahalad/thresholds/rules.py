"""From a target false-positive rate to a threshold: one class per rule, one protocol.

All of them work on anomaly scores (up = abnormal). `p_values` are small = abnormal, and an
image is flagged when its score exceeds `critical_value(fpr)`, which for every rule is the
same as a p-value of at most `fpr`.
"""

from __future__ import annotations

from typing import Any

from sklearn.base import clone
from sklearn.utils.validation import has_fit_parameter

from mahalad.errors import CalibrationError, InputError
from mahalad.protocols import Floats, Threshold
from mahalad.thresholds.chi_square import ChiSquareThreshold, NominalChiSquareThreshold
from mahalad.thresholds.conformal import ConformalThreshold
from mahalad.thresholds.tolerance import ToleranceThreshold

RULES = {
    "conformal": ConformalThreshold,
    "holdout": ConformalThreshold,
    "tolerance": ToleranceThreshold,
    "chi2": ChiSquareThreshold,
    "chi2-nominal": NominalChiSquareThreshold,
}
"""Threshold rules by name. "holdout" is the conformal rule on images that were held out."""


def check_threshold(threshold: str | Threshold) -> None:
    """Raise `InputError` unless it is the name of a rule or an object that can be one."""
    if isinstance(threshold, str) and threshold not in RULES:
        raise InputError(f"unknown threshold {threshold!r}; one of {', '.join(RULES)}")
    if not isinstance(threshold, str) and not all(
        hasattr(threshold, name) for name in ("fit", "statistic", "p_values", "critical_value")
    ):
        raise InputError(
            f"threshold must be one of {', '.join(RULES)} or a threshold object, got {threshold!r}"
        )
    if isinstance(threshold, ToleranceThreshold):
        threshold.check_parameters()


def takes_calibration(threshold: str | Threshold) -> bool:
    """Whether images that are given for it alone may set the threshold."""
    if isinstance(threshold, str):
        return threshold in ("holdout", "tolerance")
    return isinstance(threshold, ToleranceThreshold)


def check_calibration(threshold: str | Threshold, method: str) -> None:
    """Raise `CalibrationError` if a rule needs scores that were made in another way.

    Parameters are those of `fit_threshold`.
    """
    if not isinstance(threshold, str) or threshold in ("tolerance", "chi2-nominal"):
        return  # they take scores of any kind
    if (threshold == "holdout") != (method == "holdout"):
        raise CalibrationError(
            f"threshold={threshold!r} needs another calibration than this fit has ({method}): "
            "fit again"
        )


def needs_scores(threshold: str | Threshold) -> bool:
    """Whether a rule needs calibration scores: all do, but for the nominal chi-square."""
    return threshold != "chi2-nominal" and not isinstance(threshold, NominalChiSquareThreshold)


def fit_threshold(
    threshold: str | Threshold,
    method: str,
    scores: Floats,
    degrees_of_freedom: int | None,
    weights: Floats | None = None,
) -> Threshold:
    """Fit the rule of that name, or a copy of that one, to calibration scores.

    Parameters
    ----------
    threshold : str or threshold object
    method : {"leave-one-out", "cross-fit", "holdout", "none"}
        How the scores were made.
    scores : ndarray of shape (n_calibration,)
        Up = abnormal.
    degrees_of_freedom : int or None
        Number of features scored, if it is known.
    weights : ndarray of shape (n_calibration,), optional
        The images of one part share the weight 1. None: each shows a part of its own.

    Raises
    ------
    CalibrationError
        The rule needs scores that were made in another way, or knows no weights and some scores
        have others than 1.
    """
    check_calibration(threshold, method)
    if isinstance(threshold, str):
        rule: Any = RULES[threshold]()
    else:
        rule = clone(threshold, safe=False)
    fitted: Threshold
    if weights is None or (weights == 1).all():
        fitted = rule.fit(scores, degrees_of_freedom)
    elif has_fit_parameter(rule, "weights"):
        fitted = rule.fit(scores, degrees_of_freedom, weights)
    else:
        raise CalibrationError(
            f"some images of this fit show the same part, and {rule!r} knows no weights: its fit "
            "needs a third parameter, weights"
        )
    return fitted
