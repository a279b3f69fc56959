"""Model files by kind: the one module that knows every class that a file may hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mahalad.detectors.detector import AnomalyDetector
from mahalad.errors import InputError
from mahalad.files.container import read_header
from mahalad.files.recognition import is_export
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
    """Read a model that `save` or `export` wrote, and check that it still says what it said.

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
    AnomalyDetector, MahalanobisDetector, KNNDetector, MetricKNNClassifier or OnnxDetector
        The class is that of the saved model; the last of an exported one.

    Raises
    ------
    InputError
        Options for an exported model, which has all of these within.
    ModelFileError
        Not a model, damaged, from a newer version, other weights than at fit, or golden inputs
        whose scores do not come back (with this engine, say).
    MissingExtraError
        The engine is not installed.
    """
    given = {"weights": weights, "device": device, "engine": engine, "features": features,
             "scorer": scorer, "threshold": threshold}  # fmt: skip
    if is_export(path):
        return _exported(path, [name for name, value in given.items() if value is not None])
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


def _exported(path: str | Path, given: list[str]) -> Any:
    from mahalad.runtime.loading import load as load_exported

    if given:
        raise InputError(
            f"{path}: an exported model, which runs by its own engine on the CPU with the weights "
            f"that it has within: leave out {', '.join(given)}"
        )
    return load_exported(path)


def is_classifier(path: str | Path) -> bool:
    """Whether a model file holds a classifier by nearest neighbours."""
    return not is_export(path) and bool(read_header(path).get("kind") == KIND)
