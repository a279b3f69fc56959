"""Patches of good images: the features of some images of a fit, to compare others with."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mahalad.protocols import Value

N_IMAGES = 200
"""Images whose patches are kept on the coarsest grid, those of the lowest hashes."""

N_FINER = 100
"""The same on finer grids, which have more positions."""


@dataclass(frozen=True, eq=False)
class Patches(Value):
    """Features of good images on one grid.

    Which images of a fit these are does not depend on the order in which images came, and those of
    two fits together are those of the fit to the images of both.

    Attributes
    ----------
    keys : ndarray of uint64, shape (n,)
        Hashes of the features, ascending.
    features : ndarray of float32, shape (n, n_positions, n_features)
    inside : ndarray of bool, shape (n, n_positions)
        Which positions lie in the picture.
    most : int
        Images that are kept at most.
    """

    keys: NDArray[np.uint64]
    features: NDArray[np.float32]
    inside: NDArray[np.bool_]
    most: int = N_IMAGES

    @classmethod
    def of(cls, values: NDArray[Any], inside: NDArray[np.bool_], most: int = N_IMAGES) -> Self:
        """Keep those of some images (n, n_positions, n_features)."""
        keys, first = np.unique(hashes(values), return_index=True)
        chosen = first[:most]
        return cls(keys[:most], values[chosen].astype(np.float32), inside[chosen], most)

    def merged(self, other: Patches) -> Patches:
        """Those of the images of both."""
        if len(self.keys) == self.most and other.keys[0] > self.keys[-1]:
            return self
        keys, first = np.unique(np.concatenate([self.keys, other.keys]), return_index=True)
        chosen = first[: self.most]
        mine, theirs = chosen[chosen < len(self.keys)], chosen[chosen >= len(self.keys)]
        theirs = theirs - len(self.keys)
        order = np.argsort(np.concatenate([self.keys[mine], other.keys[theirs]]))
        features = np.concatenate([self.features[mine], other.features[theirs]])[order]
        inside = np.concatenate([self.inside[mine], other.inside[theirs]])[order]
        return replace(self, keys=keys[: self.most], features=features, inside=inside)

    def without(self, other: Patches) -> Patches:
        """Those of the images that are not among others."""
        kept = ~np.isin(self.keys, other.keys)
        return replace(
            self, keys=self.keys[kept], features=self.features[kept], inside=self.inside[kept]
        )

    def places(self, values: NDArray[Any]) -> NDArray[np.intp]:
        """Places here of images with some features (n, ...); -1 for those that are not kept."""
        keys = hashes(values)
        if not len(self.keys):
            return np.full(len(keys), -1)
        found = np.searchsorted(self.keys, keys).clip(max=len(self.keys) - 1)
        return np.where(self.keys[found] == keys, found, -1)


def hashes(values: NDArray[Any]) -> NDArray[np.uint64]:
    """Hash the features of each image (n, ...), as float32."""
    digests = (
        hashlib.blake2b(np.ascontiguousarray(own, dtype=np.float32).data, digest_size=8).digest()
        for own in values
    )
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)
