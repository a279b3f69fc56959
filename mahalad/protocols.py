"""The plug points: what a feature extractor, a scorer and a threshold must offer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

Features = Mapping[str, NDArray[Any]]
"""Level name to array of shape (n_samples, n_features): what travels to the scorer."""


@runtime_checkable
class FeatureExtractor(Protocol):
    """From images to features per level. `mahalad.BackboneFeatures` is one."""

    batch_size: int

    def build(self) -> Self:
        """Make ready for use (load weights); called once by `fit` and by loading."""
        ...

    def prepare(self, image: Any) -> NDArray[Any]:
        """Turn one decoded image into an array; runs in threads, next to the decoding."""
        ...

    def transform(self, prepared: Sequence[NDArray[Any]]) -> Features:
        """Extract features of prepared images, each level (n, n_features), float32."""
        ...


class Scorer(Protocol):
    """Any scikit-learn outlier estimator: `fit` and `score_samples` (up = normal).

    A scorer that has an attribute `accepts_levels = True` is given the mapping of levels;
    any other gets the levels side by side as one array.
    """

    def fit(self, X: Any, y: Any = None) -> Any: ...

    def score_samples(self, X: Any) -> NDArray[np.float64]: ...


class Threshold(Protocol):
    """From calibration scores (up = abnormal) to p-values and a critical value."""

    def fit(self, scores: NDArray[np.float64], degrees_of_freedom: int | None = None) -> Self: ...

    def statistic(
        self, scores: NDArray[np.float64], level_scores: NDArray[np.float64] | None = None
    ) -> NDArray[np.float64]: ...

    def p_values(self, statistic: NDArray[np.float64]) -> NDArray[np.float64]: ...

    def critical_value(self, fpr: float) -> float: ...


FloatImage = npt.NDArray[np.float32]


Floats = NDArray[np.float64]
