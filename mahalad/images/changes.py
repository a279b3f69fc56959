"""Harmless changes of an image, no stronger than what is to be tolerated.

They are made of what the network sees: strengths are in its pixels, and in 8-bit grey levels. How
strong a change is, is drawn at random: features answer a small change in another way than a large
one, above all where the picture is black or white.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from mahalad.images.augment import warped

LIGHT = 0.06  # brightness, and contrast
COLOUR = 0.03  # more of red and less of blue, or the other way round
NOISE = (1.0, 4.0)  # standard deviation
QUALITY = (70, 95)  # of JPEG
SHIFT = 4.0  # pixels, along each side
ROTATION = 1.0  # degrees
BLUR = (0.3, 0.8)  # standard deviation, pixels

Pixels = NDArray[np.float32]
Change = Callable[[Pixels, np.random.Generator], Pixels]
"""Changes pixels of 0 to 255, (H, W, 3)."""


def changed_copies(prepared: NDArray[Any], kinds: Sequence[str], key: int) -> list[NDArray[Any]]:
    """Change an image in each way of some kinds of `CHANGES`.

    Parameters
    ----------
    prepared : ndarray of shape (H, W, 3)
        uint8, or float32 in [0, 1].
    kinds : sequence of str
    key : int
        The image's content hash: what happens to an image depends on the image alone.

    Returns
    -------
    list of ndarray of shape (H, W, 3), of the type of `prepared`
        One for each of `ways_of` the kinds.
    """
    copies = []
    for kind, way in ways_of(kinds):
        rng = np.random.default_rng(_seed(kind, way.__name__, key))
        copies.append(changed(prepared, way, rng))
    return copies


def changed(image: NDArray[Any], way: Change, rng: np.random.Generator) -> NDArray[Any]:
    """Change an image of uint8, or of float32 in [0, 1], (H, W, 3), in one way."""
    scale = np.float32(1.0 if image.dtype == np.uint8 else 255.0)
    pixels = np.clip(way(image.astype(np.float32) * scale, rng), 0, 255)
    pixels = np.rint(pixels) if image.dtype == np.uint8 else pixels / scale
    return np.asarray(pixels.astype(image.dtype))


def compressed(pixels: Pixels, quality: int) -> Pixels:
    """Take from an image what JPEG takes; its pixels of 0 to 255 may be finer than 8 bits."""
    before = np.rint(pixels).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(before).save(buffer, "JPEG", quality=quality)
    after = np.asarray(Image.open(buffer)).astype(np.float32)
    return np.asarray(pixels + (after - before), np.float32)


def ways_of(kinds: Sequence[str]) -> list[tuple[str, Change]]:
    """Each way in which images are changed, with its kind, in the order of `CHANGES`."""
    return [(kind, way) for kind in CHANGES if kind in kinds for way in CHANGES[kind]]


def _seed(kind: str, way: str, key: int) -> int:
    content = int(key).to_bytes(8, "little") + f"{kind} {way}".encode()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def _brightness(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    return np.asarray(pixels * (1 + rng.uniform(-LIGHT, LIGHT)), np.float32)


def _contrast(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    return np.asarray((pixels - 128) * (1 + rng.uniform(-LIGHT, LIGHT)) + 128, np.float32)


def _colour(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    warmth = rng.uniform(-COLOUR, COLOUR)
    return np.asarray(pixels * np.array([1 + warmth, 1, 1 - warmth]), np.float32)


def _noise(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    return np.asarray(
        pixels + rng.uniform(*NOISE) * rng.standard_normal(pixels.shape, np.float32), np.float32
    )


def _compression(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    return compressed(pixels, int(rng.integers(*QUALITY)))


def _shift(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    x, y = rng.uniform(-SHIFT, SHIFT, 2)
    return warped(pixels, 0.0, 1.0, (x, y))


def _turn(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    return warped(pixels, math.radians(ROTATION) * rng.uniform(-1, 1), 1.0, (0.0, 0.0))


def _focus(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    blur = rng.uniform(*BLUR)
    return np.asarray(gaussian_filter(pixels, (blur, blur, 0), mode="nearest"))


CHANGES: dict[str, tuple[Change, ...]] = {
    "light": (_brightness, _contrast, _colour),
    "noise": (_noise,),
    "compression": (_compression,),
    "shift": (_shift, _turn),
    "focus": (_focus,),
}
"""Kinds of change by name: the ways in which each changes pixels of 0 to 255."""
