"""The features of the fitted images: all of them, or a reservoir that still merges exactly."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Kept:
    """What is kept of some images.

    Attributes
    ----------
    features : dict of str to ndarray of shape (n, n_copies, ..., n_features)
    keys : ndarray of uint64, shape (n,)
        Hashes of the images' content.
    groups : ndarray of str, shape (n,)
        Images of one group show the same part, and are never on both sides of a split.
    names : ndarray of object, shape (n,)
        The images' names; numbers where a file of an older format did not tell them.
    looks : ndarray of uint8, shape (n, 768)
        Thumbnails, which tell near-copies; black where none is known.
    """

    features: dict[str, NDArray[Any]]
    keys: NDArray[np.uint64]
    groups: NDArray[Any]
    names: NDArray[np.object_]
    looks: NDArray[np.uint8]

    def take(self, which: Any) -> Kept:
        """Those at some places, or where a mask says so."""
        features = {name: values[which] for name, values in self.features.items()}
        rest = (self.keys, self.groups, self.names, self.looks)
        return Kept(features, *(values[which] for values in rest))

    def originals(self) -> Kept:
        """The images without their augmented copies."""
        return replace(self, features={name: F[:, :1] for name, F in self.features.items()})

    @staticmethod
    def joined(parts: Sequence[Kept]) -> Kept:
        """All images of several parts, one part after the other."""
        if len(parts) == 1:
            return parts[0]
        features = {
            name: np.concatenate([part.features[name] for part in parts])
            for name in parts[0].features
        }
        return Kept(
            features,
            np.concatenate([part.keys for part in parts]),
            np.concatenate([part.groups for part in parts]),
            np.concatenate([part.names for part in parts]),
            np.concatenate([part.looks for part in parts]),
        )


class FeatureStore:
    """Keep features of images, each with its copies (the image itself, then augmented ones).

    If there are more than `capacity` images, whole groups stay, those of the smallest hashes. So
    the sample is uniform, it does not depend on the order in which images came, and the union of
    two reservoirs is the reservoir of the union.

    Parameters
    ----------
    capacity : int or None
        Most images kept; None for all.
    salt : int
        Salt of the hashes of groups that have a name. A picture that is a group of its own has its
        key for a hash.
    limit : int, optional
        That of a store which this one will be merged with: what cannot stay there is never kept.

    Attributes
    ----------
    n_seen : int
        Images added, kept or not.
    limit : int or None
        Groups of this hash and larger ones were dropped; None if none was.
    whole : bool
        Whether every group is kept as a whole, or not at all: False for groups from a file of an
        older format that kept part of its images.
    """

    def __init__(
        self, capacity: int | None = None, salt: int = 0, limit: int | None = None
    ) -> None:
        self.capacity = capacity
        self.salt = salt
        self.n_seen = 0
        self.limit = limit
        self.whole = True
        self._chunks: list[Kept] = []

    def add(self, images: Kept) -> None:
        """Add images."""
        self.n_seen += len(images.keys)
        if self.limit is not None:
            stays = self._hashes(images) < self.limit
            if self._chunks and not stays.any():
                return
            images = images if stays.all() else images.take(stays)
        self._hold([images])

    def merged(self, other: FeatureStore) -> FeatureStore:
        """Return a store of the images of both. Neither of the two changes."""
        both = self._empty()
        both.n_seen = self.n_seen + other.n_seen
        both.limit = lower(self.limit, other.limit)
        both.whole = self.whole and other.whole
        both._hold([*self._chunks, *other._chunks])
        return both

    def without(self, removed: NDArray[np.bool_]) -> FeatureStore:
        """Return a store without some of the kept images (n_kept,). This one does not change."""
        rest = self._empty()
        rest.n_seen = self.n_seen - int(removed.sum())
        rest.limit, rest.whole = self.limit, self.whole
        rest._hold([self.kept.take(~removed)])
        return rest

    def regrouped(self, groups: NDArray[Any]) -> FeatureStore:
        """Return a store of the same images in other groups (n_kept,), to calibrate with."""
        other = FeatureStore()
        other.n_seen, other.limit, other.whole = self.n_seen, self.limit, self.whole
        other._chunks = [replace(self.kept, groups=groups)]
        return other

    def with_copies(self, chosen: Sequence[int]) -> FeatureStore:
        """Return a store of the same images with some of their copies. This one does not change."""
        other = self._empty()
        other.n_seen, other.limit, other.whole = self.n_seen, self.limit, self.whole
        features = {name: F[:, list(chosen)] for name, F in self.features.items()}
        other._hold([replace(self.kept, features=features)])
        return other

    @property
    def kept(self) -> Kept:
        """All that is kept. There is something only if the store is not empty."""
        return self._compact()

    @property
    def features(self) -> dict[str, NDArray[Any]]:
        """Level name to (n_kept, n_copies, n_features)."""
        return self.kept.features

    @property
    def keys(self) -> NDArray[np.uint64]:
        return self.kept.keys

    @property
    def groups(self) -> NDArray[Any]:
        return self.kept.groups

    @property
    def hashes(self) -> NDArray[np.uint64]:
        """Hashes of the kept images' groups, (n_kept,): the smallest stay."""
        return self._hashes(self.kept) if self._chunks else np.empty(0, np.uint64)

    @property
    def n_held(self) -> int:
        """Images in memory now: some more than are kept in the end."""
        return sum(len(chunk.keys) for chunk in self._chunks)

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

    def _empty(self) -> Self:
        return type(self)(self.capacity, self.salt)

    def _hold(self, chunks: Sequence[Kept]) -> None:
        self._chunks += chunks
        if self.capacity is not None and self.n_held > 1.5 * self.capacity:
            self._compact()

    def _compact(self) -> Kept:
        if len(self._chunks) > 1 or self._is_full():
            kept = Kept.joined(self._chunks)
            self._chunks = [kept.take(self._choose(kept)) if self._is_full() else kept]
        return self._chunks[0]

    def _is_full(self) -> bool:
        full = self.capacity is not None and self.n_held > self.capacity
        return full or (self.limit is not None and len(self._chunks) > 1)

    def _choose(self, kept: Kept) -> NDArray[np.bool_]:
        """Choose the images that stay: groups of the smallest hashes, as many as there is room for.

        A group that had to go stays away, whatever comes later: the limit only ever falls.
        """
        hashes = self._hashes(kept)
        assert self.capacity is not None
        self.limit = lower(self.limit, limit_of(hashes, self.capacity))
        return np.ones(len(hashes), bool) if self.limit is None else hashes < self.limit

    def _hashes(self, images: Kept) -> NDArray[np.uint64]:
        pairs = zip(images.groups, images.keys, strict=True)
        return np.array([self._hash(*pair) for pair in pairs], np.uint64)

    def _hash(self, group: str, key: int) -> int:
        if group == own_groups([int(key)])[0]:
            return int(key)
        salt = self.salt.to_bytes(8, "little")
        digest = hashlib.blake2b(group.encode("utf-8", "surrogatepass"), digest_size=8, key=salt)
        return int.from_bytes(digest.digest(), "little")


