"""The threshold that bounds the rate of one fit: a tolerance limit of Wilks."""

from __future__ import annotations

from typing import Self

from sklearn.base import BaseEstimator

from mahalad.checks import check_parameters
from mahalad.errors import CalibrationError
from mahalad.possible import other_rules
from mahalad.protocols import Floats
from mahalad.thresholds.guarantee import (
    CONFIDENCE,
    CONFIDENCE_LIMIT,
    conformal_needs,
    counted,
    rate_bounds,
    tolerance_needs,
)
from mahalad.thresholds.ranking import Ranking


class ToleranceThreshold(BaseEstimator):
    """Bound the false-positive rate of the one fit at hand, not of the average over fits.

    Parameters
    ----------
    confidence : float, default=0.95
        Least probability, over draws of the calibration images, that the rate of the fit is at
        most the one asked for. ``threshold="tolerance"`` is the rule with the default.

    Notes
    -----
    The threshold is the k-th largest of n calibration scores. With independent scores of images
    that the scorer has not seen (``fit(X, calibration=...)``), the rate is Beta(k, n + 1 - k)
    distributed, and k is the largest with P(rate <= fpr) >= confidence: a theorem. It needs 29, 59,
    149 and 299 images for 10, 5, 2 and 1 % at the default confidence. With leave-one-out or
    cross-fitted scores the same holds in simulations; no theorem says so.

    p(x) is the bound on the share of good images that score at least as high: the `confidence`
    quantile of Beta(m + 1, n - m), of m = #{i: s_i >= s(x)} (Clopper and Pearson's). An image is
    flagged where it is at most `fpr`. It is larger than a conformal p-value.

    Where parts have several images, n is the number of parts, and m the sum over parts of the share
    of a part's scores that are >= s(x): simulated, and cautious where the images of a part differ.

    References
    ----------
    S. S. Wilks, "Determination of sample sizes for setting tolerance limits", Annals of
    Mathematical Statistics 1941.

    Examples
    --------
    >>> import numpy as np
    >>> threshold = ToleranceThreshold().fit(np.arange(1, 94.0))
    >>> threshold.critical_value(0.05), threshold.p_values(np.array([93.5, 92.5])).round(3).tolist()
    (92.0, [0.032, 0.05])
    """

    def __init__(self, confidence: float = CONFIDENCE) -> None:
        self.confidence = confidence

    def check_parameters(self) -> None:
        """Raise `InputError` unless the confidence lies between 0 and 1."""
        check_parameters({"confidence": CONFIDENCE_LIMIT}, self)

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
        self.check_parameters()
        self.ranking_ = Ranking.of(scores, weights)
        return self

    def statistic(self, scores: Floats, level_scores: Floats | None = None) -> Floats:
        """What is compared with the critical value: the scores themselves."""
        return scores

    def compares_scores(self, n_levels: int) -> bool:
        """Always: the critical value is one of scores."""
        return True

    def p_values(self, statistic: Floats) -> Floats:
        """Bound the share of good images that score as high as each (n,): small = abnormal."""
        return self._bounds(self.ranking_.at_least(statistic))

    def critical_value(self, fpr: float) -> float:
        """Give the score that at most a share `fpr` of good images exceeds, with that confidence.

        Raises
        ------
        CalibrationError
            Too few calibration scores: even the largest of them is no such threshold.
        """
        ranking = self.ranking_
        above = ranking.from_here[1:]
        allowed = above[self._bounds(above) <= fpr]
        if not len(allowed):
            n = counted(len(ranking.scores), ranking.total)
            raise CalibrationError(
                f"a tolerance threshold at fpr={fpr:g} with confidence {self.confidence:g} needs "
                f"at least {tolerance_needs(fpr, self.confidence)} calibration images and has {n}: "
                + other_rules(ranking.total, ranked=conformal_needs(fpr))
            )
        return ranking.lowest_below(float(allowed[0]))

    def _bounds(self, above: Floats) -> Floats:
        """Bounds on the rates of thresholds that a weight of scores (n,) lies above."""
        return rate_bounds(self.ranking_.total, above, self.confidence)
