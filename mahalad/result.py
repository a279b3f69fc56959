"""What a detector says of an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mahalad.protocols import Floats, Threshold


@dataclass(frozen=True)
class Result:
    """What a detector says of one image.

    Attributes
    ----------
    name : str
        The path, or the place in the input (``"X[3]"``).
    score : float or None
        Anomaly score, up = abnormal; None where the image could not be read.
    threshold : float or None
        Scores above it are flagged. None for ``threshold="chi2-nominal"`` over several levels,
        whose rule is about another statistic.
    p_value : float or None
        Small = abnormal.
    anomaly : bool or None
    level_scores : dict of str to float or None
        Share of each level in the score, where the scorer knows it.
    anomaly_map : ndarray of shape (height, width) or None
        Where, over the image squashed to a square; up = abnormal. If it was asked for.
    error : str or None
        Why the image could not be read.
    in_fit : bool
        The same picture is among the good images of the fit. Its score is then the one by the fit
        without it, and has no share of each level; with ``threshold="holdout"`` there is no such
        score, and it is lower than that of a new picture would be.
    remark : str or None
        What is odd about the images it came with, as far as these were seen by then: they are
        normal with red and blue swapped.
    """

    name: str
    score: float | None = None
    threshold: float | None = None
    p_value: float | None = None
    anomaly: bool | None = None
    level_scores: dict[str, float] | None = None
    error: str | None = None
    anomaly_map: Floats | None = field(default=None, repr=False, compare=False)
    in_fit: bool = False
    remark: str | None = field(default=None, compare=False)


def judge(
    names: Sequence[str],
    scores: Floats,
    level_scores: Floats | None,
    level_names: Sequence[str],
    threshold: Threshold,
    fpr: float,
    maps: Sequence[Floats] | Floats | None = None,
    in_fit: NDArray[np.bool_] | None = None,
    left_out: NDArray[np.bool_] | None = None,
) -> list[Result]:
    """Results of images from their anomaly scores (n,), per level (n, n_levels), and maps.

    `in_fit` (n,) marks images of the fit, and `left_out` (n,) those of them whose score is by a fit
    without the image: the scores per level are not.
    """
    nothing = np.zeros(len(names), dtype=bool)
    in_fit, left_out = (nothing if marks is None else marks for marks in (in_fit, left_out))
    critical = threshold.critical_value(fpr)
    statistic = threshold.statistic(scores, level_scores)
    shown = critical if compares_scores(threshold, statistic, scores, level_scores) else None
    p_values = threshold.p_values(statistic)
    return [
        Result(
            name,
            score=float(scores[i]),
            threshold=shown,
            p_value=float(p_values[i]),
            anomaly=bool(statistic[i] > critical),
            level_scores=None
            if level_scores is None or left_out[i]
            else dict(zip(level_names, level_scores[i].tolist(), strict=True)),
            anomaly_map=None if maps is None else maps[i],
            in_fit=bool(in_fit[i]),
        )
        for i, name in enumerate(names)
    ]


def compares_scores(
    threshold: Threshold, statistic: Floats, scores: Floats, level_scores: Floats | None
) -> bool:
    """Whether the critical value of a threshold is one of scores, or of another statistic.

    The paper's rule over several levels compares another one. A threshold object from outside
    need not say: it does if its statistic (n,) is the scores (n,).
    """
    if not hasattr(threshold, "compares_scores"):
        return bool(np.allclose(statistic, scores, rtol=1e-12))
    return threshold.compares_scores(1 if level_scores is None else level_scores.shape[1])


@dataclass(frozen=True)
class Neighbour:
    """One stored image near an image that was asked about.

    Attributes
    ----------
    id : int
    path, label : str
    distance : float
        Cosine: (1 - cos) / 2, in [0, 1]. Euclidean: the distance itself.
    """

    id: int
    path: str
    label: str
    distance: float


@dataclass(frozen=True)
class LabelledResult(Result):
    """What a classifier by nearest neighbours says of one image.

    Attributes
    ----------
    score : float or None
        Probability of the positive label, or, without one, 1 - the largest probability;
        up = abnormal.
    positive_threshold : float or None
        The operating point: an image whose score reaches it gets the positive label. None where
        the majority decides.
    novelty_p_value : float or None
        Of novelty, small = unlike all that is stored; it says nothing of the label.
    anomaly : bool or None
        The label is the positive one; without a positive label the same as `novel`.
    label : str or None
    probability : float or None
        Share of the votes that the label got.
    novel : bool or None
        Farther from its neighbours than a share of 1 - `novelty_fpr` of the stored images are
        from theirs; None where there are too few images to say.
    distance : float or None
        To the k-th neighbour.
    neighbours : tuple of Neighbour
        Those that voted, nearest first.
    threshold, p_value : float or None
        `positive_threshold` and `novelty_p_value` under the names of the columns of a row. They
        are not what a detector's `Result` calls so: there scores above the threshold are flagged,
        and the p-value is of the score.
    """

    label: str | None = None
    probability: float | None = None
    novel: bool | None = None
    distance: float | None = None
    neighbours: tuple[Neighbour, ...] = ()

    @property
    def positive_threshold(self) -> float | None:
        """Scores that reach it get the positive label."""
        return self.threshold

    @property
    def novelty_p_value(self) -> float | None:
        """Small = unlike all that is stored."""
        return self.p_value
