"""The autoencoder: an encoder learned from unlabelled images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mahalad.lazy import hand_on

_HOME_OF = {
    "Autoencoder": "mahalad.metric.autoencoder.autoencoder",
    "INTERPOLATION": "mahalad.metric.autoencoder.autoencoder",
}

__all__ = [
    "INTERPOLATION",
    "Autoencoder",
]

if TYPE_CHECKING:
    from mahalad.metric.autoencoder.autoencoder import INTERPOLATION, Autoencoder

__getattr__ = hand_on(__name__, _HOME_OF)
