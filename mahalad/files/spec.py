"""Estimators of the library as JSON and back: parameters alone, classes from one table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.base import BaseEstimator

from mahalad.files.classes import CLASS_NAMES, class_named, is_known

EMBEDDED = "embedded in the model file"
"""What stands for a region of interest that was given as a picture or an array."""


def to_spec(value: Any) -> Any:
    """Describe a parameter as JSON.

    An estimator becomes ``{"class": name, "params": {...}}``; one that is not in the library's
    table becomes ``{"custom": repr}``, which only the caller can turn back into an object.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (np.ndarray, Image.Image)):
        return EMBEDDED
    if isinstance(value, (list, tuple)):
        return [to_spec(item) for item in value]
    if is_known(type(value)):
        params = params_spec(value) if isinstance(value, BaseEstimator) else {}
        return {"class": type(value).__name__, "params": params}
    return {"custom": repr(value)}


def params_spec(estimator: Any) -> dict[str, Any]:
    """Parameters of an estimator as JSON, by their names."""
    params: dict[str, Any] = estimator.get_params(deep=False)
    return {name: to_spec(value) for name, value in params.items()}


def from_spec(spec: Any, embedded: Any = EMBEDDED) -> Any:
    """Make the parameter that `to_spec` described.

    Parameters
    ----------
    spec : JSON
    embedded : array, optional
        The region of interest that the file embeds, put where one was given as an array.

    Raises
    ------
    LookupError
        It was an object that is not in the library's table; its repr is the argument.
    """
    if isinstance(spec, list):
        return [from_spec(item, embedded) for item in spec]
    if isinstance(spec, str) and spec == EMBEDDED:
        return embedded
    if not isinstance(spec, dict):
        return spec
    if "custom" in spec or spec.get("class") not in CLASS_NAMES:
        raise LookupError(spec.get("custom") or spec.get("class"))
    params = {name: from_spec(param, embedded) for name, param in spec["params"].items()}
    return class_named(spec["class"])(**params)
