"""Sums of Gaussians as the named arrays of a model file, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mahalad.errors import InputError
from mahalad.scorers.capabilities import capabilities_of
from mahalad.scorers.moments import Moments

NEEDS_FEATURES = (
    "include_features=False is for a Gaussian without reduction: this scorer learns from "
    "the features themselves"
)


class HasMoments(Protocol):
    """A Gaussian that is made from sums alone."""

    moments_: Moments

    def restore_moments(self, moments: Moments) -> Any:
        """Become the fit to the samples that were summed."""
        ...


def sums_of(gaussians: Mapping[str, HasMoments]) -> dict[str, NDArray[Any]]:
    """Name the sums of fitted Gaussians; the keys are the names of their levels."""
    arrays: dict[str, NDArray[Any]] = {}
    for level, gaussian in gaussians.items():
        moments = gaussian.moments_
        own = {"shift": moments.shift, "s1": moments.s1, "s2": moments.s2, "q1": moments.q1}
        arrays |= {f"moments/{level}/{field}": values for field, values in own.items()}
        n = np.full_like(moments.q2, moments.n_samples)
        arrays[f"moments/{level}/scalars"] = np.stack([n, moments.q2, moments.q4])
    return arrays


def restore_sums(gaussians: Mapping[str, HasMoments], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Give Gaussians the sums that `sums_of` named; one without sums there stays as it is."""
    for level, gaussian in gaussians.items():
        stem = f"moments/{level}"
        if f"{stem}/scalars" not in arrays:
            continue
        n, q2, q4 = arrays[f"{stem}/scalars"]
        shift, s1, s2, q1 = (arrays[f"{stem}/{field}"] for field in ("shift", "s1", "s2", "q1"))
        gaussian.restore_moments(Moments(int(n.flat[0]), shift, s1, s2, q1, q2, q4))


def sums_of_scorer(scorer: Any) -> dict[str, NDArray[Any]]:
    """Name the sums of any fitted scorer.

    Raises
    ------
    InputError
        It keeps no sums.
    """
    if not capabilities_of(scorer).keeps_sums:
        raise InputError(NEEDS_FEATURES)
    arrays: dict[str, NDArray[Any]] = scorer.sums()
    return arrays
