"""Batches of prepared images, decoded in threads; a bad image becomes an error, not a stop.

An image in memory is decoded when it is drawn, before what it came from moves on: a camera may
write the next frame into the same buffer, and the pages of a file are one picture that changes.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mahalad.errors import ImageReadError, ImageValueError, UnreadableImageWarning
from mahalad.images.decoding import Decoded, decode
from mahalad.images.pixels import AS_STORED, Brightness, Pixels
from mahalad.images.remote import Remote
from mahalad.images.sources import ImageSource, iter_sources
from mahalad.result import Result

_log = logging.getLogger(__name__)

N_THREADS = min(os.cpu_count() or 1, 16)
AHEAD = 2
"""Batches that are decoded while a network works on one.

On the CPU decoding takes cores from the network, but only what it would take before: what is gained
is the time in which either waits, for a disk or for its slowest thread.
"""

Prepare = Callable[[Any], NDArray[Any]]


@dataclass(frozen=True)
class ReadImage:
    """One image as read: prepared, or the error that kept it from being so.

    `key` is a hash of the prepared pixels. Everything that must be drawn at random over images
    (folds, hold-out split, reservoir) is drawn from it, so that it does not depend on order,
    batch size or how a fit was sharded. `depth` and `top` are those of `Decoded`; features that
    are given, and images that could not be read, have none. `stretch` says how many times
    wider than high a pixel of the prepared image is: 1, but for squashed images not square before.
    """

    source: ImageSource
    prepared: NDArray[Any] | None
    key: int
    error: ImageReadError | ImageValueError | None
    depth: str = ""
    top: int | None = None
    stretch: float = 1.0


def read_image(
    source: ImageSource, prepare: Prepare, salt: int, pixels: Pixels = AS_STORED
) -> ReadImage:
    """Decode and prepare one image."""
    try:
        decoded = _decoded(source, pixels)
    except (ImageReadError, ImageValueError) as error:
        return _unreadable(source, error)
    return _prepare_image(source, decoded, prepare, salt)


def _unreadable(source: ImageSource, error: ImageReadError | ImageValueError) -> ReadImage:
    if source.origin:
        error = type(error)(f"{source.origin}: {error}")
    return ReadImage(source, None, 0, error)


def _decoded(source: ImageSource, pixels: Pixels) -> Decoded:
    decoded = decode(source, pixels)
    pixels.check(decoded.depth, source.name)
    return decoded


def _prepare_image(source: ImageSource, decoded: Decoded, prepare: Prepare, salt: int) -> ReadImage:
    try:
        prepared = _prepared(decoded.image, prepare, source.name)
    except (ImageReadError, ImageValueError) as error:
        return _unreadable(source, error)
    key = content_key(prepared, salt)
    stretch = _aspect(decoded.image) / _aspect(prepared)
    return ReadImage(source, prepared, key, None, decoded.depth, decoded.top, stretch)


def _aspect(image: Any) -> float:
    """Width of a picture or an array (H, W, ...) divided by its height; 1 of anything else."""
    if isinstance(image, np.ndarray):
        return float(image.shape[1] / image.shape[0]) if image.ndim > 1 else 1.0
    return image.width / image.height if isinstance(image, Image.Image) else 1.0


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
    X: Any,
    prepare: Prepare,
    *,
    batch_size: int,
    salt: int = 0,
    ahead: int = 0,
    pixels: Pixels = AS_STORED,
) -> Iterator[list[ReadImage]]:
    """Yield images in the order of `X`, `batch_size` at a time.

    `X` is drawn from in the thread that asks for batches, no further than the batches need. At most
    `ahead` further ones are held prepared while the caller works on one, and no more images than
    there are threads are held decoded, so memory does not grow with the number of images.

    Raises
    ------
    Exception
        What drawing from `X` raises, after the batches of what was drawn before.

    Warns
    -----
    UserWarning
        See `mahalad.images.pixels.Brightness`.
    """
    brightness = Brightness(pixels)
    started, n_read, n_unreadable = time.perf_counter(), 0, 0
    with ThreadPoolExecutor(max_workers=N_THREADS) as pool:
        reader = _Reader(X, prepare, salt, pixels, pool)
        pending: deque[list[Future[ReadImage]]] = deque()
        try:
            while True:
                while len(pending) <= ahead:
                    batch = reader.draw(batch_size)
                    if not batch:
                        break
                    pending.append(batch)
                if not pending:
                    break
                images = [future.result() for future in pending.popleft()]
                brightness.see((image.source.name, image.depth, image.top) for image in images)
                n_read += len(images)
                n_unreadable += sum(image.error is not None for image in images)
                for image in images:
                    _log.debug("%s: %s", image.source.name, image.error or f"read ({image.depth})")
                yield images
        finally:
            for futures in pending:
                for future in futures:
                    future.cancel()
    _log.info(
        "%d image%s read, %d not readable; %.2f s with what was done with them",
        n_read,
        "" if n_read == 1 else "s",
        n_unreadable,
        time.perf_counter() - started,
    )
    brightness.end()
    if reader.error is not None:
        raise reader.error


def prepared_batches(
    X: Any, prepare: Prepare, *, batch_size: int, ahead: int = 0, pixels: Pixels = AS_STORED
) -> Iterator[list[NDArray[Any]]]:
    """Yield prepared images as `read_batches` does; the first that cannot be read is raised.

    Raises
    ------
    ImageReadError, ImageValueError
    """
    for images in read_batches(X, prepare, batch_size=batch_size, ahead=ahead, pixels=pixels):
        for image in images:
            if image.error is not None:
                raise image.error
        yield [image.prepared for image in images if image.prepared is not None]


class _Reader:
    """Draw images and hand them to threads: files to be decoded there, all else to be prepared."""

    def __init__(
        self, X: Any, prepare: Prepare, salt: int, pixels: Pixels, pool: ThreadPoolExecutor
    ) -> None:
        self.error: Exception | None = None
        self._sources = iter_sources(X)
        self._prepare, self._salt, self._pixels, self._pool = prepare, salt, pixels, pool
        self._decoded = threading.Semaphore(N_THREADS)

    def draw(self, n: int) -> list[Future[ReadImage]]:
        """Draw up to `n` images; fewer if there are no more, or `error` has come of it."""
        drawn: list[Future[ReadImage]] = []
        while len(drawn) < n and self.error is None:
            try:
                source = next(self._sources, None)
            except Exception as error:  # whatever the user's iterator raises
                self.error = error
                break
            if source is None:
                break
            drawn.append(self._submit(source))
        return drawn

    def _submit(self, source: ImageSource) -> Future[ReadImage]:
        if isinstance(source.value, (Path, Remote)):
            return self._pool.submit(read_image, source, self._prepare, self._salt, self._pixels)
        self._decoded.acquire()
        try:
            decoded = _decoded(source, self._pixels)
        except (ImageReadError, ImageValueError) as error:
            self._decoded.release()
            return _done(_unreadable(source, error))
        future = self._pool.submit(_prepare_image, source, decoded, self._prepare, self._salt)
        future.add_done_callback(lambda _: self._decoded.release())
        return future


def _done(image: ReadImage) -> Future[ReadImage]:
    future: Future[ReadImage] = Future()
    future.set_result(image)
    return future


def depths_of(images: Iterable[ReadImage]) -> dict[str, str]:
    """How images are stored (`mahalad.images.pixels`), each with the name of the first."""
    found: dict[str, str] = {}
    for image in images:
        if image.depth:
            found.setdefault(image.depth, image.source.name)
    return found


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
