"""Estimators of the library as JSON and back: parameters only, classes from a fixed list."""

from __future__ import annotations

import importlib
import importlib.metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from PIL import Image
from sklearn.base import BaseEstimator
from sklearn.pipeline import Pipeline
from sklearn.svm import OneClassSVM

from mahalad.features.extractor import BackboneFeatures
from mahalad.scorers.baselines import MeanDistance, NearestNeighborDistance, StandardizedDistance
from mahalad.scorers.gaussian import LedoitWolfGaussian
from mahalad.scorers.level_sum import LevelSum
from mahalad.scorers.neighbors import KthNeighborDistance
from mahalad.scorers.reduction import PrincipalComponents
from mahalad.thresholds.rules import RULES

if TYPE_CHECKING:
    from mahalad.detectors.detector import AnomalyDetector


_CLASSES: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        BackboneFeatures,
        KthNeighborDistance,
        LedoitWolfGaussian,
        LevelSum,
        MeanDistance,
        NearestNeighborDistance,
        OneClassSVM,
        Pipeline,
        PrincipalComponents,
        StandardizedDistance,
        *RULES.values(),
    )
}


_LAZY = {
    "AsIs": "mahalad.metric.autoencoder.reconstruction",
    "Autoencoder": "mahalad.metric.autoencoder",
    "PatchGaussian": "mahalad.scorers.positions.gaussians",
    "PatchScorer": "mahalad.scorers.positions.scorer",
    "ReconstructionError": "mahalad.metric.autoencoder.reconstruction",
}
"""Classes whose modules import torch, or are seldom needed: loaded when a file or an object asks
for them. What an autoencoder has learned is not in its description; the detector's file adds it.
"""


EMBEDDED = "embedded in the model file"
"""What stands for a region of interest that was given as a picture or an array."""


def _class_named(name: str) -> type | None:
    if name in _LAZY:
        return cast(type, getattr(importlib.import_module(_LAZY[name]), name))
    return _CLASSES.get(name)


def is_known(cls: type) -> bool:
    """Whether objects of a class can be described, and not only those of one with its name."""
    return _class_named(cls.__name__) is cls


def to_spec(value: Any) -> Any:
    """Describe a parameter as JSON.

    An estimator becomes ``{"class": name, "params": {...}}``; one that is not in the library's
    list becomes ``{"custom": repr}``, which only the caller can turn back into an object.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (np.ndarray, Image.Image)):
        return EMBEDDED
    if type(value) in RULES.values():
        return {"class": type(value).__name__, "params": {}}
    if isinstance(value, (list, tuple)):
        return [to_spec(item) for item in value]
    if isinstance(value, BaseEstimator) and is_known(type(value)):
        estimator: Any = value
        params: dict[str, Any] = estimator.get_params(deep=False)
        return {
            "class": type(value).__name__,
            "params": {name: to_spec(param) for name, param in params.items()},
        }
    return {"custom": repr(value)}


def from_spec(spec: Any) -> Any:
    """Make the parameter that `to_spec` described.

    Raises
    ------
    LookupError
        It was an object that is not in the library's list; its repr is the argument.
    """
    if isinstance(spec, list):
        return [from_spec(item) for item in spec]
    if not isinstance(spec, dict):
        return spec
    cls = None if "custom" in spec else _class_named(str(spec.get("class")))
    if cls is None:
        raise LookupError(spec.get("custom") or spec.get("class"))
    return cls(**{name: from_spec(param) for name, param in spec["params"].items()})


def params_spec(detector: AnomalyDetector) -> dict[str, Any]:
    """Parameters of a detector as JSON."""
    return {name: to_spec(value) for name, value in detector.get_params(deep=False).items()}
