"""From what the caller gives (files, folders, PIL images, arrays) to decoded, square images.

Three pure steps, used alike by fit, score, the command line, export and benchmark::

    iter_sources(X)        what there is, lazily, in a fixed order
    open_image(source)     8-bit RGB picture, or float32 array in [0, 1] for deeper images
    resize_square(image)   (size, size, 3); `mahalad.geometry` has the way that keeps the aspect
"""

from __future__ import annotations

import glob
import io
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from mahalad.errors import ImageReadError, ImageValueError, InputError, MahaladError

FloatImage = npt.NDArray[np.float32]

IMAGE_EXTENSIONS = (
    ".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm", ".pnm",
)  # fmt: skip

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

_ALLOWED = (
    "allowed are a file, a folder, a glob pattern, a PIL image, a list or iterator of these and"
    " of NumPy arrays (H, W, 3), or one array (n, H, W, 3)"
)
# Iterable, but never a row of images; a set has no fixed order.
_NOT_A_LIST = (bytes, bytearray, memoryview, Mapping, Set, io.IOBase)


@dataclass(frozen=True, slots=True)
class ImageSource:
    """One image that has not been opened yet.

    Attributes
    ----------
    name : str
        The path as given or found; `X[3]` for an image in memory at position 3 of `X`.
    path : Path or None
        The file; None for an image in memory.
    value : Path, PIL.Image.Image or ndarray
        What `open_image` decodes.
    """

    name: str
    path: Path | None
    value: Path | Image.Image | npt.NDArray[Any]


def iter_sources(X: object) -> Iterator[ImageSource]:
    """Yield the images in `X` one by one, without opening them.

    Parameters
    ----------
    X : path, PIL image, iterable of these and of arrays, or ndarray of shape (n, H, W, 3 or 1)
        A folder is searched with all its subfolders for `IMAGE_EXTENSIONS` (in any case),
        sorted by the parts of the path; hidden files and folders are skipped. A glob pattern
        (`* ? [ **`) and a file named in full are taken with any extension; a path that
        exists is never read as a pattern. An iterator is consumed one item at a time.

    Yields
    ------
    ImageSource
        In the order of `X`. A missing file, or a pattern without a match, *inside a list*
        is yielded too and fails in `open_image`, so that it does not end the batch.

    Raises
    ------
    InputError
        At the first `next`: no images, no such path, or `X` (or an item) of a wrong type.

    Examples
    --------
    >>> [source.name for source in iter_sources(np.zeros((2, 8, 8, 3), np.uint8))]
    ['X[0]', 'X[1]']
    """
    if isinstance(X, (str, os.PathLike)):
        yield from _path_sources(X, "X", required=True)
    elif isinstance(X, Image.Image):
        yield ImageSource("X[0]", None, X)
    elif isinstance(X, np.ndarray) and X.ndim != 1:
        yield from _batch_sources(X, "X")
    elif isinstance(X, Iterable) and not isinstance(X, _NOT_A_LIST):
        found = False
        for index, item in enumerate(X):
            for source in _item_sources(item, f"X[{index}]"):
                found = True
                yield source
        if not found:
            raise InputError(f"no images: X is an empty {type(X).__name__}; {_ALLOWED}")
    else:
        raise InputError(f"X is of type {type(X).__name__}; {_ALLOWED}")


def _item_sources(item: object, position: str) -> Iterator[ImageSource]:
    if isinstance(item, (str, os.PathLike)):
        yield from _path_sources(item, position, required=False)
    elif isinstance(item, np.ndarray) and item.ndim == 4:
        yield from _batch_sources(item, position)
    elif isinstance(item, (Image.Image, np.ndarray)):
        yield ImageSource(position, None, item)
    else:
        raise InputError(f"{position} is of type {type(item).__name__}; {_ALLOWED}")


