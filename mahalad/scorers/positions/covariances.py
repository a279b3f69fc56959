"""Covariances of all positions: shrunk, factorised when asked, and with samples left out.

The linear algebra runs in torch, in float64 on the CPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mahalad.errors import DegenerateDataError, InputError
from mahalad.protocols import Floats, Value
from mahalad.scorers.moments import Moments, ledoit_wolf_shrinkage
from mahalad.scorers.positions.chunks import centred, for_each_chunk, squared_norms
from mahalad.scorers.positions.standards import MIN_SAMPLES


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
        The covariance of a position is (1 - rho) C + ridge I.
    """

    moments: Moments
    shrinkage: Floats
    ridge: Floats

    @classmethod
    def from_moments(cls, moments: Moments, floor: float) -> Covariances:
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
        """Factorise scale (1 - rho) C + ridge I = L L' of some positions: L, (p, D, D)."""
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

    @cached_property
    def whitening(self) -> Whitening:
        """Means and whitening matrices of all positions; computed once."""
        P, D = self.moments.s1.shape
        matrices = torch.empty((P, D, D), dtype=torch.float64)

        def whiten(rows: slice) -> None:
            L = self.factor(rows, 1.0)
            eye = torch.eye(D, dtype=L.dtype).expand_as(L)
            matrices[rows] = torch.linalg.solve_triangular(L, eye, upper=False)

        for_each_chunk(whiten, P, D**2)
        return Whitening(self.moments.mean(), matrices)

    def left_out_distances(self, X: Any, g: int) -> Floats:
        """Distances (n, P) of fitted samples (n, P, D), each `g` in a row left out together."""
        n = self.moments.n_samples
        rest, location = n - g, self.moments.mean()
        if rest < 2:
            raise DegenerateDataError(
                f"leaving out a group of {g} (images of one part, or copies of one picture) "
                f"leaves {rest} of {n} samples: no Gaussian"
            )
        found = np.empty(X.shape[:2])

        def leave_out(rows: slice) -> None:
            kept = 1 - self.shrinkage[rows, None]  # 1 - rho, (p, 1)
            z = centred(X, rows, location)
            L = self.factor(rows, n / rest)
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


def _without_groups(b: Tensor, g: int, n: int, kept: Tensor) -> Tensor:
    """Squared distances of whitened samples b (p, D, n_samples), consecutive `g` left out.

    The identity is that of `leave_group_out` in `mahalad.scorers.gaussian`, at p positions at
    once, with its middle matrix times 1 - rho: that may be 0.
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
