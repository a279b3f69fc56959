"""The one table of the classes that model files name, and the modules that have them."""

from __future__ import annotations

import importlib
from typing import cast

from mahalad.errors import ModelFileError

_HOME_OF = {
    "AnomalyDetector": "mahalad.detectors.detector",
    "AsIs": "mahalad.metric.autoencoder.reconstruction",
    "Autoencoder": "mahalad.metric.autoencoder.autoencoder",
    "BackboneFeatures": "mahalad.features.extractor",
    "ChiSquareThreshold": "mahalad.thresholds.chi_square",
    "ConformalThreshold": "mahalad.thresholds.conformal",
    "KNNDetector": "mahalad.detectors.knn",
    "KthNeighborDistance": "mahalad.scorers.neighbors",
    "LedoitWolfGaussian": "mahalad.scorers.gaussian",
    "LevelSum": "mahalad.scorers.level_sum",
    "MahalanobisDetector": "mahalad.detectors.mahalanobis",
    "MeanDistance": "mahalad.scorers.baselines",
    "MetricKNNClassifier": "mahalad.metric.classifier",
    "NearestNeighborDistance": "mahalad.scorers.baselines",
    "NominalChiSquareThreshold": "mahalad.thresholds.chi_square",
    "OneClassSVM": "sklearn.svm",
    "PatchGaussian": "mahalad.scorers.positions.gaussians",
    "PatchScorer": "mahalad.scorers.positions.scorer",
    "Pipeline": "sklearn.pipeline",
    "PrincipalComponents": "mahalad.scorers.reduction",
    "ReconstructionError": "mahalad.metric.autoencoder.reconstruction",
    "StandardizedDistance": "mahalad.scorers.baselines",
    "ToleranceThreshold": "mahalad.thresholds.tolerance",
    "TripletProjection": "mahalad.metric.triplets.projection",
}
"""Every class that a model file may name, and the module that has it. A file can make objects of
no other class. Modules are loaded when a file or an object asks for them."""

CLASS_NAMES = frozenset(_HOME_OF)
"""Names of the classes that a model file may hold."""

_MODELS = frozenset(
    {"AnomalyDetector", "KNNDetector", "MahalanobisDetector", "MetricKNNClassifier"}
)

PART_NAMES = CLASS_NAMES - _MODELS
"""Names of the classes whose objects may be parameters of a model."""


def class_named(name: str) -> type:
    """The class of the library with that name.

    Raises
    ------
    ModelFileError
        No model file of this version holds objects of such a class.
    """
    if name not in _HOME_OF:
        raise ModelFileError(f"holds a {name!r}, which is no class of this version of mahalad")
    return cast(type, getattr(importlib.import_module(_HOME_OF[name]), name))


def is_known(cls: type) -> bool:
    """Whether a class is the one of its name in the table, and not another of that name."""
    return cls.__name__ in _HOME_OF and class_named(cls.__name__) is cls
