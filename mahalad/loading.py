"""Model files by kind: the one module that knows every class a file may hold."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mahalad.detectors import file as persistence
from mahalad.detectors.detector import AnomalyDetector
from mahalad.detectors.knn import KNNDetector
from mahalad.detectors.mahalanobis import MahalanobisDetector
from mahalad.errors import ModelFileError
from mahalad.files.container import read_header
from mahalad.metric.file import KIND

if TYPE_CHECKING:
    pass


CLASSES = {cls.__name__: cls for cls in (AnomalyDetector, KNNDetector, MahalanobisDetector)}


def load(
    path: str | Path,
    *,
    weights: str | Path | None = None,
    device: str | None = None,
    features: Any = None,
    scorer: Any = None,
    threshold: Any = None,
) -> Any:
    """Read a detector that `save` wrote, and check that it still scores as it did.

    Parameters
    ----------
    path : str or Path
    weights : str or Path, optional
        Weights file, for a model saved without them.
    device : str, optional
        Device to score on; None for the one that was asked for at fit.
    features, scorer, threshold : optional
        The unfitted parts, for a detector that was made with parts from outside this library
        (a file holds no code).

    Returns
    -------
    AnomalyDetector, MahalanobisDetector, KNNDetector or MetricKNNClassifier
        Of the class that was saved.

    Raises
    ------
    ModelFileError
        Not a model, damaged, from a newer version, other weights than at fit, or scores of the
        golden inputs that do not come back.
    """
    parts = {"features": features, "scorer": scorer, "threshold": threshold}
    kind = read_header(path).get("kind")
    if kind == "metric-knn":
        from mahalad.metric.classifier import MetricKNNClassifier

        return MetricKNNClassifier.load(path, weights=weights, device=device)
    if kind is not None:
        raise ModelFileError(
            f"{path}: holds no detector but an {kind}: mahalad.metric.autoencoder.Autoencoder.load "
            "reads it"
        )
    return persistence.load(path, CLASSES, weights, device, parts)


def is_classifier(path: str | Path) -> bool:
    """Whether a model file holds a classifier by nearest neighbours."""
    return bool(read_header(path).get("kind") == KIND)
