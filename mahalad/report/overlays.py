"""What an anomaly map looks like over its image.

An anomaly map is (h, w), up = abnormal, and covers the whole image: the image was squashed to
the map's shape. Colours are absolute. They begin at a threshold on the map's values, which is set
elsewhere, and are never stretched per image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from mahalad.errors import ImageValueError, InputError
from mahalad.protocols import FloatImage

# Yellow, orange, red, magenta: ever darker, so that the order is seen without telling hues apart.
RAMP = np.array([(255, 225, 70), (255, 150, 30), (226, 62, 36), (160, 10, 100)], np.float64)
FULL_ABOVE = 4.0
HALO_BELOW = (0.5, 1.25)  # share of the largest value near, or standard deviations if that is more
HALO_REACH = 0.075  # share of the map's longer side
ALPHA = (0.35, 0.75)  # opacity at the threshold and at `full`
# Two lines, dark outside and light inside: one of them stands out from any image.
OUTER_LINE, INNER_LINE = (10, 20, 60), (255, 255, 255)


def overlay(
    image: Image.Image | FloatImage,
    anomaly_map: NDArray[Any],
    map_threshold: float,
    *,
    full: float | None = None,
    line: int | None = None,
) -> Image.Image:
    """Colour the parts of an image whose anomaly map is above a threshold, halos left out.

    Parameters
    ----------
    image : PIL.Image.Image of mode "RGB", or ndarray of float32, shape (H, W) or (H, W, 3)
        From `open_image`; an array is in [0, 1]. It is not changed.
    anomaly_map : ndarray of shape (h, w)
        Up = abnormal; enlarged bilinearly to the image.
    map_threshold : float
        Values above it are coloured, but those of a halo (`without_halo`); infinity colours
        nothing.
    full : float, optional
        The value that gets the strongest colour, as does any above it; map_threshold + 4 where it
        is None, in standard deviations of good images.
    line : int, optional
        Pixels of each of the two lines of the outline; 1 for each 600 of the longer side, at least
        1, where it is None.

    Returns
    -------
    PIL.Image.Image of mode "RGB", of the size of `image`
        Where the enlarged map is at or below the threshold, or a halo, the image as it is.

    Raises
    ------
    ImageValueError
        An image that is not from `open_image`.
    InputError
        A map that is empty, not two-dimensional or not finite; `full` not above the threshold.

    Notes
    -----
    Colour and opacity follow t = (value - map_threshold) / (full - map_threshold), clipped to
    [0, 1]: the same value looks the same in every image. The outline of the region is two lines,
    one dark and one light, inside the region. A peak narrower than a pixel of the image may be
    lost in the enlargement, but no colour is ever added by it.

    Examples
    --------
    >>> picture = overlay(Image.new("RGB", (40, 40)), np.array([[0.0, 3.0]]), 2.0)
    >>> picture.getpixel((0, 0)), picture.getpixel((39, 20)) == (0, 0, 0)
    ((0, 0, 0), False)
    """
    picture = _as_picture(image)
    above = checked_map(anomaly_map) - _checked_threshold(map_threshold)
    full = map_threshold + FULL_ABOVE if full is None else full
    if map_threshold < math.inf and not map_threshold < full < math.inf:
        raise InputError(
            f"full is {full:g}; allowed is a finite value above the threshold, which is "
            f"{map_threshold:g}"
        )
    if not (above > 0).any():
        return picture
    # Differences are enlarged, not the map: a weighted mean of values that are not above zero
    # is not above zero, whatever the rounding to float32.
    inner = np.where(_without_halo(above), above, -np.abs(above))
    region = _enlarged(inner, picture.size) > 0  # (H, W)
    values = _enlarged(above, picture.size)[region].clip(min=0)
    pixels = np.array(picture)  # (H, W, 3)
    pixels[region] = _blend(pixels[region], values / (full - map_threshold))
    return _with_outline(pixels, region, line or _line_of(picture.size))


def without_halo(anomaly_map: NDArray[Any], map_threshold: float) -> NDArray[np.bool_]:
    """Find what of a map is above a threshold, and not the halo of something larger near it.

    A place of a network's map sees the picture around it, too, so that the map is raised around a
    defect. Of values above the threshold, less the threshold, a halo is what has at most half of
    the largest one near it, and is 1.25 standard deviations or more below it; near is at most 7.5 %
    of the map's longer side, across and down. What larger values enclose, or leave between them
    within that distance, belongs to them. So more of what is coloured lies on defects
    (`benchmarks/pointing.py`), and a faint defect further away keeps its colour.

    Parameters
    ----------
    anomaly_map : ndarray of shape (h, w)
        In standard deviations of good images, up = abnormal.
    map_threshold : float

    Returns
    -------
    ndarray of bool, shape (h, w)

    Raises
    ------
    InputError
        A map that is empty, not two-dimensional or not finite; a threshold that is NaN.

    Examples
    --------
    >>> without_halo(np.array([[3.0, 9.0, 8.0, 3.0, *[0.0] * 15, 3.0]]), 2.0)[0, [0, 1, 2, 3, -1]]
    array([False,  True,  True, False,  True])
    """
    above = checked_map(anomaly_map) - _checked_threshold(map_threshold)
    return _without_halo(above)


def _without_halo(above: NDArray[np.float64]) -> NDArray[np.bool_]:
    reach = round(HALO_REACH * max(above.shape))
    near = ndimage.maximum_filter(above, size=2 * reach + 1, mode="nearest")
    share, deviations = HALO_BELOW
    inner = (above > 0) & (above > near - np.maximum(share * near, deviations))
    box = np.ones((reach // 2 * 2 + 1,) * 2, bool)
    closed = ndimage.binary_closing(np.pad(inner, reach), box)[
        reach : reach + above.shape[0], reach : reach + above.shape[1]
    ]
    return np.asarray((above > 0) & ndimage.binary_fill_holes(closed))


def outlined(
    image: Image.Image | FloatImage, region: NDArray[np.bool_], *, line: int | None = None
) -> Image.Image:
    """Draw the outline of a region, such as a mask of defects, as `overlay` draws it.

    Parameters
    ----------
    image : PIL.Image.Image of mode "RGB", or ndarray of float32, shape (H, W) or (H, W, 3)
        From `open_image`. It is not changed.
    region : ndarray of bool, shape (h, w)
        It covers the whole image, whatever its size.
    line : int, optional
        As of `overlay`.

    Returns
    -------
    PIL.Image.Image of mode "RGB", of the size of `image`
    """
    picture = _as_picture(image)
    # Not by its nearest pixel: a line that is thinner than a pixel of the image would be lost.
    grey = Image.fromarray(region.astype(np.uint8) * 255).resize(
        picture.size, Image.Resampling.BILINEAR
    )
    # Widened by both lines, so that these lie around the region and do not cover it.
    line = line or _line_of(picture.size)
    wide = ndimage.binary_dilation(np.asarray(grey) > 63, np.ones((3, 3), bool), 2 * line)
    return _with_outline(np.array(picture), wide, line)


def _enlarged(values: NDArray[np.float64], size: Sequence[int]) -> NDArray[np.float32]:
    """Enlarge values (h, w) bilinearly to (width, height)."""
    picture = Image.fromarray(values.astype(np.float32))
    return np.asarray(picture.resize((size[0], size[1]), Image.Resampling.BILINEAR))


def _line_of(size: Sequence[int]) -> int:
    return max(1, round(max(size) / 600))


def _with_outline(pixels: NDArray[np.uint8], region: NDArray[np.bool_], width: int) -> Image.Image:
    """Draw the outline of a region (H, W) into pixels (H, W, 3)."""
    inner = _eroded(region, width)
    pixels[inner & ~_eroded(inner, width)] = INNER_LINE
    pixels[region & ~inner] = OUTER_LINE
    return Image.fromarray(pixels)


def thumbnail(image: Image.Image | FloatImage, side: int) -> Image.Image:
    """Shrink an image to fit into a square, keeping its aspect; a small one stays as it is.

    Parameters
    ----------
    image : PIL.Image.Image of mode "RGB", or ndarray of float32, shape (H, W) or (H, W, 3)
        From `open_image`. It is not changed.
    side : int
        Side of the square in pixels.

    Returns
    -------
    PIL.Image.Image of mode "RGB"

    Examples
    --------
    >>> thumbnail(Image.new("RGB", (40, 20)), 10).size
    (10, 5)
    """
    if side < 1:
        raise InputError(f"side is {side}; allowed is 1 pixel or more")
    picture = _as_picture(image)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return picture


def _blend(pixels: NDArray[np.uint8], t: NDArray[Any]) -> NDArray[np.uint8]:
    """Lay the ramp's colour at t >= 0, shape (n,), over pixels (n, 3)."""
    t = np.minimum(t, 1.0).astype(np.float64)
    places = np.linspace(0, 1, len(RAMP))
    colours = np.stack([np.interp(t, places, RAMP[:, k]) for k in range(3)], axis=1)  # (n, 3)
    alpha = (ALPHA[0] + (ALPHA[1] - ALPHA[0]) * t)[:, None]
    return np.rint(pixels * (1 - alpha) + colours * alpha).astype(np.uint8)