def limit_of(hashes: NDArray[np.uint64], capacity: int) -> int | None:
    """Return the smallest hash that has to go, of images (n,); None if there is room for all."""
    ordered, sizes = np.unique(hashes, return_counts=True)
    too_many = np.flatnonzero(np.cumsum(sizes) > capacity)
    return int(ordered[too_many[0]]) if len(too_many) else None


def lower(mine: int | None, other: int | None) -> int | None:
    """Return the lower one of two limits; None is no limit."""
    return min((limit for limit in (mine, other) if limit is not None), default=None)


def own_groups(keys: Sequence[int]) -> list[str]:
    """Name groups for images of which nothing is known: one for each different picture."""
    return [f"{key:016x}" for key in keys]


def are_own(groups: NDArray[Any], keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Whether images (n,) are groups of their own: nobody said what they show."""
    return np.asarray(groups == np.array(own_groups(keys.tolist())), dtype=bool)


def group_names(store: FeatureStore) -> list[str]:
    """Return the names of the kept images' groups, sorted; `store_arrays` numbers them."""
    return [] if store.is_empty else np.unique(store.groups).tolist()


def store_arrays(name: str, store: FeatureStore) -> dict[str, NDArray[Any]]:
    """Name the arrays of the kept images: features, keys, numbers of groups and thumbnails."""
    if not store.n_kept:
        return {}
    kept = store.kept
    arrays = {f"{name}/features/{level}": values for level, values in kept.features.items()}
    _, group_of = np.unique(kept.groups, return_inverse=True)
    arrays |= {f"{name}/keys": kept.keys, f"{name}/groups": group_of.astype(np.int64)}
    return {**arrays, f"{name}/looks": kept.looks}


def store_record(store: FeatureStore) -> dict[str, Any]:
    """Describe, as JSON, what `store_arrays` leaves out."""
    names = [] if store.is_empty else store.kept.names.tolist()  # first: this sets the limit
    return {
        "n_images": store.n_seen,
        "limit": store.limit,
        "whole_groups": store.whole,
        "groups": group_names(store),
        "names": names,
    }


def read_store(
    name: str,
    record: Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any]],
    levels: Sequence[str],
    *,
    capacity: int | None = None,
    salt: int = 0,
) -> FeatureStore:
    """Return the store that `store_record` and `store_arrays` described.

    Parameters
    ----------
    name : str
    record : mapping
        With names and groups; None in their place where images have no names, or are groups of
        their own.
    arrays : mapping of str to ndarray
        All arrays of the file. A file without features has none of the store's.
    levels : sequence of str
        Names of the levels, in their order.
    capacity, salt
        See `FeatureStore`.
    """
    store = FeatureStore(capacity, salt)
    if f"{name}/keys" in arrays:
        keys, groups = arrays[f"{name}/keys"], record["groups"]
        labels = [groups[code] for code in arrays[f"{name}/groups"].tolist()]
        store.add(
            Kept(
                {level: arrays[f"{name}/features/{level}"] for level in levels},
                keys.astype(np.uint64),
                np.array(labels),
                np.array(record["names"], dtype=object),
                arrays[f"{name}/looks"],
            )
        )
    store.n_seen, store.limit = record["n_images"], record["limit"]
    store.whole = record["whole_groups"]
    return store
