"""From what the caller gives (files, folders, PIL images, arrays) to decoded, square images.

Three pure steps, used alike by fit, score, the command line, export and benchmark:

    iter_sources(X)        what there is, lazily, in a fixed order
    open_image(source)     8-bit RGB picture, or float32 array in [0, 1] for deeper images
    resize_square(image)   (size, size, 3); `geometry` has the way that keeps aspects
"""

from __future__ import annotations

import os
import re
import stat
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from mahalad.errors import (
    ImageReadError,
    ImageValueError,
    InputError,
    MahaladError,
    SeveralPagesWarning,
)
from mahalad.images.layout import Layout, layout_of
from mahalad.images.orientation import turn_of, upright_of
from mahalad.images.pages import pages_of, turn_to
from mahalad.images.pixels import AS_STORED, EIGHT, FLOATS, SIXTEEN, STATED, Pixels
from mahalad.images.remote import Remote
from mahalad.images.sources import ImageSource, describe_missing, fetched
from mahalad.images.transparency import array_on_white, picture_on_white
from mahalad.protocols import FloatImage


@dataclass(frozen=True)
class Decoded:
    """An image, and how it was stored.

    Attributes
    ----------
    image : PIL.Image.Image or ndarray
        As `open_image` gives it.
    depth : str
        One of `EIGHT`, `SIXTEEN`, `STATED` and `FLOATS` of `mahalad.images.pixels`.
    top : int or None
        The highest value, of an image whose depth is `SIXTEEN`, where it is known.
    """

    image: Image.Image | FloatImage
    depth: str
    top: int | None = None


def open_image(source: ImageSource, pixels: Pixels = AS_STORED) -> Image.Image | FloatImage:
    """Decode one image by fixed rules.

    Parameters
    ----------
    source : ImageSource
        From `iter_sources`. A PIL image in memory is neither changed nor closed.
    pixels : Pixels, optional
        What is known of pixels beyond what the source says: how many of 16 bits are used, and the
        order of the colours in arrays.

    Returns
    -------
    PIL.Image.Image or ndarray of float32, shape (H, W, 3) or (H, W), in [0, 1]
        An "RGB" picture where the source has up to 8 bits a channel, an array where it has more.

    Raises
    ------
    ImageReadError
        The file is missing, empty, not an image, damaged, or larger than
        `PIL.Image.MAX_IMAGE_PIXELS`. The message begins with the name of the file.
    ImageValueError
        The shape, type or range of the values is not usable.

    Warns
    -----
    UserWarning
        Alpha is 0 everywhere, or an EXIF block cannot be read.

    Notes
    -----
    * The EXIF orientation is applied; an EXIF block that cannot be read is warned of, and the
      picture taken as it is stored. Of a file with several pages, the first one is taken, with a
      `SeveralPagesWarning`, unless the source names a page.
    * Grey is repeated in three channels; palettes are expanded; one-bit images become 0 and 255;
      CMYK, YCbCr, LAB and HSV are converted by Pillow.
    * Alpha, palette or colour-key transparency is composited on white. Alpha that is 0 everywhere
      is a channel that nobody used, and ignored.
    * 16-bit grey and uint16 arrays are divided by 65535, or by 2^bits - 1 where `pixels` says so.
      PGM files and TIFFs of 12 bits state their maximum. Of TIFFs whose grey counts from white to
      black, the values are inverted.
    * Floats must be finite and in [0, 1]; mode "I" (32-bit integers) in 0..65535.
    * Of files with 16 bits a channel in colour (or grey with alpha), Pillow gives the upper 8 bits.
    * Files that Pillow misreads are refused: see `mahalad.images.layout`, and docs/images.md.
    * Arrays: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) with alpha; bool, uint8, uint16 or float.
      Red comes first, or blue where `pixels` says so (OpenCV).
    """
    return decode(source, pixels).image


def decode(source: ImageSource, pixels: Pixels = AS_STORED) -> Decoded:
    """Decode one image as `open_image` does, and say how it was stored."""
    value, name = source.value, source.name
    if isinstance(value, np.ndarray):
        return _decode_array(value, name, pixels)
    try:
        if isinstance(value, Image.Image):
            return _decode_opened(value, name, pixels, keep=True)
        if isinstance(value, Remote):
            return _decode_content(fetched(value), name, source.page, pixels)
        return _decode_file(value, name, source.page, pixels)
    except MahaladError:
        raise
    except PermissionError as error:
        raise ImageReadError(f"{name}: no permission to read this file") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        found = re.search(r"(\d+) pixels", str(error))
        raise ImageReadError(_too_large(name, int(found[1]) if found else None)) from error
    except Exception as error:  # damaged files make Pillow raise almost any type
        reason = str(error) or type(error).__name__
        raise ImageReadError(f"{name}: cannot be decoded: {reason}") from error


