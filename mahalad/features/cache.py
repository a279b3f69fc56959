"""Keep features of images, so that nothing is computed twice: in memory, or in a folder.

An image is found by a hash of its prepared pixels. A folder also tells apart all that was done to
them: network, weights, levels, preprocessing. So an entry can be neither stale nor mixed up, and a
folder may serve many networks and processes at a time. Files are written whole or not at all, and
never changed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import warnings
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from mahalad.errors import InputError, ModelFileError, one_line
from mahalad.files.container import read_header, read_model, write_model
from mahalad.images.pixels import Pixels, pixels_of

_log = logging.getLogger(__name__)

_KIND = "feature-cache"
_OF_RECORD = re.compile("[0-9a-f]{32}")  # subfolders, as `hash_record` calls them
_ORIGIN = ("weights_source", "weights_origin")  # where equal weights came from does not matter

ImageFeatures = dict[str, NDArray[Any]]
"""Level name to the features of one image."""


class CacheWarning(UserWarning):
    """A file of the cache cannot be read or written; features are computed instead."""


class Cache(Protocol):
    """Where features are kept, image by image."""

    def find(self, key: str) -> ImageFeatures | None:
        """Give the features of the image with this key; None if they are not there."""
        ...

    def add(self, keys: Sequence[str], features: Mapping[str, NDArray[Any]]) -> None:
        """Keep the features of several images, each level (n, ...)."""
        ...


class CachedFeatures:
    """A feature extractor that computes nothing twice.

    Parameters
    ----------
    extractor : feature extractor
        Ready for use (after `build`). For a folder, it must have a `record()` of what identifies
        its features.
    folder : str, Path or None, default=None
        Where features are kept. It is made if missing, and extractors and processes may share it.
        None keeps them in memory, for as long as this object lives.

    Attributes
    ----------
    n_computed : int
        Images that were not in the cache.

    Raises
    ------
    InputError
        An extractor without a `record()`, or a folder that cannot be made or holds something else.
    """

    def __init__(self, extractor: Any, folder: str | Path | None = None) -> None:
        self._cache: Cache = MemoryCache() if folder is None else _cache_in(folder, extractor)
        self.extractor = extractor
        self.n_computed = 0
        self._levels: tuple[str, ...] = ()  # none means all

    @property
    def batch_size(self) -> int:
        """Images per pass through the extractor, as it has it now."""
        size: int = self.extractor.batch_size
        return size

    @property
    def read_ahead(self) -> int:
        """Batches to decode while the extractor works on one."""
        ahead: int = getattr(self.extractor, "read_ahead", 0)
        return ahead

    @property
    def pixels(self) -> Pixels:
        """How the extractor reads images."""
        return pixels_of(self.extractor)

    def at_levels(self, levels: Sequence[str]) -> Self:
        """Give the same extractor, with the same cache, for some of its levels, in this order."""
        part = copy(self)
        part._levels = tuple(levels)
        return part

    def __sklearn_clone__(self) -> Self:
        """Stay the same: a clone would compute everything again."""
        return self

    def build(self) -> Self:
        """Do nothing: the extractor is ready."""
        return self

    def prepare(self, image: Any) -> NDArray[Any]:
        """Prepare a decoded image as the extractor does."""
        prepared: NDArray[Any] = self.extractor.prepare(image)
        return prepared

    def transform(self, prepared: Sequence[NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Give features as the extractor's own, from the cache where they are there."""
        keys = [_key(image) for image in prepared]
        kept = {key: self._cache.find(key) for key in dict.fromkeys(keys)}
        found = {key: features for key, features in kept.items() if features is not None}
        pairs = zip(keys, prepared, strict=True)
        missing = {key: image for key, image in pairs if key not in found}
        _log.debug("%d of %d images are in the cache", len(found), len(kept))
        if missing:
            features = self.extractor.transform(list(missing.values()))
            features = {name: np.asarray(values) for name, values in features.items()}
            self.n_computed += len(missing)
            self._cache.add(list(missing), features)
            found |= _by_image(list(missing), features)
        levels = self._levels or tuple(found[keys[0]])
        return {name: np.stack([found[key][name] for key in keys]) for name in levels}


class MemoryCache:
    """Features in memory."""

    def __init__(self) -> None:
        self._features: dict[str, ImageFeatures] = {}

    def find(self, key: str) -> ImageFeatures | None:
        """Give the features of the image with this key; None if they are not there."""
        return self._features.get(key)

    def add(self, keys: Sequence[str], features: Mapping[str, NDArray[Any]]) -> None:
        """Keep the features of several images, each level (n, ...)."""
        self._features |= _by_image(keys, features)


