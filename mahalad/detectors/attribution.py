"""Which positions make up an image-level distance: an exact, additive decomposition.

A pooled feature is the (weighted) mean of the P features of its level's map, so the distance
d = (fbar - mu)' Sigma^-1 (fbar - mu) / d is a sum over positions p of
c_p = w_p (f_p - mu)' Sigma^-1 (fbar - mu) / d, with weights w_p that sum to 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mahalad.images.geometry import Boxes, resample
from mahalad.protocols import Floats, PoolsMaps


class OfGaussians(Protocol):
    """A scorer that is a sum over levels of distances to Gaussians, such as `LevelSum`."""

    estimators_: Mapping[str, Any]


def attribute(
    extractor: PoolsMaps, scorer: OfGaussians, prepared: Sequence[NDArray[Any]]
) -> dict[str, Floats]:
    """Shares of positions in the distance of every level, signed.

    Parameters
    ----------
    extractor : built feature extractor that pools maps, such as BackboneFeatures
    scorer : LevelSum of LedoitWolfGaussian, fitted
    prepared : sequence of ndarray
        Images as `extractor.prepare` makes them.

    Returns
    -------
    dict of str to ndarray of shape (n_images, height, width)
        By level, on the level's own grid. The sum over positions is the level's distance.
    """
    passes = [_attribute(extractor, scorer, own) for own in extractor.passes(prepared)]
    return {name: np.concatenate([shares[name] for shares in passes]) for name in passes[0]}


def _attribute(
    extractor: PoolsMaps, scorer: OfGaussians, prepared: Sequence[NDArray[Any]]
) -> dict[str, Floats]:
    shares = {}
    for name, (maps, weights) in extractor.unpooled(prepared).items():
        gaussian = scorer.estimators_[name]
        f = maps.reshape(*maps.shape[:2], -1).astype(np.float64)  # (n, C, P)
        # (P,), or (n, P) where each image has a region of its own
        w = weights.reshape(*weights.shape[:-2], -1).astype(np.float64)
        pooled = f @ w if w.ndim == 1 else np.einsum("ncp,np->nc", f, w)
        z = pooled - gaussian.location_  # (n, C)
        direction = gaussian.apply_precision(z)
        distance = np.sqrt(np.einsum("ij,ij->i", z, direction))
        local = f - gaussian.location_[:, None]
        terms = np.einsum("ncp,nc->np", local, direction) * w
        terms /= np.maximum(distance, np.finfo(float).tiny)[:, None]
        shares[name] = terms.reshape(len(f), *maps.shape[2:])
    return shares


def enlarge(maps: Floats, side: int, boxes: Boxes | None = None) -> Floats:
    """Maps (n, h, w) on a square of `side` pixels, bilinear: (n, side, side).

    For padded images, `boxes` (n, 4) says which part of the map is the picture; that part fills
    the square.
    """
    if boxes is not None:
        pairs = zip(maps, boxes, strict=True)
        return np.stack([resample(values, (side, side), box) for values, box in pairs])
    import torch  # here, so that a detector can be made without it
    from torch.nn import functional

    x = torch.from_numpy(np.ascontiguousarray(maps))[:, None]
    x = functional.interpolate(x, (side, side), mode="bilinear", align_corners=False)
    return np.asarray(x[:, 0].numpy())


def enlarge_keeping_sum(maps: Floats, side: int, boxes: Boxes | None = None) -> Floats:
    """Enlarge maps and keep sums: each map sums to the same over pixels as over positions."""
    large = enlarge(maps, side, boxes)
    positions: Any = maps[0].size  # that a picture covers
    if boxes is not None:
        left, top, right, bottom = boxes.astype(np.float64).T
        positions = (positions * (right - left) * (bottom - top))[:, None, None]
    scaled = large * (positions / side**2)
    missing = maps.sum(axis=(1, 2)) - scaled.sum(axis=(1, 2))
    return np.asarray(scaled + missing[:, None, None] / side**2)