def as_opened(image: Any, pixels: Pixels = AS_STORED) -> Image.Image | FloatImage:
    """Take an image as `open_image` gives it as it is; decode any other by the same rules.

    Parameters
    ----------
    image : PIL.Image.Image or ndarray
        An array of float32 is one that `open_image` gave: red comes first.
    pixels : Pixels, optional
        As of `open_image`.

    Raises
    ------
    InputError
        It is no image in memory.
    ImageReadError, ImageValueError
        As of `open_image`.
    """
    if isinstance(image, Image.Image):
        is_rgb = image.mode == "RGB" and not image.has_transparency_data
        if is_rgb and layout_of(image).fault is None and turn_of(image, warn=False) is None:
            return image
    elif isinstance(image, np.ndarray):
        if image.dtype == np.float32 and image.ndim in (2, 3) and image.shape[2:] in ((), (3,)):
            return image  # `resize_image` looks at the values
    else:
        raise InputError(
            f"an image in memory is asked for (a PIL image or an array), not {type(image).__name__}"
            "; a file is one by open_image(next(iter_sources(path))), of mahalad.images"
        )
    return open_image(ImageSource("image", None, image), pixels)


def _decode_file(path: Path, name: str, page: int | None, pixels: Pixels) -> Decoded:
    _check_file(path, name)
    with open(path, "rb") as file:
        return _decode_content(file, name, page, pixels)


def _decode_content(file: BinaryIO, name: str, page: int | None, pixels: Pixels) -> Decoded:
    try:
        picture = Image.open(file)
    except UnidentifiedImageError as error:
        file.seek(0)
        start = file.read(24)
        what = f"not an image that Pillow can read; its first bytes are {start!r}"
        raise ImageReadError(f"{name}: {what if start else 'is empty (0 bytes)'}") from error
    with picture:
        _check_size(picture, name)
        _turn_to(picture, name, page)
        return _decode_opened(picture, name, pixels)


def _turn_to(picture: Image.Image, name: str, page: int | None) -> None:
    """Turn to a page; without a number, say where there are others than the first."""
    if page is None:
        n_pages = len(pages_of(picture))
        if n_pages > 1:
            warnings.warn(SeveralPagesWarning(name, n_pages), stacklevel=6)
        return
    try:
        turn_to(picture, page)
    except EOFError as error:
        n_pages = len(pages_of(picture))
        raise ImageReadError(f"{name}: there is no page {page}: the file has {n_pages}") from error
    _check_size(picture, name)


def _check_size(picture: Image.Image, name: str) -> None:
    pixels = picture.width * picture.height
    if Image.MAX_IMAGE_PIXELS is not None and pixels > Image.MAX_IMAGE_PIXELS:
        raise ImageReadError(_too_large(name, pixels))


def _decode_opened(
    picture: Image.Image, name: str, pixels: Pixels, *, keep: bool = False
) -> Decoded:
    """Load and decode a picture; with `keep`, it is the caller's and stays as it is."""
    layout = layout_of(picture)
    if layout.fault is not None:
        raise ImageReadError(f"{name}: is {layout.fault}")
    picture.load()
    upright = upright_of(picture, name)
    if keep and upright is picture:
        upright = picture.copy()
    return _decode_picture(upright, name, layout, pixels)


def _check_file(path: Path, name: str) -> None:
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ImageReadError(describe_missing(name)) from error
    if stat.S_ISDIR(status.st_mode):
        _check_listed(path, name)
        raise ImageReadError(f"{name}: is a folder, not an image file")
    if not stat.S_ISREG(status.st_mode):
        raise ImageReadError(f"{name}: is not a regular file")
    if status.st_size == 0:
        raise ImageReadError(f"{name}: is empty (0 bytes)")


def _check_listed(folder: Path, name: str) -> None:
    try:
        os.scandir(folder).close()
    except OSError as error:
        raise ImageReadError(
            f"{name}: folder cannot be listed: {error.strerror}; what images it holds is not known"
        ) from error


def _too_large(name: str, pixels: int | None) -> str:
    size = "too many" if pixels is None else f"{pixels / 1e6:.4g}"
    return (
        f"{name}: holds {size} megapixels, more than the limit of"
        f" {(Image.MAX_IMAGE_PIXELS or 0) / 1e6:.4g}; where the file can be trusted, raise it:"
        f" --max-pixels {pixels or 'N'} on the command line, PIL.Image.MAX_IMAGE_PIXELS in Python"
    )


