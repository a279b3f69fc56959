"""What a detector says of an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from mahalad.moments import Floats
from mahalad.protocols import Threshold


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
    """

    name: str
    score: float | None = None
    threshold: float | None = None
    p_value: float | None = None
    anomaly: bool | None = None
    level_scores: dict[str, float] | None = None
    error: str | None = None
    anomaly_map: Floats | None = field(default=None, repr=False, compare=False)


def judge(
    names: Sequence[str],
    scores: Floats,
    level_scores: Floats | None,
    level_names: Sequence[str],
    threshold: Threshold,
    fpr: float,
    maps: Sequence[Floats] | None = None,
) -> list[Result]:
    """Results of images from their anomaly scores (n,), per level (n, n_levels), and maps."""
    critical = threshold.critical_value(fpr)
    statistic = threshold.statistic(scores, level_scores)
    # The paper's rule over several levels compares another statistic than the score.
    shown = critical if np.allclose(statistic, scores, rtol=1e-12) else None
    p_values = threshold.p_values(statistic)
    return [
        Result(
            name,
            score=float(scores[i]),
            threshold=shown,
            p_value=float(p_values[i]),
            anomaly=bool(statistic[i] > critical),
            level_scores=None
            if level_scores is None
            else dict(zip(level_names, level_scores[i].tolist(), strict=True)),
            anomaly_map=None if maps is None else maps[i],
        )
        for i, name in enumerate(names)
    ]
