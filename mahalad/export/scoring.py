"""Scorers as torch modules: from features to scores by level, and maps."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from sklearn.pipeline import Pipeline
from torch import Tensor, nn

from mahalad.errors import InputError
from mahalad.export.distances import (
    NearestPatches,
    NearestSamples,
    PooledGaussian,
    PositionGaussians,
    Projected,
    RootMeanSquare,
    tensor,
)
from mahalad.export.geometry import enlarge, enlarge_keeping_sum, positions_inside, repeat_edges
from mahalad.export.network import Network
from mahalad.scorers.baselines import MeanDistance, StandardizedDistance
from mahalad.scorers.gaussian import LedoitWolfGaussian
from mahalad.scorers.level_sum import LevelSum
from mahalad.scorers.neighbors import KthNeighborDistance
from mahalad.scorers.positions import file
from mahalad.scorers.positions.grids import CONTEXT, context_means, map_weights
from mahalad.scorers.positions.scorer import PatchScorer
from mahalad.scorers.reduction import PrincipalComponents

Features = dict[str, Tensor]


class LevelScores(nn.Module):
    """A `LevelSum`: a distance for each level.

    Raises
    ------
    InputError
        Its estimators are none that can be exported.
    """

    def __init__(self, scorer: LevelSum, network: Network) -> None:
        super().__init__()
        self.names = list(scorer.estimators_)
        self.parts = nn.ModuleList(_pooled(scorer.estimators_[name]) for name in self.names)
        # Shares of positions are exact for plain Gaussians of features of one orientation.
        self.has_maps = scorer.keeps_sums and network.orientations == 1
        self.network = network

    def forward(self, features: Features, boxes: Tensor | None) -> Tensor:
        """Give the levels' scores, (n, n_levels), up = abnormal."""
        columns = [part(features[n]) for n, part in zip(self.names, self.parts, strict=True)]
        return torch.stack(columns, dim=1)

    def maps(self, features: Features, raw: Features, boxes: Tensor | None) -> Tensor:
        """Give the shares of pixels in the score, (n, S, S); see `detectors.attribution`."""
        total: Any = 0.0
        for name, part in zip(self.names, self.parts, strict=True):
            assert isinstance(part, PooledGaussian)
            f = raw[name].double()  # (n, C, h, w)
            w = self.network.weights(name, boxes).double()
            # In float64 from the maps on, as the shares are of the level's own distance.
            z = (f * w[:, None]).sum(dim=(2, 3)) - part.location  # (n, C)
            direction = part.precise(z)
            distance = (z * direction).sum(dim=1).sqrt().clamp(min=np.finfo(float).tiny)
            local = f - part.location[:, None, None]
            terms = (local * direction[:, :, None, None]).sum(dim=1) * w
            terms = terms / distance[:, None, None]
            total = total + enlarge_keeping_sum(terms, self.network.side, boxes)
        shares: Tensor = total
        return shares


def _pooled(estimator: Any) -> nn.Module:
    if isinstance(estimator, Pipeline) and isinstance(estimator[0], PrincipalComponents):
        reduction = estimator[0]
        if len(estimator) == 2 and isinstance(
            estimator[1], (LedoitWolfGaussian, KthNeighborDistance)
        ):
            return Projected(reduction.mean_, reduction.components_, _pooled(estimator[1]))
    if type(estimator) is LedoitWolfGaussian:
        return PooledGaussian(estimator.scoring_state())
    if type(estimator) is KthNeighborDistance:
        return NearestSamples(estimator)
    if type(estimator) is MeanDistance:
        return RootMeanSquare(estimator.location_, np.ones(1))
    if type(estimator) is StandardizedDistance:
        return RootMeanSquare(estimator.location_, estimator.scale_)
    raise InputError(
        f"a model whose scorer is {estimator!r} cannot be exported: Gaussians can (also after a "
        "reduction, or one per position), nearest neighbours (also after a reduction), and the "
        "distances l2 and sed"
    )


