"""Whether parts lie at any angle: turned images are then to others as these are to each other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mahalad.protocols import Floats
from mahalad.scorers.positions.blocks import Blocks
from mahalad.scorers.positions.matching import Matching
from mahalad.scorers.positions.nearest import two_nearest
from mahalad.scorers.positions.standards import mean_of_largest, standardization

LEAST_SIDE = 8
"""Positions on a side of the coarsest grid that are needed to tell."""

_CLOSER = 0.2
"""Least share of patches that are closer to turned images than to those that are not: 0.5 where
these are alike; as measured 0.3 to 0.6 of parts that lie at any angle, and at most 0.03 of others,
turned by a quarter."""

_FURTHER = 1.5
"""The most that scores to turned images are larger, in the units of scores: up to 1 of parts that
lie at any angle, above 2.5 of others, on however plain a ground they lie."""

_NEARER = 0.935
"""The most that distances to the nearest image, turned or not, are of those to the nearest that is
not turned, on average: 0.78 to 0.934 of 20 images of parts that lie at any angle. Of textures,
which have no angle, it is 0.97 or more: turning them tells hardly anything new."""

_SHRINKAGE = 0.05  # of the covariance, towards its mean variance


def turned_alike(
    values: NDArray[Any],
    turns: Iterable[NDArray[Any]],
    labels: NDArray[np.intp],
    n_largest: int,
) -> bool:
    """Whether images are as far from others that are turned as from others that are not.

    And closer to those of both together. Distances are those to the nearest patch about a position,
    by one covariance for all positions: of few images.

    Parameters
    ----------
    values : ndarray of shape (n_images, n_positions, n_features)
        Features of good images, at least 5.
    turns : iterable of ndarrays of the same shape
        Of the same images turned, one way after the other; no further than the answer needs.
    labels : ndarray of int, shape (n_images,)
        Images of one label show the same, and are not compared.
    n_largest : int
        Positions whose mean is a score.
    """
    nearest = np.empty(0)
    for turned in turns:
        as_they_are, to_turned = _distances(values, turned, labels)
        inside = np.ones(as_they_are.shape, dtype=bool)
        standard = standardization(as_they_are, inside)
        score, further = (
            float(np.median(mean_of_largest(found, inside, standard, n_largest)))
            for found in (as_they_are, to_turned)
        )
        if (to_turned < as_they_are).mean() < _CLOSER or further - score > _FURTHER:
            return False
        share = np.minimum(to_turned, as_they_are) / np.maximum(as_they_are, 1e-300)
        nearest = share if not nearest.size else np.minimum(nearest, share)
    return bool(nearest.size and nearest.mean() <= _NEARER)


def _distances(
    values: NDArray[Any], turned: NDArray[Any], labels: NDArray[np.intp]
) -> tuple[Floats, Floats]:
    """Distances (n_images, n_positions) to others as they are, and to others turned."""
    n, P, D = values.shape
    location = values.mean(axis=0, dtype=np.float64)
    # Of both alike, each about their own means: what a covariance was made of is close by it.
    centred = np.concatenate([values - location, turned - turned.mean(axis=0, dtype=np.float64)])
    centred = centred.reshape(-1, D)
    covariance = centred.T @ centred / (2 * max(n - 1, 1) * P)
    mean_variance = np.trace(covariance) / D
    if not mean_variance:  # all images are identical: the fit will say so
        return np.zeros((n, P)), np.zeros((n, P))
    covariance *= 1 - _SHRINKAGE
    covariance[np.diag_indices(D)] += _SHRINKAGE * mean_variance
    blocks = Blocks(round(P**0.5))
    precision = torch.from_numpy(np.linalg.inv(covariance).astype(np.float32))
    precisions = precision.expand(len(blocks.positions), D, D)
    outside = torch.zeros((P, n), dtype=torch.bool)

    def distances(good: NDArray[Any]) -> Floats:
        own = np.ascontiguousarray((good - location).swapaxes(0, 1), dtype=np.float32)
        matching = Matching(blocks, precisions, location, torch.from_numpy(own), outside)
        return two_nearest(matching, values, labels, labels)[0]

    return distances(values), distances(turned)
