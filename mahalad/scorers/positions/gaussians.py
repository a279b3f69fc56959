"""One Gaussian with Ledoit-Wolf shrinkage for each position of a feature map.

The same sums as for a single Gaussian, once per position: fits can be updated, merged, and give
closed-form leave-one-out distances. The linear algebra runs in torch, in float64 on the CPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from mahalad.errors import DegenerateDataError, InputError
from mahalad.protocols import Floats
from mahalad.scorers.moments import Moments, ledoit_wolf_shrinkage
from mahalad.scorers.positions.chunks import centred, chunks, for_each_chunk, squared_norms

MIN_SAMPLES = 5
_BUFFERED = 256  # samples summed at once: one pass over the large sums instead of one per batch
_NO_SUMS = "this fit was read from a file without its sums: it can only score"


@dataclass(frozen=True, eq=False)
class _Spectra:
    """Sums over samples, with rho and ridge (P,) of every position."""

    moments: Moments
    shrinkage: Floats
    ridge: Floats

    @classmethod
    def from_moments(cls, moments: Moments, floor: float) -> _Spectra:
        n, D = moments.n_samples, moments.n_features
        if n < MIN_SAMPLES:
            raise InputError(
                f"a Gaussian per position needs at least {MIN_SAMPLES} good images, and has {n}: "
                "give more, or use the image-level detector (scope='image'), which needs 2"
            )
        shrinkage, mean_variance = np.empty((2, len(moments.shift)))

        def shrink(rows: slice) -> None:
            own = moments.at(rows)
            C = own.covariance()
            shrinkage[rows] = ledoit_wolf_shrinkage(own, C)
            mean_variance[rows] = np.einsum("pii->p", C) / D

        for_each_chunk(shrink, len(moments.shift), D**2)
        overall = float(mean_variance.mean())
        rounding = 8 * np.finfo(float).eps * float(np.abs(moments.shift).max(initial=0))
        if overall <= rounding**2:
            raise DegenerateDataError(f"all {n} samples are identical: no spread to measure")
        ridge = shrinkage * np.maximum(mean_variance, 0) + floor * overall
        return cls(moments, shrinkage, ridge)

    def factor(self, rows: slice, scale: float) -> Tensor:
        """L of scale (1 - rho) C + ridge I = L L', for some positions: (p, D, D)."""
        C = self.moments.at(rows).covariance()
        C *= (scale * (1 - self.shrinkage[rows]))[:, None, None]
        np.einsum("pii->pi", C)[...] += self.ridge[rows, None]
        L: Tensor
        L, failed = torch.linalg.cholesky_ex(torch.from_numpy(C))
        if failed.any():
            position = rows.start + int(failed.nonzero()[0])
            raise DegenerateDataError(
                f"the samples at position {position} have no spread in some direction, and "
                "nothing is added to it: give floor > 0"
            )
        return L


