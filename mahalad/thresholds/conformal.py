"""The conformal threshold, which ranks a score among calibration scores. NumPy is all it needs."""

from __future__ import annotations

from typing import Self

import numpy as np

from mahalad.errors import CalibrationError, InputError
from mahalad.possible import other_rules
from mahalad.protocols import Floats
from mahalad.thresholds.guarantee import can_match, conformal_needs, conformal_weight, counted
from mahalad.thresholds.ranking import Ranking


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
