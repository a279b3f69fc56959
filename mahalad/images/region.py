"""The region of interest: which part of the images is inspected, and that nothing else counts.

A region is kept on the network's square, and a pixel of the square is inside if no part of it is
black in the picture that was given. A pixel of an image, of any size, is inside if its centre lies
in a pixel of the square that is. So all pixels of an image whose centre is black in the picture of
the region, laid over the image, are outside (padded: if both have the same shape on the square).
White ones are outside as well where a pixel of the square covers them and black.

All pixels outside get the network's mean colour, to 8 bits: before an image is resized, since
resizing mixes neighbours, and on the square once more, since a pixel of a small image covers
several of its pixels, and augmented copies are moved and lit. Such copies may have a rim of that
colour inside, as wide as the shift; of what was outside nothing is left.

Pixels are those of the decoded image. What a lossy compression has carried over an edge before that
is in the image, and counts.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mahalad.errors import InputError
from mahalad.images.decoding import open_image
from mahalad.images.geometry import fitted_shape, pad_to_square
from mahalad.images.sources import ImageSource


def read_region(roi: Any, size: int, resize: str = "squash") -> NDArray[np.bool_]:
    """Read a region of interest and bring it to the square that images are brought to.

    Parameters
    ----------
    roi : str, Path, PIL image or array
        A picture: white (above half) = inspect; or an array of bool, (H, W), True = inspect.
    size : int
    resize : {"squash", "pad"}, default="squash"
        Padding is not inspected.

    Returns
    -------
    ndarray of bool, shape (size, size)
        True where all of a pixel is to be inspected.

    Raises
    ------
    InputError
        No such picture, or a region that covers nothing.
    """
    if isinstance(roi, np.ndarray) and roi.dtype == bool:
        roi = roi.astype(np.uint8) * np.uint8(255)
    name = str(roi) if isinstance(roi, (str, Path)) else "roi"
    is_path = isinstance(roi, (str, Path))
    try:
        picture = open_image(
            ImageSource(name, Path(roi) if is_path else None, Path(roi) if is_path else roi)
        )
    except (OSError, ValueError) as error:
        raise InputError(f"region of interest: {error}") from error
    values = np.asarray(picture)
    grey = values.mean(axis=2) if values.ndim == 3 else values
    white = grey > (127.5 if values.dtype == np.uint8 else 0.5)
    inside = _wholly_inside(white, fitted_shape(picture, size, resize))
    region = pad_to_square(inside, size, mode="constant")
    if not region.any():
        found = f"no whole pixel of {size} x {size}" if white.any() else "nothing"
        raise InputError(
            f"region of interest {name}: covers {found}; white marks what is inspected"
        )
    return region


def _wholly_inside(white: NDArray[np.bool_], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Find the cells of a grid, (height, width), no part of which is black: exact, in integers."""
    black = np.pad(~white, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)  # above and to the left
    (top, bottom), (left, right) = (
        (np.arange(size) * n // size, -(-np.arange(1, size + 1) * n // size))
        for n, size in zip(white.shape, shape, strict=True)
    )
    over, under = black[top], black[bottom]
    n_black = under[:, right] - under[:, left] - over[:, right] + over[:, left]
    return np.asarray(n_black == 0)


def region_on_grid(region: NDArray[np.bool_], side: int) -> NDArray[np.bool_]:
    """Find the positions of a grid of side x side that lie in the region by at least half.

    Raises
    ------
    InputError
        There is none: the region is smaller than the grid's positions.
    """
    picture = Image.fromarray(region.astype(np.float32))
    inside = np.asarray(picture.resize((side, side), Image.Resampling.BOX)) >= 0.5
    if not inside.any():
        raise InputError(
            f"region of interest: covers no position of a {side} x {side} feature map by half; "
            "give a larger region or input_size"
        )
    return np.asarray(inside)


def hash_region(region: NDArray[np.bool_]) -> str:
    """Hash a region's pixels (SHA-256)."""
    return hashlib.sha256(np.packbits(region).tobytes()).hexdigest()
