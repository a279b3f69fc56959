"""What harmless changes do to the features of some images of a fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mahalad.errors import ModelFileError
from mahalad.images.changes import changed_copies
from mahalad.protocols import Features, Value

N_CHANGED = 8
"""Images of a fit of which changed copies are made, those of the lowest `ranks`."""

_LARGEST = float(np.finfo(np.float16).max)
_MIXING = np.uint64(0x9E3779B97F4A7C15)  # odd: multiplication by it permutes 64-bit numbers


def ranks(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Order images by their hashes, but not as hold-out split and reservoir do."""
    return np.asarray(keys * _MIXING)


@dataclass(frozen=True, eq=False)
class Changes(Value):
    """Differences between the features of changed copies of some images, and of these.

    The images are those of the lowest ranks. So they do not depend on the order in which images
    came, and those of two fits together are those of the fit to the images of both.

    Attributes
    ----------
    keys : ndarray of uint64, shape (n,)
        Hashes of the images' content, in the order of their ranks.
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
        """Images of this rank and higher ones do not matter; None while there is room."""
        return int(ranks(self.keys)[-1]) if len(self.keys) >= N_CHANGED else None

    def merged(self, other: Changes) -> Changes:
        """Those of the images of both."""
        if not (self.n_images and other.n_images):
            return self if self.n_images else other
        keys, first = np.unique(np.concatenate([self.keys, other.keys]), return_index=True)
        order = np.argsort(ranks(keys))[:N_CHANGED]
        chosen = first[order]
        joined = {
            name: np.concatenate([values, other.differences[name]])[chosen]
            for name, values in self.differences.items()
        }
        return Changes(keys[order], joined)

    def without(self, keys: NDArray[np.uint64]) -> Changes:
        """Those of the images that are not among `keys`."""
        kept = ~np.isin(self.keys, keys)
        if kept.all():
            return self
        if not kept.any():
            return Changes()
        rest = {name: values[kept] for name, values in self.differences.items()}
        return Changes(self.keys[kept], rest)

    def places(self, keys: NDArray[np.uint64]) -> NDArray[np.intp]:
        """Places among these of the images with some `keys` (n,), -1 for others."""
        found = self.keys == keys[:, None]
        return np.where(found.any(axis=1), found.argmax(axis=1), -1)

    @property
    def rows(self) -> Features:
        """Differences one below the other, each level (n * n_ways, ..., n_features)."""
        return {name: F.reshape(-1, *F.shape[2:]) for name, F in self.differences.items()}


class Pictures:
    """Pictures of the lowest ranks among those that are shown, as they were prepared."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._kept: dict[int, _Picture] = {}  # by rank

    def see(self, key: int, prepared: Any, features: Features) -> None:
        """Keep a picture, and its features by level, if it is one of them."""
        rank = int(ranks(np.array(key, np.uint64)))
        highest = max(self._kept) if len(self._kept) == N_CHANGED else self._limit
        if rank in self._kept or (highest is not None and rank >= highest):
            return
        own = {name: values.copy() for name, values in features.items()}
        self._kept[rank] = _Picture(key, prepared, own)
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
        pictures = [self._kept[rank] for rank in sorted(self._kept)]
        found = [_differences(picture, extractor, kinds) for picture in pictures]
        joined = {name: np.stack([one[name] for one in found]) for name in found[0]}
        return Changes(np.array([picture.key for picture in pictures], np.uint64), joined)


@dataclass(frozen=True)
class _Picture:
    """An image as prepared, with its key and its features by level."""

    key: int
    prepared: Any
    features: Features


def _differences(
    picture: _Picture, extractor: Any, kinds: Sequence[str]
) -> dict[str, NDArray[np.float16]]:
    """Levels of changed copies of a picture, less its own, (n_ways, ..., n_features)."""
    copies, size = changed_copies(picture.prepared, kinds, picture.key), extractor.batch_size
    parts = [extractor.transform(copies[i : i + size]) for i in range(0, len(copies), size)]
    differences = {}
    for name, own in picture.features.items():
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
    """Read what `changes_arrays` named; no changes where a file has none.

    Raises
    ------
    ModelFileError
        The images are not in the order of their ranks.
    """
    if "changes/keys" not in arrays:
        return Changes()
    keys = arrays["changes/keys"].astype(np.uint64)
    if not (np.diff(ranks(keys).astype(object)) > 0).all():
        raise ModelFileError(
            "the model file is damaged (changes/keys are not in the order of their ranks)"
        )
    return Changes(keys, {name: arrays[f"changes/differences/{name}"] for name in levels})