def _batch_sources(batch: npt.NDArray[Any], position: str) -> Iterator[ImageSource]:
    if batch.ndim in (2, 3):
        raise InputError(
            f"{position} is one array of shape {batch.shape}, which could be one image or several;"
            " give [array] for one image, or an array of shape (n, H, W, 3) for n"
        )
    if batch.ndim != 4 or batch.shape[3] not in (1, 3):
        hint = (
            "; it looks channel-first: give array.transpose(0, 2, 3, 1)"
            if batch.ndim == 4 and batch.shape[1] in (1, 3)
            else ""
        )
        raise InputError(
            f"{position} is an array of shape {batch.shape}; allowed are (n, H, W, 3) and"
            f" (n, H, W, 1){hint}"
        )
    if len(batch) == 0:
        raise InputError(f"no images: {position} is an array of shape {batch.shape}")
    for index, image in enumerate(batch):
        yield ImageSource(f"{position}[{index}]", None, image)


def _path_sources(
    given: str | os.PathLike[Any], position: str, *, required: bool
) -> Iterator[ImageSource]:
    name = os.fspath(given)
    if not isinstance(name, str) or not name:
        raise InputError(f"{position} is {name!r}, which is not a path; {_ALLOWED}")
    if os.path.isdir(name):
        yield from _folder_sources(name)
        return
    names = [name]
    if not os.path.exists(name) and _is_pattern(name):
        matches = {match for match in glob.glob(name, recursive=True) if not os.path.isdir(match)}
        names = sorted(matches, key=lambda match: Path(match).parts) or names
    if required and not os.path.lexists(names[0]):
        raise InputError(_missing(name))
    for found in names:
        yield ImageSource(found, Path(found), Path(found))


def _folder_sources(folder: str) -> Iterator[ImageSource]:
    paths: list[Path] = []
    others: Counter[str] = Counter()
    visited: set[str] = set()  # linked folders are followed, so a link could lead back up
    for root, folders, files in os.walk(folder, onerror=_refuse_folder, followlinks=True):
        resolved = os.path.realpath(root)
        if resolved in visited:
            folders.clear()
            continue
        visited.add(resolved)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            extension = os.path.splitext(name)[1].lower()
            if name.startswith("."):
                continue
            if extension in IMAGE_EXTENSIONS:
                paths.append(Path(root, name))
            else:
                others[extension or "no extension"] += 1
    if not paths:
        seen = ", ".join(f"{count} x {name}" for name, count in sorted(others.items()))
        raise InputError(
            f"{folder}: no images in this folder (looked in {os.path.abspath(folder)} and its"
            f" subfolders, hidden ones left out); files with other extensions: {others.total()}"
            f"{f' ({seen})' if seen else ''}; looked for {', '.join(IMAGE_EXTENSIONS)}"
        )
    for path in sorted(paths, key=lambda path: path.parts):
        yield ImageSource(str(path), path, path)


def _refuse_folder(error: OSError) -> None:
    raise InputError(f"{error.filename}: folder cannot be listed: {error.strerror}") from error


def _is_pattern(name: str) -> bool:
    return any(character in name for character in "*?[")


def _missing(name: str) -> str:
    tried = os.path.abspath(name)
    if _is_pattern(name):
        return f"{name}: no file matches this pattern, and none has this name (tried {tried})"
    return f"{name}: no such file or folder (tried {tried})"


def open_image(source: ImageSource) -> Image.Image | FloatImage:
    """Decode one image by fixed rules.

    Parameters
    ----------
    source : ImageSource
        From `iter_sources`. A PIL image in memory is neither changed nor closed.

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

    Notes
    -----
    * The EXIF orientation is applied. Of a file with several frames, the first one is taken.
    * Grey is repeated in three channels; palettes are expanded; one-bit images become 0 and 255;
      CMYK, YCbCr, LAB and HSV are converted by Pillow.
    * Alpha, palette or colour-key transparency is composited on white.
    * 16-bit grey and uint16 arrays are divided by 65535. The values of a 12-bit camera are not
      stretched, except in a PGM file, whose header states its maximum.
    * Floats must be finite and in [0, 1]; mode "I" (32-bit integers) in 0..65535.
    * Of files with 16 bits a channel in colour (or grey with alpha), Pillow gives the upper 8 bits.
    * Arrays: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) with alpha; bool, uint8, uint16 or float.
    """
    value, name = source.value, source.name
    if isinstance(value, np.ndarray):
        return _decode_array(value, name)
    try:
        if isinstance(value, Image.Image):
            return _decode_picture(ImageOps.exif_transpose(value), name)
        return _decode_file(value, name)
    except MahaladError:
        raise
    except PermissionError as error:
        raise ImageReadError(f"{name}: no permission to read this file") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        pixels = re.search(r"(\d+) pixels", str(error))
        raise ImageReadError(_too_large(name, int(pixels[1]) if pixels else None)) from error
    except Exception as error:  # damaged files make Pillow raise almost any type
        reason = str(error) or type(error).__name__
        raise ImageReadError(f"{name}: cannot be decoded: {reason}") from error