class FolderCache:
    """Features in a folder on disk, one file for each batch.

    Parameters
    ----------
    folder : str or Path
        Made if missing; further features go into a subfolder for each record.
    record : mapping of str to object
        What identifies the features.

    Raises
    ------
    InputError
        The folder cannot be made, or has something else in it than a cache.
    """

    def __init__(self, folder: str | Path, record: Mapping[str, Any]) -> None:
        self._record = dict(record)
        self._folder = Path(folder) / hash_record(record)
        self._shard_of: dict[str, Path] = {}
        self._listed: set[Path] = set()
        self._damaged: set[Path] = set()
        self._open: tuple[Path, dict[str, int], dict[str, NDArray[Any]]] | None = None
        self._writable = True
        _check_alone(Path(folder))
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder}: no folder for a cache ({error.strerror})") from error

    def find(self, key: str) -> ImageFeatures | None:
        """Give the features of the image with this key; None if they are not there."""
        if key not in self._shard_of:
            self._list()  # another process may have written it
        shard = self._shard_of.get(key)
        if shard is None or shard in self._damaged:
            return None
        if self._open is None or self._open[0] != shard:
            try:
                self._open = (shard, *_read(shard))
            except (ModelFileError, KeyError, TypeError) as error:
                self._report_damage(shard, error)
                return None
        _, row_of, features = self._open
        return {name: values[row_of[key]] for name, values in features.items()}

    def add(self, keys: Sequence[str], features: Mapping[str, NDArray[Any]]) -> None:
        """Keep the features of several images, each level (n, ...), in one new file."""
        if not self._writable:
            return
        # Named by what it holds: of two processes with the same images, either may come last.
        name = hashlib.blake2b("".join(keys).encode(), digest_size=16).hexdigest()
        shard = self._folder / f"{name}.safetensors"
        header = {
            "kind": _KIND,
            "record": self._record,
            "keys": list(keys),
            "checksum": _checksum(features),
        }
        try:
            write_model(shard, header, dict(features))
        except ModelFileError as error:
            self._writable = False
            message = f"features are computed but not kept, the cache cannot be written: {error}"
            warnings.warn(message, CacheWarning, stacklevel=4)
            return
        self._listed.add(shard)
        self._damaged.discard(shard)
        self._shard_of |= dict.fromkeys(keys, shard)

    def _list(self) -> None:
        """Find the files that have appeared, and what they hold."""
        for shard in sorted(set(self._folder.glob("*.safetensors")) - self._listed):
            self._listed.add(shard)
            try:
                header = read_header(shard)
                keys = list(header["keys"]) if header.get("kind") == _KIND else []
            except (ModelFileError, KeyError, TypeError) as error:
                self._report_damage(shard, error)
                continue
            self._shard_of |= dict.fromkeys(keys, shard)

    def _report_damage(self, shard: Path, error: Exception) -> None:
        self._damaged.add(shard)
        warnings.warn(
            f"{shard}: ignored, a damaged file of the cache ({error}); its features are computed "
            "again, and the file can be deleted",
            CacheWarning,
            stacklevel=5,
        )


def hash_record(record: Mapping[str, Any]) -> str:
    """Hash what identifies features; where equal weights were read from does not count."""
    kept = {name: value for name, value in record.items() if name not in _ORIGIN}
    text = json.dumps(kept, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _check_alone(folder: Path) -> None:
    """Refuse a folder that is there and is no cache: one of images, say."""
    if not folder.is_dir():
        return
    strange = sorted(
        path.name
        for path in folder.iterdir()
        if not path.name.startswith(".") and not (_OF_RECORD.fullmatch(path.name) and path.is_dir())
    )
    if strange:
        raise InputError(
            f"{folder}: holds something else than a cache of features ({strange[0]}"
            f"{f' and {len(strange) - 1} more' if strange[1:] else ''}): give a folder that is "
            "empty, or is to be made"
        )


def _cache_in(folder: str | Path, extractor: Any) -> FolderCache:
    if not hasattr(extractor, "record"):
        raise InputError(
            f"features of {one_line(extractor)} cannot be cached: it has no record() of what "
            "identifies them; leave the cache out"
        )
    return FolderCache(folder, extractor.record())


def _by_image(
    keys: Sequence[str], features: Mapping[str, NDArray[Any]]
) -> dict[str, ImageFeatures]:
    """Part features of several images into those of each image, by its key."""
    return {
        key: {name: values[i] for name, values in features.items()} for i, key in enumerate(keys)
    }


def _key(prepared: NDArray[Any]) -> str:
    """Compute a 128-bit hash of a prepared image."""
    digest = hashlib.blake2b(f"{prepared.dtype}{prepared.shape}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(prepared).data)
    return digest.hexdigest()


def _checksum(features: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(features):
        digest.update(f"{name}{features[name].shape}".encode())
        digest.update(np.ascontiguousarray(features[name]).data)
    return digest.hexdigest()


def _read(shard: Path) -> tuple[dict[str, int], dict[str, NDArray[Any]]]:
    """Read the row of each key, and the levels; `ModelFileError` if the values were changed."""
    header, features = read_model(shard)
    if _checksum(features) != header["checksum"]:
        raise ModelFileError("its values are not those that were written")
    return {key: row for row, key in enumerate(header["keys"])}, features
