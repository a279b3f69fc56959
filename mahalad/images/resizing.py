"""Resizing of pictures, 8-bit and float alike."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from mahalad.errors import ImageValueError
from mahalad.protocols import FloatImage

_ROUNDING = 1e-5
"""How far mixing with alpha may leave [0, 1]."""

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


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
    ImageValueError
        An array that is not of floats in [0, 1].

    Examples
    --------
    >>> resize_square(Image.new("RGB", (40, 20), "white"), 2).shape
    (2, 2, 3)
    """
    return resize_image(image, (size, size), interpolation)


def resize_image(
    image: Image.Image | FloatImage, size: tuple[int, int], interpolation: str = "bicubic"
) -> npt.NDArray[np.uint8] | FloatImage:
    """Resize an image to a width and a height; see `resize_square` for all else."""
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
    if image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)):
        raise ValueError(f"image is of shape {image.shape}; allowed are (H, W) and (H, W, 3)")
    _check_unit_range(image)
    if image.ndim == 2:
        grey = _resize_channel(image, size, resampling)
        return np.repeat(grey[:, :, None], 3, axis=2)
    channels = [_resize_channel(image[:, :, k], size, resampling) for k in range(3)]
    return np.stack(channels, axis=2)


def _check_unit_range(image: FloatImage) -> None:
    if image.dtype.kind != "f":
        raise ImageValueError(
            f"array of type {image.dtype}; allowed are floats in [0, 1], from open_image"
        )
    low, high = image.min(), image.max()
    if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):  # also where either is NaN
        raise ImageValueError(
            f"float values from {low:g} to {high:g}; allowed are finite values in [0, 1]; divide by"
            " the sensor's maximum (255 for 8 bits)"
        )


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
