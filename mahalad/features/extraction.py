"""Read images (or features) in batches, and extract the features of those that are readable."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mahalad.checks import BATCH_SIZE, check_parameters
from mahalad.errors import InputError
from mahalad.images.augment import augmented_copies, quarter_turns
from mahalad.images.pixels import pixels_of
from mahalad.images.reading import ReadImage, content_key, read_batches
from mahalad.images.sources import ImageSource, is_stream

Batch = tuple[list[ReadImage], dict[str, NDArray[Any]]]
"""Images read, and level name to features (n_good, n_copies, n_features) of the readable ones."""


@dataclass(frozen=True, eq=False)
class Extracted:
    """Images that were read before, perhaps elsewhere, and their features.

    Attributes
    ----------
    images : list of ReadImage
        Without their pixels; also those that could not be read.
    features : dict of str to ndarray of shape (n_readable, n_features)
        By level; none where no image could be read.
    record : mapping
        What identifies the features: the extractor's `record()`.
    """

    images: list[ReadImage]
    features: Mapping[str, NDArray[Any]]
    record: Mapping[str, Any]


def extract(
    X: Any,
    extractor: Any,
    salt: int,
    n_augment: int = 0,
    *,
    turned: bool = False,
    batch_size: int | None = None,
    promptly: bool = False,
    fitted: Iterable[str] = (),
) -> Iterator[Batch]:
    """Yield batches of images with their features.

    Parameters
    ----------
    X : images, or features where `extractor` is None
    extractor : feature extractor or None
    salt : int
        Salt of the images' content hashes.
    n_augment : int
        Augmented copies of each image, after the image itself.
    turned : bool, default=False
        Whether each image is followed by its `quarter_turns`, before augmented copies.
    batch_size : int, optional
        Images in a batch, instead of the extractor's own number.
    promptly : bool, default=False
        Of a stream (see `is_stream`), yield what is there before more is drawn: one image, or as
        many as `batch_size` says.
    fitted : iterable of str
        How the images of the fit were stored (`mahalad.images.pixels`), where that is known.
    """
    if batch_size is not None:
        check_parameters({"batch_size": BATCH_SIZE}, {"batch_size": batch_size})
    if extractor is None:
        yield from_arrays(X, salt)
        return
    check_parameters({"batch_size": BATCH_SIZE}, extractor)  # set_params may have changed it
    size, ahead = extractor.batch_size, getattr(extractor, "read_ahead", 0)
    if promptly and is_stream(X):
        size, ahead = 1, 0
    if batch_size is not None:
        size = batch_size
    pixels = replace(pixels_of(extractor), fitted=frozenset(fitted))
    batches = read_batches(
        X, extractor.prepare, batch_size=size, salt=salt, ahead=ahead, pixels=pixels
    )
    for images in batches:
        good = [
            (image.prepared, image.key, image.stretch)
            for image in images
            if image.prepared is not None
        ]
        if not good:
            yield images, {}
            continue
        passes = [[prepared for prepared, *_ in good]]
        copies = [
            [
                *(quarter_turns(prepared, stretch) if turned else ()),
                *augmented_copies(prepared, n_augment, key),
            ]
            for prepared, key, stretch in good
        ]
        passes += [list(one_pass) for one_pass in zip(*copies, strict=True)]
        extracted = [extractor.transform(one_pass) for one_pass in passes]
        yield images, {n: np.stack([e[n] for e in extracted], axis=1) for n in extracted[0]}


def from_arrays(X: Any, salt: int) -> tuple[list[ReadImage], dict[str, NDArray[Any]]]:
    """Take features as they are given: one "image" a row, each level (n, 1, D), or maps.

    Raises
    ------
    InputError
        Images, or levels without a name, of another shape, of different lengths, or not finite.
    """
    _refuse_images(X)
    levels = X if isinstance(X, Mapping) else {"features": X}
    if not all(isinstance(name, str) for name in levels):
        raise InputError(f"levels must be named by strings, got {list(levels)}")
    arrays = {name: np.atleast_2d(np.asarray(values)) for name, values in levels.items()}
    shapes = {name: array.shape for name, array in arrays.items()}
    if not arrays or any(a.ndim not in (2, 4) or not len(a) for a in arrays.values()):
        raise InputError(
            "features must be arrays (n_samples, n_features), or maps (n_samples, height, width, "
            f"n_features), got {shapes}"
        )
    if len({len(array) for array in arrays.values()}) > 1:
        raise InputError(f"levels differ in their number of samples: {shapes}")
    for name, array in arrays.items():
        if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
            raise InputError(f"features of {name!r} must be finite numbers ({array.dtype})")
    images = []
    for i, values in enumerate(next(iter(arrays.values()))):
        # Hashed as float64 whatever is given; not kept, since maps have 200,000 numbers an image.
        row = np.concatenate([arrays[n][i].astype(np.float64).ravel() for n in sorted(arrays)])
        source = ImageSource(f"X[{i}]", None, values)
        images.append(ReadImage(source, values, content_key(row, salt), None))
    return images, {name: array[:, None] for name, array in arrays.items()}


def _refuse_images(X: Any) -> None:
    """Refuse paths and pictures where features are to be given."""
    first = next(iter(X), None) if isinstance(X, (list, tuple)) else X
    if isinstance(first, (str, os.PathLike, Image.Image)):
        raise InputError(
            f"images are given ({type(first).__name__}), and there is no feature extractor: give "
            "arrays of features, as BackboneFeatures().build().transform(images) does"
        )
