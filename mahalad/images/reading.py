"""Batches of prepared images, decoded in threads; a bad image becomes an error, not a stop."""

from __future__ import annotations

import hashlib
import os
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mahalad.errors import ImageReadError, ImageValueError, UnreadableImageWarning
from mahalad.images.decoding import open_image
from mahalad.images.sources import ImageSource, iter_sources
from mahalad.result import Result

_LAZY = threading.Lock()

Prepare = Callable[[Any], NDArray[Any]]


@dataclass(frozen=True)
class ReadImage:
    """One image as read: prepared, or the error that kept it from being so.

    `key` is a hash of the prepared pixels. Everything that must be drawn at random over images
    (folds, hold-out split, reservoir) is drawn from it, so that it does not depend on order,
    batch size or how a fit was sharded.
    """

    source: ImageSource
    prepared: NDArray[Any] | None
    key: int
    error: ImageReadError | ImageValueError | None


def read_image(source: ImageSource, prepare: Prepare, salt: int) -> ReadImage:
    """Decode and prepare one image."""
    try:
        if isinstance(source.value, Image.Image):
            with _LAZY:  # a picture opened lazily is not safe to decode twice at a time
                image = open_image(source)
        else:
            image = open_image(source)
        prepared = _prepared(image, prepare, source.name)
    except (ImageReadError, ImageValueError) as error:
        return ReadImage(source, None, 0, error)
    return ReadImage(source, prepared, content_key(prepared, salt), None)


def _prepared(image: Any, prepare: Prepare, name: str) -> NDArray[Any]:
    try:
        return prepare(image)
    except ImageValueError as error:  # it knows no name
        raise ImageValueError(f"{name}: {error}") from error


def content_key(array: NDArray[Any], salt: int) -> int:
    """Compute a 64-bit hash of an array's bytes, different for every `salt`."""
    digest = hashlib.blake2b(
        np.ascontiguousarray(array).data, digest_size=8, key=salt.to_bytes(8, "little")
    )
    return int.from_bytes(digest.digest(), "little")


def read_batches(
    X: Any, prepare: Prepare, *, batch_size: int, salt: int = 0, ahead: int = 0
) -> Iterator[list[ReadImage]]:
    """Yield images in the order of `X`, `batch_size` at a time.

    At most `ahead` further batches are held decoded while the caller works on one, so memory
    does not grow with the number of images.
    """
    sources = iter_sources(X)
    with ThreadPoolExecutor(max_workers=min(os.cpu_count() or 1, 16)) as pool:
        pending: deque[list[Future[ReadImage]]] = deque()
        try:
            while True:
                while len(pending) <= ahead:
                    batch = [
                        pool.submit(read_image, source, prepare, salt)
                        for source in islice(sources, batch_size)
                    ]
                    if not batch:
                        break
                    pending.append(batch)
                if not pending:
                    return
                yield [future.result() for future in pending.popleft()]
        finally:
            for futures in pending:
                for future in futures:
                    future.cancel()


def left_out(images: Iterable[ReadImage], *, stacklevel: int = 3) -> list[Result]:
    """Warn of the images that could not be read, and give a result with the error for each.

    Parameters
    ----------
    images : iterable of ReadImage
        Readable ones as well; nothing is said of them.
    stacklevel : int, default=3
        Of the warning: 3 blames the caller of the function that calls this one.

    Warns
    -----
    UnreadableImageWarning
        For each image that could not be read.
    """
    found = [image for image in images if image.error is not None]
    for image in found:
        text = f"left out of the fit: {image.error}"
        warnings.warn(text, UnreadableImageWarning, stacklevel=stacklevel)
    return [Result(image.source.name, error=str(image.error)) for image in found]
