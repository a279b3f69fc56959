"""Gaussians that tolerate changes, without some of their samples and what these have changed.

Two ways with one result. Matrices of features take as long for few samples as for many; products of
samples and differences with each other take less where these are fewer than the features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mahalad.protocols import Floats, Value
from mahalad.scorers.nuisance import Nuisance, Tolerance

_SAME = 1e-8  # of their variance, by which samples may miss the sums that they were added to
_NOTHING = 1e-12  # of the largest eigenvalue, below which there is no direction


@dataclass(frozen=True, eq=False)
class ByFeatures(Value):
    """Refits by matrices of features, for any samples.

    Attributes
    ----------
    n_samples : int
    z : Tensor of shape (n_positions, n, n_features)
        Samples of the fit, relative to the mean of all.
    C : Tensor of shape (n_positions, n_features, n_features)
    E : Tensor of shape (n_positions, n_differences, n_features)
        Differences of the nuisance.
    EE : Tensor of shape (n_positions, n_features, n_features)
        E'E.
    nuisance : Nuisance
    """

    n_samples: int
    z: Tensor
    C: Tensor
    E: Tensor
    EE: Tensor
    nuisance: Nuisance

    @classmethod
    def of(cls, n_samples: int, z: Tensor, C: Tensor, nuisance: Nuisance) -> ByFeatures:
        """Take samples and the differences at the same positions."""
        E = _rows(nuisance)
        return cls(n_samples, z, C, E, E.mT @ E, nuisance)

    def tolerance(self, ridge: Floats, L: Tensor) -> tuple[Tolerance, Floats]:
        """Find coordinates in which K = L L' = ridge I + N is I and C is diagonal.

        Returns
        -------
        tolerance : Tolerance
        w : ndarray of shape (n_positions, n, rank)
            The samples in these coordinates.
        """
        rank = min(self.n_samples, self.C.shape[-1])
        half = torch.linalg.solve_triangular(L, self.C, upper=False)
        eigenvalues, axes = torch.linalg.eigh(
            torch.linalg.solve_triangular(L, half.mT, upper=False)
        )
        back = torch.linalg.solve_triangular(L.mT, axes[..., -rank:], upper=True)  # L^-T U
        values = np.maximum(eigenvalues[..., -rank:].numpy(), 0)
        tolerance = Tolerance(values, (back**2).sum(dim=-2).numpy(), ridge)
        return tolerance, (self.z @ back).numpy()

    def distances(
        self,
        members: NDArray[np.intp],
        images: NDArray[np.intp],
        kept: Floats,
        ridge: Floats,
    ) -> Floats:
        """Measure samples by the fit without them, and without the changes of some images.

        Parameters
        ----------
        members : ndarray of int of shape (g,)
            Places among the samples.
        images : ndarray of int
        kept, ridge : ndarray of shape (n_positions,)
            1 - rho, and rho m + floor, of the fit without the samples.

        Returns
        -------
        ndarray of shape (n_positions, g)
        """
        n, rest, z = self.n_samples, self.n_samples - len(members), self.z[:, members]
        t = z.sum(dim=1, keepdim=True) / rest
        lost, weight, of_trace = self.nuisance.without_rows(images)
        some, share = self.E[:, lost], torch.from_numpy(kept / rest)[:, None, None]
        trace = torch.einsum("pii->p", self.EE) - (some**2).sum(dim=(1, 2))
        removed = torch.cat(
            [z * share.sqrt(), t * (share * rest).sqrt(), some * weight**0.5], dim=1
        )
        sigma = self.C * (n * share)
        sigma.add_(self.EE, alpha=weight).baddbmm_(removed.mT, removed, alpha=-1)
        added = torch.from_numpy(ridge) + of_trace * trace
        sigma.diagonal(dim1=1, dim2=2).add_(added[:, None])
        half = torch.linalg.solve_triangular(torch.linalg.cholesky(sigma), (z + t).mT, upper=False)
        return np.asarray(torch.linalg.vector_norm(half, dim=1).numpy())


@dataclass(frozen=True, eq=False)
class BySamples(Value):
    """Refits by products of all samples of the fit, and differences, with each other.

    Attributes
    ----------
    n_samples : int
    products : Tensor of shape (n_positions, n_samples + n_differences, the same)
        B B', with B the samples relative to their mean, and the differences below.
    n_features : int
    nuisance : Nuisance

    Notes
    -----
    With F rows of B, each by a weight of its own, (r I + F'F)^-1 = (I - F' (r I + F F')^-1 F) / r.
    """

    n_samples: int
    products: Tensor
    n_features: int
    nuisance: Nuisance

    @classmethod
    def of(cls, n_samples: int, z: Tensor, C: Tensor, nuisance: Nuisance) -> BySamples | None:
        """Take samples and the differences at the same positions.

        None where that would be more work than by features, or the samples are not all of the fit.
        """
        n, D = z.shape[1:]
        if n + len(nuisance.differences) > D or not _are_all(n_samples, z, C):
            return None
        B = torch.cat([z, _rows(nuisance)], dim=1)
        return cls(n, B @ B.mT, D, nuisance)

    def tolerance(self, ridge: Floats) -> tuple[Tolerance, Floats] | None:
        """See `ByFeatures.tolerance`; None where nothing is added to C in some direction."""
        n = self.n_samples
        G, mixed, EE = self.products[:, :n, :n], self.products[:, n:, :n], self.products[:, n:, n:]
        _, weight, of_trace = self.nuisance.without_rows(np.empty(0, np.intp))
        added = torch.from_numpy(ridge) + of_trace * torch.einsum("pii->p", EE)
        if not (added > 0).all():
            return None
        a = added[:, None, None]
        S = EE.clone()
        S.diagonal(dim1=1, dim2=2).add_(added[:, None] / weight)
        L = torch.linalg.cholesky(S)
        half = torch.linalg.solve_triangular(L, mixed, upper=False)
        inner = (G - half.mT @ half) / a  # Z K^-1 Z'
        eigenvalues, axes = torch.linalg.eigh(inner / n)
        whole = torch.linalg.solve_triangular(L.mT, half, upper=True)
        twice = (inner - whole.mT @ whole / weight) / a  # Z K^-2 Z'
        eigenvalues.clamp_(min=0)
        there = eigenvalues > _NOTHING * eigenvalues[:, -1:]
        response = (axes * (twice @ axes)).sum(dim=1) / torch.where(there, n * eigenvalues, 1.0)
        response = torch.where(there, response, 0.0).clamp_(min=0)
        w = axes * (n * eigenvalues).sqrt()[:, None]
        return Tolerance(eigenvalues.numpy(), response.numpy(), ridge), w.numpy()

    def distances(
        self,
        members: NDArray[np.intp],
        images: NDArray[np.intp],
        kept: Floats,
        ridge: Floats,
    ) -> Floats:
        """See `ByFeatures.distances`."""
        n, rest, products = self.n_samples, self.n_samples - len(members), self.products
        lost, weight, of_trace = self.nuisance.without_rows(images)
        of_t = products[:, members].sum(dim=1) / rest  # B t, the mean of the rest being -t
        t2 = of_t[:, members].sum(dim=1, keepdim=True) / rest
        lengths = torch.einsum("pii->pi", products)
        scale = torch.full(lengths.shape, weight**0.5, dtype=lengths.dtype)
        scale[:, :n] = torch.from_numpy(np.sqrt(kept / rest))[:, None]
        scale[:, np.concatenate([members, n + lost])] = 0  # their rows of F
        # Rows of samples are relative to the mean of the rest: z + t.
        right = products[:, :, members] + of_t[:, :, None]
        right[:, :n] += (of_t[:, members] + t2)[:, None]
        more, ones = scale * of_t, scale.clone()
        more[:, :n] += scale[:, :n] * t2 / 2
        ones[:, n:] = 0
        own = products * scale[:, :, None]
        own *= scale[:, None]
        own.baddbmm_(torch.stack([ones, more], 2), torch.stack([more, ones], 1))
        rows = np.delete(np.arange(n, products.shape[-1]), lost)
        added = torch.from_numpy(ridge) + of_trace * lengths[:, rows].sum(dim=1)
        own.diagonal(dim1=1, dim2=2).add_(added[:, None])
        half = torch.linalg.solve_triangular(
            torch.linalg.cholesky(own), right * scale[..., None], upper=False
        )
        squared = lengths[:, members] + 2 * of_t[:, members] + t2 - (half**2).sum(dim=1)
        return np.asarray((squared.clamp_(min=0) / added[:, None]).sqrt().numpy())


def _rows(nuisance: Nuisance) -> Tensor:
    """Differences by position, (p, m, D)."""
    d: NDArray[Any] = np.moveaxis(nuisance.differences, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(d, dtype=np.float64))


def _are_all(n_samples: int, z: Tensor, C: Tensor) -> bool:
    """Whether samples are those that C was made of, by what is quickly summed."""
    n = z.shape[1]
    if n != n_samples:
        return False
    variances = torch.einsum("pii->pi", C)
    scale = variances.sum(dim=1, keepdim=True).clamp(min=torch.finfo(C.dtype).tiny)
    across = torch.linalg.vecdot(z, z.sum(dim=2, keepdim=True), dim=1) / n
    differ = [
        (z.mean(dim=1) / scale.sqrt()).abs(),
        ((z**2).mean(dim=1) - variances).abs() / scale,
        (across - C.sum(dim=2)).abs() / scale,
    ]
    return all(bool((values <= _SAME * z.shape[2] ** 0.5).all()) for values in differ)
