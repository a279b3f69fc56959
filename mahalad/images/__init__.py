"""Images: found, decoded, squared, read in batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mahalad.lazy import hand_on

_HOME_OF = {
    "FloatImage": "mahalad.protocols",
    "IMAGE_EXTENSIONS": "mahalad.images.sources",
    "INTERPOLATIONS": "mahalad.images.resizing",
    "ImageSource": "mahalad.images.sources",
    "Pixels": "mahalad.images.pixels",
    "iter_sources": "mahalad.images.sources",
    "open_image": "mahalad.images.decoding",
    "resize_image": "mahalad.images.resizing",
    "resize_square": "mahalad.images.resizing",
}

__all__ = [
    "IMAGE_EXTENSIONS",
    "INTERPOLATIONS",
    "FloatImage",
    "ImageSource",
    "Pixels",
    "iter_sources",
    "open_image",
    "resize_image",
    "resize_square",
]

if TYPE_CHECKING:
    from mahalad.images.decoding import open_image
    from mahalad.images.pixels import Pixels
    from mahalad.images.resizing import INTERPOLATIONS, resize_image, resize_square
    from mahalad.images.sources import IMAGE_EXTENSIONS, ImageSource, iter_sources
    from mahalad.protocols import FloatImage

__getattr__ = hand_on(__name__, _HOME_OF)
