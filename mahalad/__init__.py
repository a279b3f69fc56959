"""Find anomalies in images from good images alone, at the false-positive rate you ask for.

>>> from mahalad import MahalanobisDetector
>>> detector = MahalanobisDetector(fpr=0.05)

The public names below are loaded on first use: `import mahalad` does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOME_OF = {
    "AnomalyDetector": "mahalad.detector",
    "BackboneFeatures": "mahalad.features",
    "ChiSquareThreshold": "mahalad.thresholds",
    "ConformalThreshold": "mahalad.thresholds",
    "KNNDetector": "mahalad.knn_detector",
    "LedoitWolfGaussian": "mahalad.gaussian",
    "LevelSum": "mahalad.scorers",
    "MahaladError": "mahalad.errors",
    "MahalanobisDetector": "mahalad.mahalanobis",
    "MeanDistance": "mahalad.scorers",
    "NearestNeighborDistance": "mahalad.scorers",
    "NominalChiSquareThreshold": "mahalad.thresholds",
    "PatchGaussian": "mahalad.patches",
    "PatchScorer": "mahalad.patch_scorer",
    "PrincipalComponents": "mahalad.reduction",
    "Result": "mahalad.result",
    "StandardizedDistance": "mahalad.scorers",
    "load": "mahalad.mahalanobis",
}

__all__ = [
    "AnomalyDetector",
    "BackboneFeatures",
    "ChiSquareThreshold",
    "ConformalThreshold",
    "KNNDetector",
    "LedoitWolfGaussian",
    "LevelSum",
    "MahaladError",
    "MahalanobisDetector",
    "MeanDistance",
    "NearestNeighborDistance",
    "NominalChiSquareThreshold",
    "PatchGaussian",
    "PatchScorer",
    "PrincipalComponents",
    "Result",
    "StandardizedDistance",
    "__version__",
    "load",
]

if TYPE_CHECKING:
    from mahalad.detector import AnomalyDetector
    from mahalad.errors import MahaladError
    from mahalad.features import BackboneFeatures
    from mahalad.gaussian import LedoitWolfGaussian
    from mahalad.knn_detector import KNNDetector
    from mahalad.mahalanobis import MahalanobisDetector, load
    from mahalad.patch_scorer import PatchScorer
    from mahalad.patches import PatchGaussian
    from mahalad.reduction import PrincipalComponents
    from mahalad.result import Result
    from mahalad.scorers import (
        LevelSum,
        MeanDistance,
        NearestNeighborDistance,
        StandardizedDistance,
    )
    from mahalad.thresholds import (
        ChiSquareThreshold,
        ConformalThreshold,
        NominalChiSquareThreshold,
    )


def __getattr__(name: str) -> object:
    if name in _HOME_OF:
        return getattr(importlib.import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module 'mahalad' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