def _decode_file(path: Path, name: str) -> Image.Image | FloatImage:
    _check_file(path, name)
    with open(path, "rb") as file:
        try:
            picture = Image.open(file)
        except UnidentifiedImageError as error:
            file.seek(0)
            raise ImageReadError(
                f"{name}: not an image that Pillow can read; its first bytes are {file.read(24)!r}"
            ) from error
        with picture:
            pixels = picture.width * picture.height
            if Image.MAX_IMAGE_PIXELS is not None and pixels > Image.MAX_IMAGE_PIXELS:
                raise ImageReadError(_too_large(name, pixels))
            ImageOps.exif_transpose(picture, in_place=True)
            return _decode_picture(picture, name)


def _check_file(path: Path, name: str) -> None:
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ImageReadError(_missing(name)) from error
    if stat.S_ISDIR(status.st_mode):
        raise ImageReadError(f"{name}: is a folder, not an image file")
    if not stat.S_ISREG(status.st_mode):
        raise ImageReadError(f"{name}: is not a regular file")
    if status.st_size == 0:
        raise ImageReadError(f"{name}: is empty (0 bytes)")


def _too_large(name: str, pixels: int | None) -> str:
    size = "too many" if pixels is None else f"{pixels / 1e6:.4g}"
    return (
        f"{name}: holds {size} megapixels, more than the limit of"
        f" {(Image.MAX_IMAGE_PIXELS or 0) / 1e6:.4g}; where the file can be trusted, raise"
        " PIL.Image.MAX_IMAGE_PIXELS"
    )


def _decode_picture(picture: Image.Image, name: str) -> Image.Image | FloatImage:
    if 0 in picture.size:
        raise ImageValueError(f"{name}: picture of size {picture.size}; allowed is 1 x 1 or more")
    if picture.mode.startswith("I"):  # "I;16", "I;16B", ..., "I"
        integers = np.asarray(picture)
        low, high = int(integers.min()), int(integers.max())
        if low < 0 or high > 65535:
            raise ImageValueError(
                f"{name}: integer values from {low} to {high}; allowed is 0..65535;"
                " divide by the sensor's maximum and save as 16-bit or float"
            )
        key = picture.info.get("transparency")
        return _unit_range(integers if key is None else np.where(integers == key, 65535, integers))
    if picture.mode == "F":
        return _checked_unit_range(np.asarray(picture), name)
    if picture.has_transparency_data:
        # Pillow knows no way from "La" to RGBA but through "LA".
        layered = (picture.convert("LA") if picture.mode == "La" else picture).convert("RGBA")
        white = Image.new("RGB", layered.size, "white")
        white.paste(layered, mask=layered)
        return white
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _decode_array(array: npt.NDArray[Any], name: str) -> Image.Image | FloatImage:
    if array.ndim not in (2, 3) or array.size == 0 or array.shape[2:] not in ((), (1,), (3,), (4,)):
        channel_first = array.ndim == 3 and array.shape[0] in (1, 3, 4)
        hint = "; it looks channel-first: give array.transpose(1, 2, 0)" if channel_first else ""
        raise ImageValueError(
            f"{name}: array of shape {array.shape}; allowed are (H, W), (H, W, 1), (H, W, 3) and"
            f" (H, W, 4), not empty{hint}"
        )
    if array.shape[2:] == (1,):
        array = array[:, :, 0]
    kind, n_bytes = array.dtype.kind, array.dtype.itemsize
    if kind == "b" or (kind, n_bytes) == ("u", 1):
        bytes_ = array.astype(np.uint8) * np.uint8(255 if kind == "b" else 1)
        return _decode_picture(Image.fromarray(bytes_), name)
    if (kind, n_bytes) == ("u", 2):  # of either byte order
        values = _unit_range(array)
    elif kind == "f":
        values = _checked_unit_range(array, name)
    else:
        raise ImageValueError(
            f"{name}: array of type {array.dtype}; allowed are bool, uint8 (0..255), uint16"
            " (0..65535) and float (0..1); cast to uint8 if its values are 0..255"
        )
    if values.shape[2:] == (4,):
        colour, alpha = values[:, :, :3], values[:, :, 3:]
        values = colour * alpha + (1 - alpha)
    return np.ascontiguousarray(values)


