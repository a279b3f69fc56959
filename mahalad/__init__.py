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
    "Autoencoder": "mahalad.metric.autoencoder",
    "BackboneFeatures": "mahalad.features",
    "ChiSquareThreshold": "mahalad.thresholds",
    "CollapseError": "mahalad.errors",
    "ConformalThreshold": "mahalad.thresholds",
    "FineTuner": "mahalad.metric.finetuning",
    "KNNDetector": "mahalad.knn_detector",
    "LedoitWolfGaussian": "mahalad.gaussian",
    "LevelSum": "mahalad.scorers",
    "MahaladError": "mahalad.errors",
    "MahalanobisDetector": "mahalad.mahalanobis",
    "MeanDistance": "mahalad.scorers",
    "MetricKNNClassifier": "mahalad.metric.classifier",
    "NearestNeighborDistance": "mahalad.scorers",
    "NominalChiSquareThreshold": "mahalad.thresholds",
    "PatchGaussian": "mahalad.patches",
    "PatchScorer": "mahalad.patch_scorer",
    "PrincipalComponents": "mahalad.reduction",
    "Result": "mahalad.result",
    "StandardizedDistance": "mahalad.scorers",
    "TripletProjection": "mahalad.metric.projection",
    "copy_index": "mahalad.index.copying",
    "load": "mahalad.mahalanobis",
    "open_index": "mahalad.index.opening",
}

__all__ = [
    "AnomalyDetector",
    "Autoencoder",
    "BackboneFeatures",
    "ChiSquareThreshold",
    "CollapseError",
    "ConformalThreshold",
    "FineTuner",
    "KNNDetector",
    "LedoitWolfGaussian",
    "LevelSum",
    "MahaladError",
    "MahalanobisDetector",
    "MeanDistance",
    "MetricKNNClassifier",
    "NearestNeighborDistance",
    "NominalChiSquareThreshold",
    "PatchGaussian",
    "PatchScorer",
    "PrincipalComponents",
    "Result",
    "StandardizedDistance",
    "TripletProjection",
    "__version__",
    "copy_index",
    "load",
    "open_index",
]

if TYPE_CHECKING:
    from mahalad.detector import AnomalyDetector
    from mahalad.errors import CollapseError, MahaladError
    from mahalad.features import BackboneFeatures
    from mahalad.gaussian import LedoitWolfGaussian
    from mahalad.index.copying import copy_index
    from mahalad.index.opening import open_index
    from mahalad.knn_detector import KNNDetector
    from mahalad.mahalanobis import MahalanobisDetector, load
    from mahalad.metric.autoencoder import Autoencoder
    from mahalad.metric.classifier import MetricKNNClassifier
    from mahalad.metric.finetuning import FineTuner
    from mahalad.metric.projection import TripletProjection
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
