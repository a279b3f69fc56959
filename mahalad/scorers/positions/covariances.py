"""Covariances of all positions: shrunk, factorised when asked, and with samples left out.

The linear algebra runs in torch, in float64 on the CPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mahalad.errors import DegenerateDataError, InputError
from mahalad.possible import more_images
from mahalad.protocols import Floats, Value
from mahalad.scorers.left_out import Refit
from mahalad.scorers.moments import Moments, ledoit_wolf_shrinkage
from mahalad.scorers.nuisance import Nuisance, Tolerance
from mahalad.scorers.positions.chunks import centred, for_each_chunk
from mahalad.scorers.positions.refits import ByFeatures, BySamples
from mahalad.scorers.positions.standards import MIN_SAMPLES
from mahalad.scorers.sets import changed_sets


@dataclass(frozen=True, eq=False)
class Whitening(Value):
    """What turns a feature into one whose length is its Mahalanobis distance.

    Attributes
    ----------
    location : ndarray of shape (n_positions, n_features)
        Mean of every position.
    matrices : Tensor of shape (n_positions, n_features, n_features)
        L^-1 of every position, with L L' the covariance; lower triangles.
    """

    location: Floats
    matrices: Tensor


@dataclass(frozen=True, eq=False)
class Covariances(Value):
    """Sums over samples, with the shrinkage rho and the ridge of every position.

    Attributes
    ----------
    moments : Moments
        One set of sums per position.
    shrinkage, ridge : ndarray of shape (n_positions,)
        The covariance of a position is (1 - rho) C + ridge I + N.
    floor : float
        What of the ridge is the same at all positions.
    nuisance : Nuisance or None
        Where N comes from; without it, N is 0.
    """

    moments: Moments
    shrinkage: Floats
    ridge: Floats
    floor: float
    nuisance: Nuisance | None = None

    @classmethod
    def from_moments(
        cls, moments: Moments, floor: float, nuisance: Nuisance | None = None
    ) -> Covariances:
        """Find shrinkage and ridge; `floor` is that of `PatchGaussian`.

        Raises
        ------
        InputError
            Fewer than 5 samples.
        DegenerateDataError
            All samples are identical.
        """
        n, D = moments.n_samples, moments.n_features
        if n < MIN_SAMPLES:
            raise InputError(
                f"a Gaussian per position needs at least {MIN_SAMPLES} good images, and has {n}: "
                + more_images(n)
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
        return cls(moments, shrinkage, ridge, floor * overall, nuisance)

    def factor(self, rows: slice) -> Tensor:
        """Factorise (1 - rho) C + ridge I + N = L L' of some positions: L, (p, D, D)."""
        C = self.moments.at(rows).covariance()
        C *= (1 - self.shrinkage[rows])[:, None, None]
        return self._factor(C, rows)

    def _factor(self, C: Floats, rows: slice) -> Tensor:
        """Factorise what is added to C, and C with it, which is overwritten."""
        np.einsum("pii->pi", C)[...] += self.ridge[rows, None]
        if self.nuisance is not None:
            C += self.nuisance.at(rows).covariance()
        L: Tensor
        L, failed = torch.linalg.cholesky_ex(torch.from_numpy(C))
        if failed.any():
            position = rows.start + int(failed.nonzero()[0])
            raise DegenerateDataError(
                f"the samples at position {position} have no spread in some direction, and "
                "nothing is added to it: give floor > 0"
            )
        return L

    @cached_property
    def whitening(self) -> Whitening:
        """Means and whitening matrices of all positions; computed once."""
        P, D = self.moments.s1.shape
        matrices = torch.empty((P, D, D), dtype=torch.float64)

        def whiten(rows: slice) -> None:
            L = self.factor(rows)
            eye = torch.eye(D, dtype=L.dtype).expand_as(L)
            matrices[rows] = torch.linalg.solve_triangular(L, eye, upper=False)

        for_each_chunk(whiten, P, D**2)
        return Whitening(self.moments.mean(), matrices)

    def left_out(
        self,
        X: Any,
        labels: NDArray[np.intp],
        n_pairs: int,
        changed: NDArray[np.intp] | None = None,
    ) -> tuple[Floats, Floats]:
        """Leave-one-out distances of fitted samples (n, P, D), and how much those of others grow.

        Samples of one label are left out together. Both have the shape (n, P). The growth is a
        factor, found by `n_pairs` pairs at most; see `Refit.influences`. It is 1 for no pairs.
        Samples of images whose changes are in N (`changed`, see `changed_sets`) are left out of it,
        too.
        """
        sets = list(changed_sets(labels, changed)) if self.nuisance is not None else []
        n, D = self.moments.n_samples, self.moments.n_features
        location, rank = self.moments.mean(), min(n, D)
        found, growth = np.ones((2, *X.shape[:2]))

        def leave_out(rows: slice) -> None:
            own = self.moments.at(rows)
            C = torch.from_numpy(own.covariance())
            sums = own.reshift(location[rows])
            z = centred(X, rows, location)
            floor = np.broadcast_to(self.floor, own.q4.shape)
            common = (sums.q4, self.shrinkage[rows], floor)
            if self.nuisance is None:
                values, axes = (part[..., -rank:] for part in torch.linalg.eigh(C))
                third = (torch.from_numpy(sums.q1)[:, None] @ axes)[:, 0].numpy()
                refit = Refit(n, D, np.maximum(values.numpy(), 0), third, *common)
                y = (z @ axes).numpy()  # (p, n, rank)
            else:
                refits, tolerance, w = self._refits(C, z, rows, self.nuisance)
                refit = Refit(n, D, C.numpy(), sums.q1, *common, tolerance)
                y = np.concatenate([z.numpy(), (z @ C).numpy(), w], axis=-1)
            distances = refit.distances(y, labels)
            found[:, rows] = distances.T
            for members, images in sets:
                rho, m = (value[:, 0] for value in refit.shrunk(y[:, None, members]))
                found[members, rows] = refits.distances(
                    members, images, 1 - rho, rho * m + self.floor
                ).T
            if n_pairs:
                more = refit.influences(y, labels, distances, n_pairs)
                mean = distances.mean(axis=-1)  # 0 where nothing ever varied
                growth[:, rows] += more.T / np.where(mean > 0, mean, 1.0)

        for_each_chunk(leave_out, X.shape[1], max(len(X), X.shape[2]) * X.shape[2])
        return found, growth

    def _refits(
        self, C: Tensor, z: Tensor, rows: slice, nuisance: Nuisance
    ) -> tuple[BySamples | ByFeatures, Tolerance, Floats]:
        """Refits of samples z, the quicker ones; and the samples in coordinates of these."""
        n, ridge, given = self.moments.n_samples, self.ridge[rows], nuisance.at(rows)
        by_samples = BySamples.of(n, z, C, given)
        if by_samples is not None:
            quick = by_samples.tolerance(ridge)
            if quick is not None:
                return by_samples, *quick
        by_features = ByFeatures.of(n, z, C, given)
        L = self._factor(np.zeros(C.shape), rows)
        return by_features, *by_features.tolerance(ridge, L)