class PatchGaussian(BaseEstimator):
    """Fit one Gaussian per position and score each position by its Mahalanobis distance.

    Parameters
    ----------
    floor : float, default=0.01
        Added to every position's variances, as a share of the mean variance over positions and
        features: a position that never varied (a saturated background) must not flag the first
        image in which it does.

    Attributes
    ----------
    moments_ : Moments
        Sums over all samples seen, one set per position: n_positions * n_features^2 numbers.
    n_samples_seen_ : int

    Notes
    -----
    Sigma_p = (1 - rho_p) C_p + (rho_p m_p + floor m) I with Ledoit and Wolf's rho_p, m_p the mean
    variance at the position and m that over all positions. The distance is not squared.

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

    _pending: list[Any]
    _moments: Moments | None
    _shape: tuple[int, ...]
    _spectra: _Spectra | None
    _location: Floats | None
    _whitening: Tensor | None

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
            Fewer than 5 samples, or an array of another shape.
        DegenerateDataError
            All samples are identical.
        """
        self._restart()
        self.partial_fit(X)
        self._fitted_spectra()
        return self

    def partial_fit(self, X: Any, y: Any = None) -> Self:
        """Add samples to the fit; any number, from 1 up."""
        X = np.asarray(X)
        if X.ndim != 3 or not X.size or X.dtype.kind not in "fiu" or not np.isfinite(X).all():
            raise InputError(
                "samples must be finite numbers of shape (n_samples, n_positions, n_features), got "
                f"{X.dtype} of shape {X.shape}"
            )
        if not hasattr(self, "_pending"):
            self._restart()
        elif self._shape and not self.has_sums_:
            raise InputError(_NO_SUMS)
        elif self._shape and X.shape[1:] != self._shape:
            raise InputError(f"samples of shape {X.shape[1:]} added to a fit of {self._shape}")
        self._shape = X.shape[1:]
        self._pending.append(X.copy())  # the caller may reuse the memory
        self._spectra = self._location = self._whitening = None
        if sum(map(len, self._pending)) >= _BUFFERED:
            self._flush()
        return self

    def merge(self, other: PatchGaussian) -> Self:
        """Add the samples of another fit; `other` keeps what it has."""
        self._moments = self.moments_ + other.moments_
        self._spectra = self._location = self._whitening = None
        return self

    def distances(self, X: Any) -> Floats:
        """Unsquared Mahalanobis distances, shape (n_samples, n_positions), up = abnormal."""
        check_is_fitted(self)
        location, whitening = self._scoring()
        X = self._checked(X)
        found = np.empty(X.shape[:2])
        for rows in chunks(X.shape[1], len(X) * X.shape[2]):
            y = (centred(X, rows, location) @ whitening[rows].mT).numpy()  # (p, n, D)
            found[:, rows] = np.sqrt(squared_norms(y)).T
        return found

    def score_samples(self, X: Any) -> Floats:
        """Negative mean distance over positions, shape (n_samples,), up = normal."""
        return np.asarray(-self.distances(X).mean(axis=1))

    def leave_one_out_distances(self, X: Any, groups: Any = None) -> Floats:
        """Distance of each fitted sample by the fit without it, or its group: (n, n_positions).

        Notes
        -----
        rho and the ridge are held fixed; with that it is exact, as in
        `LedoitWolfGaussian.leave_one_out_distances`, where the formulas are.
        """
        spectra = self._fitted_spectra()
        X = self._checked(X)
        labels = np.arange(len(X)) if groups is None else np.unique(groups, return_inverse=True)[1]
        counts = np.bincount(labels)[labels]
        found = np.empty(X.shape[:2])
        for g in np.unique(counts):
            members = np.flatnonzero(counts == g)
            members = members[np.argsort(labels[members], kind="stable")]
            found[members] = self._left_out(spectra, X[members], int(g))
        return found

    def _left_out(self, spectra: _Spectra, X: Any, g: int) -> Floats:
        """Distances of samples whose consecutive `g` are left out together."""
        n = spectra.moments.n_samples
        rest, location = n - g, spectra.moments.mean()
        if rest < 2:
            raise DegenerateDataError(
                f"leaving out a group of {g} (images of one part, or copies of one picture) "
                f"leaves {rest} of {n} samples: no Gaussian"
            )
        found = np.empty(X.shape[:2])

        def leave_out(rows: slice) -> None:
            kept = 1 - spectra.shrinkage[rows, None]  # 1 - rho, (p, 1)
            z = centred(X, rows, location)
            L = spectra.factor(rows, n / rest)
            # z.mT is in the order that the solver wants: no copy
            y = torch.linalg.solve_triangular(L, z.mT, upper=False)  # (p, D, n)
            if g == 1:
                q = squared_norms(y.mT.numpy())  # (p, n)
                with np.errstate(divide="ignore"):
                    d2 = (n / rest) ** 2 * q / (1 - kept * n / rest**2 * q)
            else:
                d2 = _without_groups(y, g, n, torch.from_numpy(kept)).numpy()
            if not (np.isfinite(d2) & (d2 >= 0)).all():
                raise ValueError(
                    "leave-one-out is for samples that were part of the fit: at least one "
                    "sample of X was not"
                )
            found[:, rows] = np.sqrt(d2).T

        for_each_chunk(leave_out, X.shape[1], max(len(X), X.shape[2]) * X.shape[2])
        return found

    def scoring_state(self) -> dict[str, NDArray[Any]]:
        """All that scoring needs: means (P, D), and L^-1 as float32, its lower triangles packed.

        float32 there changes a distance by about 1e-7 of itself.
        """
        location, whitening = self._scoring()
        rows, columns = np.tril_indices(whitening.shape[1])
        packed = whitening.numpy()[:, rows, columns].astype(np.float32)
        return {"location": location, "whitening": packed}

    def restore_scoring(self, location: Floats, whitening: Any) -> Self:
        """Become able to score, without sums, from a `scoring_state`."""
        self._restart()
        P, D = self._shape = location.shape
        rows, columns = np.tril_indices(D)
        full = np.zeros((P, D, D))
        full[:, rows, columns] = whitening
        self._location, self._whitening = location, torch.from_numpy(full)
        return self

    @property
    def has_sums_(self) -> bool:
        """False for a fit read from a file without its sums: it can only score."""
        return bool(self._pending) or self._moments is not None

    @property
    def moments_(self) -> Moments:
        if not hasattr(self, "_pending"):
            check_is_fitted(self)
        self._flush()
        if self._moments is None:
            raise InputError(_NO_SUMS)
        return self._moments

    @moments_.setter
    def moments_(self, moments: Moments) -> None:
        self._restart()
        self._moments = moments
        self._shape = moments.s1.shape

    @property
    def n_samples_seen_(self) -> int:
        return self.moments_.n_samples

    def _restart(self) -> None:
        self._pending = []
        self._moments = None
        self._shape = ()
        self._spectra = None
        self._location = None
        self._whitening = None

    def _scoring(self) -> tuple[Floats, Tensor]:
        """Means (P, D) and whitening matrices (P, D, D)."""
        if self._location is None or self._whitening is None:
            spectra = self._fitted_spectra()
            P, D = self._shape
            self._location = spectra.moments.mean()
            whitening = self._whitening = torch.empty((P, D, D), dtype=torch.float64)

            def whiten(rows: slice) -> None:
                L = spectra.factor(rows, 1.0)
                eye = torch.eye(D, dtype=L.dtype).expand_as(L)
                whitening[rows] = torch.linalg.solve_triangular(L, eye, upper=False)

            for_each_chunk(whiten, P, D**2)
        return self._location, self._whitening

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

    def _fitted_spectra(self) -> _Spectra:
        moments = self.moments_
        if self._spectra is None:
            self._spectra = _Spectra.from_moments(moments, self.floor)
            self._location = self._whitening = None
        return self._spectra

    def _checked(self, X: Any) -> Any:
        X = np.asarray(X)
        if X.ndim != 3 or X.shape[1:] != self._shape:
            raise InputError(f"samples of shape {X.shape[1:]} given to a fit of {self._shape}")
        if X.dtype.kind not in "fiu" or not np.isfinite(X).all():
            raise InputError(f"samples must be finite numbers ({X.dtype})")
        return X

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_pending")


def _without_groups(b: Tensor, g: int, n: int, kept: Tensor) -> Tensor:
    """Squared distances of whitened samples b (p, D, n_samples), consecutive `g` left out.

    The identity is that of `gaussian._leave_group_out`, at p positions at once, with its middle
    matrix times 1 - rho: that may be 0.
    """
    rest = n - g
    found = torch.empty(b.shape[0], b.shape[2], dtype=b.dtype)
    fixed = rest * (torch.eye(g, dtype=b.dtype) - 1 / n)
    for start in range(0, b.shape[2], g):
        c = b[:, :, start : start + g]  # (p, D, g)
        z = c + c.sum(2, keepdim=True) / rest
        L, failed = torch.linalg.cholesky_ex(fixed - kept[:, :, None] * (c.mT @ c))
        half = torch.linalg.solve_triangular(L, c.mT @ z, upper=False)
        d2 = (z**2).sum(1) + kept * (half**2).sum(1)
        d2[failed != 0] = -1.0
        found[:, start : start + g] = d2
    return found
