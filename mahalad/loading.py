"""Model files by kind: the one module that knows every class that a file may hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mahalad.detectors.detector import AnomalyDetector
from mahalad.files.container import read_header
from mahalad.metric.file import KIND


def load(
    path: str | Path,
    *,
    weights: str | Path | None = None,
    device: str | None = None,
    engine: str | None = None,
    features: Any = None,
    scorer: Any = None,
    threshold: Any = None,
) -> Any:
    """Read a model that `save` wrote, and check that it still says what it said.

    Parameters
    ----------
    path : str or Path
    weights : str or Path, optional
        Weights file, for a model saved without them; ``"hub"`` to fetch them from timm's hub.
        Nothing is fetched unless you say so.
    device : str, optional
        Device to compute on; None for the one that was asked for at fit.
    engine : {"auto", "torch", "onnx", "openvino"}, optional
        What computes the network; None for the engine that was asked for at fit.
    features, scorer, threshold : optional
        The unfitted parts, for a detector that was made with parts from outside this library
        (a file holds no code).

    Returns
    -------
    AnomalyDetector, MahalanobisDetector, KNNDetector or MetricKNNClassifier
        The class is that of the saved model.

    Raises
    ------
    ModelFileError
        Not a model, damaged, from a newer version, other weights than at fit, or golden inputs
        whose scores do not come back (with this engine, say).
    MissingExtraError
        The engine is not installed.
    """
    kind = read_header(path).get("kind")
    if kind == KIND:
        from mahalad.metric.classifier import MetricKNNClassifier

        return MetricKNNClassifier.load(path, weights=weights, device=device, engine=engine)
    return AnomalyDetector.load(
        path,
        weights=weights,
        device=device,
        engine=engine,
        features=features,
        scorer=scorer,
        threshold=threshold,
    )


def is_classifier(path: str | Path) -> bool:
    """Whether a model file holds a classifier by nearest neighbours."""
    return bool(read_header(path).get("kind") == KIND)
