"""What harmless changes do to the features of some images of a fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mahalad.images.changes import changed_copies
from mahalad.protocols import Features, Value

N_CHANGED = 8
"""Images of a fit of which changed copies are made, those of the smallest hashes."""

_LARGEST = float(np.finfo(np.float16).max)


@dataclass(frozen=True, eq=False)
class Changes(Value):
    """Differences between the features of changed copies of some images, and of these.

    The images are those of the smallest hashes. So they do not depend on the order in which images
    came, and those of two fits together are those of the fit to the images of both.

    Attributes
    ----------
    keys : ndarray of uint64, shape (n,)
        Hashes of the images' content, ascending.
    differences : dict of str to ndarray of float16, shape (n, n_ways, ..., n_features)
        By level; empty where there are no images.
    """

    keys: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    differences: Mapping[str, NDArray[np.float16]] = field(default_factory=dict)

    @property
    def n_images(self) -> int:
        """Number of images."""
        return len(self.keys)

    @property
    def limit(self) -> int | None:
        """Images of this hash and larger ones do not matter; None while there is room."""
        return int(self.keys[-1]) if len(self.keys) >= N_CHANGED else None

    def merged(self, other: Changes) -> Changes:
        """Those of the images of both."""
        if not (self.n_images and other.n_images):
            return self if self.n_images else other
        keys, first = np.unique(np.concatenate([self.keys, other.keys]), return_index=True)
        chosen = first[:N_CHANGED]
        joined = {
            name: np.concatenate([values, other.differences[name]])[chosen]
            for name, values in self.differences.items()
        }
        return Changes(keys[:N_CHANGED], joined)

    def without(self, keys: NDArray[np.uint64]) -> Changes:
        """Those of the images that are not among `keys`."""
        kept = ~np.isin(self.keys, keys)
        if not kept.any():
            return Changes()
        rest = {name: values[kept] for name, values in self.differences.items()}
        return Changes(self.keys[kept], rest)

    @property
    def rows(self) -> Features:
        """Differences one below the other, each level (n * n_ways, ..., n_features)."""
        return {name: F.reshape(-1, *F.shape[2:]) for name, F in self.differences.items()}


class Pictures:
    """Pictures of the smallest hashes among those that are shown, as they were prepared."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._kept: dict[int, tuple[NDArray[Any], Features]] = {}

    def see(self, key: int, prepared: NDArray[Any], features: Features) -> None:
        """Keep a picture, and its features by level, if it is one of them."""
        largest = max(self._kept) if len(self._kept) == N_CHANGED else self._limit
        if key in self._kept or (largest is not None and key >= largest):
            return
        self._kept[key] = prepared, {name: values.copy() for name, values in features.items()}
        if len(self._kept) > N_CHANGED:
            del self._kept[max(self._kept)]

    def changes(self, extractor: Any, kinds: Sequence[str]) -> Changes:
        """Change the pictures in all ways of some kinds, and compare their features.

        Parameters
        ----------
        extractor : built feature extractor
        kinds : sequence of str
            See `mahalad.images.changes.CHANGES`.
        """
        if not self._kept:
            return Changes()
        keys = sorted(self._kept)
        found = [self._differences(key, extractor, kinds) for key in keys]
        joined = {name: np.stack([one[name] for one in found]) for name in found[0]}
        return Changes(np.array(keys, np.uint64), joined)

    def _differences(
        self, key: int, extractor: Any, kinds: Sequence[str]
    ) -> dict[str, NDArray[np.float16]]:
        """Levels of changed copies of a picture, less its own, (n_ways, ..., n_features)."""
        picture, features = self._kept[key]
        copies, size = changed_copies(picture, kinds, key), extractor.batch_size
        parts = [extractor.transform(copies[i : i + size]) for i in range(0, len(copies), size)]
        differences = {}
        for name, own in features.items():
            found = np.concatenate([part[name] for part in parts])
            differences[name] = np.clip(found - own, -_LARGEST, _LARGEST).astype(np.float16)
        return differences


def changes_arrays(changes: Changes) -> dict[str, NDArray[Any]]:
    """Name the arrays of a model file."""
    if not changes.n_images:
        return {}
    arrays = {f"changes/differences/{name}": F for name, F in changes.differences.items()}
    return {"changes/keys": changes.keys, **arrays}


def read_changes(arrays: Mapping[str, NDArray[Any]], levels: Sequence[str]) -> Changes:
    """Read what `changes_arrays` named; no changes where a file has none."""
    if "changes/keys" not in arrays:
        return Changes()
    found = {name: arrays[f"changes/differences/{name}"] for name in levels}
    return Changes(arrays["changes/keys"].astype(np.uint64), found)
