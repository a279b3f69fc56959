"""Calibration scores in order, each with its weight: where a new score ranks among them.

Independent parts are what counts, not images. The images of one part (or copies of one picture)
share the weight 1, so that a part which was photographed 200 times says no more than any other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mahalad.protocols import Floats, Value

_EPS = 1e-12  # so that 0.1 * 30 is 3
_DIGITS = 12  # of sums of weights: 0.1 + 0.2 is 0.3


def shared_weights(groups: NDArray[Any]) -> Floats:
    """Give every image the weight 1 / (number of images in its group), (n,).

    Parameters
    ----------
    groups : ndarray of shape (n,)
        Label of each image's group.
    """
    _, group_of, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    return np.asarray(1.0 / sizes[group_of])


@dataclass(frozen=True, eq=False)
class Ranking(Value):
    """Scores (n,), ascending, with the weight of all that lie at or above each.

    Attributes
    ----------
    scores : ndarray of shape (n,)
        Up = abnormal.
    from_here : ndarray of shape (n + 1,)
        Weight of the scores from each place up; the last is 0.
    """

    scores: Floats
    from_here: Floats

    @classmethod
    def of(cls, scores: Floats, weights: Floats | None = None) -> Self:
        """Sort scores (n,) of some weights (n,); without weights, each score has the weight 1."""
        scores = np.asarray(scores, dtype=np.float64)
        weights = np.ones(len(scores)) if weights is None else np.asarray(weights, np.float64)
        order = np.argsort(scores, kind="stable")
        sums = np.cumsum(weights[order][::-1])[::-1]
        return cls(scores[order], np.append(np.round(sums, _DIGITS), 0.0))

    @property
    def total(self) -> float:
        """Number of independent parts: the weight of all scores together."""
        return float(self.from_here[0])

    def at_least(self, values: Floats) -> Floats:
        """Weight of the scores that are at least as high as each value (m,)."""
        return np.asarray(self.from_here[np.searchsorted(self.scores, values, side="left")])

    def lowest_below(self, weight: float) -> float:
        """Lowest score that no more than a weight of scores follow; `weight` is 0 or more."""
        place = np.count_nonzero(self.from_here[1:] > weight * (1 + _EPS))
        return float(self.scores[place])
