"""The classes that a model file may name, and no others."""

from __future__ import annotations

HOME_OF = {
    "AnomalyDetector": "mahalad.detectors.detector",
    "AsIs": "mahalad.metric.autoencoder.reconstruction",
    "Autoencoder": "mahalad.metric.autoencoder.autoencoder",
    "BackboneFeatures": "mahalad.features.extractor",
    "ChiSquareThreshold": "mahalad.thresholds.rules",
    "ConformalThreshold": "mahalad.thresholds.rules",
    "KNNDetector": "mahalad.detectors.knn",
    "KthNeighborDistance": "mahalad.scorers.neighbors",
    "LedoitWolfGaussian": "mahalad.scorers.gaussian",
    "LevelSum": "mahalad.scorers.level_sum",
    "MahalanobisDetector": "mahalad.detectors.mahalanobis",
    "MeanDistance": "mahalad.scorers.baselines",
    "MetricKNNClassifier": "mahalad.metric.classifier",
    "NearestNeighborDistance": "mahalad.scorers.baselines",
    "NominalChiSquareThreshold": "mahalad.thresholds.rules",
    "OneClassSVM": "sklearn.svm",
    "PatchGaussian": "mahalad.scorers.positions.gaussians",
    "PatchScorer": "mahalad.scorers.positions.scorer",
    "Pipeline": "sklearn.pipeline",
    "PrincipalComponents": "mahalad.scorers.reduction",
    "ReconstructionError": "mahalad.metric.autoencoder.reconstruction",
    "StandardizedDistance": "mahalad.scorers.baselines",
    "TripletProjection": "mahalad.metric.triplets.projection",
}
"""Every class that a model file may name, and the module that has it. A file can make objects of
no other class. Modules are loaded when a file or an object asks for them."""

CLASS_NAMES = frozenset(HOME_OF)
"""Names of the classes that a model file may hold."""
