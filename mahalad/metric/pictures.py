"""Images read for a training: squares in a spool, and what could not be read."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from mahalad.images.pixels import AS_STORED, Pixels
from mahalad.images.reading import ReadImage, read_batches
from mahalad.images.resizing import resize_square
from mahalad.images.spool import Pictures


def read_pictures(
    X: Any,
    size: int,
    interpolation: str,
    *,
    batch_size: int,
    ahead: int = 0,
    pixels: Pixels = AS_STORED,
) -> tuple[Pictures, list[bool], list[ReadImage]]:
    """Read images, squashed to squares.

    Parameters
    ----------
    X : images
    size : int
        Side of the squares.
    interpolation : str
    batch_size, ahead, pixels
        As of `mahalad.images.reading.read_batches`.

    Returns
    -------
    pictures : Pictures
        The readable images, in their order.
    readable : list of bool, shape (n_images,)
        Which images could be read.
    failed : list of ReadImage
        Those that could not.
    """
    pictures, readable, failed = Pictures(), [], []

    def prepare(image: Any) -> NDArray[Any]:
        return resize_square(image, size, interpolation)

    for images in read_batches(X, prepare, batch_size=batch_size, ahead=ahead, pixels=pixels):
        for image in images:
            readable.append(image.prepared is not None)
            if image.prepared is None:
                failed.append(image)
            else:
                pictures.add(image.prepared, image.key)
    return pictures, readable, failed
