"""Images to embeddings: a frozen encoder, standardised features, a projection."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import PurePath
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from mahalad.arrays import originals
from mahalad.errors import InputError
from mahalad.features.cache import CachedFeatures, hash_record
from mahalad.features.extraction import Extracted, extract
from mahalad.images.reading import ReadImage
from mahalad.index.contract import Distance
from mahalad.protocols import Floats

Arrays = dict[str, NDArray[Any]]
Batch = tuple[list[ReadImage], Floats]
"""Images read, and features (n_readable, n_features) of the readable ones."""


class Embedding:
    """Turn images into embeddings: what a vector index compares.

    Parameters
    ----------
    encoder : feature extractor or None
        Ready for use (after `build`); None where features are given instead of images.
    projection : estimator or None
        Fitted by the caller, to what `standardized` gives.
    cache : str, Path or None
        Folder in which the encoder's features are kept.

    Attributes
    ----------
    level_sizes : dict of str to int
        Number of features of each level, in their order side by side; empty before the first.
    mean, scale : ndarray of shape (n_features,)
    depths : dict of str to str, or None
        How the images of the fit were stored (`mahalad.images.pixels`), each with the name of one;
        None: it is not known, in a model of an older version. Empty before a fit.
    """

    mean: Floats
    scale: Floats

    def __init__(self, encoder: Any, projection: Any, cache: Any = None) -> None:
        self.encoder = encoder
        self.projection = projection
        self.level_sizes: dict[str, int] = {}
        self.depths: Mapping[str, str] | None = {}
        self._extractor, self._cache = encoder, None
        self.use_cache(cache)

    def use_cache(self, folder: Any) -> None:
        """Keep the encoder's features in a folder from now on; None: nowhere."""
        if self.encoder is not None and folder != self._cache:
            self._extractor = self.encoder
            if folder is not None:
                self._extractor = CachedFeatures(self.encoder, folder)
            self._cache = folder

    def read(
        self, X: Any, *, batch_size: int | None = None, promptly: bool = False
    ) -> Iterator[Batch]:
        """Yield batches of decoded images, and their features; see `extract`.

        Raises
        ------
        InputError
            Features that another encoder computed (`Extracted`).
        """
        if isinstance(X, Extracted):
            yield X.images, self._side_by_side(self._checked(X)) if X.features else np.empty((0, 0))
            return
        if self._extractor is None and _are_paths(X):
            raise InputError(
                "encoder=None takes features, and these are paths: give an encoder, such as "
                "BackboneFeatures()"
            )
        for images, features in extract(
            X,
            self._extractor,
            0,
            batch_size=batch_size,
            promptly=promptly,
            fitted=self.depths or (),
        ):
            yield images, self._side_by_side(originals(features)) if features else np.empty((0, 0))

    def read_all(self, X: Any) -> tuple[list[ReadImage], Floats]:
        """Read all images (without their pixels), and features (n_readable, n_features); perhaps
        none can be read: see `check_some`."""
        images: list[ReadImage] = []
        parts = []
        for batch, F in self.read(X):
            images += [replace(image, prepared=None) for image in batch]
            parts += [F] if len(F) else []
        return images, np.concatenate(parts) if parts else np.empty((0, 0))

    def read_strictly(self, X: Any) -> tuple[list[str], Floats]:
        """Give names and features of all images, and raise the first that cannot be read."""
        names: list[str] = []
        parts = []
        for images, F in self.read(X):
            for image in images:
                if image.error is not None:
                    raise image.error
                names.append(image.source.name)
            parts.append(F)
        return names, np.concatenate(parts)

    def _checked(self, X: Extracted) -> Arrays:
        """The features of images that were read before, if this encoder computed them."""
        if self.encoder is None or hash_record(X.record) != hash_record(self.encoder.record()):
            raise InputError(
                "these features are of another encoder than the classifier's: compute them by its "
                "own"
            )
        return dict(X.features)

    def _side_by_side(self, features: Arrays) -> Floats:
        """Levels as one array (n, n_features); the same levels every time."""
        shapes = {name: values.shape for name, values in features.items()}
        if any(len(shape) != 2 for shape in shapes.values()):
            raise InputError(
                f"features must be pooled, (n, n_features) for each level, not maps: got {shapes}"
            )
        sizes = {name: shape[1] for name, shape in shapes.items()}
        self.level_sizes = self.level_sizes or sizes
        if sizes != self.level_sizes:
            raise InputError(
                f"features of sizes {sizes} by level given to a model of {self.level_sizes}"
            )
        columns = [np.asarray(features[name], dtype=np.float64) for name in self.level_sizes]
        return np.hstack(columns)

    def standardize_as(self, batches: Iterator[Floats] | list[Floats]) -> None:
        """Take mean and standard deviation of each feature over batches (n, n_features).

        Notes
        -----
        Sums of squares of parts become those of all: T. Chan, G. Golub, R. LeVeque, "Updating
        Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979, equation 2.1.
        """
        n = 0
        mean = m2 = np.zeros(1)
        for batch in batches:
            total, center = n + len(batch), batch.mean(axis=0)
            m2 = m2 + np.square(batch - center).sum(axis=0)
            m2 = m2 + np.square(center - mean) * n * len(batch) / total
            mean = mean + (center - mean) * len(batch) / total
            n = total
        if not n:
            raise InputError("none of the images that standardise the features could be read")
        scale = np.sqrt(m2 / n)
        # The deviation of a constant feature is float32 rounding, not exactly zero.
        constant = scale <= 10 * np.finfo(np.float32).eps * np.abs(mean)
        self.mean, self.scale = mean, np.where(constant, 1.0, scale)

    def standardized(self, F: Floats) -> NDArray[np.float32]:
        """Subtract the mean from features (n, n_features), and divide by standard deviations."""
        return ((F - self.mean) / self.scale).astype(np.float32)

    def project(self, Z: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute embeddings (n, n_components) of standardised features.

        Raises
        ------
        InputError
            Embeddings that are not finite.
        """
        E = np.asarray(Z if self.projection is None else self.projection.transform(Z), np.float32)
        broken = ~np.isfinite(E).all(axis=1)
        if broken.any():
            raise InputError(f"{broken.sum()} of {len(E)} embeddings are NaN or infinite")
        return E

    def embed(self, F: Floats) -> NDArray[np.float32]:
        """Compute embeddings (n, n_components) of features (n, n_features)."""
        return self.project(self.standardized(F))


def check_some(F: Floats) -> None:
    """Raise `InputError` unless there are features of at least one image."""
    if not len(F):
        raise InputError("none of the images could be read")


def embedding_distance(asked: str | None, projection: Any) -> Distance:
    """Give the distance asked for; else the projection's, or Euclidean without a projection."""
    default = "euclidean" if projection is None else projection.distance
    return cast(Distance, asked or default)


def _are_paths(X: Any) -> bool:
    first = X[0] if isinstance(X, (list, tuple)) and X else X
    return isinstance(first, (str, PurePath))


def about(embedding: Embedding) -> dict[str, Any]:
    """Say what made the vectors of an index, as JSON: embeddings with another must not be mixed."""
    encoder, projection = embedding.encoder, embedding.projection
    digest = hashlib.sha256(repr(list(embedding.level_sizes.items())).encode())
    arrays = {"mean": embedding.mean, "scale": embedding.scale}
    if encoder is not None:
        digest.update(hash_record(encoder.record()).encode())
    if projection is not None:
        digest.update(str(projection.distance).encode())
        arrays |= {f"projection/{n}": values for n, values in projection.state()[1].items()}
    for name in sorted(arrays):
        digest.update(f"{name}{arrays[name].dtype}{arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return {"encoder": _encoder_name(encoder), "fingerprint": digest.hexdigest()[:32]}


def _encoder_name(encoder: Any) -> str | None:
    if encoder is None:
        return None
    return str(encoder.record().get("backbone", type(encoder).__name__))