def _decode_picture(picture: Image.Image, name: str, layout: Layout, pixels: Pixels) -> Decoded:
    if 0 in picture.size:
        raise ImageValueError(f"{name}: picture of size {picture.size}; allowed is 1 x 1 or more")
    if picture.mode.startswith("I"):  # "I;16", "I;16B", ..., "I"
        return _decode_integers(picture, name, layout, pixels)
    if picture.mode == "F":
        values = _checked_unit_range(np.asarray(picture), name)
        return Decoded(1 - values if layout.white_is_zero else values, FLOATS)
    top = _top_of_upper_bits(picture, name, pixels) if layout.has_upper_bits else None
    depth = SIXTEEN if layout.has_upper_bits else EIGHT
    if layout.key_scale > 1:
        picture.info["transparency"] *= layout.key_scale
    if picture.has_transparency_data:
        return Decoded(
            picture_on_white(picture, name, loses_colour=layout.loses_colour), depth, top
        )
    return Decoded(picture if picture.mode == "RGB" else picture.convert("RGB"), depth, top)


def _decode_integers(picture: Image.Image, name: str, layout: Layout, pixels: Pixels) -> Decoded:
    integers = np.asarray(picture)
    low, high = int(integers.min()), int(integers.max())
    if low < 0 or high > 65535:
        raise ImageValueError(
            f"{name}: integer values from {low} to {high}; allowed is 0..65535;"
            " divide by the sensor's maximum and save as 16-bit or float"
        )
    white = layout.maximum if layout.is_stated else pixels.white(high, name)
    key = picture.info.get("transparency")
    if layout.white_is_zero:
        integers = white - integers
    if key is not None:
        integers = np.where(integers == key, white, integers)
    values = _unit_range(integers, white)
    return Decoded(values, STATED) if layout.is_stated else Decoded(values, SIXTEEN, high)


def _top_of_upper_bits(picture: Image.Image, name: str, pixels: Pixels) -> int | None:
    """Highest value of 16 bits that a picture of the upper 8 may have had."""
    if pixels.bits not in (None, 16):
        raise ImageValueError(
            f"{name}: stores 16 bits a channel in several channels, of which Pillow keeps the upper"
            f" 8, and so little of bits={pixels.bits}: give its pixels as an array"
        )
    bands = [picture.getchannel(band) for band in picture.getbands() if band in "LRGB"]
    return max(np.asarray(band).max().item() for band in bands) * 256 + 255 if bands else None


def _decode_array(array: npt.NDArray[Any], name: str, pixels: Pixels) -> Decoded:
    if array.ndim not in (2, 3) or array.size == 0 or array.shape[2:] not in ((), (1,), (3,), (4,)):
        channel_first = array.ndim == 3 and array.shape[0] in (1, 3, 4)
        hint = "; it looks channel-first: give array.transpose(1, 2, 0)" if channel_first else ""
        raise ImageValueError(
            f"{name}: array of shape {array.shape}; allowed are (H, W), (H, W, 1), (H, W, 3) and"
            f" (H, W, 4), not empty{hint}"
        )
    if array.shape[2:] == (1,):
        array = array[:, :, 0]
    elif pixels.channels == "bgr" and array.ndim == 3:
        array = array[:, :, [2, 1, 0, 3][: array.shape[2]]]
    kind, n_bytes = array.dtype.kind, array.dtype.itemsize
    if kind == "b" or (kind, n_bytes) == ("u", 1):
        bytes_ = array.astype(np.uint8) * np.uint8(255 if kind == "b" else 1)
        return _decode_picture(Image.fromarray(bytes_), name, Layout(), pixels)
    depth, top = FLOATS, None
    if (kind, n_bytes) == ("u", 2):  # of either byte order
        depth, top = SIXTEEN, int(array[..., :3].max() if array.ndim == 3 else array.max())
        values = _unit_range(array, pixels.white(top, name))
        if array.shape[2:] == (4,) and values[:, :, 3].max() > 1:  # alpha of all 16 bits
            values[:, :, 3] = _unit_range(array[:, :, 3], 65535)
    elif kind == "f":
        values = _checked_unit_range(array, name)
    else:
        raise ImageValueError(
            f"{name}: array of type {array.dtype}; allowed are bool, uint8 (0..255), uint16"
            " (0..65535) and float (0..1); cast to uint8 if its values are 0..255"
        )
    if values.shape[2:] == (4,):
        values = array_on_white(values, name)
    return Decoded(np.ascontiguousarray(values), depth, top)


def _unit_range(integers: npt.NDArray[Any], white: int) -> FloatImage:
    return integers.astype(np.float32) / np.float32(white)


def _checked_unit_range(values: npt.NDArray[Any], name: str) -> FloatImage:
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= 1):  # also where either is NaN
        finite = values[np.isfinite(values)]
        found = f"from {finite.min():g} to {finite.max():g}" if finite.size else "none finite"
        lost = values.size - finite.size
        raise ImageValueError(
            f"{name}: float values {found}{f', {lost} NaN or infinite' if lost else ''};"
            " allowed are finite values in [0, 1]; divide by the sensor's maximum"
            " (255 for 8 bits)"
        )
    return values.astype(np.float32)
