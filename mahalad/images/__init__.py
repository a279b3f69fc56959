"""Images: found, decoded, squared, read in batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mahalad.lazy import hand_on

_HOME_OF = {
    "FloatImage": "mahalad.protocols",
    "INTERPOLATIONS": "mahalad.images.resizing",
    "IMAGE_EXTENSIONS": "mahalad.images.searching",
    "ImageListing": "mahalad.images.listing",
    "ImageSource": "mahalad.images.sources",
    "Pixels": "mahalad.images.pixels",
    "find_images": "mahalad.images.listing",
    "image_extensions": "mahalad.images.searching",
    "iter_sources": "mahalad.images.sources",
    "open_image": "mahalad.images.decoding",
    "resize_image": "mahalad.images.resizing",
    "resize_square": "mahalad.images.resizing",
}

__all__ = [
    "IMAGE_EXTENSIONS",
    "INTERPOLATIONS",
    "FloatImage",
    "ImageListing",
    "ImageSource",
    "Pixels",
    "find_images",
    "image_extensions",
    "iter_sources",
    "open_image",
    "resize_image",
    "resize_square",
]

if TYPE_CHECKING:
    from mahalad.images.decoding import open_image
    from mahalad.images.listing import ImageListing, find_images
    from mahalad.images.pixels import Pixels
    from mahalad.images.resizing import INTERPOLATIONS, resize_image, resize_square
    from mahalad.images.searching import IMAGE_EXTENSIONS, image_extensions
    from mahalad.images.sources import ImageSource, iter_sources
    from mahalad.protocols import FloatImage

__getattr__ = hand_on(__name__, _HOME_OF)
