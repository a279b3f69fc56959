"""Find anomalies in images from good images alone, at the false-positive rate you ask for.

>>> from mahalad import MahalanobisDetector
>>> detector = MahalanobisDetector(fpr=0.05)

The public names below are loaded on first use: `import mahalad` does not import torch.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from mahalad.lazy import hand_on

__version__ = "0.1.0"

_HOME_OF = {
    "AnomalyDetector": "mahalad.detectors.detector",
    "Autoencoder": "mahalad.metric.autoencoder.autoencoder",
    "BackboneFeatures": "mahalad.features.extractor",
    "ChiSquareThreshold": "mahalad.thresholds.chi_square",
    "CollapseError": "mahalad.errors",
    "ConformalThreshold": "mahalad.thresholds.conformal",
    "FineTuner": "mahalad.metric.finetuning.finetuning",
    "KNNDetector": "mahalad.detectors.knn",
    "LedoitWolfGaussian": "mahalad.scorers.gaussian",
    "LevelSum": "mahalad.scorers.level_sum",
    "MahaladError": "mahalad.errors",
    "MahalanobisDetector": "mahalad.detectors.mahalanobis",
    "MeanDistance": "mahalad.scorers.baselines",
    "MetricKNNClassifier": "mahalad.metric.classifier",
    "NearestNeighborDistance": "mahalad.scorers.baselines",
    "NominalChiSquareThreshold": "mahalad.thresholds.chi_square",
    "PatchGaussian": "mahalad.scorers.positions.gaussians",
    "PatchScorer": "mahalad.scorers.positions.scorer",
    "PrincipalComponents": "mahalad.scorers.reduction",
    "Result": "mahalad.result",
    "StandardizedDistance": "mahalad.scorers.baselines",
    "ToleranceThreshold": "mahalad.thresholds.tolerance",
    "TripletProjection": "mahalad.metric.triplets.projection",
    "copy_index": "mahalad.index.copying",
    "load": "mahalad.loading",
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
    "ToleranceThreshold",
    "TripletProjection",
    "__version__",
    "copy_index",
    "load",
    "open_index",
]

if TYPE_CHECKING:
    from mahalad.detectors.detector import AnomalyDetector
    from mahalad.detectors.knn import KNNDetector
    from mahalad.detectors.mahalanobis import MahalanobisDetector
    from mahalad.errors import CollapseError, MahaladError
    from mahalad.features.extractor import BackboneFeatures
    from mahalad.index.copying import copy_index
    from mahalad.index.opening import open_index
    from mahalad.loading import load
    from mahalad.metric.autoencoder.autoencoder import Autoencoder
    from mahalad.metric.classifier import MetricKNNClassifier
    from mahalad.metric.finetuning.finetuning import FineTuner
    from mahalad.metric.triplets.projection import TripletProjection
    from mahalad.result import Result
    from mahalad.scorers.baselines import (
        MeanDistance,
        NearestNeighborDistance,
        StandardizedDistance,
    )
    from mahalad.scorers.gaussian import LedoitWolfGaussian
    from mahalad.scorers.level_sum import LevelSum
    from mahalad.scorers.positions.gaussians import PatchGaussian
    from mahalad.scorers.positions.scorer import PatchScorer
    from mahalad.scorers.reduction import PrincipalComponents
    from mahalad.thresholds.chi_square import ChiSquareThreshold, NominalChiSquareThreshold
    from mahalad.thresholds.conformal import ConformalThreshold
    from mahalad.thresholds.tolerance import ToleranceThreshold


# Nothing is shown unless the program that uses it, or `mahalad -v`, asks for it.
logging.getLogger(__name__).addHandler(logging.NullHandler())

__getattr__ = hand_on(__name__, _HOME_OF)


def __dir__() -> list[str]:
    return sorted(__all__)
