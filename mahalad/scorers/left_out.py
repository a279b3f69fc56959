"""Refits of a Ledoit-Wolf Gaussian without some of its samples, in closed form.

Mean, covariance, mean variance and shrinkage are those of a fit to the other samples. Only a matrix
of the size of what is left out is factorised, because C is known by its axes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mahalad.errors import DegenerateDataError
from mahalad.possible import fewest
from mahalad.protocols import Floats, Value
from mahalad.scorers.nuisance import Tolerance
from mahalad.scorers.sets import pairs_of, sets_by_size, spaced

NOT_IN_FIT = (
    "leave-one-out is for samples that were part of the fit: at least one sample of X was not, or "
    "leaving it out leaves a singular covariance"
)
_LOST = 1e-8  # |C|^2 of the rest, as a share of that of all, below which rounding is all there is
PAIRS = 2**12
"""Pairs of samples left out together, at most, unless another number is given."""
_SMALL = 4  # samples left out together whose matrices are solved by hand
_CHUNK = 2**20  # numbers held at once, per working array


@dataclass(frozen=True, eq=False)
class Refit(Value):
    """What refits without some samples need to know of all samples z, relative to their mean.

    All arrays may have further leading axes, one Gaussian for each of their elements. Samples are
    given by their coordinates y on the axes of C: in the fit none lies outside their span. Where a
    covariance N is added to the Gaussian, their coordinates w in its `Tolerance` follow these. Its
    axes need not be known then: where C itself is given, y are coordinates on any axes, with C y
    between y and w.

    Attributes
    ----------
    n_samples, n_features : int
    spectrum : ndarray of shape (..., rank), or (..., rank, rank)
        Eigenvalues of C = sum z z' / n; or C.
    third : ndarray of shape (..., rank)
        sum |z|^2 z on the axes.
    fourth, shrinkage, floor : ndarray of shape (...)
        sum |z|^4; rho of all samples; what is added to rho m whatever is left out.
    tolerance : Tolerance or None
    """

    n_samples: int
    n_features: int
    spectrum: Floats
    third: Floats
    fourth: Floats
    shrinkage: Floats
    floor: Floats
    tolerance: Tolerance | None = None

    @property
    def rank(self) -> int:
        """Number of axes."""
        return int(self.third.shape[-1])

    @property
    def is_diagonal(self) -> bool:
        """Whether the axes are those of C."""
        return self.spectrum.ndim == self.third.ndim

    @cached_property
    def _norms(self) -> tuple[Floats, Floats]:
        """tr C and |C|^2."""
        C = self.spectrum
        if self.is_diagonal:
            return C.sum(axis=-1), (C**2).sum(axis=-1)
        return np.einsum("...ii->...", C), np.einsum("...ij,...ij->...", C, C)

    def shrunk(self, y: Floats) -> tuple[Floats, Floats]:
        """Find rho and m without sets of samples.

        Parameters
        ----------
        y : ndarray of shape (..., n_sets, g, n_coordinates)

        Returns
        -------
        ndarrays of shape (..., n_sets)

        Notes
        -----
        With s the sum of a set, n' = n - g, t = s / n' and M = I + 11' / n' the rest has
        n' C' = n C - Y' M Y, so that n'^2 |C'|^2 = n^2 |C|^2 - 2 n tr(M Y C Y') + tr(M Y Y' M Y Y')
        and sum |z - t|^4 = sum |z|^4 + 4 n t' C t + n |t|^4 + 4 t'(sum |z|^2 z) + 2 n |t|^2 tr C,
        less what the set adds to it. See `ledoit_wolf_shrinkage` for the rest.
        """
        y, (along, total_c_total) = y[..., : self.rank], self._along(y)
        n, D, g = self.n_samples, self.n_features, y.shape[-2]
        rest = n - g
        t = y.sum(axis=-2) / rest
        product = self._removed(y) if g > y.shape[-1] else _product(y, rest)
        trace_all, squared_all = (norm[..., None] for norm in self._norms)
        trace = (n * trace_all - np.einsum("...ii->...", product)) / rest
        t_c_t = total_c_total / rest**2
        squared = n**2 * squared_all - 2 * n * (along + rest * t_c_t)
        squared = (squared + np.einsum("...ij,...ji->...", product, product)) / rest**2
        t2 = (t**2).sum(axis=-1)
        own = (y**2).sum(axis=-1) + 2 * (y @ t[..., None])[..., 0] + t2[..., None]
        third_t = (self.third[..., None, :] * t).sum(axis=-1)
        fourth = self.fourth[..., None] + 4 * n * t_c_t + n * t2**2 + 4 * third_t
        fourth = fourth + 2 * n * t2 * trace_all - (own**2).sum(axis=-1)
        m = np.maximum(trace, 0) / D
        delta = (squared - D * m**2) / D
        beta = np.clip((fourth / rest - squared) / (rest * D), 0.0, np.maximum(delta, 0.0))
        rho = np.where(beta > 0, beta / np.where(beta > 0, delta, 1.0), 0.0)
        lost = rest**2 * squared <= _LOST * n**2 * squared_all
        return np.where(lost, self.shrinkage[..., None], rho), m

    def _along(self, y: Floats) -> tuple[Floats, Floats]:
        """Compute tr(Y C Y') and s' C s of the sum s of a set, (..., n_sets) each."""
        if self.is_diagonal:
            y, values = y[..., : self.rank], self.spectrum[..., None, :]
            squares, total = (y**2).sum(axis=-2), y.sum(axis=-2)
            return (squares * values).sum(axis=-1), (total**2 * values).sum(axis=-1)
        y, c_y = y[..., : self.rank], y[..., self.rank : 2 * self.rank]
        along = np.einsum("...ij,...ij->...", y, c_y)
        return along, (y.sum(axis=-2) * c_y.sum(axis=-2)).sum(axis=-1)

    def squared_distances(self, y: Floats) -> Floats:
        """Squared distances of samples to the Gaussian fitted without their set.

        Parameters
        ----------
        y : ndarray of shape (..., n_sets, g, n_coordinates)

        Returns
        -------
        ndarray of shape (..., n_sets, g)

        Raises
        ------
        ValueError
            A sample was not part of the fit, or without it the covariance is singular.
        DegenerateDataError
            Too few samples are left.

        Notes
        -----
        With A = (1 - rho) n / n' C + (rho m + floor) I and kappa = n' / (1 - rho), by the Woodbury
        identity (M^-1 = I - 11' / n),
        Sigma'^-1 = A^-1 + A^-1 Y' (kappa M^-1 - Y A^-1 Y')^-1 Y A^-1. For more samples than axes
        Sigma' = A - (1 - rho) / n' Y' M Y is solved for instead.
        For a single sample it is (n / n')^2 q / (1 - q / kappa n / n') with q = y' A^-1 y.
        """
        n, g = self.n_samples, y.shape[-2]
        rest = n - g
        check_number(rest, self.n_features, n)
        rho, m = self.shrunk(y)
        kept = (1 - rho)[..., None, None]
        scale = self._scale(rho, rho * m + self.floor[..., None], rest)
        y = self._scaled(y)
        if g > y.shape[-1]:
            sigma = np.eye(y.shape[-1]) * scale[..., None] - kept / rest * self._removed(y)
            z = np.swapaxes(y + y.sum(axis=-2, keepdims=True) / rest, -1, -2)
            return np.asarray((z * _solved(sigma, z)).sum(axis=-2))
        with np.errstate(divide="ignore", invalid="ignore"):
            b = y / np.sqrt(scale)[..., None, :]
            z = b + b.sum(axis=-2, keepdims=True) / rest  # from the mean without the set
            middle = rest * (np.eye(g) - 1 / n) - kept * (b @ np.swapaxes(b, -1, -2))
        bz = b @ np.swapaxes(z, -1, -2)
        half = kept * bz * _solved(middle, bz)
        return np.asarray((z**2).sum(axis=-1) + half.sum(axis=-2))

    def _scale(self, rho: Floats, ridge: Floats, rest: int) -> Floats:
        """Diagonal of A, (..., n_sets, rank), in the coordinates of `_scaled`."""
        values, added = self.spectrum, np.asarray(ridge)[..., None]
        if self.tolerance is not None:
            values, added = self.tolerance.eigenvalues, self.tolerance.added(ridge)
        return np.asarray(
            (1 - rho)[..., None] * (self.n_samples / rest) * values[..., None, :] + added
        )

    def _scaled(self, y: Floats) -> Floats:
        """Coordinates in which A is diagonal."""
        return y if self.tolerance is None else y[..., self.rank * (2 - self.is_diagonal) :]

    def _removed(self, y: Floats) -> Floats:
        """Compute Y' M Y, by which n C is more than n' C', (..., n_sets, rank, rank)."""
        total = y.sum(axis=-2)[..., None, :]
        rest = self.n_samples - y.shape[-2]
        return np.asarray(np.swapaxes(y, -1, -2) @ y + np.swapaxes(total, -1, -2) * total / rest)

    def distances(self, y: Floats, labels: NDArray[np.intp]) -> Floats:
        """Distances (..., n) of samples y, those of one label left out together."""
        found = np.empty(y.shape[:-1])
        for sets in sets_by_size(labels):
            for rows in self._parts(sets):
                some = sets[rows]
                found[..., some] = np.sqrt(self.squared_distances(y[..., some, :]))
        return found

    def influences(
        self, y: Floats, labels: NDArray[np.intp], distances: Floats, n_pairs: int | None = None
    ) -> Floats:
        """What it adds to a new sample's distance that a sample (or its set) is not in the fit.

        The others stand for new samples: the mean over them of their distances to the fit without
        both sets, less those to the fit without their own.

        Parameters
        ----------
        y : ndarray of shape (..., n, n_coordinates)
        labels : ndarray of int of shape (n,)
            Samples of one label are left out together; all numbers from 0 up are there.
        distances : ndarray of shape (..., n)
            `distances` of the same samples.
        n_pairs : int, optional
            At most about so many pairs of samples are left out, `PAIRS` if not given. So with many
            sets only some others stand for new samples, evenly spaced by label.

        Returns
        -------
        ndarray of shape (..., n)
            The same for all samples of a set; 0 where leaving out both leaves too few.
        """
        if len(np.unique(labels)) == len(labels):
            return self._influences_of_singles(y, np.argsort(labels), n_pairs or PAIRS)
        sums, counts = np.zeros((*distances.shape[:-1], labels.max() + 1)), np.zeros(len(labels))
        for ones, others, index in pairs_of(labels, n_pairs or PAIRS):
            g, both = ones.shape[1], np.hstack([ones, others])
            if self.n_samples - both.shape[1] < fewest(self.n_features):
                continue
            counts += np.bincount(index, minlength=len(counts))
            for rows in self._parts(both):
                d = np.sqrt(self.squared_distances(y[..., both[rows], :]))[..., g:]
                change = (d - distances[..., others[rows]]).mean(axis=-1)
                np.add.at(sums.T, index[rows], change.T)
        return np.asarray((sums / np.maximum(counts[: sums.shape[-1]], 1))[..., labels])

    def _influences_of_singles(self, y: Floats, order: NDArray[np.intp], n_pairs: int) -> Floats:
        """The same for samples that are left out one by one, of all pairs with some others at once.

        To first order: what a sample does to rho and m it does to all the others alike, so these
        are those of the fit without it alone, or of all, rather than without both. Then a pair
        needs no more than its products by one diagonal matrix for each sample, which are products
        of whole matrices.
        """
        n, rest, n_given = self.n_samples, self.n_samples - 2, y.shape[-2]
        if rest < fewest(self.n_features):
            return np.zeros(y.shape[:-1])
        chosen = order[spaced(n_given, max(n_pairs // n_given, 1))]
        others = y[..., chosen, :]
        rho, m = self.shrunk(y[..., None, :])
        floor = self.floor[..., None]
        mean_variance = self._norms[0][..., None] / self.n_features
        scale = self._scale(rho, rho * m + floor, rest)
        rho_all = self.shrinkage[..., None]
        scale_all = self._scale(rho_all, rho_all * mean_variance + floor, n - 1)
        y, others = self._scaled(y), self._scaled(others)
        with np.errstate(divide="ignore", invalid="ignore"):
            inverse, weighted = 1 / scale, y / scale
            own = (y * weighted).sum(axis=-1)[..., None]  # (..., n, 1)
            q = inverse @ np.swapaxes(others**2, -1, -2)  # (..., n, n_others)
            cross = weighted @ np.swapaxes(others, -1, -2)
            near, far = 1 / rest, 1 + 1 / rest  # z = far y_j + near y_i, from the mean without both
            squared = far**2 * q + 2 * far * near * cross + near**2 * own
            kappa = (rest / (1 - rho))[..., None]
            first, second = near * own + far * cross, near * cross + far * q
            a, b, c = kappa * (1 - 1 / n) - own, kappa * (1 - 1 / n) - q, kappa / n + cross
            squared += (b * first**2 + 2 * c * first * second + a * second**2) / (a * b - c**2)
            q_all = (others**2 / scale_all).sum(axis=-1)
            kappa_all = (n - 1) / (1 - rho_all)
            alone = (n / (n - 1)) ** 2 * q_all / (1 - q_all / kappa_all * n / (n - 1))
        change = np.sqrt(np.maximum(squared, 0)) - np.sqrt(np.maximum(alone, 0))[..., None, :]
        counts = np.ones((n_given, len(chosen)))
        counts[chosen, np.arange(len(chosen))] = 0  # itself is no other
        change = np.where(np.isfinite(change) & (counts > 0), change, 0.0)
        return np.asarray(change.sum(axis=-1) / np.maximum(counts.sum(axis=-1), 1))

    def _parts(self, sets: NDArray[np.intp]) -> Iterator[slice]:
        """Rows of sets of one size, so many at a time that working arrays stay small."""
        per_set = self.third[..., 0].size * sets.shape[1] * max(self.rank, sets.shape[1])
        step = max(1, _CHUNK // per_set)
        for start in range(0, len(sets), step):
            yield slice(start, start + step)


def _product(y: Floats, rest: int) -> Floats:
    """Compute M Y Y', (..., n_sets, g, g)."""
    gram = y @ np.swapaxes(y, -1, -2)
    return np.asarray(gram + gram.sum(axis=-2, keepdims=True) / rest)


def _solved(matrix: Floats, right: Floats) -> Floats:
    """Solve for symmetric matrices, which are positive definite for samples of the fit."""
    if not np.isfinite(matrix).all():
        raise ValueError(NOT_IN_FIT)
    if matrix.shape[-1] <= _SMALL:
        return _eliminated(matrix.copy(), right.copy())
    try:
        np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError as error:
        raise ValueError(NOT_IN_FIT) from error
    return np.asarray(np.linalg.solve(matrix, right))


def _eliminated(a: Floats, x: Floats) -> Floats:
    """Solve for many small matrices at once, in place: a call of LAPACK for each takes longer."""
    size = a.shape[-1]
    for k in range(size):
        if not (a[..., k, k] > 0).all():
            raise ValueError(NOT_IN_FIT)
        for i in range(k + 1, size):
            factor = (a[..., i, k] / a[..., k, k])[..., None]
            a[..., i, k:] -= factor * a[..., k, k:]
            x[..., i, :] -= factor * x[..., k, :]
    for k in reversed(range(size)):
        for i in range(k + 1, size):
            x[..., k, :] -= a[..., k, i, None] * x[..., i, :]
        x[..., k, :] /= a[..., k, k, None]
    return x


def check_number(n_samples: int, n_features: int, of: int) -> None:
    """Raise `DegenerateDataError` where leaving samples out leaves too few `of` them."""
    if n_samples < fewest(n_features):
        raise DegenerateDataError(
            f"leaving out {of - n_samples} of {of} samples (an image, its copies, or all images of "
            f"a part) leaves {n_samples}: a Gaussian of {n_features} features needs "
            f"{fewest(n_features)}, so give at least {of - n_samples + fewest(n_features)}"
        )
