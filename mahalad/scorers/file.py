"""Sums of Gaussians in a model file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mahalad.errors import InputError
from mahalad.scorers.gaussian import LedoitWolfGaussian
from mahalad.scorers.level_sum import LevelSum
from mahalad.scorers.moments import Moments

if TYPE_CHECKING:
    from collections.abc import Mapping


_MOMENTS = ("shift", "s1", "s2", "q1")


def is_patch_scorer(scorer: Any) -> bool:
    return hasattr(scorer, "patch_gaussians_")


def moments_arrays(scorer: Any, include_features: bool) -> dict[str, NDArray[Any]]:
    if not isinstance(scorer, LevelSum) or not isinstance(scorer.estimator, LedoitWolfGaussian):
        raise InputError(
            "include_features=False is for a Gaussian without reduction: this scorer learns from "
            "the features themselves"
        )
    return sums_of(scorer.estimators_)


def sums_of(gaussians: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {}
    for level, gaussian in gaussians.items():
        moments = gaussian.moments_
        for field in _MOMENTS:
            arrays[f"moments/{level}/{field}"] = getattr(moments, field)
        n = np.full_like(moments.q2, moments.n_samples)
        arrays[f"moments/{level}/scalars"] = np.stack([n, moments.q2, moments.q4])
    return arrays


def restore_sums(gaussians: Mapping[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
    for level, gaussian in gaussians.items():
        stem = f"moments/{level}"
        if f"{stem}/scalars" not in arrays:
            continue
        n, q2, q4 = arrays[f"{stem}/scalars"]
        fields = {field: arrays[f"{stem}/{field}"] for field in _MOMENTS}
        gaussian.moments_ = Moments(n_samples=int(n.flat[0]), q2=q2, q4=q4, **fields)
        if isinstance(gaussian, LedoitWolfGaussian):
            gaussian.n_features_in_ = gaussian.moments_.n_features
            gaussian._spectrum = None
