"""The region of interest: which part of the images is inspected."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mahalad.errors import InputError
from mahalad.images.decoding import open_image
from mahalad.images.geometry import fit_to_square, pad_to_square
from mahalad.images.resizing import resize_square
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
    to_shape = fit_to_square if resize == "pad" else resize_square
    grey = to_shape(picture, size, "bilinear")
    half = 127.5 if grey.dtype == np.uint8 else 0.5
    inside: NDArray[np.bool_] = grey.mean(axis=2) > half
    region = pad_to_square(inside, size, mode="constant")
    if not region.any():
        raise InputError(
            f"region of interest {name}: covers nothing; white marks what is inspected"
        )
    return region


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
