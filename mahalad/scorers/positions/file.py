"""The names that a per-position scorer has in a model file, as functions between values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mahalad.protocols import Floats
from mahalad.scorers.positions.blocks import Blocks
from mahalad.scorers.positions.metric import Metric
from mahalad.scorers.positions.nearest import Nearest
from mahalad.scorers.positions.standards import Finer, Standards

Arrays = dict[str, NDArray[Any]]


def describe(
    standards: Standards, groups: Sequence[Sequence[str]], pooled: Sequence[str], boxed: bool
) -> tuple[dict[str, Any], Arrays]:
    """Describe standards and levels as JSON and arrays.

    Parameters
    ----------
    standards : Standards
    groups : sequence of sequences of str
        Names of the levels on each grid.
    pooled : sequence of str
        Names of the pooled levels.
    boxed : bool
        Whether the images are padded, and have boxes among their levels.
    """
    about: dict[str, Any] = {
        "groups": [list(group) for group in groups],
        "pooled": list(pooled),
        "n_active": standards.n_active,
        "scale": list(standards.scale),
    }
    if boxed:
        about["boxed"] = True
    if standards.common:
        about["common"] = standards.common
    arrays = {"joint/location": standards.standard[0], "joint/scale": standards.standard[1]}
    if finer := standards.finer:
        about["finer"] = {
            "grid": finer.grid,
            "weight": finer.weight,
            "n_largest": finer.n_largest,
        }
        arrays["finer/location"], arrays["finer/scale"] = finer.standard
    if standards.map_maxima is not None:
        about["maps"] = {name: own[:2] for name, own in standards.map_standards.items()}
        about["context_weight"] = standards.context_weight
        arrays["map_maxima"] = standards.map_maxima
        for name, (_, _, deviation) in standards.map_standards.items():
            arrays[f"levels/{name}/map_deviation"] = deviation
    return about, arrays


def standards_of(about: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Standards:
    """Read the standards that `describe` wrote."""
    map_standards = {
        name: (offset, mean, arrays[f"levels/{name}/map_deviation"])
        for name, (offset, mean) in about.get("maps", {}).items()
    }
    finer = None
    if own := about.get("finer"):
        standard = (arrays["finer/location"], arrays["finer/scale"])
        finer = Finer(own["grid"], float(own["weight"]), standard, int(own["n_largest"]))
    return Standards(
        scale=(float(about["scale"][0]), float(about["scale"][1])),
        standard=(arrays["joint/location"], arrays["joint/scale"]),
        map_standards=map_standards,
        # The maps of format 2 were others: they have no units here.
        map_maxima=arrays["map_maxima"] if map_standards else None,
        n_active=int(about["n_active"]),
        context_weight=float(about.get("context_weight", 0.0)),
        blend=float(about.get("blend", 0.0)),
        common=float(about.get("common", 0.0)),
        finer=finer,
    )


def level_arrays(name: str, arrays: Mapping[str, NDArray[Any]]) -> Arrays:
    """Name the arrays of a level's Gaussian; a level may have any name: below "levels/"."""
    return {f"levels/{name}/{key}": values for key, values in arrays.items()}


def arrays_of_positions(name: str, arrays: Mapping[str, NDArray[Any]]) -> Arrays:
    """Find what the Gaussians of a grid's positions score with."""
    return {key: arrays[f"levels/{name}/{key}"] for key in ("location", "whitening")}


def arrays_of_pooled(name: str, arrays: Mapping[str, NDArray[Any]]) -> Arrays:
    """Find what the Gaussian of a pooled level scores with."""
    keys = ("location", "variances", "basis", "ridge")
    return {key: arrays[f"levels/{name}/{key}"] for key in keys}


def nearest_arrays(name: str, nearest: Nearest, keys: NDArray[np.uint64]) -> Arrays:
    """Name the arrays of a grid's good patches, their keys, and the metric: its lower triangles."""
    precisions = nearest.metric.precisions
    rows, columns = np.tril_indices(precisions.shape[-1])
    found: Arrays = {
        "keys": keys,
        "patches": nearest.stored,
        "inside": nearest.inside.astype(np.uint8),
        "location": nearest.location,
        "scale": nearest.scale,
        "precisions": precisions[:, rows, columns].astype(np.float32),  # as they score
    }
    return {f"nearest/{name}/{key}": values for key, values in found.items()}


def nearest_of(name: str, arrays: Mapping[str, NDArray[Any]]) -> tuple[Nearest, NDArray[np.uint64]]:
    """Read what `nearest_arrays` named, and the keys."""
    keys = ("keys", "patches", "inside", "location", "scale", "precisions")
    own = {key: arrays[f"nearest/{name}/{key}"] for key in keys}
    location: Floats = own["location"]
    P, D = location.shape
    packed = own["precisions"]
    rows, columns = np.tril_indices(D)
    precisions = np.empty((len(packed), D, D))
    precisions[:, rows, columns] = precisions[:, columns, rows] = packed
    metric = Metric(Blocks(round(P**0.5)), precisions)
    stored = own["patches"]
    if stored.dtype != np.int8:
        stored = stored.astype(np.float16)
    nearest = Nearest(metric, location, own["scale"], stored, own["inside"].astype(bool))
    return nearest, own["keys"].astype(np.uint64)
