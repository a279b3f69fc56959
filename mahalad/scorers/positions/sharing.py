"""Gaussians of positions that share the features of others, for parts that do not lie still.

`neighbourhood` is how many steps away these may be; 0 for none, ``"all"`` for all positions.
"""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mahalad.checks import OneOf
from mahalad.choices import NEIGHBOURHOODS
from mahalad.protocols import Floats
from mahalad.scorers.positions.gaussians import PatchGaussian


class NeighbourhoodLimit:
    """What `neighbourhood` may be: one of `mahalad.choices.NEIGHBOURHOODS`."""

    def allows(self, value: Any) -> bool:
        """Whether it is a whole number (Python's or NumPy's) among them, or "all"."""
        if isinstance(value, numbers.Integral) and not isinstance(value, bool):
            value = int(value)
        return OneOf(NEIGHBOURHOODS).allows(value)

    def __str__(self) -> str:
        nearest, none, *_, most, everything = NEIGHBOURHOODS
        return f"be {nearest!r}, {none} to {most} positions or {everything!r}"


def samples_of(
    values: NDArray[Any], inside: NDArray[np.bool_], neighbourhood: int | str
) -> NDArray[Any]:
    """Make the samples that the Gaussians are fitted to: all features that share a position.

    Features (n, P, D) become samples (n * s, P', D), with s samples of each image: its own
    features come first, then those of neighbours. Around a picture its edge is repeated, and
    neighbours beyond it have the features of the edge. The one Gaussian of all positions is
    fitted to what lies inside pictures only.
    """
    n, P, D = values.shape
    if neighbourhood == "all":
        return values.reshape(n * P, 1, D)[inside.ravel()]
    if not neighbourhood:
        return values
    side, r = round(P**0.5), int(neighbourhood)
    steps = sorted(np.ndindex(2 * r + 1, 2 * r + 1), key=lambda step: step != (r, r))
    axis = np.arange(side)
    grid = values.reshape(n, side, side, D)
    moved = [
        grid[:, np.clip(axis + dy - r, 0, side - 1)][:, :, np.clip(axis + dx - r, 0, side - 1)]
        for dy, dx in steps
    ]
    return np.stack(moved, axis=1).reshape(-1, P, D)


def alone(values: NDArray[Any], neighbourhood: int | str) -> NDArray[Any]:
    """Give features (n, P, D) to the Gaussians that score them: (n, P, D), or (n * P, 1, D)."""
    n, P, D = values.shape
    return values.reshape(n * P, 1, D) if neighbourhood == "all" else values


def distances_of(gaussian: PatchGaussian, values: NDArray[Any], neighbourhood: int | str) -> Floats:
    """Measure the distances (n, P) of features (n, P, D) on a grid, up = abnormal."""
    return gaussian.distances(alone(values, neighbourhood)).reshape(values.shape[:2])


def leave_one_out(
    gaussian: PatchGaussian,
    values: NDArray[Any],
    inside: NDArray[np.bool_],
    neighbourhood: int | str,
    groups: Any,
    n_pairs: int,
    changed: NDArray[np.intp] | None = None,
) -> tuple[Floats, Floats]:
    """`PatchGaussian.leave_one_out`, (n, P) each; an image is left out with all its samples."""
    n, P, _ = values.shape
    if not neighbourhood:
        return gaussian.leave_one_out(values, groups, n_pairs, changed)
    shared = samples_of(values, inside, neighbourhood)
    own = np.arange(n) if groups is None else np.asarray(groups)
    per_image = inside.sum(axis=1) if neighbourhood == "all" else len(shared) // n
    labels = np.repeat(own, per_image)
    of_samples = None if changed is None else np.repeat(changed, per_image)
    d, g = gaussian.leave_one_out(shared, labels, n_pairs, of_samples)
    if neighbourhood == "all":
        distances, growth = np.zeros((n, P)), np.ones((n, P))
        distances[inside], growth[inside] = d[:, 0], g[:, 0]
        return distances, growth
    return d.reshape(n, -1, P)[:, 0], g.reshape(n, -1, P)[:, 0]
