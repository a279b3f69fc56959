"""Harmless changes of pictures at graded strength, for `bench robust`.

They are made of the pixels as they are stored, before the picture is resized, as a camera or an
export makes them. What the fit's `tolerate` learns of is made of what the network sees, at random
strength: see `mahalad.images.changes`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from mahalad.images.augment import warped
from mahalad.images.changes import Pixels, changed, compressed
from mahalad.protocols import FloatImage

Way = Callable[[Pixels, float, np.random.Generator], Pixels]
"""Changes pixels of 0 to 255, (H, W, 3), at some strength; a direction may be drawn."""


def _brightness(pixels: Pixels, percent: float, _: np.random.Generator) -> Pixels:
    return np.asarray(pixels * (1 + percent / 100), np.float32)


def _noise(pixels: Pixels, deviation: float, rng: np.random.Generator) -> Pixels:
    noise = rng.standard_normal(pixels.shape, np.float32)
    if (pixels == pixels[..., :1]).all():  # a grey camera has grey noise
        noise = noise[..., :1]
    return np.asarray(pixels + deviation * noise, np.float32)


def _compression(pixels: Pixels, quality: float, _: np.random.Generator) -> Pixels:
    return compressed(pixels, int(quality))


def _shift(pixels: Pixels, steps: float, rng: np.random.Generator) -> Pixels:
    """Move a picture by whole pixels to one of four sides: nothing is interpolated."""
    axis, sign = rng.integers(2), rng.choice([-1, 1])
    n = pixels.shape[axis]
    mirrored = np.pad(np.arange(n), int(steps), mode="symmetric")
    places = mirrored[int(steps) * (1 - sign) :][:n]
    return np.asarray(pixels.take(places, axis=axis))


def _rotation(pixels: Pixels, degrees: float, rng: np.random.Generator) -> Pixels:
    angle = math.radians(degrees) * rng.choice([-1, 1])
    return warped(pixels, angle, 1.0, (0.0, 0.0), outside="symmetric")


def _blur(pixels: Pixels, deviation: float, _: np.random.Generator) -> Pixels:
    return np.asarray(gaussian_filter(pixels, (deviation, deviation, 0), mode="reflect"))


@dataclass(frozen=True)
class Kind:
    """One kind of harmless change, with the strengths at which it is measured.

    Attributes
    ----------
    unit : str
        After the strength, in a table.
    strengths : tuple of float
        From weak to strong, or from the darkest to the brightest.
    none : float
        The strength that changes nothing.
    way : callable
    """

    unit: str
    strengths: tuple[float, ...]
    none: float
    way: Way


KINDS: dict[str, Kind] = {
    "brightness": Kind(" %", (-10, -5, 5, 10), 0, _brightness),
    "noise": Kind("", (1, 2, 4), 0, _noise),
    "JPEG quality": Kind("", (95, 85, 70), 100, _compression),
    "shift": Kind(" px", (1, 3, 5), 0, _shift),
    "rotation": Kind("°", (0.5, 1, 2), 0, _rotation),
    "blur": Kind(" px", (0.5, 1), 0, _blur),
}
"""Kinds of change by name. Brightness is in per cent, noise the standard deviation in grey levels
of 255, blur that of a Gaussian."""


@dataclass(frozen=True)
class GradedChange:
    """A kind of change at one strength."""

    kind: str
    strength: float

    @property
    def name(self) -> str:
        """Kind and strength, for a table: "brightness -10 %"."""
        sign = "+" if self.kind == "brightness" else ""
        return f"{self.kind} {self.strength:{sign}g}{KINDS[self.kind].unit}"

    def of(self, image: Image.Image | FloatImage, number: int) -> NDArray[Any]:
        """Change a picture.

        Parameters
        ----------
        image : PIL.Image.Image or ndarray of float32 in [0, 1]
            As `mahalad.images.decoding.open_image` gives it.
        number : int
            The picture's number, from which noise and directions are drawn: they are the same at
            every strength.

        Returns
        -------
        ndarray of shape (H, W, 3)
            uint8, or float32 in [0, 1], as it was. Pixels that come from outside mirror what is
            within: a repeated edge would draw stripes, which no camera does.
        """
        pixels = np.asarray(image)
        if pixels.ndim == 2:
            pixels = np.repeat(pixels[:, :, None], 3, axis=2)
        way, strength = KINDS[self.kind].way, self.strength
        rng = np.random.default_rng(number)
        return changed(pixels, lambda values, rng: way(values, strength, rng), rng)


GRADED: Sequence[GradedChange] = tuple(
    GradedChange(kind, strength) for kind, about in KINDS.items() for strength in about.strengths
)
"""All changes that are measured."""
