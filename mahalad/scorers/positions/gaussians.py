"""One Gaussian with Ledoit-Wolf shrinkage for each position of a feature map.

It keeps the sums of a single Gaussian once per position: fits can be updated and merged, and they
give leave-one-out distances in closed form.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from mahalad.checks import Limit, Real, check_parameters
from mahalad.errors import InputError
from mahalad.protocols import Floats
from mahalad.scorers.moments import Moments
from mahalad.scorers.nuisance import Nuisance
from mahalad.scorers.positions.chunks import centred, chunks, for_each_chunk, squared_norms
from mahalad.scorers.positions.covariances import Covariances, Whitening

_BUFFERED = 256  # samples summed at once: one pass over the large sums instead of one per batch
_PAIRS = 2**12
_NO_SUMS = "this fit was read from a file without its sums: it can only score"


class PatchGaussian(BaseEstimator):
    """Fit one Gaussian per position and score each position by its Mahalanobis distance.

    Parameters
    ----------
    floor : float, default=0.01
        At least 0. Added to every position's variances, as a share of the mean variance over
        positions and features: a position that never varied (a saturated background) must not
        flag the first image in which it does.

    Attributes
    ----------
    moments_ : Moments
        Sums over all samples seen, one set per position: n_positions * n_features^2 numbers.
    n_samples_seen_ : int

    Notes
    -----
    Sigma_p = (1 - rho_p) C_p + (rho_p m_p + floor m) I + N_p with Ledoit and Wolf's rho_p, m_p the
    mean variance at the position, m that over all positions, and N_p what was given to `tolerate`.
    The distance is not squared.

    References
    ----------
    T. Defard et al., "PaDiM: a Patch Distribution Modeling Framework for Anomaly Detection and
    Localization", 2020, for a Gaussian per position (there with a fixed 0.01 I instead of
    Ledoit-Wolf shrinkage).

    Examples
    --------
    >>> import numpy as np
    >>> from mahalad import PatchGaussian
    >>> X = np.random.default_rng(0).normal(size=(50, 4, 3))  # 50 images, 4 positions
    >>> PatchGaussian().fit(X).distances(X[:2]).shape
    (2, 4)
    """

    _limits: ClassVar[Mapping[str, Limit]] = {"floor": Real("[0, inf)")}

    # None before the first sample. Lists and arrays are replaced, never changed: copies share them.
    _pending: list[Any] | None = None
    _moments: Moments | None = None
    _shape: tuple[int, ...] = ()
    _covariances: Covariances | None = None
    _nuisance: Nuisance | None = None
    _read: Whitening | None = None  # from a file without sums

    def __init__(self, floor: float = 0.01) -> None:
        self.floor = floor

    def fit(self, X: Any, y: Any = None) -> Self:
        """Fit to samples, forgetting earlier ones.

        Parameters
        ----------
        X : array of shape (n_samples, n_positions, n_features)
            At least 5 samples.
        y : ignored

        Raises
        ------
        InputError
            Fewer than 5 samples, an array of another shape, or a floor below 0.
        DegenerateDataError
            All samples are identical.
        """
        self._restart()
        self.partial_fit(X)
        self._fitted_covariances()
        return self

    def partial_fit(self, X: Any, y: Any = None) -> Self:
        """Add samples to the fit; any number, from 1 up."""
        check_parameters(self._limits, self)
        X = np.asarray(X)
        if X.ndim != 3 or not X.size or X.dtype.kind not in "fiu" or not np.isfinite(X).all():
            raise InputError(
                "samples must be finite numbers of shape (n_samples, n_positions, n_features), got "
                f"{X.dtype} of shape {X.shape}"
            )
        if self._pending is None:
            self._restart()
        elif self._shape and not self.has_sums_:
            raise InputError(_NO_SUMS)
        elif self._shape and X.shape[1:] != self._shape:
            raise InputError(f"samples of shape {X.shape[1:]} added to a fit of {self._shape}")
        self._shape = X.shape[1:]
        pending = [*(self._pending or []), X.copy()]  # the caller may reuse the memory
        self._pending, self._covariances, self._read = pending, None, None
        if sum(map(len, pending)) >= _BUFFERED:
            self._flush()
        return self

    def tolerate(self, nuisance: Nuisance | None) -> Self:
        """Add the covariance of harmless changes, (n_differences, n_positions, n_features).

        It stays when samples are added, and is given anew for others; it is not among the sums.
        """
        self._nuisance, self._covariances = nuisance, None
        return self

    def merge(self, other: PatchGaussian) -> Self:
        """Add the samples of another fit; `other` keeps what it has."""
        self._moments = self.moments_ + other.moments_
        self._covariances = self._read = None
        return self

    def unmerge(self, other: PatchGaussian) -> Self:
        """Take the samples of another fit, which are part of this one, out of it."""
        self._moments = self.moments_ - other.moments_
        self._covariances = self._read = None
        return self

    def distances(self, X: Any) -> Floats:
        """Unsquared Mahalanobis distances, shape (n_samples, n_positions), up = abnormal."""
        check_is_fitted(self)
        whitening = self._whitening()
        X = self._checked(X)
        found = np.empty(X.shape[:2])
        for rows in chunks(X.shape[1], len(X) * X.shape[2]):
            z = centred(X, rows, whitening.location)
            y = (z @ whitening.matrices[rows].mT).numpy()  # (p, n, D)
            found[:, rows] = np.sqrt(squared_norms(y)).T
        return found

    def score_samples(self, X: Any) -> Floats:
        """Negative mean distance over positions, shape (n_samples,), up = normal."""
        return np.asarray(-self.distances(X).mean(axis=1))

    def leave_one_out_distances(self, X: Any, groups: Any = None) -> Floats:
        """Measure the distance of each fitted sample to the fit without it, or without its group.

        Parameters
        ----------
        X : array of shape (n_samples, n_positions, n_features)
            Samples that were part of the fit: all of them, or any (whole groups).
        groups : array-like of shape (n_samples,), optional
            Samples with the same label are left out together.

        Returns
        -------
        ndarray of shape (n_samples, n_positions)
            Unsquared distances, up = abnormal.

        Raises
        ------
        InputError
            This fit was read from a file without its sums.
        ValueError
            A sample was not part of the fit.
        DegenerateDataError
            Leaving out a group leaves fewer than 3 samples.

        Notes
        -----
        It is that of a refit to the other samples, in closed form, but for what `floor` adds,
        which is held fixed; see `mahalad.scorers.left_out.Refit`.
        """
        return self._left_out(X, groups, 0)[0]

    def leave_one_out(
        self, X: Any, groups: Any = None, n_pairs: int = _PAIRS, changed: Any = None
    ) -> tuple[Floats, Floats]:
        """Measure `leave_one_out_distances`, and how much the distances of others grow with it.

        Parameters and errors are those of `leave_one_out_distances`; at most about `n_pairs` pairs
        of samples are left out together to find the growth. `changed` (n_samples,) has the number
        of the image of the `Nuisance` that a sample is of, below 0 for others: what is tolerated is
        left out with it.

        Returns
        -------
        distances, growth : ndarrays of shape (n_samples, n_positions)
            The growth is the mean distance of others to the fit without them and without the
            sample, as a multiple of that to the fit without them.
        """
        return self._left_out(X, groups, n_pairs, changed)

    def _left_out(
        self, X: Any, groups: Any, n_pairs: int, changed: Any = None
    ) -> tuple[Floats, Floats]:
        covariances = self._fitted_covariances()
        X = self._checked(X)
        labels = np.arange(len(X)) if groups is None else np.unique(groups, return_inverse=True)[1]
        return covariances.left_out(X, labels, n_pairs, changed)

    def scoring_state(self) -> dict[str, NDArray[Any]]:
        """Give all that scoring needs, as named arrays.

        ``location`` (P, D) has the means, ``whitening`` (P, D (D + 1) / 2) the lower triangles of
        L^-1 as float32, which changes a distance by about 1e-7 of itself.
        """
        whitening = self._whitening()
        rows, columns = np.tril_indices(whitening.matrices.shape[1])
        packed = whitening.matrices.numpy()[:, rows, columns].astype(np.float32)
        return {"location": whitening.location, "whitening": packed}

    def restore_scoring(self, location: Floats, whitening: Any) -> Self:
        """Become able to score, without sums, from a `scoring_state`."""
        self._restart()
        P, D = self._shape = location.shape
        rows, columns = np.tril_indices(D)
        full = np.zeros((P, D, D))
        full[:, rows, columns] = whitening
        self._read = Whitening(location, torch.from_numpy(full))
        return self

    def without_sums(self, shape: tuple[int, ...]) -> Self:
        """Become a fit that can neither score nor be added to: something else scores for it."""
        self._restart()
        self._shape = shape
        return self

    def restore_moments(self, moments: Moments) -> Self:
        """Become the fit to the samples that were summed."""
        self._restart()
        self._moments = moments
        self._shape = moments.s1.shape
        return self

    @property
    def has_sums_(self) -> bool:
        """False for a fit read from a file without its sums: it can only score."""
        return bool(self._pending) or self._moments is not None

    @property
    def moments_(self) -> Moments:
        """Sums over all samples seen, one set per position."""
        check_is_fitted(self)
        self._flush()
        if self._moments is None:
            raise InputError(_NO_SUMS)
        return self._moments

    @moments_.setter
    def moments_(self, moments: Moments) -> None:
        self.restore_moments(moments)

    @property
    def n_samples_seen_(self) -> int:
        """Number of samples in the sums."""
        return self.moments_.n_samples

    def _restart(self) -> None:
        self._pending = []
        self._moments = None
        self._shape = ()
        self._covariances = None
        self._read = None

    def factorise(self) -> Self:
        """Compute now what scoring needs of the sums, rather than at the first question."""
        self._whitening()
        return self

    def _whitening(self) -> Whitening:
        return self._fitted_covariances().whitening if self._read is None else self._read

    def _flush(self) -> None:
        if not self._pending:
            return
        X = np.concatenate(self._pending)
        self._pending = []
        shift = X.mean(axis=0, dtype=np.float64) if self._moments is None else self._moments.shift
        n, P, D = X.shape
        moments = Moments(
            n, shift, np.empty((P, D)), np.empty((P, D, D)), np.empty((P, D)), *np.empty((2, P))
        )

        def add_up(rows: slice) -> None:
            z = np.ascontiguousarray(X[:, rows].swapaxes(0, 1), dtype=np.float64)
            part = Moments.from_samples(z, shift[rows])
            for name in ("s1", "s2", "q1", "q2", "q4"):
                getattr(moments, name)[rows] = getattr(part, name)

        for_each_chunk(add_up, P, n * D)
        self._moments = moments if self._moments is None else self._moments + moments

    def _fitted_covariances(self) -> Covariances:
        moments = self.moments_
        if self._covariances is None:
            self._covariances = Covariances.from_moments(moments, self.floor, self._nuisance)
        return self._covariances

    def _checked(self, X: Any) -> Any:
        X = np.asarray(X)
        if X.ndim != 3 or X.shape[1:] != self._shape:
            raise InputError(f"samples of shape {X.shape[1:]} given to a fit of {self._shape}")
        if X.dtype.kind not in "fiu" or not np.isfinite(X).all():
            raise InputError(f"samples must be finite numbers ({X.dtype})")
        return X

    def __sklearn_is_fitted__(self) -> bool:
        return self._pending is not None
