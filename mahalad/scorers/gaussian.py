"""A multivariate Gaussian with Ledoit-Wolf shrinkage, fitted from sums that merge exactly."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted, validate_data

from mahalad.protocols import Floats
from mahalad.scorers.covariance import Covariance, Spectrum, tolerance_of
from mahalad.scorers.left_out import Refit
from mahalad.scorers.moments import Moments
from mahalad.scorers.nuisance import Nuisance
from mahalad.scorers.sets import changed_sets, numbered


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

    def calibration_distances(self, X: Any, groups: Any = None, changed: Any = None) -> Floats:
        """Distances with which those of new samples can be ranked.

        The distance of a new sample is one to the fit to all n samples, and each of these pulls
        the fit towards itself. So the sample that is left out has to be compared with the new one
        as it were without it, too: d(x; all without i) against d(x_i; all without i). The first is
        about d(x; all) + e_i, with e_i the mean influence of i on the others, so x is ranked among
        d(x_i; all without i) - e_i. This is the jackknife+ with a mean in it.

        Parameters and errors are those of `leave_one_out_distances`; and `changed` (n_samples,) has
        the number of the image of the `Nuisance` that a sample is of, below 0 for others: what is
        tolerated is left out with it.

        References
        ----------
        R. Barber et al., "Predictive inference with the jackknife+", Annals of Statistics 2021.
        """
        refit, y, labels = self._refit(X, groups)
        distances = refit.distances(y, labels)
        found = distances - refit.influences(y, labels, distances)
        if self._nuisance is not None:
            spectrum, z = self._fitted_spectrum(), np.asarray(X, np.float64) - self.location_
            for members, images in changed_sets(labels, changed):
                rho, m = (float(value[0]) for value in refit.shrunk(y[None, members]))
                others = self._nuisance.without(images)
                refitted = spectrum.distances_left_out(z[members], rho, m, others)
                found[members] += refitted - distances[members]
        return found

    def _refit(self, X: Any, groups: Any) -> tuple[Refit, Floats, NDArray[np.intp]]:
        """What refits need, samples on the axes of C, and their labels as numbers."""
        check_is_fitted(self, "moments_")
        spectrum = self._fitted_spectrum()
        self._fitted_covariance()  # now, so that no question changes anything
        X = validate_data(self, X, dtype=np.float64, reset=False)
        labels = numbered(X.sum(axis=1), groups)
        centred = self.moments_.reshift(spectrum.location)
        z = X - spectrum.location
        y, tolerance = z @ spectrum.basis, None
        if self._nuisance is not None:
            tolerance, w = tolerance_of(spectrum, self._nuisance, z)
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
