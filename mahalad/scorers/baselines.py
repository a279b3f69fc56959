"""Distances that the paper compares the Gaussian with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.neighbors import NearestNeighbors
from sklearn.utils.validation import check_is_fitted, validate_data

from mahalad.checks import Limit, Whole, check_parameters
from mahalad.protocols import Floats


class MeanDistance(BaseEstimator):
    """L2: root mean square, over features, of the difference to the mean of the samples.

    References
    ----------
    Rippel et al., ICPR 2020, table II ("L2").
    """

    def fit(self, X: Any, y: Any = None) -> Self:
        """Keep the mean of `X`, shape (n_samples, n_features)."""
        X = validate_data(self, X, dtype=np.float64)
        self.location_ = X.mean(axis=0)
        return self

    def distances(self, X: Any) -> Floats:
        """Distance of each sample, shape (n_samples,), up = abnormal."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        return np.asarray(np.sqrt(np.mean((X - self.location_) ** 2, axis=1)))

    def score_samples(self, X: Any) -> Floats:
        """Negative distances, up = normal."""
        return -self.distances(X)


class StandardizedDistance(BaseEstimator):
    """SED: the same after dividing each feature by its standard deviation (ddof 1).

    It is the distance of a Gaussian with independent features. A feature that is constant in
    the normal samples is divided by 1.

    References
    ----------
    Rippel et al., ICPR 2020, table II ("SED").
    """

    def fit(self, X: Any, y: Any = None) -> Self:
        """Keep mean and standard deviation of `X`, shape (n_samples >= 2, n_features)."""
        X = validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        self.location_ = X.mean(axis=0)
        scale = X.std(axis=0, ddof=1)
        # A constant feature's deviation is rounding, not exactly zero.
        constant = scale <= 10 * np.finfo(float).eps * np.abs(self.location_)
        self.scale_ = np.where(constant, 1.0, scale)
        return self

    def distances(self, X: Any) -> Floats:
        """Distance of each sample, shape (n_samples,), up = abnormal."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        z = (X - self.location_) / self.scale_
        return np.asarray(np.sqrt(np.mean(z**2, axis=1)))

    def score_samples(self, X: Any) -> Floats:
        """Negative distances, up = normal."""
        return -self.distances(X)


class NearestNeighborDistance(BaseEstimator):
    """Mean Euclidean distance to the k nearest normal samples (as SPADE's image score).

    `KthNeighborDistance` has a leave-one-out in closed form, and standardizes features.

    Parameters
    ----------
    n_neighbors : int, default=5
        k; all samples are used where there are fewer.

    References
    ----------
    N. Cohen, Y. Hoshen, "Sub-Image Anomaly Detection with Deep Pyramid Correspondences",
    2020, equation 1.
    """

    _limits: ClassVar[Mapping[str, Limit]] = {"n_neighbors": Whole(1)}

    def __init__(self, n_neighbors: int = 5) -> None:
        self.n_neighbors = n_neighbors

    def fit(self, X: Any, y: Any = None) -> Self:
        """Keep `X`, shape (n_samples, n_features)."""
        check_parameters(self._limits, self)
        X = validate_data(self, X, dtype=np.float64)
        k = min(int(self.n_neighbors), len(X))
        self.neighbors_ = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(X)
        return self

    def distances(self, X: Any) -> Floats:
        """Distance of each sample, shape (n_samples,), up = abnormal."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        return np.asarray(self.neighbors_.kneighbors(X)[0].mean(axis=1))

    def score_samples(self, X: Any) -> Floats:
        """Negative distances, up = normal."""
        return -self.distances(X)
