"""What harmless changes of images do to features, as a covariance that a Gaussian tolerates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mahalad.protocols import Floats, Value

_SHRINKAGE = 0.05  # of N towards its mean variance: few pictures tell of a few directions only


@dataclass(frozen=True, eq=False)
class Nuisance(Value):
    """Differences between features of changed copies of good images and of the images themselves.

    The covariance that is added to a Gaussian is N = sum over ways of change of the mean d d' over
    images, shrunk: 0.95 N + 0.05 tr N / D I.

    Attributes
    ----------
    differences : ndarray of shape (n_images * n_ways * n_places, ..., n_features)
        Those of one image after those of the other; with an axis of positions, or without.
    n_images : int
    n_places : int
        Positions that share one Gaussian.
    """

    differences: NDArray[np.floating]
    n_images: int
    n_places: int = 1

    def at(self, rows: slice) -> Nuisance:
        """Those at some positions."""
        return Nuisance(self.differences[:, rows], self.n_images, self.n_places)

    def over(self, positions: NDArray[np.intp]) -> Nuisance:
        """Those at some positions, which share one Gaussian."""
        d = self.differences[:, positions]
        return Nuisance(d.reshape(-1, d.shape[-1]), self.n_images, len(positions))

    def without(self, images: NDArray[np.intp]) -> Nuisance:
        """Those of the other images; of all of them where there is no other."""
        kept = np.ones(self.n_images, dtype=bool)
        kept[images] = False
        if not kept.any():
            return self
        each = np.repeat(kept, len(self.differences) // self.n_images)
        return Nuisance(self.differences[each], int(kept.sum()), self.n_places)

    def without_rows(self, images: NDArray[np.intp]) -> tuple[NDArray[np.intp], float, float]:
        """What `without` takes out of sums over the differences d.

        Returns
        -------
        rows : ndarray of int
            Rows of the differences that are taken out.
        weight, of_trace : float
            The covariance is weight * sum d d' + of_trace * sum |d|^2 I, over the rest.
        """
        gone = np.unique(images)
        if len(gone) == self.n_images:  # there is no other
            gone = gone[:0]
        n_each = len(self.differences) // self.n_images
        rows = (gone[:, None] * n_each + np.arange(n_each)).ravel()
        divisor = (self.n_images - len(gone)) * self.n_places
        return (
            rows,
            (1 - _SHRINKAGE) / divisor,
            _SHRINKAGE / (divisor * self.differences.shape[-1]),
        )

    @property
    def _divisor(self) -> int:
        return self.n_images * self.n_places

    def mean_variance(self) -> Floats:
        """tr N / D, of the shape of the positions."""
        d = self.differences.astype(np.float64)
        total = np.einsum("m...d,m...d->...", d, d)
        return np.asarray(total / (self._divisor * d.shape[-1]))

    def covariance(self) -> Floats:
        """N, shrunk, (..., n_features, n_features)."""
        d = np.moveaxis(self.differences.astype(np.float64), 0, -2)  # (..., m, D)
        N = np.swapaxes(d, -1, -2) @ d / self._divisor
        diagonal = np.einsum("...ii->...i", N)  # a view
        mean_variance = diagonal.mean(axis=-1, keepdims=True)
        N *= 1 - _SHRINKAGE
        diagonal += _SHRINKAGE * mean_variance
        return np.asarray(N)

    def ridge(self) -> Floats:
        """What `covariance` has in every direction, of the shape of the positions."""
        return _SHRINKAGE * self.mean_variance()

    def factor(self) -> Floats:
        """E (m, n_features) with E'E = `covariance` less its `ridge`, without positions."""
        scale = np.sqrt((1 - _SHRINKAGE) / self._divisor)
        return np.asarray(self.differences.astype(np.float64) * scale)


@dataclass(frozen=True, eq=False)
class Tolerance(Value):
    """Coordinates w in which C is diagonal and K = ridge I + N, which is added to it, is I.

    Attributes
    ----------
    eigenvalues : ndarray of shape (..., rank)
        Of C.
    response : ndarray of shape (..., rank)
        By how much a coordinate's part of K grows with the ridge.
    ridge : ndarray of shape (...)
        Of the fit to all samples.

    Notes
    -----
    Without samples the ridge is another, r, and K is I + (r - ridge) R with R the inverse of K in
    these coordinates. Of R only the diagonal counts here: r - ridge is small, and what R has beside
    it is of either sign.
    """

    eigenvalues: Floats
    response: Floats
    ridge: Floats

    def added(self, ridge: Floats) -> Floats:
        """Diagonal of what is added to C, (..., n_sets, rank), for ridges (..., n_sets)."""
        more = ridge - self.ridge[..., None]
        return np.asarray(1 + more[..., None] * self.response[..., None, :])
