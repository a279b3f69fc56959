"""Sums over samples that add up exactly, and the Ledoit-Wolf covariance they give.

Everything that a Gaussian with Ledoit-Wolf shrinkage needs to know of its samples fits into
six sums. Sums of two sets of samples are the sum of their sums, so a fit can be updated,
merged over shards or machines, and never needs the samples again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import linalg

from mahalad.protocols import Floats, Value


@dataclass(frozen=True, eq=False)
class Moments(Value):
    """Sums of z = x - shift over samples x.

    All arrays may have further leading axes: the sums of many sets of samples of the same number,
    one set for each position of a feature map, say.

    Attributes
    ----------
    n_samples : int
        Number of samples summed, n.
    shift : ndarray of shape (..., n_features)
        What was subtracted from every sample. Without it the sums of features with a mean
        far from zero lose their digits.
    s1 : ndarray of shape (..., n_features)
        sum z.
    s2 : ndarray of shape (..., n_features, n_features)
        sum z z'.
    q1 : ndarray of shape (..., n_features)
        sum |z|^2 z.
    q2, q4 : ndarray of shape (...)
        sum |z|^2 and sum |z|^4.
    """

    n_samples: int
    shift: Floats
    s1: Floats
    s2: Floats
    q1: Floats
    q2: Floats
    q4: Floats

    @classmethod
    def from_samples(cls, X: Floats, shift: Floats | None = None) -> Moments:
        """Sum the samples in `X` of shape (..., n_samples, n_features).

        `shift` defaults to the mean of `X`; any vector near the data will do.
        """
        X = np.asarray(X, dtype=np.float64)
        shift = X.mean(axis=-2) if shift is None else shift
        z = X - shift[..., None, :]
        squared_norm = np.einsum("...ij,...ij->...i", z, z)
        return cls(
            n_samples=X.shape[-2],
            shift=shift,
            s1=z.sum(axis=-2),
            s2=np.swapaxes(z, -1, -2) @ z,
            q1=(squared_norm[..., None, :] @ z)[..., 0, :],
            q2=squared_norm.sum(axis=-1),
            q4=_dot(squared_norm, squared_norm),
        )

    @property
    def n_features(self) -> int:
        """Number of features, D."""
        return int(self.shift.shape[-1])

    def at(self, rows: slice) -> Moments:
        """The sums of some of the sets of samples: rows of the first leading axis."""
        arrays = (self.shift, self.s1, self.s2, self.q1, self.q2, self.q4)
        return Moments(self.n_samples, *(array[rows] for array in arrays))

    def reshift(self, shift: Floats) -> Moments:
        """Return the same sums taken around another `shift`.

        With a = self.shift - shift every z becomes z + a; the sums follow by expanding
        the powers of |z + a|.
        """
        n, a = self.n_samples, self.shift - shift
        a2, a_s1, s2_a = _dot(a, a), _dot(a, self.s1), _apply(self.s2, a)
        cross = self.s1[..., :, None] * a[..., None, :]
        q2, along, square = (value[..., None] for value in (self.q2, a_s1, a2))
        return Moments(
            n_samples=n,
            shift=shift,
            s1=self.s1 + n * a,
            s2=self.s2
            + cross
            + np.swapaxes(cross, -1, -2)
            + n * (a[..., :, None] * a[..., None, :]),
            q1=self.q1 + q2 * a + 2 * s2_a + 2 * along * a + square * self.s1 + n * square * a,
            q2=self.q2 + 2 * a_s1 + n * a2,
            q4=self.q4
            + 4 * _dot(a, s2_a)
            + n * a2**2
            + 4 * _dot(a, self.q1)
            + 2 * a2 * self.q2
            + 4 * a2 * a_s1,
        )

    def __add__(self, other: Moments) -> Moments:
        if self.s1.shape != other.s1.shape:
            raise ValueError(
                f"cannot add sums over {self._describe()} to sums over {other._describe()}"
            )
        other = other.reshift(self.shift)
        return Moments(
            n_samples=self.n_samples + other.n_samples,
            shift=self.shift,
            s1=self.s1 + other.s1,
            s2=self.s2 + other.s2,
            q1=self.q1 + other.q1,
            q2=self.q2 + other.q2,
            q4=self.q4 + other.q4,
        )

    def __sub__(self, other: Moments) -> Moments:
        """The sums without samples that are part of them."""
        sums = (other.s1, other.s2, other.q1, other.q2, other.q4)
        return self + Moments(-other.n_samples, other.shift, *(-values for values in sums))

    def mean(self) -> Floats:
        """Mean of the samples, shape (..., n_features)."""
        return self.shift + self.s1 / self.n_samples

    def covariance(self) -> Floats:
        """Covariance C of the samples (divided by n), shape (..., n_features, n_features)."""
        mu = self.s1 / self.n_samples
        return self.s2 / self.n_samples - mu[..., :, None] * mu[..., None, :]

    def _describe(self) -> str:
        sets = "" if self.s1.ndim == 1 else f" at {np.prod(self.s1.shape[:-1])} positions"
        return f"{self.n_features} features{sets}"


def _dot(a: Floats, b: Floats) -> Floats:
    return np.asarray(np.einsum("...i,...i->...", a, b))


def _apply(matrix: Floats, vector: Floats) -> Floats:
    return np.asarray((matrix @ vector[..., None])[..., 0])


def ledoit_wolf_shrinkage(moments: Moments, covariance: Floats) -> Floats:
    """Shrinkage rho in [0, 1] of Ledoit and Wolf (2004), from sums alone.

    Parameters
    ----------
    moments : Moments
        Sums over the samples.
    covariance : ndarray of shape (..., n_features, n_features)
        `moments.covariance()`, passed in because the caller has it already.

    Returns
    -------
    ndarray of shape (...)
        rho of (1 - rho) C + rho m I with m = trace(C) / D; the value that scikit-learn's
        `ledoit_wolf_shrinkage` gives for the same samples. 0 for C that is a multiple of I.

    Notes
    -----
    beta = (sum |z - mu|^4 / n - |C|_F^2) / (n D), delta = (|C|_F^2 - D m^2) / D and
    rho = min(beta, delta) / delta, where with mu = s1 / n
    sum |z - mu|^4 = q4 - 4 mu.q1 + 4 mu' S2 mu + 2 |mu|^2 q2 - 3 n |mu|^4.

    References
    ----------
    O. Ledoit, M. Wolf, "A Well-Conditioned Estimator for Large-Dimensional Covariance
    Matrices", Journal of Multivariate Analysis 88 (2004), lemmas 3.2-3.4.
    """
    n, D = moments.n_samples, moments.n_features
    if D == 1:
        return np.zeros(covariance.shape[:-2])  # C is already a multiple of the identity
    mu = moments.s1 / n
    mu2 = _dot(mu, mu)
    fourth = (
        moments.q4
        - 4 * _dot(mu, moments.q1)
        + 4 * _dot(mu, _apply(moments.s2, mu))
        + 2 * mu2 * moments.q2
        - 3 * n * mu2**2
    )
    squared_norm = np.einsum("...ij,...ij->...", covariance, covariance)
    mean_variance = np.einsum("...ii->...", covariance) / D
    beta = (fourth / n - squared_norm) / (n * D)
    delta = (squared_norm - D * mean_variance**2) / D
    beta = np.minimum(np.maximum(beta, 0.0), delta)
    return np.asarray(np.where(beta > 0, beta / np.where(beta > 0, delta, 1.0), 0.0))


def principal_axes(covariance: Floats, max_rank: int) -> tuple[Floats, Floats]:
    """Eigenvalues (descending) and eigenvectors (columns) that are not zero numerically.

    For `max_rank` below the dimension, a pivoted Cholesky factorisation finds the span
    first: O(D max_rank^2) instead of O(D^3).
    """
    D = len(covariance)
    if max_rank < D:
        lower, pivots, rank, _ = linalg.lapack.dpstrf(covariance, lower=1)
        factor = np.zeros((D, rank))
        factor[pivots - 1] = np.tril(lower)[:, :rank]
        eigenvalues, vectors = linalg.eigh(factor.T @ factor)
        keep = eigenvalues > eigenvalues[-1] * D * np.finfo(float).eps
        eigenvalues, vectors = eigenvalues[keep][::-1], vectors[:, keep][:, ::-1]
        return eigenvalues, factor @ vectors / np.sqrt(eigenvalues)
    eigenvalues, vectors = linalg.eigh(covariance)
    keep = eigenvalues > eigenvalues[-1] * D * np.finfo(float).eps
    return eigenvalues[keep][::-1], vectors[:, keep][:, ::-1]
