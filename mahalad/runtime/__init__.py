"""Exported models, by onnxruntime: NumPy, Pillow and onnxruntime are all that is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mahalad.lazy import hand_on

_HOME_OF = {
    "OnnxClassifier": "mahalad.runtime.classifier",
    "OnnxDetector": "mahalad.runtime.detector",
    "load": "mahalad.runtime.loading",
}

__all__ = ["OnnxClassifier", "OnnxDetector", "load"]

if TYPE_CHECKING:
    from mahalad.runtime.classifier import OnnxClassifier
    from mahalad.runtime.detector import OnnxDetector
    from mahalad.runtime.loading import load

__getattr__ = hand_on(__name__, _HOME_OF)
