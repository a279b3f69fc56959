"""What a threshold promises of the one fit at hand, and how many good images a promise needs.

All here follows from one fact. A threshold at the k-th largest of n independent calibration scores
has a false-positive rate that is Beta(k, n + 1 - k) distributed over draws of the calibration
images (with ties it is less). So k / (n + 1) is its mean, the promise of a conformal threshold, and
a quantile of the distribution bounds the rate of one fit. For scores of images held out this is a
theorem; for leave-one-out and cross-fitted scores it is simulated (`tests/test_guarantee.py`).

SciPy is all that is needed: neither torch nor scikit-learn.

References
----------
S. S. Wilks, "Determination of sample sizes for setting tolerance limits", Annals of Mathematical
Statistics 1941; V. Vovk, "Conditional validity of inductive conformal predictors", ACML 2012.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mahalad.checks import FPR, Real, check_parameters
from mahalad.possible import CHI2
from mahalad.protocols import Floats

CONFIDENCE = 0.95
"""Probability with which a bound holds unless another is asked for."""

CONFIDENCE_LIMIT = Real("(0, 1)")
"""What a confidence may be."""

_EPS = 1e-12  # so that 0.1 * 30 is 3
_MANY = 1e15  # images: a rate of 1e-320 would need more than a float can say
_NAME_OF = {
    "ConformalThreshold": "conformal",
    "ToleranceThreshold": "tolerance",
    "ChiSquareThreshold": "chi2",
    "NominalChiSquareThreshold": "chi2-nominal",
}
_RANKED = ("conformal", "holdout", "tolerance")


def can_match(scores: Floats) -> bool:
    """Whether a chi-square can be matched to calibration scores: distances, not all the same."""
    squares = scores**2
    spread = len(scores) > 1 and np.var(squares, ddof=1) > (1e-12 * np.mean(squares)) ** 2
    return bool(spread and scores.min() >= 0)


def rate_bounds(n: float, above: Floats, confidence: float = CONFIDENCE) -> Floats:
    """Bound the rates of thresholds that a weight of calibration scores lies above.

    Parameters
    ----------
    n : float
        Weight of all scores: the number of independent parts.
    above : ndarray of shape (m,)
        0 to n; 1 where nothing lies below the threshold.
    confidence : float

    Returns
    -------
    ndarray of shape (m,)
        The `confidence` quantiles of Beta(above + 1, n - above).
    """
    above = np.asarray(above, dtype=np.float64)
    below = np.maximum(n - above, 1e-300)
    from scipy import special  # here, so that conformal thresholds do without it

    return np.where(above < n, special.betaincinv(above + 1, below, confidence), 1.0)


def conformal_weight(n: float, fpr: float) -> float:
    """Weight of the scores that may lie at or above a conformal threshold; too few below 1."""
    return fpr * (n + 1) * (1 + _EPS)


def conformal_rank(n: int, fpr: float) -> int:
    """Rank k of the largest score that a conformal threshold may be at; 0 for too few scores."""
    return min(math.floor(conformal_weight(n, fpr)), n)


def counted(n_images: int, n_independent: float) -> str:
    """Say how many calibration images there are, and of how many parts if these are fewer."""
    parts = round(n_independent, 6)
    return f"{n_images}" if parts == n_images else f"{parts:g} independent ones (of {n_images})"


def conformal_needs(fpr: float) -> int:
    """Fewest calibration images of a conformal threshold: 1 / fpr - 1, or 1."""
    return max(math.ceil(min(1 / fpr, _MANY) * (1 - _EPS)) - 1, 1)


def tolerance_rank(n: int, fpr: float, confidence: float = CONFIDENCE) -> int:
    """Largest rank k with P(rate <= fpr) >= confidence; 0 for too few scores."""
    ranks = range(1, n + 1)
    return bisect.bisect_right(ranks, fpr, key=lambda rank: _bound(n, rank, confidence))


def tolerance_needs(fpr: float, confidence: float = CONFIDENCE) -> int:
    """Fewest calibration images of a tolerance threshold: 1 - (1 - fpr)^n >= confidence."""
    wanted = min(math.log1p(-confidence) / math.log1p(-fpr), _MANY)
    n = max(math.ceil(wanted * (1 - _EPS)), 1)
    from scipy import special

    return n if special.betaincinv(1, n, confidence) <= fpr else n + 1


@dataclass(frozen=True)
class Guarantee:
    """What the threshold of a fit promises. `str` of it is a sentence.

    Attributes
    ----------
    fpr : float
        The false-positive rate that was asked for.
    rule : str
        Name of the threshold rule, or of the class of a threshold object from outside.
    method : {"leave-one-out", "cross-fit", "holdout", "none"}
        How calibration scores were made.
    n_calibration : int
        Good images that have such a score.
    n_independent : float
        Parts that these images show: the images of a group, and copies, count as one together.
    confidence : float
        Probability, over draws of the calibration images, with which the bound holds.
    bound : float or None
        The rate of this very fit is at most that, with that confidence. A theorem for images held
        out, simulated for others. None where nothing is promised of the single fit.
    reason : str
        Why there is no bound; empty where there is one.
    """

    fpr: float
    rule: str
    method: str
    n_calibration: int
    n_independent: float
    confidence: float = CONFIDENCE
    bound: float | None = None
    reason: str = ""

    def __str__(self) -> str:
        asked = f"{_percent(self.fpr)} asked for"
        if self.rule == "chi2-nominal":
            return f"{asked}, threshold chi2-nominal: {self.reason}"
        images = "held-out good images" if self.method == "holdout" else "good images"
        made = f"{asked}, threshold {self.rule} from {self.n_calibration} {images}"
        if self.n_independent != self.n_calibration:
            made += f" of {self.n_independent:g} independent parts"
        if self.bound is None:
            return f"{made}: {self.reason}"
        mean = "" if self.rule == "tolerance" else f"{_percent(self.fpr)} on average over fits, "
        return (
            f"{made}: {mean}at most {100 * self.bound:.1f} % for this fit "
            f"({100 * self.confidence:g} % confidence)"
        )


def guarantee_of(
    threshold: Any,
    method: str,
    n_calibration: int,
    fpr: float,
    *,
    n_independent: float | None = None,
    counts_parts: bool = True,
) -> Guarantee:
    """Say what the threshold of a fit promises.

    Parameters
    ----------
    threshold : JSON
        Name of a rule, or the description of a threshold object that model files have
        (`mahalad.files.spec.to_spec`).
    method : {"leave-one-out", "cross-fit", "holdout", "none"}
    n_calibration : int
    fpr : float
    n_independent : float, optional
        Weight of all calibration scores together: the number of independent parts. None: as many
        as there are scores.
    counts_parts : bool, default=True
        False for a model of an older version that counts several images of one part one by one.
    """
    rule, confidence = _rule_of(threshold)
    n = float(n_calibration) if n_independent is None else round(n_independent, 6)
    reason = _reason(rule, n, fpr, confidence)
    if not reason and not counts_parts:
        reason = (
            "no bound is known, as this version's predecessor counted images where several show "
            "the same part: fit again"
        )
    bound = None
    if not reason:
        bound = _bound_of(rule, n, fpr, confidence, whole=n == n_calibration)
    return Guarantee(fpr, rule, method, n_calibration, n, confidence, bound, reason)


def _bound_of(rule: str, n: float, fpr: float, confidence: float, *, whole: bool) -> float:
    """Bound the rate of a rule on n parts; `whole` if every score has the weight 1.

    A threshold between scores of smaller weights comes closer to the rate asked for.
    """
    if whole:
        of_rule = {"tolerance": tolerance_rank(int(n), fpr, confidence)}
        return _bound(n, of_rule.get(rule, conformal_rank(int(n), fpr)), confidence)
    return fpr if rule == "tolerance" else _bound(n, fpr * (n + 1), confidence)


def _rule_of(threshold: Any) -> tuple[str, float]:
    """Name of the rule, and the confidence that it has or, without one, the usual one."""
    if isinstance(threshold, str):
        return threshold, CONFIDENCE
    if "class" not in threshold:
        return "from outside", CONFIDENCE
    name = threshold["class"]
    return _NAME_OF.get(name, name), threshold["params"].get("confidence", CONFIDENCE)


def _reason(rule: str, n: float, fpr: float, confidence: float) -> str:
    """Why a rule bounds nothing; empty if it does."""
    if rule == "chi2-nominal":
        return "does not hold (it supposes that mean and covariance are known)"
    if rule == "chi2":
        return "about that on average over fits where tails are light; no bound for this fit"
    if rule not in _RANKED:
        return "nothing is known of this rule"
    needed = tolerance_needs(fpr, confidence) if rule == "tolerance" else conformal_needs(fpr)
    return "" if n >= needed else f"too few to judge images, {needed} are needed"


@dataclass(frozen=True)
class Plan:
    """How many good images a rate needs, and what numbers of them are worth.

    Attributes
    ----------
    fpr, confidence : float
    needs : dict of str to int
        Fewest calibration images by rule. "holdout" takes them beside the images of the fit.
    bounds : list of dict
        For each ``n_images``, the bound on the rate of one fit with a ``conformal`` and with a
        ``tolerance`` threshold; None where these are too few images.
    """

    fpr: float
    confidence: float
    needs: dict[str, int]
    bounds: list[dict[str, float | int | None]]


COUNTS = (20, 50, 100, 200, 500, 1000, 2000, 5000)
"""Numbers of images that a plan has bounds for, beside those that rules need."""


def plan(fpr: float, confidence: float = CONFIDENCE, counts: Sequence[int] | None = None) -> Plan:
    """Say how many good images every rule needs, and what bounds numbers of them give.

    Parameters
    ----------
    fpr : float
    confidence : float, default=0.95
    counts : sequence of int, optional
        Numbers of images to give bounds for.

    Raises
    ------
    InputError
        A rate or confidence that does not lie between 0 and 1.

    Examples
    --------
    >>> plan(0.01).needs
    {'conformal': 99, 'holdout': 99, 'tolerance': 299, 'chi2': 5}
    >>> found = plan(0.05, counts=[100]).bounds[0]
    >>> round(found["conformal"], 3), round(found["tolerance"], 3)
    (0.089, 0.047)
    """
    check_parameters(
        {"fpr": FPR, "confidence": CONFIDENCE_LIMIT}, {"fpr": fpr, "confidence": confidence}
    )
    needs = {
        "conformal": conformal_needs(fpr),
        "holdout": conformal_needs(fpr),
        "tolerance": tolerance_needs(fpr, confidence),
        "chi2": CHI2_NEEDS,
    }
    if counts is None:
        counts = sorted({*COUNTS, needs["conformal"], needs["tolerance"]})
    bounds = [_bounds_of(n, fpr, confidence) for n in counts]
    return Plan(fpr, confidence, needs, bounds)


def _bounds_of(n: int, fpr: float, confidence: float) -> dict[str, float | int | None]:
    ranks = {
        "conformal": conformal_rank(n, fpr),
        "tolerance": tolerance_rank(n, fpr, confidence),
    }
    found = {rule: _bound(n, rank, confidence) if rank else None for rule, rank in ranks.items()}
    return {"n_images": n, **found}


CHI2_NEEDS = CHI2
"""Fewest calibration images that a chi-square is matched to."""


def _bound(n: float, rank: float, confidence: float) -> float:
    """Bound the rate of a threshold at the score of that rank; see `rate_bounds`."""
    return float(rate_bounds(n, np.array(rank - 1.0), confidence))


def _percent(rate: float) -> str:
    return f"{100 * rate:g} %"
