"""Turned and slightly changed copies, for augmented passes over the normal images."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MAX_ROTATION = 3.0  # degrees
MAX_SHIFT = 0.02  # of the side
MAX_SCALING = 0.03
MAX_LIGHT = 0.05  # brightness and contrast

_SQUARE = 0.01  # what stretches pixels less than that is the rounding of a size

N_TURNS = 3
"""Quarter turns of an image that are not the image itself."""


def augmented_copies(prepared: NDArray[Any], n_copies: int, key: int) -> list[NDArray[Any]]:
    """Make copies of one image, slightly turned, moved, scaled and re-lit.

    Parameters
    ----------
    prepared : ndarray of shape (H, W, 3)
        uint8, or float32 in [0, 1].
    n_copies : int
    key : int
        Seed: the image's content hash, so that the copies depend on the image alone.

    Returns
    -------
    list of ndarray of shape (H, W, 3), of the type of `prepared`
        Pixels that come from outside the image repeat its edge.
    """
    rng = np.random.default_rng(key)
    return [_augment(prepared, rng) for _ in range(n_copies)]


def quarter_turns(prepared: NDArray[Any], stretch: float = 1.0) -> list[NDArray[Any]]:
    """Turn an image by 90, 180 and 270 degrees.

    Parameters
    ----------
    prepared : ndarray of shape (H, W, 3)
        uint8, or float32 in [0, 1].
    stretch : float, default=1
        How many times wider than high a pixel is. Where that is not 1, as in squashed images that
        were not square, what is turned is stretched back; else no pixel changes its value.

    Returns
    -------
    list of ndarray, of the type of `prepared`
        What comes from outside the image is made of what lies at its edges.
    """
    turns = [np.rot90(prepared, k) for k in range(1, 1 + N_TURNS)]
    if abs(math.log(stretch)) > _SQUARE:
        turns = [turn if k == 1 else _stretched(turn, stretch) for k, turn in enumerate(turns)]
    return [np.ascontiguousarray(turn) for turn in turns]


def _stretched(image: NDArray[Any], stretch: float) -> NDArray[Any]:
    """Make what is in an image so many times narrower and higher, about its centre."""
    height, width = image.shape[:2]
    wider, higher = stretch - 1, 1 / stretch - 1  # what is seen of it, less what is there
    rows, columns = _with_ground(height, higher), _with_ground(width, wider)
    start_x = (len(columns) - width - width * wider) / 2
    start_y = (len(rows) - height - height * higher) / 2
    matrix = (stretch, 0.0, start_x, 0.0, 1 / stretch, start_y)
    padded = image[rows][:, columns]
    found = np.stack([_channel(padded[..., c], matrix, (width, height)) for c in range(3)], axis=-1)
    return (np.rint(found) if image.dtype == np.uint8 else found).astype(image.dtype)


def _with_ground(size: int, more: float) -> NDArray[np.intp]:
    """Places along an axis, with as many before and after it as a share of it, those of its ends:
    to and fro over a sixteenth, so that grain stays grain."""
    margin, band = math.ceil(size * max(more, 0.0)), max(1, size // 16)
    steps = np.arange(margin) % (2 * band)
    inwards = np.minimum(steps, 2 * band - 1 - steps)
    return np.concatenate([inwards[::-1], np.arange(size), size - 1 - inwards])


def _augment(prepared: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    height, width = prepared.shape[:2]
    side = max(height, width)
    angle, scale = rng.uniform(-1, 1, 2) * (math.radians(MAX_ROTATION), MAX_SCALING)
    shift = rng.uniform(-1, 1, 2) * MAX_SHIFT * side
    gain, offset = 1 + rng.uniform(-1, 1) * MAX_LIGHT, rng.uniform(-1, 1) * MAX_LIGHT
    moved = warped(prepared, angle, 1 + scale, (shift[0], shift[1]))
    top = 255.0 if prepared.dtype == np.uint8 else 1.0
    lit = np.clip((moved - 0.5 * top) * gain + (0.5 + offset) * top, 0, top)
    if prepared.dtype == np.uint8:
        lit = np.rint(lit)
    return np.asarray(lit.astype(prepared.dtype))


def warped(
    image: NDArray[Any],
    angle: float,
    scale: float,
    shift: tuple[float, float],
    outside: Literal["edge", "symmetric"] = "edge",
) -> NDArray[np.float32]:
    """Turn an image (H, W, 3) by an angle in radians, enlarge it and shift it by (x, y) pixels.

    Pixels that come from outside the image repeat its edge, or (``"symmetric"``) mirror what is
    within it.
    """
    height, width = image.shape[:2]
    margin = math.ceil(0.1 * max(height, width))
    padded = np.pad(image, ((margin, margin), (margin, margin), (0, 0)), mode=outside)
    cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
    half_x, half_y = (width - 1) / 2, (height - 1) / 2
    cx, cy = half_x + margin + shift[0], half_y + margin + shift[1]
    # Pillow maps output to input coordinates: turn and scale about the centre, then shift.
    start_x, start_y = cx - cos * half_x + sin * half_y, cy - sin * half_x - cos * half_y
    matrix = (cos, -sin, start_x, sin, cos, start_y)
    size = (width, height)
    return np.stack([_channel(padded[..., c], matrix, size) for c in range(3)], axis=-1)


def _channel(
    channel: NDArray[Any], matrix: tuple[float, ...], size: tuple[int, int]
) -> NDArray[np.float32]:
    image = Image.fromarray(channel.astype(np.float32))
    warped = image.transform(size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    return np.asarray(warped)
