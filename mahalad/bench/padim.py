"""PaDiM, as published, over the maps that `BackboneFeatures` gives: a baseline."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from mahalad.bench.stacking import maps_of, stack
from mahalad.errors import InputError
from mahalad.protocols import Features, Floats

_CHUNK = 100  # positions at a time


class Padim(BaseEstimator):
    """One Gaussian per position, of some features drawn at random; the score is the map's maximum.

    Parameters
    ----------
    n_dims : int or None, default=100
        Features that are drawn from those of all levels; None, or more than there are, for all.
    ridge : float, default=0.01
        Added to the variances.
    random_state : int, default=0
        Draws the features.

    Attributes
    ----------
    columns_ : ndarray of int
        The features drawn.
    location_ : ndarray of shape (P, n_dims)
    precision_ : ndarray of shape (P, n_dims, n_dims)

    Notes
    -----
    Coarser maps are enlarged to the finest grid by repetition. Covariances are divided by n - 1.
    The published map is smoothed, at the size of the image, before its maximum is taken; here it
    is not.

    References
    ----------
    T. Defard, A. Setkov, A. Loesch, R. Audigier, "PaDiM: a Patch Distribution Modeling Framework
    for Anomaly Detection and Localization", 2020.
    """

    accepts_levels: ClassVar[bool] = True
    fewest: ClassVar[int] = 2

    def __init__(
        self, n_dims: int | None = 100, *, ridge: float = 0.01, random_state: int = 0
    ) -> None:
        self.n_dims = n_dims
        self.ridge = ridge
        self.random_state = random_state

    def fit(self, X: Features, y: Any = None) -> Self:
        """Fit to the maps of good images."""
        maps = maps_of(X)
        n, widths = len(maps[0]), [values.shape[-1] for values in maps]
        if n < self.fewest:
            raise InputError(f"PaDiM's covariances need at least {self.fewest} images, and has {n}")
        n_all = sum(widths)
        n_dims = n_all if self.n_dims is None else min(self.n_dims, n_all)
        drawn = np.random.default_rng(self.random_state).choice(n_all, n_dims, replace=False)
        self.columns_ = np.sort(drawn)
        F = self._drawn(maps)  # (n, P, d)
        self.location_ = F.mean(axis=0, dtype=np.float64)
        self.precision_ = np.empty((F.shape[1], n_dims, n_dims))
        for part in _chunks(F.shape[1]):
            z = (F[:, part] - self.location_[part]).swapaxes(0, 1)  # (p, n, d)
            covariance = z.swapaxes(1, 2) @ z / (n - 1) + self.ridge * np.eye(n_dims)
            self.precision_[part] = np.linalg.inv(covariance)
        return self

    def anomaly_maps(self, X: Features) -> Floats:
        """Mahalanobis distance of every position, (n, side, side), up = abnormal."""
        check_is_fitted(self)
        F = self._drawn(maps_of(X))
        distances = np.empty(F.shape[:2])
        for part in _chunks(F.shape[1]):
            z = (F[:, part] - self.location_[part]).swapaxes(0, 1)
            squared = ((z @ self.precision_[part]) * z).sum(axis=-1)  # (p, n)
            distances[:, part] = np.sqrt(np.maximum(squared, 0.0)).T
        side = round(F.shape[1] ** 0.5)
        return distances.reshape(-1, side, side)

    def score_samples(self, X: Features) -> Floats:
        """Minus the largest distance of each image, (n,), up = normal."""
        return np.asarray(-self.anomaly_maps(X).max(axis=(1, 2)))

    def _drawn(self, maps: list[NDArray[Any]]) -> NDArray[np.float32]:
        """Stack the features drawn, (n, P, d): each level's own before it is enlarged."""
        starts = np.cumsum([0, *(values.shape[-1] for values in maps)])
        kept = [
            values[..., self.columns_[(self.columns_ >= start) & (self.columns_ < stop)] - start]
            for values, start, stop in zip(maps, starts[:-1], starts[1:], strict=True)
        ]
        side = max(values.shape[1] for values in maps)
        return stack([values for values in kept if values.shape[-1]], "nearest", side)


def _chunks(n_positions: int) -> list[slice]:
    return [slice(i, min(i + _CHUNK, n_positions)) for i in range(0, n_positions, _CHUNK)]
