"""A multivariate Gaussian with Ledoit-Wolf shrinkage, fitted from sums that merge exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted, validate_data

from mahalad.errors import DegenerateDataError
from mahalad.protocols import Floats, Value
from mahalad.scorers.left_out import Refit, Tolerance, fewest, numbered
from mahalad.scorers.moments import Moments, ledoit_wolf_shrinkage, principal_axes
from mahalad.scorers.nuisance import Nuisance


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


class LedoitWolfGaussian(BaseEstimator):
    """Fit one Gaussian with Ledoit-Wolf shrinkage and score by Mahalanobis distance.

    The estimator keeps exactly additive sums, so fits can be updated (`partial_fit`) and
    merged (`merge`) and equal one fit on all samples. With fewer samples than features it
    scores in the span of the samples (low-rank form), which gives the same distances.

    Attributes
    ----------
    moments_ : Moments
        The sums over all samples seen.
    location_ : ndarray of shape (n_features,)
        Mean.
    covariance_ : ndarray of shape (n_features, n_features)
        Sigma = (1 - rho) C + rho m I, as `sklearn.covariance.LedoitWolf` computes it.
    shrinkage_ : float
        rho, in [0, 1].
    n_samples_seen_ : int
        Number of samples in the sums.

    Notes
    -----
    The distance is d(x) = sqrt((x - mu)' Sigma^-1 (x - mu)), not squared.

    References
    ----------
    O. Rippel, P. Mertens, D. Merhof, "Modeling the Distribution of Normal Data in
    Pre-Trained Deep Features for Anomaly Detection", ICPR 2020, equations 1-3.

    Examples
    --------
    >>> import numpy as np
    >>> from mahalad import LedoitWolfGaussian
    >>> X = np.random.default_rng(0).normal(size=(50, 3))
    >>> gaussian = LedoitWolfGaussian().fit(X)
    >>> halves = LedoitWolfGaussian().fit(X[:20]).merge(LedoitWolfGaussian().fit(X[20:]))
    >>> bool(np.allclose(gaussian.distances(X), halves.distances(X), rtol=1e-12))
    True
    """

    _spectrum: Spectrum | None = None
    _nuisance: Nuisance | None = None
    _covariance: Covariance | None = None  # the only one of these that a slim file has

    def fit(self, X: Any, y: Any = None) -> Self:
        """Fit to samples, forgetting earlier ones.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Normal samples; at least 2 (3 if there are not more samples than features).
        y : ignored

        Returns
        -------
        self

        Raises
        ------
        DegenerateDataError
            All samples are identical, or too few to give an invertible covariance.
        """
        X = validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        self.moments_ = Moments.from_samples(X)
        self._forget()
        self._fitted_covariance()
        return self

    def tolerate(self, nuisance: Nuisance | None) -> Self:
        """Add the covariance of harmless changes, (n_differences, n_features), or none.

        It stays when samples are added, and is given anew for others; it is not among the sums.
        """
        self._nuisance = nuisance
        if hasattr(self, "moments_"):
            self._covariance = None
        return self

    def partial_fit(self, X: Any, y: Any = None) -> Self:
        """Add samples to the fit; any number, from 1 up."""
        first = not hasattr(self, "moments_")
        X = validate_data(self, X, dtype=np.float64, reset=first)
        shift = None if first else self.moments_.shift
        moments = Moments.from_samples(X, shift)
        self.moments_ = moments if first else self.moments_ + moments
        self._forget()
        return self

    def merge(self, other: LedoitWolfGaussian) -> Self:
        """Add the samples of another fit; `other` is left as it is."""
        check_is_fitted(self)
        check_is_fitted(other)
        self.moments_ = self.moments_ + other.moments_
        self._forget()
        return self

    def unmerge(self, other: LedoitWolfGaussian) -> Self:
        """Take the samples of another fit, which are part of this one, out of it."""
        check_is_fitted(self)
        check_is_fitted(other)
        self.moments_ = self.moments_ - other.moments_
        self._forget()
        return self

    def distances(self, X: Any) -> Floats:
        """Unsquared Mahalanobis distances, shape (n_samples,), up = abnormal."""
        covariance = self._fitted_covariance()
        X = validate_data(self, X, dtype=np.float64, reset=False)
        return np.asarray(np.sqrt(covariance.squared_distances(X)))

    def apply_precision(self, z: Floats) -> Floats:
        """Compute Sigma^-1 z of differences z to the mean, (n_samples, n_features) each."""
        return self._fitted_covariance().precise(z)

    def score_samples(self, X: Any) -> Floats:
        """Negative distances, shape (n_samples,), up = normal (scikit-learn's sign)."""
        return -self.distances(X)

    def leave_one_out_distances(self, X: Any, groups: Any = None) -> Floats:
        """Distance of each fitted sample to the Gaussian fitted without it, or its group.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples that were part of the fit (all of them, or any of them; whole groups).
        groups : array-like of shape (n_samples,), optional
            Samples with the same label are left out together.

        Returns
        -------
        ndarray of shape (n_samples,)
            Unsquared distances, up = abnormal.

        Raises
        ------
        ValueError
            A sample was not part of the fit, or leaving it out leaves no Gaussian.

        Notes
        -----
        It is that of a refit to the other samples, mean, covariance, rho and m, in closed form;
        see `mahalad.scorers.left_out.Refit`.
        """
        refit, y, labels = self._refit(X, groups)
        return refit.distances(y, labels)

    def calibration_distances(self, X: Any, groups: Any = None) -> Floats:
        """Distances with which those of new samples can be ranked.

        The distance of a new sample is one to the fit to all n samples, and each of these pulls
        the fit towards itself. So the sample that is left out has to be compared with the new one
        as it were without it, too: d(x; all without i) against d(x_i; all without i). The first is
        about d(x; all) + e_i, with e_i the mean influence of i on the others, so x is ranked among
        d(x_i; all without i) - e_i. This is the jackknife+ with a mean in it.

        Parameters and errors are those of `leave_one_out_distances`.

        References
        ----------
        R. Barber et al., "Predictive inference with the jackknife+", Annals of Statistics 2021.
        """
        refit, y, labels = self._refit(X, groups)
        distances = refit.distances(y, labels)
        return distances - refit.influences(y, labels, distances)

    def _refit(self, X: Any, groups: Any) -> tuple[Refit, Floats, NDArray[np.intp]]:
        """What refits need, samples on the axes of C, and their labels as numbers."""
        check_is_fitted(self, "moments_")
        spectrum = self._fitted_spectrum()
        X = validate_data(self, X, dtype=np.float64, reset=False)
        labels = numbered(X.sum(axis=1), groups)
        centred = self.moments_.reshift(spectrum.location)
        z = X - spectrum.location
        y, tolerance = z @ spectrum.basis, None
        if self._nuisance is not None:
            tolerance, w = _tolerance(spectrum, self._nuisance, z)
            y = np.concatenate([y, w], axis=-1)
        refit = Refit(
            spectrum.n_samples,
            len(spectrum.location),
            spectrum.eigenvalues,
            centred.q1 @ spectrum.basis,
            centred.q4,
            np.asarray(spectrum.shrinkage),
            np.zeros(()),
            tolerance,
        )
        return refit, y, labels

    def scoring_state(self) -> dict[str, Floats]:
        """All that scoring needs, as named arrays."""
        c = self._fitted_covariance()
        return {
            "location": c.location,
            "variances": c.variances,
            "basis": c.basis,
            "ridge": np.array([c.ridge]),
        }

    def restore_scoring(self, state: dict[str, Floats]) -> Self:
        """Become able to score, without sums, from a `scoring_state`."""
        self._covariance = Covariance(
            state["location"], state["variances"], state["basis"], float(state["ridge"][0])
        )
        self.n_features_in_ = len(state["location"])
        return self

    def restore_moments(self, moments: Moments) -> Self:
        """Become the fit to the samples that were summed."""
        self.moments_ = moments
        self.n_features_in_ = moments.n_features
        self._forget()
        return self

    @property
    def location_(self) -> Floats:
        """Mean of the samples, shape (n_features,)."""
        if not hasattr(self, "moments_"):  # read from a file that has no sums
            return self._fitted_covariance().location
        return self.moments_.mean()

    @property
    def shrinkage_(self) -> float:
        """Ledoit and Wolf's rho, in [0, 1]."""
        return self._fitted_spectrum().shrinkage

    @property
    def covariance_(self) -> Floats:
        """Covariance with shrinkage, and with what is tolerated, (n_features, n_features)."""
        spectrum = self._fitted_spectrum()
        covariance = (1 - spectrum.shrinkage) * self.moments_.covariance()
        covariance.flat[:: len(covariance) + 1] += spectrum.ridge
        if self._nuisance is not None:
            covariance += self._nuisance.covariance()
        return covariance

    @property
    def n_samples_seen_(self) -> int:
        """Number of samples in the sums."""
        check_is_fitted(self, "moments_")
        return self.moments_.n_samples

    def _forget(self) -> None:
        self._spectrum = self._covariance = None

    def _fitted_covariance(self) -> Covariance:
        if self._covariance is None:
            self._covariance = Covariance.of(self._fitted_spectrum(), self._nuisance)
        return self._covariance

    def _fitted_spectrum(self) -> Spectrum:
        if self._spectrum is None:
            check_is_fitted(self, "moments_")
            self._spectrum = Spectrum.from_moments(self.moments_)
        return self._spectrum


def _tolerance(spectrum: Spectrum, nuisance: Nuisance, z: Floats) -> tuple[Tolerance, Floats]:
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
