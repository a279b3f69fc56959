"""A fitted detector as one ONNX file, from pixels to score, p-value, verdict and map."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mahalad.lazy import hand_on

_HOME_OF = {"export": "mahalad.export.exporting"}

__all__ = ["export"]

if TYPE_CHECKING:
    from mahalad.export.exporting import export

__getattr__ = hand_on(__name__, _HOME_OF)
