"""A lot of images judged together, at a false-discovery rate."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mahalad.detectors.suspects import describe_shift, is_shifted, n_above_all
from mahalad.errors import CalibrationError
from mahalad.protocols import Floats
from mahalad.result import Result
from mahalad.thresholds.conformal import ConformalThreshold
from mahalad.thresholds.lots import benjamini_hochberg, fewest_found, share_abnormal


@dataclass(frozen=True)
class Lot:
    """What is said of a lot. `str` of it is a sentence or two.

    Attributes
    ----------
    results : tuple of Result
        In the order of the images: with conformal p-values, and flagged if selected. The threshold
        is that of the selection; None where nothing is selected.
    fdr : float
        Share of good images among those flagged that was allowed, on average over lots.
    share : float or None
        Estimated share of the readable images that are abnormal, without those of the fit; None
        where there is none.
    share_error : float or None
        Standard error of the share.
    fewest : int
        So many abnormal images the lot must have before any can be flagged: the fewer calibration
        images, the more.
    n_above : int
        Images at the smallest p-value there is: more abnormal than every calibration image.
    shifted : bool
        More are than chance explains, and nearly all: what the images come from has changed, rather
        than the parts.
    remark : str or None
        What that is, where it was found: red and blue have changed places.
    """

    results: tuple[Result, ...]
    fdr: float
    share: float | None
    share_error: float | None
    fewest: int
    n_above: int = 0
    shifted: bool = False
    remark: str | None = None

    def __str__(self) -> str:
        allowed = f"at most {100 * self.fdr:g} % of the flagged images are good, on average"
        if self.share is None or self.share_error is None:
            return allowed
        text = (
            f"{allowed} over lots; about {100 * self.share:.0f} % of this lot is abnormal "
            f"(standard error {100 * self.share_error:.0f} %)"
        )
        if self.fewest > 1 and not any(result.anomaly for result in self.results):
            text += f"; with so few calibration images none is flagged unless {self.fewest} are"
        if self.shifted:
            n = sum(result.error is None and not result.in_fit for result in self.results)
            text += f"; {self.remark or describe_shift(self.n_above, n)}"
        return text


def conformal_rule(calibration_scores: Floats, weights: Floats) -> ConformalThreshold:
    """Make the rule whose p-values lots are judged by, whatever the detector's own is.

    Parameters
    ----------
    calibration_scores, weights : ndarray of shape (n_calibration,)

    Raises
    ------
    CalibrationError
        There are no calibration scores.
    """
    if not len(calibration_scores):
        raise CalibrationError(
            "a lot is judged by conformal p-values, and this fit has no calibration scores: fit "
            "with threshold='conformal' or 'holdout'"
        )
    return ConformalThreshold().fit(calibration_scores, weights=weights)


def select(rule: ConformalThreshold, scores: Floats, fdr: float) -> NDArray[np.bool_]:
    """Whether each image of a lot, of scores (n,), is selected as abnormal."""
    return benjamini_hochberg(rule.p_values(scores), fdr)


def judge_lot(judged: Iterable[Result], rule: ConformalThreshold, fdr: float) -> Lot:
    """Judge images anew as one lot, by their scores.

    An image that could not be read stays a result with an error, and counts nowhere.
    """
    results = list(judged)
    readable = [i for i, result in enumerate(results) if result.error is None]
    n_calibration = rule.ranking_.total
    scores = np.array([results[i].score for i in readable], dtype=np.float64)
    p_values = rule.p_values(scores)
    selected = benjamini_hochberg(p_values, fdr)
    limit = rule.critical_value(p_values[selected].max()) if selected.any() else None
    for i, flagged in zip(readable, selected.tolist(), strict=True):
        results[i] = replace(results[i], anomaly=flagged, threshold=limit)
    is_new = np.array([not results[i].in_fit for i in readable], dtype=bool)
    share, error = None, None
    if is_new.any():  # those of the fit are known
        share, error = share_abnormal(p_values[is_new], n_calibration)
    fewest = fewest_found(len(readable), n_calibration, fdr)
    n_above = n_above_all(scores[is_new], rule.ranking_.scores)
    shifted = is_shifted(n_above, int(is_new.sum()), n_calibration)
    remark = next((result.remark for result in results if result.remark is not None), None)
    return Lot(tuple(results), fdr, share, error, fewest, n_above, shifted, remark)