def _unit_range(integers: npt.NDArray[Any]) -> FloatImage:
    return integers.astype(np.float32) / np.float32(65535)


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


def resize_square(
    image: Image.Image | FloatImage, size: int, interpolation: str = "bicubic"
) -> npt.NDArray[np.uint8] | FloatImage:
    """Squash an image to a square, without a crop and with antialiasing.

    Parameters
    ----------
    image : PIL.Image.Image of mode "RGB", or ndarray of float32, shape (H, W) or (H, W, 3)
        From `open_image`.
    size : int
        Height and width of the result in pixels.
    interpolation : {"nearest", "bilinear", "bicubic", "lanczos"}, default="bicubic"
        The filter. "nearest" does no antialiasing.

    Returns
    -------
    ndarray of shape (size, size, 3), contiguous and writable
        uint8 for a PIL image; float32 in [0, 1] for an array.

    Raises
    ------
    ValueError
        Unknown `interpolation`, `size` below 1, or an image that is not from `open_image`.

    Examples
    --------
    >>> resize_square(Image.new("RGB", (40, 20), "white"), 2).shape
    (2, 2, 3)
    """
    return resize_image(image, (size, size), interpolation)


def resize_image(
    image: Image.Image | FloatImage, size: tuple[int, int], interpolation: str = "bicubic"
) -> npt.NDArray[np.uint8] | FloatImage:
    """Resize an image to a width and a height; all else is as of `resize_square`."""
    if interpolation not in INTERPOLATIONS:
        raise ValueError(
            f"interpolation is {interpolation!r}; allowed are {', '.join(INTERPOLATIONS)}"
        )
    if min(size) < 1:
        raise ValueError(f"size is {min(size)}; allowed is 1 pixel or more")
    resampling = INTERPOLATIONS[interpolation]
    if isinstance(image, Image.Image):
        if image.mode != "RGB":
            raise ValueError(f"image is of mode {image.mode!r}; allowed is 'RGB', from open_image")
        return np.array(image.resize(size, resampling))
    if image.ndim == 2:
        grey = _resize_channel(image, size, resampling)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image is of shape {image.shape}; allowed are (H, W) and (H, W, 3)")
    channels = [_resize_channel(image[:, :, k], size, resampling) for k in range(3)]
    return np.stack(channels, axis=2)


def _resize_channel(
    channel: FloatImage, size: tuple[int, int], resampling: Image.Resampling
) -> FloatImage:
    # Pillow resizes 8-bit pictures first along the rows, then along the columns, and clips after
    # each pass. Clipping here too gives 16-bit and 8-bit versions of a picture the same result,
    # also at hard edges, where the bicubic and Lanczos filters overshoot.
    values = np.ascontiguousarray(channel, dtype=np.float32)
    for shape in ((size[0], values.shape[0]), size):
        values = np.asarray(Image.fromarray(values).resize(shape, resampling))
        values = np.clip(values, 0.0, 1.0)
    return values
