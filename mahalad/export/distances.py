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

from mahalad.scorers.positions.nearest import RADIUS, ROUNDING, Nearest


def tensor(values: Any, dtype: torch.dtype = torch.float64) -> Tensor:
    """Copy an array."""
    return torch.from_numpy(np.array(values)).to(dtype)


class PooledGaussian(nn.Module):
    """The distance of pooled features (n, D) to one Gaussian, after a projection if there is one.

    Parameters
    ----------
    state : mapping of str to ndarray
        As `LedoitWolfGaussian.scoring_state` gives it.
    projection : tuple of two ndarrays, optional
        Mean (D',) and components (D, D') of a reduction.
    """

    location: Tensor
    variances: Tensor
    basis: Tensor
    mean: Tensor
    components: Tensor

    def __init__(
        self,
        state: Mapping[str, NDArray[Any]],
        projection: tuple[NDArray[Any], NDArray[Any]] | None = None,
    ) -> None:
        super().__init__()
        for name in ("location", "variances", "basis"):
            self.register_buffer(name, tensor(state[name]))
        self.ridge = float(state["ridge"][0])
        self.whole = self.basis.shape[0] == self.basis.shape[1]
        self.projects = projection is not None
        if projection is not None:
            self.register_buffer("mean", tensor(projection[0]))
            self.register_buffer("components", tensor(projection[1].T))

    def forward(self, x: Tensor) -> Tensor:
        """Give distances (n,), up = abnormal."""
        z = self.centred(x)
        y = z @ self.basis
        squares = (y * y / self.variances).sum(dim=1)
        if not self.whole:
            rest = z - y @ self.basis.transpose(-1, -2)
            squares = squares + (rest * rest).sum(dim=1) / self.ridge
        return squares.sqrt()

    def centred(self, x: Tensor) -> Tensor:
        """Give differences to the mean, (n, D)."""
        x = x.double()
        return ((x - self.mean) @ self.components if self.projects else x) - self.location

    def precise(self, z: Tensor) -> Tensor:
        """Give Sigma^-1 z of differences z (n, D) to the mean."""
        y = z @ self.basis
        inside = (y / self.variances) @ self.basis.transpose(-1, -2)
        return (
            inside if self.whole else inside + (z - y @ self.basis.transpose(-1, -2)) / self.ridge
        )


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

    Not the many good patches are moved to their neighbours' places but the few features: those of
    position p meet the patches of q = p + step at q, in one product for all steps. Both come less
    the means of their own positions, and `moves` says what these differ by (see `Nearest`).
    """

    location: Tensor
    stored: Tensor
    scale: Tensor
    precisions: Tensor
    moves: Tensor
    norms: Tensor
    members: Tensor
    place: Tensor
    sources: Tensor
    targets: Tensor

    def __init__(self, nearest: Nearest) -> None:
        super().__init__()
        blocks = nearest.metric.blocks
        P, D = nearest.location.shape
        self.D, self.n_steps = D, (2 * RADIUS + 1) ** 2
        self.register_buffer("location", tensor(nearest.location))
        self.register_buffer("stored", tensor(nearest.stored.transpose(1, 2, 0), torch.float16))
        self.register_buffer("scale", tensor(nearest.scale[:, None]))
        self.register_buffer("precisions", tensor(nearest.metric.precisions, torch.float32))
        # Blocks have some 4 x 4 positions; smaller ones have one of theirs several times.
        most = max(map(len, blocks.positions))
        members = np.array([np.resize(at, most) for at in blocks.positions])
        place = np.empty(P, int)
        place[members.ravel()] = np.arange(members.size)
        self.register_buffer("members", tensor(members.ravel(), torch.int64))
        self.register_buffer("place", tensor(place, torch.int64))
        sources, targets, exists = _moves(blocks.side)
        self.register_buffer("sources", tensor(sources.ravel(), torch.int64))
        self.register_buffer("targets", tensor(targets.ravel(), torch.int64))
        block_of = np.empty(P, int)
        for block, at in enumerate(blocks.positions):
            block_of[at] = block
        s = nearest.location[sources] - nearest.location[:, None]  # (P, steps, D)
        moves = np.empty_like(s)
        for block, precision in enumerate(nearest.metric.precisions):
            own = block_of[sources] == block
            moves[own] = s[own] @ precision
        self.register_buffer("moves", tensor(moves, torch.float32)[:, :, None])
        norms = self._norms(nearest, block_of[sources], exists)
        norms += torch.from_numpy((s * moves).sum(axis=2)).float()[:, :, None, None]
        self.register_buffer("norms", norms)

    def _norms(self, nearest: Nearest, blocks: NDArray[Any], exists: NDArray[np.bool_]) -> Tensor:
        """Squared lengths (P, steps, 1, n_patches) of good patches by the metric of a feature."""
        values = self._values()
        P, n_steps = blocks.shape
        norms = torch.full((P, n_steps, 1, values.shape[2]), torch.inf)
        for q, step in np.argwhere(exists):
            b = values[q]  # (D, n_patches)
            norms[q, step, 0] = (b * (self.precisions[blocks[q, step]] @ b)).sum(dim=0)
        outside = torch.from_numpy(~nearest.inside.T)[:, None, None]
        return norms.masked_fill(outside, torch.inf)

    def _values(self) -> Tensor:
        """Good patches less the means of positions, (P, D, n_patches), float32."""
        return (self.stored.double() * self.scale).float()

    def forward(self, x: Tensor) -> Tensor:
        """Give distances (n, P), float64, up = abnormal."""
        z = (x - self.location).float().transpose(0, 1)  # (P, n, D)
        n_blocks = self.precisions.shape[0]
        of_blocks = z[self.members].reshape(n_blocks, -1, self.D) @ self.precisions
        y = of_blocks.reshape(self.members.shape[0], -1, self.D)[self.place]
        moved = y[self.sources].reshape(len(self.place), self.n_steps, -1, self.D) + self.moves
        products = (-2 * moved).reshape(len(self.place), -1, self.D) @ self._values()
        n_patches = self.norms.shape[3]
        products = products.reshape(len(self.place), self.n_steps, -1, n_patches)
        best = (products + self.norms).amin(dim=3)  # (P, steps, n), at the patches' places
        across = z[self.sources].reshape(moved.shape) * self.moves
        best = best + 2 * across.sum(dim=3)
        best = best.reshape(len(self.targets), -1)[self.targets]
        best = best.reshape(len(self.place), self.n_steps, -1).amin(dim=1)
        squares = best + (z * y).sum(dim=2)
        # Equal patches, but for rounding; and where no good picture reaches it never counts.
        reached = (squares >= ROUNDING) & (squares < torch.inf)
        return torch.where(reached, squares, 0.0).double().sqrt().transpose(0, 1)


def _moves(side: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.bool_]]:
    """Where features go: all are (P, steps).

    Returns
    -------
    sources : the position whose feature meets the patches of position q, by each step
    targets : for position p, where in (P * steps) it met those of each step
    exists : whether there is such a source
    """
    steps = [(dy, dx) for dy in range(-RADIUS, RADIUS + 1) for dx in range(-RADIUS, RADIUS + 1)]
    y, x = np.divmod(np.arange(side**2), side)
    sources, targets, exists = [], [], []
    for k, (dy, dx) in enumerate(steps):
        row, column = y - dy, x - dx
        there = (row >= 0) & (row < side) & (column >= 0) & (column < side)
        sources.append(np.where(there, row * side + column, 0))
        exists.append(there)
        row, column = y + dy, x + dx
        meets = (row >= 0) & (row < side) & (column >= 0) & (column < side)
        # Beyond the edge there is nothing: what its own place says is said once more.
        own = (y * side + x) * len(steps) + len(steps) // 2
        targets.append(np.where(meets, (row * side + column) * len(steps) + k, own))
    return np.stack(sources, 1), np.stack(targets, 1), np.stack(exists, 1)
