"""Distances to what was fitted, as torch modules whose buffers are the fitted values.

Differences to a mean are formed in float64. Then what follows may be float32, as the matrices are
stored: it changes a distance by about 1e-6 of itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mahalad.scorers.neighbors import KthNeighborDistance
from mahalad.scorers.positions.matching import ROUNDING
from mahalad.scorers.positions.nearest import Nearest


def tensor(values: Any, dtype: torch.dtype = torch.float64) -> Tensor:
    """Copy an array."""
    return torch.from_numpy(np.array(values)).to(dtype)


class Projected(nn.Module):
    """Distances of pooled features (n, D) after a reduction.

    Parameters
    ----------
    mean : ndarray of shape (D,)
    components : ndarray of shape (D', D)
    distance : Module
        Takes what is left of the features, (n, D').
    """

    mean: Tensor
    components: Tensor

    def __init__(self, mean: NDArray[Any], components: NDArray[Any], distance: nn.Module) -> None:
        super().__init__()
        self.register_buffer("mean", tensor(mean))
        self.register_buffer("components", tensor(components.T))
        self.distance = distance

    def forward(self, x: Tensor) -> Tensor:
        """Give distances (n,), up = abnormal."""
        found: Tensor = self.distance((x.double() - self.mean) @ self.components)
        return found


class PooledGaussian(nn.Module):
    """The distance of pooled features (n, D) to one Gaussian.

    Parameters
    ----------
    state : mapping of str to ndarray
        As `LedoitWolfGaussian.scoring_state` gives it.
    """

    location: Tensor
    variances: Tensor
    basis: Tensor

    def __init__(self, state: Mapping[str, NDArray[Any]]) -> None:
        super().__init__()
        for name in ("location", "variances", "basis"):
            self.register_buffer(name, tensor(state[name]))
        self.ridge = float(state["ridge"][0])
        self.whole = self.basis.shape[0] == self.basis.shape[1]

    def forward(self, x: Tensor) -> Tensor:
        """Give distances (n,), up = abnormal."""
        z = x.double() - self.location
        y = z @ self.basis
        squares = (y * y / self.variances).sum(dim=1)
        if not self.whole:
            rest = z - y @ self.basis.transpose(-1, -2)
            squares = squares + (rest * rest).sum(dim=1) / self.ridge
        return squares.sqrt()

    def precise(self, z: Tensor) -> Tensor:
        """Give Sigma^-1 z of differences z (n, D) to the mean."""
        y = z @ self.basis
        # Not (y / variances) @ basis.T: OpenVINO takes a square constant that is a second factor
        # twice, once transposed, for one and the same.
        inside = (self.basis @ (y / self.variances).transpose(0, 1)).transpose(0, 1)
        return (
            inside if self.whole else inside + (z - y @ self.basis.transpose(-1, -2)) / self.ridge
        )


class NearestSamples(nn.Module):
    """The distance of pooled features (n, D) to the k-th nearest of the good images.

    Parameters
    ----------
    fitted : KthNeighborDistance, fitted
        Its samples are kept as float32: it changes a distance by about 1e-7 of their length.
    """

    location: Tensor
    scale: Tensor
    samples: Tensor
    basis: Tensor
    shares: Tensor

    def __init__(self, fitted: KthNeighborDistance) -> None:
        super().__init__()
        self.register_buffer("location", tensor(fitted.location_))
        self.register_buffer("scale", tensor(fitted.scale_))
        samples, by = fitted.compared_, fitted.contracted_by_
        self.register_buffer("samples", tensor(samples, torch.float32))
        self.is_contracted = by is not None
        if by is not None:
            basis, shares, self.contraction = by
            self.register_buffer("basis", tensor(basis))
            self.register_buffer("shares", tensor(shares))
        self.k, self.is_mean = fitted.n_neighbors, fitted.reduce == "mean"
        self.is_cosine = fitted.distance == "cosine"

    def forward(self, x: Tensor) -> Tensor:
        """Give distances (n,), up = abnormal."""
        x, samples = x.double(), self.samples.double()
        if self.is_cosine:
            z = x / (x * x).sum(dim=1, keepdim=True).sqrt()
        else:
            z = (x - self.location) / self.scale
        if self.is_contracted:
            along = (z @ self.basis) * self.shares
            z = (z - along @ self.basis.transpose(0, 1)) * self.contraction
        # |z|^2 is the same for all samples. The nearest are measured again, from differences.
        squares = (samples * samples).sum(dim=1) - 2 * (z @ samples.transpose(0, 1))
        nearest = squares.topk(self.k, dim=1, largest=False).indices  # (n, k)
        near = ((z[:, None] - samples[nearest]) ** 2).sum(dim=2)
        near = near / 4 if self.is_cosine else near.sqrt()
        return near.mean(dim=1) if self.is_mean else near.amax(dim=1)


class RootMeanSquare(nn.Module):
    """The root mean square of pooled features (n, D) less a mean, by a scale."""

    location: Tensor
    scale: Tensor

    def __init__(self, location: NDArray[Any], scale: NDArray[Any]) -> None:
        super().__init__()
        self.register_buffer("location", tensor(location))
        self.register_buffer("scale", tensor(scale))

    def forward(self, x: Tensor) -> Tensor:
        """Give distances (n,), up = abnormal."""
        z = (x.double() - self.location) / self.scale
        return (z * z).mean(dim=1).sqrt()


class PositionGaussians(nn.Module):
    """Distances (n, P) of features (n, P, D) to a Gaussian of each position, or one for all.

    Parameters
    ----------
    location : ndarray of shape (P, D), or (1, D)
    whitening : ndarray of shape (P, D (D + 1) / 2)
        Lower triangles of L^-1, as `PatchGaussian.scoring_state` gives them.
    """

    location: Tensor
    packed: Tensor
    places: Tensor

    def __init__(self, location: NDArray[Any], whitening: NDArray[Any]) -> None:
        super().__init__()
        D = location.shape[1]
        self.register_buffer("location", tensor(location))
        padded = np.pad(whitening, ((0, 0), (0, 1)))  # a 0 for the upper triangle
        self.register_buffer("packed", tensor(padded, torch.float32))
        places = np.full((D, D), padded.shape[1] - 1)
        places[np.tril_indices(D)] = np.arange(padded.shape[1] - 1)
        self.register_buffer("places", tensor(places.T.ravel(), torch.int64))
        self.shape = (len(location), D, D)

    def forward(self, x: Tensor) -> Tensor:
        """Give distances (n, P), float64, up = abnormal."""
        matrices = self.packed[:, self.places].reshape(self.shape)  # transposed
        z = (x.double() - self.location).float().transpose(0, 1)  # (P, n, D)
        y = z @ matrices
        return (y * y).sum(dim=2).sqrt().double().transpose(0, 1)


class NearestPatches(nn.Module):
    """Distances (n, P) of features (n, P, D) to the nearest good patches about their positions.

    See `mahalad.scorers.positions.matching.Matching`, whose products these are.
    """

    location: Tensor
    stored: Tensor
    scale: Tensor
    precisions: Tensor
    moves: Tensor
    constants: Tensor
    members: Tensor
    place: Tensor
    sources: Tensor
    targets: Tensor

    def __init__(self, nearest: Nearest) -> None:
        super().__init__()
        matching = nearest.matching
        self.D, self.n_steps = nearest.location.shape[1], matching.moves.shape[1]
        self.register_buffer("location", tensor(nearest.location))
        stored = torch.from_numpy(np.ascontiguousarray(nearest.stored.transpose(1, 2, 0)))
        self.register_buffer("stored", stored)
        self.is_squared = nearest.is_squared
        self.register_buffer("scale", tensor(nearest.scale[:, None], torch.float32))
        self.register_buffer("precisions", matching.precisions)
        self.register_buffer("moves", matching.moves[:, :, None])
        self.register_buffer("constants", matching.constants[:, :, None])
        members, place = matching.blocks.members
        for name, numbers in {
            "members": members,
            "place": place,
            "sources": matching.blocks.sources.ravel(),
            "targets": matching.blocks.targets.ravel(),
        }.items():
            self.register_buffer(name, tensor(numbers, torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """Give distances (n, P), float64, up = abnormal."""
        z = (x - self.location).float().transpose(0, 1)  # (P, n, D)
        n_blocks = self.precisions.shape[0]
        of_blocks = z[self.members].reshape(n_blocks, -1, self.D) @ self.precisions
        y = of_blocks.reshape(self.members.shape[0], -1, self.D)[self.place]
        moved = (y * -2)[self.sources].reshape(len(self.place), -1, self.D)
        # (P, D, n_patches); an engine computes it once, when it opens the file: not as float64,
        # which takes twice the time for the same distances but for 1e-7 of them.
        steps = self.stored.float()
        values = (steps * steps.abs() if self.is_squared else steps) * self.scale
        n_patches = self.constants.shape[3]
        products = (moved @ values).reshape(len(self.place), self.n_steps, -1, n_patches)
        best = (products + self.constants).amin(dim=3)  # (P, steps, n), at the patches' places
        across = z[self.sources].reshape(len(self.place), self.n_steps, -1, self.D) * self.moves
        best = best + 2 * across.sum(dim=3)
        best = best.reshape(len(self.targets), -1)[self.targets]
        best = best.reshape(len(self.place), self.n_steps, -1).amin(dim=1)
        squares = best + (z * y).sum(dim=2)
        # Equal patches, but for rounding; and where no good picture reaches it never counts.
        reached = (squares >= ROUNDING) & (squares < torch.inf)
        return torch.where(reached, squares, 0.0).double().sqrt().transpose(0, 1)
