"""The autoencoder: an encoder learned from unlabelled images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mahalad.lazy import hand_on

_HOME_OF = {
    "AsIs": "mahalad.metric.autoencoder.reconstruction",
    "Autoencoder": "mahalad.metric.autoencoder.autoencoder",
    "INTERPOLATION": "mahalad.metric.autoencoder.autoencoder",
    "ReconstructionError": "mahalad.metric.autoencoder.reconstruction",
}

__all__ = [
    "INTERPOLATION",
    "AsIs",
    "Autoencoder",
    "ReconstructionError",
]

if TYPE_CHECKING:
    from mahalad.metric.autoencoder.autoencoder import INTERPOLATION, Autoencoder
    from mahalad.metric.autoencoder.reconstruction import AsIs, ReconstructionError

__getattr__ = hand_on(__name__, _HOME_OF)
