"""The covariance of one Gaussian: shrunk, with what is tolerated, and in the form that scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mahalad.errors import DegenerateDataError
from mahalad.possible import fewest
from mahalad.protocols import Floats, Value
from mahalad.scorers.moments import Moments, ledoit_wolf_shrinkage, principal_axes
from mahalad.scorers.nuisance import Nuisance, Tolerance


@dataclass(frozen=True, eq=False)
class Spectrum(Value):
    """Mean and covariance C = U diag(eigenvalues) U' of samples, with its shrinkage.

    `basis` U has shape (n_features, rank): for fewer samples than features only the
    directions that the samples span are kept (low-rank form); all others have variance 0.
    """

    n_samples: int
    location: Floats
    eigenvalues: Floats
    basis: Floats
    shrinkage: float
    mean_variance: float

    @classmethod
    def from_moments(cls, moments: Moments) -> Spectrum:
        C = moments.covariance()
        n, D = moments.n_samples, moments.n_features
        mean_variance = float(np.trace(C)) / D
        _check_spread(moments, mean_variance)
        shrinkage = float(ledoit_wolf_shrinkage(moments, C))
        eigenvalues, basis = principal_axes(C, max_rank=n - 1)
        if shrinkage == 0 and len(eigenvalues) < D:
            raise DegenerateDataError(
                f"the covariance of {n} samples with {D} features is singular and Ledoit-Wolf "
                f"shrinkage is 0: give more samples (at least 3; {D + 1} always suffice)"
            )
        return cls(n, moments.mean(), eigenvalues, basis, shrinkage, mean_variance)

    @property
    def ridge(self) -> float:
        """What shrinkage adds to (1 - rho) C in every direction, rho m."""
        return self.shrinkage * self.mean_variance

    def distances_left_out(
        self, z: Floats, shrinkage: float, mean_variance: float, nuisance: Nuisance
    ) -> Floats:
        """Distances (g,) of samples to the fit without them, which has this shrinkage.

        The samples z (g, n_features) are relative to the mean of all, and in their span.
        """
        n, rest = self.n_samples, self.n_samples - len(z)
        t = z.sum(axis=0) / rest
        y = np.vstack([z, np.sqrt(rest) * t]) @ self.basis
        inner = (n * np.diag(self.eigenvalues) - y.T @ y) * ((1 - shrinkage) / rest)
        values, axes = np.linalg.eigh(inner)
        spread = (self.basis @ axes) * np.sqrt(np.maximum(values, 0))
        ridge = shrinkage * mean_variance + float(nuisance.ridge())
        basis, variances = _axes_of(np.vstack([spread.T, nuisance.factor()]))
        rest_of_all = Covariance(self.location - t, variances + ridge, basis, ridge)
        return np.asarray(np.sqrt(rest_of_all.squared_distances(z + self.location)))


@dataclass(frozen=True, eq=False)
class Covariance(Value):
    """Mean and covariance Sigma = U diag(variances) U' + ridge (I - U U') of a Gaussian.

    `basis` U has shape (n_features, rank): all directions, or those in which there is more than
    the ridge.
    """

    location: Floats
    variances: Floats
    basis: Floats
    ridge: float

    @classmethod
    def of(cls, spectrum: Spectrum, nuisance: Nuisance | None) -> Covariance:
        """Shrink C, and add the covariance of harmless changes."""
        variances = (1 - spectrum.shrinkage) * spectrum.eigenvalues
        if nuisance is None:
            ridge = spectrum.ridge
            return cls(spectrum.location, variances + ridge, spectrum.basis, ridge)
        ridge = spectrum.ridge + float(nuisance.ridge())
        factor = np.vstack([(spectrum.basis * np.sqrt(variances)).T, nuisance.factor()])
        basis, values = _axes_of(factor)
        return cls(spectrum.location, values + ridge, basis, ridge)

    def precise(self, z: Floats) -> Floats:
        """Sigma^-1 z of differences z to the mean, (n_samples, n_features) each."""
        y = z @ self.basis
        inside = (y / self.variances) @ self.basis.T
        if self.basis.shape[1] == self.basis.shape[0]:
            return np.asarray(inside)
        return np.asarray(inside + (z - y @ self.basis.T) / self.ridge)

    def squared_distances(self, X: Floats) -> Floats:
        """(x - mu)' Sigma^-1 (x - mu) for each row of `X`, shape (n,)."""
        z = X - self.location
        y = z @ self.basis
        distances = np.einsum("ij,j->i", y**2, 1 / self.variances)
        if self.basis.shape[1] < self.basis.shape[0]:
            # Outside the span only the ridge is left. The remainder is formed explicitly:
            # |z|^2 - |y|^2 would cancel for samples that lie in the span.
            remainder = z - y @ self.basis.T
            distances += np.einsum("ij,ij->i", remainder, remainder) / self.ridge
        return np.asarray(distances)


def _axes_of(factor: Floats) -> tuple[Floats, Floats]:
    """Axes U (n_features, rank) and eigenvalues of F'F, of rows F; by the smaller product."""
    if len(factor) >= factor.shape[1]:
        values, axes = np.linalg.eigh(factor.T @ factor)
        return axes, np.maximum(values, 0)
    values, across = np.linalg.eigh(factor @ factor.T)
    kept = values > values[-1] * len(factor) * np.finfo(float).eps
    values, across = values[kept], across[:, kept]
    return factor.T @ across / np.sqrt(values), values


def _check_spread(moments: Moments, mean_variance: float) -> None:
    n, D = moments.n_samples, moments.n_features
    if n < fewest(D):
        raise DegenerateDataError(
            f"n_samples={n}: a Gaussian of {D} features needs {fewest(D)} samples, one more where "
            f"each is left out for a threshold: give at least {fewest(D) + 1}"
        )
    rounding = 8 * np.finfo(float).eps * float(np.abs(moments.shift).max())
    if mean_variance <= rounding**2:
        raise DegenerateDataError(f"all {n} samples are identical: there is no spread to measure")


def tolerance_of(spectrum: Spectrum, nuisance: Nuisance, z: Floats) -> tuple[Tolerance, Floats]:
    """Coordinates in which K = ridge I + N is I and C is diagonal; and samples z in these.

    N has few directions V beside its own ridge a: K^-1/2 = (I - V diag(1 - g) V') / sqrt(a) with
    g = sqrt(a / (a + v)) of the variances v along V.
    """
    added = spectrum.ridge + float(nuisance.ridge())
    V, v = _axes_of(nuisance.factor())
    lost = 1 - np.sqrt(added / (added + v))

    def whitened(columns: Floats) -> Floats:
        return np.asarray((columns - V @ (lost[:, None] * (V.T @ columns))) / np.sqrt(added))

    axes, values = _axes_of((whitened(spectrum.basis) * np.sqrt(spectrum.eigenvalues)).T)
    back = whitened(axes)  # K^-1/2 is symmetric
    response = (back**2).sum(axis=0)
    return Tolerance(values, response, np.asarray(spectrum.ridge)), z @ back
