"""Read the masks of defects, and lay them over their images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from mahalad.errors import EmptyMaskError, InputError
from mahalad.evaluation.images import Booleans
from mahalad.images.orientation import turn_of
from mahalad.images.searching import search_folder

_SIDEWAYS = frozenset(
    {
        Image.Transpose.TRANSPOSE,
        Image.Transpose.TRANSVERSE,
        Image.Transpose.ROTATE_90,
        Image.Transpose.ROTATE_270,
    }
)
_MOST_LABELS = 8
"""Up to so many values beside 0 are labels of defects; more are shades."""


def read_mask(path: str | os.PathLike[str], shape: tuple[int, int] | None = None) -> Booleans:
    """Read the mask of one image's defects.

    Parameters
    ----------
    path : str or PathLike
        An image of 1, 8 or 16 bits a channel, or of floats in [0, 1]. Palettes are expanded. Or a
        folder of such images: they are united.
    shape : tuple of int, optional
        Height and width that the mask must have.

    Returns
    -------
    ndarray of bool, shape (H, W)
        True where the value is not 0, if there are up to 8 values beside 0: black and white, 0 and
        1, a number for each kind of defect. With more of them, or without 0, they are shades, and
        it is True where the value is above half of the range (above 127 of 255). In colour the
        largest channel counts. What is transparent counts as black. The EXIF orientation is
        applied.

    Raises
    ------
    InputError
        The file cannot be read, or the mask has another size or no defect pixel.
    """
    name = os.fspath(path)
    mask = _united(name) if os.path.isdir(name) else _marked(*_values(name))
    if shape is not None and mask.shape != tuple(shape):
        raise InputError(
            f"{name}: this mask is {_size(mask.shape)} pixels (height x width), and its image "
            f"{_size(shape)}; give the mask of that image, in its size"
        )
    if not mask.any():
        raise EmptyMaskError(
            f"{name}: this mask is empty: it marks no pixel; make the defect white and all else "
            "black, or leave image and mask out"
        )
    return mask


def read_mask_of(
    image: str | os.PathLike[str], mask: str | os.PathLike[str]
) -> tuple[Booleans, bool]:
    """Read a mask, and turn it as its image is turned.

    Parameters
    ----------
    image : str or PathLike
        File of the image. Its header alone is read.
    mask : str or PathLike
        As of `read_mask`.

    Returns
    -------
    mask : ndarray of bool, shape (H, W)
        In the size of the image as it is seen: upright, by its EXIF orientation. A mask that fits
        the picture only as it is stored is turned like it.
    is_certain : bool
        False where the image is turned, and the mask would fit it either way, and does not say
        which: it is taken to be drawn on the upright picture.

    Raises
    ------
    InputError
        As of `read_mask`; the mask fits the image neither as stored nor upright.
    """
    stored, upright, turn = shapes_of(image)
    marked = read_mask(mask)
    if marked.shape == upright:
        fits_both = turn is not None and stored == upright
        return marked, not fits_both or _is_turned(mask)
    if marked.shape == stored and turn is not None and not _is_turned(mask):
        turned = Image.fromarray(marked.astype(np.uint8)).transpose(turn)
        return np.asarray(turned).astype(bool), True
    as_stored = "" if stored == upright else f" as it is seen, and {_size(stored)} as it is stored"
    raise InputError(
        f"{os.fspath(mask)}: this mask is {_size(marked.shape)} pixels (height x width), and its "
        f"image {os.fspath(image)} {_size(upright)}{as_stored}; give the mask of that image, in "
        "its size"
    )


def shapes_of(
    image: str | os.PathLike[str],
) -> tuple[tuple[int, int], tuple[int, int], Image.Transpose | None]:
    """Give an image's height and width as stored and upright, and what turns it; reads its header.

    Raises
    ------
    InputError
        The file cannot be read.
    """
    try:
        with Image.open(image) as opened:
            width, height = opened.size
            turn = turn_of(opened)
    except OSError as error:
        raise InputError(f"{os.fspath(image)}: cannot be read ({error})") from error
    stored = (height, width)
    return stored, ((width, height) if turn in _SIDEWAYS else stored), turn


def _is_turned(mask: str | os.PathLike[str]) -> bool:
    """Whether a mask has an EXIF orientation of its own, so that it was upright when read."""
    return not os.path.isdir(mask) and shapes_of(mask)[2] is not None


def _united(folder: str) -> Booleans:
    """Unite the masks in a folder."""
    paths = search_folder(folder).images
    if not paths:
        raise InputError(f"{folder}: no masks in this folder")
    united: Booleans | None = None
    for path in paths:
        mask = _marked(*_values(str(path)))
        if united is not None and united.shape != mask.shape:
            raise InputError(
                f"{path}: this mask is {_size(mask.shape)} pixels (height x width), and "
                f"{Path(paths[0]).name} beside it {_size(united.shape)}: they are of one image"
            )
        united = mask if united is None else united | mask
    assert united is not None
    return united


def _marked(values: NDArray[Any], top: float) -> Booleans:
    """Mark what is a defect, of values (H, W) in a range from 0 to `top`."""
    levels = np.unique(values)
    is_labels = levels[0] == 0 and len(levels) <= _MOST_LABELS + 1
    return np.asarray(values > (0 if is_labels else top / 2), bool)


def _values(name: str) -> tuple[NDArray[Any], float]:
    """Read values of shape (H, W), and the upper end of their range."""
    try:
        return _read_values(name)
    except Exception as error:  # damaged files make Pillow raise almost any type
        said = error.strerror if isinstance(error, OSError) else None
        reason = said or str(error) or type(error).__name__
        raise InputError(
            f"{name}: cannot be read as a mask: {reason}; give an image that is white where "
            "the defect is and black elsewhere"
        ) from error


def _read_values(name: str) -> tuple[NDArray[Any], float]:
    with Image.open(name) as opened:
        picture = ImageOps.exif_transpose(opened)
        if picture.mode.startswith("I"):  # "I;16", "I;16B", ..., "I"
            return np.asarray(picture), 65535.0
        if picture.mode == "F":
            return np.asarray(picture), 1.0
        if picture.has_transparency_data:
            layered = picture.convert("RGBA")
            picture = Image.new("RGB", layered.size)
            picture.paste(layered, mask=layered)
        # Luminance would lose the masks in red and blue.
        return np.asarray(picture.convert("RGB")).max(axis=2), 255.0


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