def _eroded(region: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """Find pixels that are more than `width` from the outside of a region, or of the image."""
    box = np.ones(2 * width + 1, bool)
    rows = ndimage.binary_erosion(region, box[:, None])
    return np.asarray(ndimage.binary_erosion(rows, box[None, :]), bool)


def _as_picture(image: Image.Image | FloatImage) -> Image.Image:
    """Copy an image as 8-bit RGB."""
    if isinstance(image, Image.Image):
        if image.mode != "RGB":
            raise ImageValueError(
                f"image is of mode {image.mode!r}; allowed is 'RGB', from open_image"
            )
        return image.copy()
    if image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)) or image.size == 0:
        raise ImageValueError(
            f"image is of shape {image.shape}; allowed are (H, W) and (H, W, 3), not empty"
        )
    if image.dtype.kind != "f" or not (image.min() >= 0 and image.max() <= 1):
        raise ImageValueError(
            f"image of type {image.dtype} with values from {image.min()} to {image.max()}; "
            "allowed are floats in [0, 1], from open_image"
        )
    return Image.fromarray(np.rint(image * 255).astype(np.uint8)).convert("RGB")


def checked_map(anomaly_map: NDArray[Any]) -> NDArray[np.float64]:
    """Give a map as floats; `InputError` unless it is (h, w), not empty and finite."""
    values = np.asarray(anomaly_map, np.float64)
    if values.ndim != 2 or values.size == 0:
        raise InputError(f"anomaly map is of shape {values.shape}; allowed is (h, w), not empty")
    n_lost = int(np.sum(~np.isfinite(values)))
    if n_lost:
        raise InputError(f"{n_lost} of {values.size} values of the anomaly map are not finite")
    return values


def _checked_threshold(map_threshold: float) -> float:
    if math.isnan(map_threshold):
        raise InputError("the threshold of the anomaly map is NaN; allowed is a number")
    return map_threshold
