"""From a target false-positive rate to a threshold: one class per rule, one protocol.

All of them work on anomaly scores (up = abnormal). `p_values` are small = abnormal, and an
image is flagged when its score exceeds `critical_value(fpr)`, which for every rule is the
same as a p-value of at most `fpr`.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import clone
from sklearn.utils.validation import has_fit_parameter

from mahalad.errors import CalibrationError, InputError
from mahalad.possible import other_rules
from mahalad.protocols import Floats, Threshold
from mahalad.thresholds.chi_square import (
    ChiSquareThreshold,
    NominalChiSquareThreshold,
    can_match,
)
from mahalad.thresholds.guarantee import conformal_needs, conformal_weight, counted
from mahalad.thresholds.ranking import Ranking
from mahalad.thresholds.tolerance import ToleranceThreshold


def check_fpr(fpr: float) -> float:
    """Return `fpr` as a float, or raise `InputError` unless 0 < fpr < 1."""
    if isinstance(fpr, bool) or not isinstance(fpr, (int, float, np.number)) or not 0 < fpr < 1:
        raise InputError(
            f"fpr must be a number between 0 and 1 (exclusive), got {fpr!r}: it is the share of "
            "good images that may be flagged, for example 0.05"
        )
    return float(fpr)


class ConformalThreshold:
    """Rank a new score among calibration scores.

    Notes
    -----
    p(x) = (1 + #{i: s_i >= s(x)}) / (n + 1). With calibration scores of images that the
    scorer has not seen (`threshold="holdout"`) and new good images exchangeable with them,
    P(p <= fpr) <= fpr is a theorem. With leave-one-out or cross-fitted scores
    (`threshold="conformal"`) the rate is accurate, but no theorem says so.

    Of G parts with several images each, p(x) = (1 + sum over parts of the share of the part's
    scores that are >= s(x)) / (G + 1). The theorem holds for images of parts that are new, if parts
    are exchangeable, and so are the images of each.

    References
    ----------
    V. Vovk, A. Gammerman, G. Shafer, "Algorithmic Learning in a Random World", 2005;
    R. Barber et al., "Predictive inference with the jackknife+", Annals of Statistics 2021;
    Y. Lee, R. Barber, R. Willett, "Distribution-free inference with hierarchical data", 2023.

    Examples
    --------
    >>> import numpy as np
    >>> threshold = ConformalThreshold().fit(np.arange(1, 20.0))
    >>> threshold.critical_value(0.05), threshold.p_values(np.array([19.5, 18.5])).tolist()
    (19.0, [0.05, 0.1])
    """

    def fit(
        self,
        scores: Floats,
        degrees_of_freedom: int | None = None,
        weights: Floats | None = None,
    ) -> Self:
        """Keep calibration scores.

        Parameters
        ----------
        scores : ndarray of shape (n,)
            Up = abnormal.
        degrees_of_freedom : ignored
        weights : ndarray of shape (n,), optional
            The images of one part share the weight 1. None: each shows a part of its own.
        """
        self.ranking_ = Ranking.of(scores, weights)
        return self

    def statistic(self, scores: Floats, level_scores: Floats | None = None) -> Floats:
        """What is compared with the critical value: the scores themselves."""
        return scores

    def compares_scores(self, n_levels: int) -> bool:
        """Always: the critical value is one of scores."""
        return True

    def p_values(self, statistic: Floats) -> Floats:
        """Rank scores (n,) among calibration scores: small = abnormal."""
        ranking = self.ranking_
        return np.asarray((1 + ranking.at_least(statistic)) / (ranking.total + 1))

    def critical_value(self, fpr: float) -> float:
        """Largest score that is not flagged at rate `fpr`.

        Raises
        ------
        CalibrationError
            Fewer than 1/fpr - 1 calibration scores (parts): no p-value can be as small as `fpr`.
        """
        total, n = self.ranking_.total, len(self.ranking_.scores)
        weight = conformal_weight(total, fpr)
        if weight < 1:
            raise CalibrationError(
                f"a conformal threshold at fpr={fpr:g} needs at least {conformal_needs(fpr)} "
                f"calibration images and has {counted(n, total)}: "
                + other_rules(
                    total, ranked=conformal_needs(fpr), matches=can_match(self.ranking_.scores)
                )
            )
        return self.ranking_.lowest_below(weight - 1)


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