class PositionScores(nn.Module):
    """A `PatchScorer`: the positions' part of the score, and that of the whole image."""

    means: Tensor
    kernel: Tensor

    def __init__(self, scorer: PatchScorer, network: Network) -> None:
        super().__init__()
        about, arrays = scorer.state()
        standards = scorer.standards_
        self.network, self.groups = network, scorer.groups_
        self.coarsest = scorer.groups_[-1][0]
        names = [group[0] for group in scorer.groups_]
        if CONTEXT in scorer.patch_gaussians_:
            names.append(CONTEXT)
        self.names = names
        self.parts = nn.ModuleList(_positions(name, about, arrays) for name in names)
        self.blend = standards.blend
        if self.blend:
            own = file.arrays_of_positions(self.coarsest, arrays)
            self.gaussians = PositionGaussians(**own)
        weighted = bool(scorer.image_weight and scorer.image_gaussians_)
        self.pooled = list(scorer.image_gaussians_) if weighted else []
        self.image = nn.ModuleList(
            PooledGaussian(scorer.image_gaussians_[name].scoring_state()) for name in self.pooled
        )
        mean, _ = standards.standard
        k = max(1, round(scorer.top_fraction * standards.n_active))
        self.top = _Largest(standards.standard, k, standards.common)
        self.finer = standards.finer
        if finer := standards.finer:
            self.finer_top = _Largest(finer.standard, finer.n_largest, standards.common)
        self.register_buffer("means", tensor(context_means(round(len(mean) ** 0.5)), torch.float32))
        self.image_weight, self.scale = scorer.image_weight, standards.scale
        self.has_maps = bool(standards.map_standards)
        if self.has_maps:
            weights = map_weights(names, scorer.groups_, standards.context_weight)
            side = max(round(len(standards.map_standards[n][2]) ** 0.5) for n in names)
            self.smoothing = scorer.smoothing
            self.logarithms = nn.ModuleList(
                _Logarithm(*standards.map_standards[name], weights[name]) for name in names
            )
            kernel = np.eye(side)
            if scorer.smoothing:
                kernel = gaussian_filter1d(kernel, scorer.smoothing, axis=0, mode="nearest")
            self.register_buffer("kernel", tensor(kernel))
            self.map_side = side

    def forward(self, features: Features, boxes: Tensor | None) -> Tensor:
        """Give the parts of the score, (n, 1 or 2), up = abnormal."""
        distances = self._distances(self.coarsest, features)
        if self.blend:
            x = self._side_by_side(self.coarsest, features)
            distances = distances + self.blend * self.gaussians(x)
        found = self.top(distances, boxes)
        if self.finer:
            more = self.finer_top(self._distances(self.finer.grid, features), boxes)
            found = found + self.finer.weight * more
        columns = [found / self.scale[0]]
        if self.pooled:
            image = sum(part(features[n]) for n, part in zip(self.pooled, self.image, strict=True))
            columns.append(self.image_weight * image / self.scale[1])
        return torch.stack(columns, dim=1)

    def maps(self, features: Features, raw: Features, boxes: Tensor | None) -> Tensor:
        """Give maps (n, S, S), in standard deviations of good images."""
        total: Any = 0.0
        for name, logarithm in zip(self.names, self.logarithms, strict=True):
            grid = logarithm(self._distances(name, features))
            own = int(grid.shape[1])
            if boxes is not None:
                grid = repeat_edges(grid, *positions_inside(boxes, own))
            total = total + (enlarge(grid, self.map_side) if own < self.map_side else grid)
        if self.smoothing:
            total = self.kernel @ total @ self.kernel.transpose(-1, -2)
        return enlarge(total, self.network.side, boxes)

    def _distances(self, name: str, features: Features) -> Tensor:
        """Distances (n, P) on a grid."""
        x = self._side_by_side(name, features)
        if name == CONTEXT:
            x = self.means @ x
        found: Tensor = self.parts[self.names.index(name)](x)
        return found

    def _side_by_side(self, name: str, features: Features) -> Tensor:
        """Features (n, P, D) of a grid; of the context those of the coarsest."""
        group = next((group for group in self.groups if group[0] == name), self.groups[-1])
        return torch.cat([features[level] for level in group], dim=-1).flatten(1, 2)


class _Largest(nn.Module):
    """The mean (n,) of the largest standardized distances (n, P); see `mean_of_largest`."""

    location: Tensor
    deviation: Tensor
    counted: Tensor

    def __init__(self, standard: tuple[Any, Any], k: int, common: float) -> None:
        super().__init__()
        mean, deviation = standard
        counted = np.isfinite(deviation)
        self.register_buffer("location", tensor(mean))
        self.register_buffer("deviation", tensor(np.where(counted, deviation, 1.0)))
        self.register_buffer("counted", tensor(counted, torch.bool))
        self.k, self.common = k, common

    def forward(self, distances: Tensor, boxes: Tensor | None) -> Tensor:
        z = (distances - self.location) / self.deviation
        counted = self.counted[None] | torch.zeros_like(z, dtype=torch.bool)
        if boxes is not None:
            counted = counted & _inside(boxes, distances)
        ordered = torch.where(counted, z, -torch.inf).topk(z.shape[1] if self.common else self.k)
        top, n_counted = ordered.values[:, : self.k], counted.to(torch.int64).sum(dim=1)
        n_top = n_counted.clamp(1, self.k)
        found = torch.where(top > -torch.inf, top, 0.0).sum(dim=1) / n_top
        if not self.common:
            return found
        median = ordered.values.gather(1, (n_counted // 2)[:, None])[:, 0]
        return found - torch.where(n_counted > 0, median, 0.0).clamp(0, self.common)


def _inside(boxes: Tensor, distances: Tensor) -> Tensor:
    """Which positions lie in the picture, (n, P)."""
    rows, columns = positions_inside(boxes, round(int(distances.shape[1]) ** 0.5))
    return (rows[:, :, None] & columns[:, None, :]).flatten(1)


class _Logarithm(nn.Module):
    """A grid's part in the map, (n, side, side), of distances (n, P)."""

    deviation: Tensor

    def __init__(self, offset: float, mean: float, deviation: Any, weight: float) -> None:
        super().__init__()
        self.offset, self.mean, self.weight = offset, mean, weight
        self.side = round(len(deviation) ** 0.5)
        self.register_buffer("deviation", tensor(1 / deviation))  # 0 where it is infinite

    def forward(self, distances: Tensor) -> Tensor:
        z = ((distances + self.offset).log() - self.mean) * self.deviation * self.weight
        return z.reshape(-1, self.side, self.side)


def _positions(name: str, about: dict[str, Any], arrays: dict[str, Any]) -> nn.Module:
    if name in about.get("nearest", ()):
        return NearestPatches(file.nearest_of(name, arrays)[0])
    return PositionGaussians(**file.arrays_of_positions(name, arrays))
