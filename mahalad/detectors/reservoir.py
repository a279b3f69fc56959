"""The features of the fitted images: all of them, or a reservoir that still merges exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mahalad.protocols import Features


class FeatureStore:
    """Keep features of images, each with its copies (the image itself, then augmented ones).

    If there are more than `capacity` images, those with the smallest keys stay. Keys are hashes of
    the images' content. So the sample is uniform, it does not depend on the order in which images
    came, and the union of two reservoirs is the reservoir of the union.

    Parameters
    ----------
    capacity : int or None
        Most images kept; None for all.
    """

    def __init__(self, capacity: int | None = None) -> None:
        self.capacity = capacity
        self.n_seen = 0
        self._chunks: list[tuple[dict[str, NDArray[Any]], NDArray[np.uint64], NDArray[Any]]] = []

    def add(self, features: Features, keys: Sequence[int], groups: Sequence[str]) -> None:
        """Add images.

        Parameters
        ----------
        features : mapping of str to ndarray of shape (n_images, n_copies, ..., n_features)
        keys : sequence of int
            Hash of each image.
        groups : sequence of str
            Images of one group are never on both sides of a split.
        """
        self.n_seen += len(keys)
        self._chunks.append((dict(features), np.array(keys, dtype=np.uint64), np.array(groups)))
        if self.capacity is not None and self.n_held > 1.5 * self.capacity:
            self._compact()

    def merged(self, other: FeatureStore) -> FeatureStore:
        """Return a store of the images of both. Neither of the two changes."""
        both = FeatureStore(self.capacity)
        both.n_seen = self.n_seen + other.n_seen
        both._chunks = [*self._chunks, *other._chunks]
        if self.capacity is not None and self.n_held + other.n_held > 1.5 * self.capacity:
            both._compact()
        return both

    @property
    def features(self) -> dict[str, NDArray[Any]]:
        """Level name to (n_kept, n_copies, n_features)."""
        return self._compact()[0]

    @property
    def keys(self) -> NDArray[np.uint64]:
        return self._compact()[1]

    @property
    def groups(self) -> NDArray[Any]:
        return self._compact()[2]

    @property
    def n_held(self) -> int:
        """Images in memory now: some more than are kept in the end."""
        return sum(len(keys) for _, keys, _ in self._chunks)

    @property
    def n_kept(self) -> int:
        return len(self.keys) if self._chunks else 0

    @property
    def is_empty(self) -> bool:
        """True when no features are kept."""
        return not self._chunks

    @property
    def is_complete(self) -> bool:
        """True when no image was dropped."""
        return self.n_kept == self.n_seen

    def _compact(self) -> tuple[dict[str, NDArray[Any]], NDArray[np.uint64], NDArray[Any]]:
        keys = np.concatenate([c[1] for c in self._chunks])
        if len(self._chunks) > 1 or (self.capacity is not None and len(keys) > self.capacity):
            kept: Any = slice(None)
            if self.capacity is not None and len(keys) > self.capacity:
                kept = np.sort(np.argsort(keys, kind="stable")[: self.capacity])
            levels = self._chunks[0][0]
            features = {
                name: np.concatenate([c[0][name] for c in self._chunks])[kept] for name in levels
            }
            groups = np.concatenate([c[2] for c in self._chunks])[kept]
            self._chunks = [(features, keys[kept], groups)]
        return self._chunks[0]


def own_groups(keys: Sequence[int]) -> list[str]:
    """Name groups for images of which nothing is known: one for each different picture."""
    return [f"{key:016x}" for key in keys]


def group_names(store: FeatureStore) -> list[str]:
    """Return the names of the kept images' groups, sorted; `store_arrays` numbers them."""
    return [] if store.is_empty else np.unique(store.groups).tolist()


def store_arrays(name: str, store: FeatureStore) -> dict[str, NDArray[Any]]:
    """Name the arrays of the kept images: features, keys and numbers of groups."""
    if not store.n_kept:
        return {}
    arrays = {f"{name}/features/{level}": values for level, values in store.features.items()}
    _, group_of = np.unique(store.groups, return_inverse=True)
    return {**arrays, f"{name}/keys": store.keys, f"{name}/groups": group_of.astype(np.int64)}


def read_store(
    name: str,
    arrays: Mapping[str, NDArray[Any]],
    levels: Sequence[str],
    *,
    groups: Sequence[str] | None = None,
    capacity: int | None = None,
    n_seen: int | None = None,
) -> FeatureStore:
    """Return the store that `store_arrays` described.

    Parameters
    ----------
    name : str
    arrays : mapping of str to ndarray
        All arrays of the file. A file without features has none of the store's.
    levels : sequence of str
        Names of the levels, in their order.
    groups : sequence of str, optional
        Names of the groups; None for images that are groups of their own.
    capacity, n_seen : int, optional
        See `FeatureStore`; `n_seen` is what is kept unless it is given.
    """
    store = FeatureStore(capacity)
    if f"{name}/keys" in arrays:
        features = {level: arrays[f"{name}/features/{level}"] for level in levels}
        keys = arrays[f"{name}/keys"].tolist()
        if groups is None:
            labels = own_groups(keys)
        else:
            labels = [groups[code] for code in arrays[f"{name}/groups"].tolist()]
        store.add(features, keys, labels)
    if n_seen is not None:
        store.n_seen = n_seen
    return store
