"""Features of images, computed once and kept on disk.

An entry is found by the pixels that went in and by all that was done to them: network, weights,
levels, preprocessing. So it can be neither stale nor mixed up, and a folder may serve many
networks and processes at a time. Files are written whole or not at all, and never changed.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mahalad.errors import InputError, ModelFileError
from mahalad.files.container import read_header, read_model, write_model

_KIND = "feature-cache"
_ORIGIN = ("weights_source", "weights_origin")  # where equal weights came from does not matter


class CacheWarning(UserWarning):
    """A file of the cache cannot be read or written; features are computed instead."""


class CachedFeatures:
    """A feature extractor that computes nothing twice.

    Parameters
    ----------
    extractor : feature extractor
        Ready for use (after `build`), with a `record()` of what identifies its features.
    folder : str or Path
        Made if missing. May be shared by extractors and by processes.

    Attributes
    ----------
    n_computed : int
        Images that were not in the cache.
    """

    def __init__(self, extractor: Any, folder: str | Path) -> None:
        if not hasattr(extractor, "record"):
            raise InputError(
                f"features of {extractor!r} cannot be cached: it has no record() of what "
                "identifies them; leave the cache out"
            )
        self.extractor = extractor
        self.batch_size: int = extractor.batch_size
        self.read_ahead: int = getattr(extractor, "read_ahead", 0)
        self.record_key = hash_record(extractor.record())
        self.folder = Path(folder) / self.record_key
        self.n_computed = 0
        self._shard_of: dict[str, Path] = {}
        self._listed: set[Path] = set()
        self._damaged: set[Path] = set()
        self._open: tuple[Path, dict[str, int], dict[str, NDArray[Any]]] | None = None
        self._writable = True
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder}: no folder for a cache ({error.strerror})") from error

    def build(self) -> Self:
        """Nothing to do: the extractor is ready."""
        return self

    def prepare(self, image: Any) -> NDArray[Any]:
        """As the extractor's own."""
        prepared: NDArray[Any] = self.extractor.prepare(image)
        return prepared

    def transform(self, prepared: Sequence[NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Features as the extractor's own, from the cache where they are there."""
        keys = [_key(image) for image in prepared]
        found = {key: row for key in dict.fromkeys(keys) if (row := self._look_up(key)) is not None}
        pairs = zip(keys, prepared, strict=True)
        missing = {key: image for key, image in pairs if key not in found}
        if missing:
            features = self.extractor.transform(list(missing.values()))
            features = {name: np.asarray(values) for name, values in features.items()}
            self.n_computed += len(missing)
            self._write(list(missing), features)
            for i, key in enumerate(missing):
                found[key] = {name: values[i] for name, values in features.items()}
        return {name: np.stack([found[key][name] for key in keys]) for name in found[keys[0]]}

    def _look_up(self, key: str) -> dict[str, NDArray[Any]] | None:
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

    def _list(self) -> None:
        """Find the files that have appeared, and what they hold."""
        for shard in sorted(set(self.folder.glob("*.safetensors")) - self._listed):
            self._listed.add(shard)
            try:
                header = read_header(shard)
                keys = list(header["keys"]) if header.get("kind") == _KIND else []
            except (ModelFileError, KeyError, TypeError) as error:
                self._report_damage(shard, error)
                continue
            self._shard_of |= dict.fromkeys(keys, shard)

    def _write(self, keys: list[str], features: Mapping[str, NDArray[Any]]) -> None:
        if not self._writable:
            return
        # Named by what it holds: of two processes with the same images, either may come last.
        name = hashlib.blake2b("".join(keys).encode(), digest_size=16).hexdigest()
        shard = self.folder / f"{name}.safetensors"
        header = {
            "kind": _KIND,
            "record": self.extractor.record(),
            "keys": keys,
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

    def _report_damage(self, shard: Path, error: Exception) -> None:
        self._damaged.add(shard)
        warnings.warn(
            f"{shard}: ignored, a damaged file of the cache ({error}); its features are computed "
            "again, and the file can be deleted",
            CacheWarning,
            stacklevel=5,
        )


def hash_record(record: Mapping[str, Any]) -> str:
    """Hash of what identifies features; where equal weights were read from does not count."""
    kept = {name: value for name, value in record.items() if name not in _ORIGIN}
    text = json.dumps(kept, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _key(prepared: NDArray[Any]) -> str:
    """128-bit hash of a prepared image."""
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
    """Row of each key, and the levels; `ModelFileError` unless the values are as written."""
    header, features = read_model(shard)
    if _checksum(features) != header["checksum"]:
        raise ModelFileError("its values are not those that were written")
    return {key: row for row, key in enumerate(header["keys"])}, features
