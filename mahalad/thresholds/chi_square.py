"""Chi-square rules: matched to calibration scores, and the paper's nominal one."""

from __future__ import annotations

import math
from typing import Self

import numpy as np

from mahalad.errors import CalibrationError
from mahalad.possible import lowest_fpr, other_rules
from mahalad.protocols import Floats
from mahalad.thresholds.guarantee import CHI2_NEEDS, can_match, counted


class ChiSquareThreshold:
    """Match a scaled chi-square to squared calibration scores, and extrapolate.

    Notes
    -----
    s^2 ~ g chi2_nu with g = var / (2 mean) and nu = 2 mean^2 / var of the squared
    calibration scores (Satterthwaite's matching of two moments). Accurate where the tails of scores
    are as light as those of Gaussian features, and no theorem: where they are heavier, small rates
    are exceeded (0.6 to 0.9 % for 0.1 % asked, n = 100), and no number of images mends that.
    """

    MIN_SCORES = CHI2_NEEDS

    def fit(
        self,
        scores: Floats,
        degrees_of_freedom: int | None = None,
        weights: Floats | None = None,
    ) -> Self:
        """Match calibration scores.

        Parameters
        ----------
        scores : ndarray of shape (n,)
            Not negative, up = abnormal.
        degrees_of_freedom : ignored
        weights : ndarray of shape (n,), optional
            The images of one part share the weight 1. None: each shows a part of its own.

        Raises
        ------
        CalibrationError
            Fewer than 5 scores (parts), negative ones, or all the same.
        """
        scores, n = np.asarray(scores, dtype=np.float64), len(scores)
        weights = np.ones(n) if weights is None else np.asarray(weights, dtype=np.float64)
        total = float(weights.sum())
        if round(total, 6) < self.MIN_SCORES:
            raise CalibrationError(
                f"threshold='chi2' needs at least {self.MIN_SCORES} calibration images and has "
                f"{counted(n, total)}: {other_rules(total, ranked=self.MIN_SCORES)}"
            )
        if scores.min() < 0:
            raise CalibrationError(
                "threshold='chi2' needs scores that are distances (not negative); the lowest "
                f"calibration score is {scores.min():.4g}: use threshold='conformal', which with "
                f"{counted(n, total)} of them has rates from {lowest_fpr(total):g}"
            )
        relative = weights * n / total
        mean = float(np.mean(relative * scores**2))
        deviations = relative * (scores**2 - mean) ** 2
        variance = float(np.sum(deviations)) / (n * (total - 1) / total)
        if not can_match(scores):
            raise CalibrationError(
                f"all {len(scores)} calibration scores are the same: no threshold can be matched"
            )
        self.scale_ = variance / (2 * mean)
        self.degrees_of_freedom_ = 2 * mean**2 / variance
        return self

    def statistic(self, scores: Floats, level_scores: Floats | None = None) -> Floats:
        """What is compared with the critical value: the scores themselves."""
        return scores

    def compares_scores(self, n_levels: int) -> bool:
        """Always: the critical value is one of scores."""
        return True

    def p_values(self, statistic: Floats) -> Floats:
        """Give the share of the matched distribution above each score (n,): small = abnormal.

        A score below 0, as standardized ones of very ordinary images are, has the p-value 1.
        """
        from scipy import stats  # here, so that other rules do without it

        s2 = np.square(np.maximum(statistic, 0)) / self.scale_
        return np.asarray(stats.chi2.sf(s2, self.degrees_of_freedom_))

    def critical_value(self, fpr: float) -> float:
        """Score that a share `fpr` of the matched distribution exceeds."""
        from scipy import stats

        return math.sqrt(self.scale_ * float(stats.chi2.isf(fpr, self.degrees_of_freedom_)))


class NominalChiSquareThreshold:
    """The paper's rule: the sum of squared distances against a chi-square with D degrees.

    It supposes that mean and covariance are known, which they are not: on real images it
    flags far more than asked for. Kept as the reference.

    Notes
    -----
    For one level d^2 > chi2.ppf(1 - fpr, D); for several, sum of d_l^2 against sum of D_l.
    The statistic is the square root of that sum: for one level it is the anomaly score, for
    several it differs from the score (the sum of distances).

    References
    ----------
    Rippel et al., ICPR 2020, section III-D.
    """

    def fit(
        self,
        scores: Floats,
        degrees_of_freedom: int | None = None,
        weights: Floats | None = None,
    ) -> Self:
        """Take the number of features of all levels; scores and weights are not used.

        Raises
        ------
        CalibrationError
            The scorer does not say how many features it scores.
        """
        if degrees_of_freedom is None:
            raise CalibrationError(
                "threshold='chi2-nominal' is for Mahalanobis distances per level; this scorer "
                "has none: use threshold='conformal'"
            )
        self.degrees_of_freedom_ = int(degrees_of_freedom)
        return self

    def statistic(self, scores: Floats, level_scores: Floats | None = None) -> Floats:
        """Square root of the sum of squared distances over levels, shape (n,)."""
        if level_scores is None:
            raise CalibrationError("threshold='chi2-nominal' needs distances per level")
        return np.asarray(np.sqrt(np.square(level_scores).sum(axis=1)))

    def compares_scores(self, n_levels: int) -> bool:
        """Only with one level: the distance is the score there."""
        return n_levels == 1

    def p_values(self, statistic: Floats) -> Floats:
        """Give the share of the chi-square above each statistic (n,): small = abnormal."""
        from scipy import stats

        return np.asarray(stats.chi2.sf(np.square(statistic), self.degrees_of_freedom_))

    def critical_value(self, fpr: float) -> float:
        """Square root of the chi-square quantile at 1 - `fpr`."""
        from scipy import stats

        return math.sqrt(float(stats.chi2.isf(fpr, self.degrees_of_freedom_)))
