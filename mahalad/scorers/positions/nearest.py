"""The distance of each patch to the nearest good one about its position."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mahalad.errors import InputError
from mahalad.possible import GAUSSIAN
from mahalad.protocols import Floats, Value
from mahalad.scorers.moments import Moments
from mahalad.scorers.nuisance import Nuisance
from mahalad.scorers.positions.matching import Matching
from mahalad.scorers.positions.metric import Metric, Scatter
from mahalad.scorers.positions.patches import Patches

N_FOLDS = 5
"""Parts of the images that the metric is learned without, to score them."""

N_FOLDS_OF_FEW = 20
"""The same where there are few samples to learn it from: there each fold matters more, and what
distances with two of them left out tell is too little."""

_FEW = 10  # samples, of positions that vary, to a feature

_STEPS = 127  # largest number in what is stored


@dataclass(frozen=True, eq=False)
class LeftOut(Value):
    """What fits without some images say of these.

    Attributes
    ----------
    distances, growth : ndarrays of shape (n_images, n_positions)
        Distances to the patches of other images, and the factor by which those of the other images
        grow where an image is left out of the patches.
    tolerated : ndarray of shape (n_positions,)
        Mean square, summed over ways of change, of what harmless changes add to a distance.
    tolerated_by_others : ndarray of shape (n_images, n_positions)
        The same for each image, without its own changes.
    """

    distances: Floats
    growth: Floats
    tolerated: Floats
    tolerated_by_others: Floats


@dataclass(frozen=True, eq=False)
class Nearest(Value):
    """Good patches, and the metric in which others are compared with them.

    A patch of one position is compared with the good ones of the positions up to `RADIUS` steps
    away, by the metric of its own position's block.

    Attributes
    ----------
    metric : Metric
    location : ndarray of shape (n_positions, n_features)
        Means of the good images.
    scale : ndarray of shape (n_features,)
    stored : ndarray of int8, shape (n_patches, n_positions, n_features)
        Good patches less the location: q stands for q |q| scale, so that steps are fine where most
        differences are, and one odd image costs no precision. A model from a file has the very
        patches that it had when it was written; rounding changes distances by some 1e-3. Of files
        of format 7 it is float16, and q stands for q scale.
    inside : ndarray of bool, shape (n_patches, n_positions)
        Good patches that lie in a picture: all others are nobody's neighbours.
    """

    metric: Metric
    location: Floats
    scale: Floats
    stored: NDArray[np.int8] | NDArray[np.float16]
    inside: NDArray[np.bool_]

    @classmethod
    def of(
        cls, moments: Moments, patches: Patches, floor: float, nuisance: Nuisance | None
    ) -> Nearest:
        """Make it of the sums over all images, and of the patches of some."""
        scatter = Scatter.of(moments, patches.inside.mean(axis=0))
        centred = patches.features - scatter.location
        largest = np.abs(centred).max(axis=(0, 1), where=patches.inside[..., None], initial=0.0)
        scale = np.where(largest > 0, largest, 1.0) / _STEPS**2
        steps = np.rint(np.sqrt(np.abs(centred) / scale)).clip(max=_STEPS)
        stored = np.copysign(steps, centred).astype(np.int8)
        metric = Metric.of(scatter, floor, nuisance)
        return cls(metric, scatter.location, scale, stored, patches.inside)

    @property
    def is_squared(self) -> bool:
        """Whether what is stored stands for its squares."""
        return self.stored.dtype == np.int8

    def centred(self) -> Floats:
        """Good patches less the location, (n_patches, n_positions, n_features)."""
        steps = self.stored.astype(np.float64)
        return (steps * np.abs(steps) if self.is_squared else steps) * self.scale

    def patches(self, keys: NDArray[np.uint64], most: int) -> Patches:
        """Give back the patches, as they are stored, with their keys; of so many images at most."""
        features = (self.centred() + self.location).astype(np.float32)
        return Patches(keys, features, self.inside, most)

    def distances(self, X: NDArray[Any]) -> Floats:
        """Distances (n, n_positions) of features (n, n_positions, n_features), up = abnormal."""
        found = self.matching.nearest(X)
        found[~np.isfinite(found)] = 0.0  # where no good picture reaches: it never counts
        return np.sqrt(found)

    def left_out(
        self,
        X: NDArray[Any],
        labels: NDArray[np.intp],
        moments: Moments,
        patches: Patches,
        floor: float,
        nuisance: Nuisance | None,
        changed: NDArray[np.intp] | None,
        *,
        scored: bool = True,
    ) -> LeftOut:
        """Score images of the fit without them: out of the patches, and of the metric by folds.

        Parameters
        ----------
        X : ndarray of shape (n_images, n_positions, n_features)
        labels : ndarray of int of shape (n_images,)
            Images of one number are left out together; numbers count up from 0.
        moments, patches, floor, nuisance
            What this was made of.
        changed : ndarray of int of shape (n_images,), optional
            Number of the image among those of the nuisance, below 0 for others.
        scored : bool, default=True
            Whether scores are about these distances. If not, what changes add to a distance is not
            looked for, nor by how much it is too large, which takes as long again.
        """
        places = patches.places(X)
        owners = np.full(len(patches.keys), -1)
        owners[places[places >= 0]] = labels[places >= 0]
        changed = np.full(len(X), -1) if changed is None else changed
        n_samples = len(X) * int(np.ptp(X, axis=0).any(axis=1).sum())
        n_folds = N_FOLDS if n_samples >= _FEW * X.shape[2] else N_FOLDS_OF_FEW
        folds = labels % min(n_folds, labels.max() + 1)
        scatter = Scatter.of(moments, patches.inside.mean(axis=0))
        shares = [folds == fold for fold in range(folds.max() + 1)]
        nuisances = [_without(nuisance, changed[own]) for own in shares]
        first, second, of_first = (
            np.empty(X.shape[:2]),
            np.empty(X.shape[:2]),
            np.empty(X.shape[:2], int),
        )
        metrics = scatter.without(X, shares, floor, nuisances)
        for own, metric in zip(shares, metrics, strict=True):
            first[own], second[own], of_first[own] = two_nearest(
                self._with(metric), X[own], labels[own], owners
            )
        unreached = ~np.isfinite(first).any(axis=0)  # by any good picture: they never count
        if not unreached.all():
            first[:, unreached] = second[:, unreached] = 0.0
        if not np.isfinite(first).all():
            raise InputError(
                f"all {len(owners)} images whose patches are kept are of one group: none is left "
                "to compare its images with; fit fewer images of it"
            )
        if scored:
            larger = self._excess(X, labels, owners, shares, scatter, floor, nuisances, first)
            first, second = first / larger, second / larger
        growth = _growth(first, np.where(np.isfinite(second), second, first), of_first, labels)
        told = nuisance if scored else None
        tolerated, by_others = self._tolerated(X, labels, owners, told, changed)
        return LeftOut(first, growth, tolerated, by_others)

    def _excess(
        self,
        X: NDArray[Any],
        labels: NDArray[np.intp],
        owners: NDArray[np.intp],
        shares: list[NDArray[np.bool_]],
        scatter: Scatter,
        floor: float,
        nuisances: list[Nuisance | None],
        first: Floats,
    ) -> Floats:
        """By what factor distances are larger than where an image alone is left out of the metric.

        (n_positions,), by the distances with two shares left out, as errors of a metric of m images
        go with 1 / m.
        """
        n, n_shares = len(X), len(shares)
        pairs = [own | shares[(i + 1) % n_shares] for i, own in enumerate(shares)]
        if n_shares < 3 or min(scatter.n - int(pair.sum()) for pair in pairs) < GAUSSIAN:
            return np.ones(X.shape[1])
        further = np.empty(X.shape[:2])
        for own, metric in zip(shares, scatter.without(X, pairs, floor, nuisances), strict=True):
            further[own] = two_nearest(self._with(metric), X[own], labels[own], owners)[0]
        further[~np.isfinite(further)] = 0.0
        one, two = (1 / (scatter.n - n * k / n_shares) for k in (1, 2))
        step = (one - 1 / max(scatter.n - 1, 1)) / (two - one)
        before = first.mean(axis=0)
        ratio = np.divide(further.mean(axis=0), before, out=np.ones_like(before), where=before > 0)
        return np.asarray(np.maximum(1 / (1 - step * (ratio - 1)).clip(0.5), 1.0))

    def _tolerated(
        self,
        X: NDArray[Any],
        labels: NDArray[np.intp],
        owners: NDArray[np.intp],
        nuisance: Nuisance | None,
        changed: NDArray[np.intp],
    ) -> tuple[Floats, Floats]:
        numbers, rows = np.unique(changed, return_index=True)
        rows = rows[numbers >= 0]
        if nuisance is None or not len(rows):
            nothing = np.zeros(X.shape[1])
            return nothing, np.zeros(X.shape[:2])
        n_ways = len(nuisance.differences) // nuisance.n_images
        squares = []
        for row in rows:
            start = changed[row] * n_ways
            copies = X[row] + nuisance.differences[start : start + n_ways].astype(np.float32)
            both = np.concatenate([X[row : row + 1], copies])
            own = np.full(len(both), labels[row])
            d = two_nearest(self.matching, both, own, owners)[0]
            d[~np.isfinite(d)] = 0.0
            squares.append((np.maximum(d[1:] - d[0], 0) ** 2).sum(axis=0))
        found = np.array(squares)
        foreign = labels[:, None] != labels[rows]
        foreign[~foreign.any(axis=1)] = True  # there are no others
        return found.mean(axis=0), foreign @ found / foreign.sum(axis=1, keepdims=True)

    @cached_property
    def matching(self) -> Matching:
        """What computes the distances."""
        return self._with(self.metric)

    def _with(self, metric: Metric) -> Matching:
        """The patches with a metric."""
        precisions = torch.from_numpy(metric.precisions.astype(np.float32))
        outside = torch.from_numpy(~self.inside.T)
        return Matching(metric.blocks, precisions, self.location, self._values, outside)

    @cached_property
    def _values(self) -> Tensor:
        """Good patches less the means of positions, (n_positions, n_patches, D), float32."""
        values = self.centred().swapaxes(0, 1)
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))

    def ready(self) -> Nearest:
        """Compute now what questions need."""
        self.matching.ready()
        return self


def _without(nuisance: Nuisance | None, images: NDArray[np.intp]) -> Nuisance | None:
    """What other images tolerate."""
    images = np.unique(images[images >= 0])
    return nuisance if nuisance is None or not len(images) else nuisance.without(images)


def two_nearest(
    matching: Matching, X: NDArray[Any], labels: NDArray[np.intp], owners: NDArray[np.intp]
) -> tuple[Floats, Floats, NDArray[np.intp]]:
    """Distances to the nearest patch that is not of an image's group, and to the nearest of a third
    group, (n, n_positions); and the group of the first, -1 where it is in no group."""
    first, second = np.empty(X.shape[:2]), np.empty(X.shape[:2])
    of_first = np.empty(X.shape[:2], int)
    own, groups = torch.from_numpy(labels), torch.from_numpy(owners)

    def keep(at: NDArray[np.intp], images: slice, squares: Tensor) -> None:
        squares.masked_fill_(own[images, None] == groups, torch.inf)
        nearest, where = squares.min(dim=-1)
        group = groups[where]
        third = (groups == group[..., None]) & (group >= 0)[..., None]
        first[images, at] = nearest.T.numpy()
        second[images, at] = squares.masked_fill_(third, torch.inf).amin(dim=-1).T.numpy()
        of_first[images, at] = group.T.numpy()

    matching.each(X, keep)
    return np.sqrt(first), np.sqrt(second), of_first


def _growth(
    first: Floats, second: Floats, of_first: NDArray[np.intp], labels: NDArray[np.intp]
) -> Floats:
    """Mean distance of other images where a group is left out, too, as a multiple of that where it
    is not; for each image that of its group, (n, n_positions)."""
    n_groups, P = labels.max() + 1, first.shape[1]
    own, more = np.zeros((2, n_groups, P))
    np.add.at(own, labels, first)
    known = of_first >= 0
    np.add.at(more, (of_first[known], np.nonzero(known)[1]), (second - first)[known])
    others = first.sum(axis=0) - own
    growth = 1 + np.divide(more, others, out=np.zeros_like(more), where=others > 0)
    return np.asarray(growth[labels])
