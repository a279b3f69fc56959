"""Features: what a frozen network says of an image, at every level."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mahalad.lazy import hand_on

_HOME_OF = {
    "BackboneFeatures": "mahalad.features.extractor",
    "turn": "mahalad.images.geometry",
}

__all__ = [
    "BackboneFeatures",
    "turn",
]

if TYPE_CHECKING:
    from mahalad.features.extractor import BackboneFeatures
    from mahalad.images.geometry import turn

__getattr__ = hand_on(__name__, _HOME_OF)
