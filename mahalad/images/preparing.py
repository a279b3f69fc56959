"""From images to the squares that a network takes: the one way, whatever computes the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mahalad.errors import ImageValueError
from mahalad.images.decoding import as_opened
from mahalad.images.geometry import (
    Boxes,
    Prepared,
    as_float,
    boxes_of,
    cut_from_square,
    fit_to_square,
    fitted_shape,
    pad_to_squares,
)
from mahalad.images.pixels import AS_STORED, Pixels
from mahalad.images.resizing import resize_square
from mahalad.protocols import Value


@dataclass(frozen=True, eq=False)
class Preparation(Value):
    """How images become squares.

    Attributes
    ----------
    side : int
        Side of the square in pixels.
    resize : {"squash", "pad"}
    interpolation : str
        One of `mahalad.images.resizing.INTERPOLATIONS`.
    region : ndarray of bool, shape (side, side), or None
        Region of interest.
    colour : tuple of int, or None
        What pixels outside the region become, 8 bits; None for what is there.
    pixels : Pixels
        How images are read.
    """

    side: int
    resize: str
    interpolation: str
    region: NDArray[np.bool_] | None = None
    colour: tuple[int, ...] | None = None
    pixels: Pixels = AS_STORED

    def prepare(self, image: Any) -> NDArray[Any]:
        """Resize an image in memory; see `BackboneFeatures.prepare`.

        Raises
        ------
        ImageValueError
            No part of the image lies in the region of interest, or values that are no pixels.
        """
        image = as_opened(image, self.pixels)
        shape = fitted_shape(image, self.side, self.resize)
        if self.region is not None and not cut_from_square(self.region, shape).any():
            raise ImageValueError(
                f"of its shape ({shape[1]} x {shape[0]} as resized), nothing lies in the region of "
                "interest: give a region for images of this shape"
            )
        image = self._overwritten(image, shape)
        to_shape = fit_to_square if self.resize == "pad" else resize_square
        return to_shape(image, self.side, self.interpolation)

    def squares(
        self, prepared: Sequence[NDArray[Any]]
    ) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """Make the squares that the network takes, (n, S, S, 3), and the regions to pool over."""
        if any(image.dtype != np.uint8 for image in prepared):
            prepared = [as_float(image) for image in prepared]
        # Once more: small pictures were enlarged, and augmented copies moved and lit.
        prepared = [self._overwritten(image, image.shape[:2]) for image in prepared]
        if self.resize == "squash":
            return np.stack(prepared), self.region
        squares, pictures = pad_to_squares(prepared, self.side)
        return squares, pictures if self.region is None else pictures & self.region

    def boxes(self, prepared: Sequence[NDArray[Any]]) -> Boxes | None:
        """Compute where each picture lies in its square, (n, 4); None if all fill it."""
        return boxes_of(prepared, self.side) if self.resize == "pad" else None

    def _overwritten(self, image: Any, shape: tuple[int, int]) -> Any:
        """Overwrite what lies outside the region in an image that becomes (height, width)."""
        if self.colour is None or self.region is None:
            return image
        colour = np.array(self.colour, np.uint8)
        return overwrite_outside(image, cut_from_square(self.region, shape), colour)


def overwrite_outside(
    image: Image.Image | Prepared, inside: NDArray[np.bool_], colour: NDArray[np.uint8]
) -> Image.Image | Prepared:
    """Give all pixels of an image that lie outside a region one colour.

    Parameters
    ----------
    image : PIL.Image.Image of mode "RGB", or ndarray of shape (H, W) or (H, W, 3)
        Of uint8, or of float32 in [0, 1]. It is not changed.
    inside : ndarray of bool, shape (height, width)
        The region, laid over the image.
    colour : ndarray of uint8, shape (3,)
        The same colour for floats, which are of 0..255 divided by 255.

    Returns
    -------
    PIL.Image.Image or ndarray of shape (H, W, 3)

    Examples
    --------
    >>> image, inside = np.zeros((2, 4), np.float32), np.array([[True, False]])
    >>> overwrite_outside(image, inside, np.array([255, 0, 0], np.uint8))[0, :, 0].tolist()
    [0.0, 0.0, 1.0, 1.0]
    """
    pixels = np.array(image)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    rows, columns = (
        (2 * np.arange(n) + 1) * size // (2 * n)
        for n, size in zip(pixels.shape[:2], inside.shape, strict=True)
    )
    outside = (~inside)[:, columns][rows]  # whole rows are copied, in a fifth of the time
    values = colour if pixels.dtype == np.uint8 else colour / np.float32(255)
    for channel, value in enumerate(values):
        np.copyto(pixels[:, :, channel], value, where=outside)
    return Image.fromarray(pixels) if isinstance(image, Image.Image) else pixels
