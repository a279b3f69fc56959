"""Grids of positions: from levels to the features of each grid, from their distances to one map."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from mahalad.errors import InputError
from mahalad.images.geometry import BOX, positions_inside, repeat_edges
from mahalad.protocols import Features, Floats

CONTEXT = "(context)"  # in place of a level's name
CONTEXT_STEPS = 4  # positions of the coarsest grid on a side of one of the context
_FINER = 1.5  # weight of a finer grid in the map, where the coarsest has 1

Groups = tuple[tuple[str, ...], ...]
"""Names of the levels on each grid, from the finest grid to the coarsest."""


def group_levels(X: Features) -> Groups:
    """Find which maps share Gaussians, from the finest grid to the coarsest.

    Raises
    ------
    InputError
        There is no map, or one is not a square of at least 2 x 2 positions.
    """
    sides = {name: values.shape[1] for name, values in X.items() if np.ndim(values) == 4}
    for name in sides:
        if X[name].shape[1] != X[name].shape[2] or sides[name] < 2:
            raise InputError(
                f"the map of level {name!r} has {X[name].shape[1]} x {X[name].shape[2]} positions:"
                " a square of at least 2 x 2 is needed; give a larger input_size"
            )
    if not sides:
        raise InputError(
            f"no feature maps, (n, height, width, n_features), among the levels {', '.join(X)}"
        )
    coarsest = min(sides.values())
    finer = [name for name, side in sides.items() if side > coarsest]
    finer.sort(key=lambda name: -sides[name])
    together = tuple(name for name, side in sides.items() if side == coarsest)
    return (*((name,) for name in finer), together)


def side_by_side(X: Features, group: tuple[str, ...]) -> NDArray[Any]:
    """Put the levels of one grid side by side, (n, height * width, n_features)."""
    values = [X[name] for name in group]
    joined = values[0] if len(values) == 1 else np.concatenate(values, axis=-1)
    return np.asarray(joined).reshape(len(joined), -1, joined.shape[-1])


def features_of(X: Features, groups: Groups, names: Collection[str]) -> dict[str, NDArray[Any]]:
    """Features (n, P, D) by the first level of each grid; and of the context if `names` has it."""
    found = {group[0]: side_by_side(X, group) for group in groups}
    if CONTEXT in names:
        found[CONTEXT] = _context(found[groups[-1][0]])
    return found


def context_means(side: int) -> Floats:
    """Make the matrix (P', P) of means over squares of some 4 x 4 of the positions of a grid."""
    edges = np.linspace(0, side, side // CONTEXT_STEPS + 1).round().astype(int)
    steps = np.diff(edges)
    places = np.arange(len(steps))
    along = (places[:, None] == np.repeat(places, steps)) / steps[:, None]  # one axis: (k, side)
    return np.kron(along, along)


def _context(values: NDArray[Any]) -> NDArray[Any]:
    """Means (n, P', D) of features (n, P, D) on squares of some 4 x 4 positions."""
    means = context_means(round(values.shape[1] ** 0.5))
    return np.asarray(means.astype(np.result_type(values.dtype, np.float32)) @ values)


def inside_of(X: Features, groups: Groups, names: Collection[str]) -> dict[str, NDArray[np.bool_]]:
    """Which positions lie in the picture, (n, P), for the grids of `features_of`."""
    sides = {name: X[name].shape[1] for name, *_ in groups}
    if CONTEXT in names:
        sides[CONTEXT] = sides[groups[-1][0]] // CONTEXT_STEPS
    found, n = {}, len(next(iter(X.values())))
    for name, side in sides.items():
        whole = np.ones((n, side**2), bool)
        found[name] = positions_inside(X[BOX], side).reshape(n, -1) if BOX in X else whole
    return found


def one_map(
    distances: Mapping[str, Floats],
    inside: Mapping[str, NDArray[np.bool_]],
    standards: Mapping[str, Any],
    groups: Groups,
    context_weight: float,
) -> Floats:
    """Combine the distances of all grids into one map on the finest, (n, side, side).

    It is the weighted mean of their standardized logarithms.

    Parameters
    ----------
    distances, inside : mapping of str to ndarray of shape (n, P)
        By the name of the grid.
    standards : mapping of str to (offset, mean, deviation)
        See `mahalad.scorers.positions.standards.map_standard`.
    groups : tuple of tuples of str
        The last one is the coarsest grid, whose weight is 1.
    context_weight : float
        Weight of the context, as a share of all other weights together.
    """
    side = max(round(values.shape[1] ** 0.5) for values in distances.values())
    weights = map_weights(distances, groups, context_weight)
    total: Any = 0.0
    for name, values in distances.items():
        offset, mean, deviation = standards[name]
        own = round(values.shape[1] ** 0.5)
        grid = ((np.log(values + offset) - mean) / deviation).reshape(-1, own, own)
        if not inside[name].all():
            grid = repeat_edges(grid, inside[name].reshape(grid.shape))
        z = torch.from_numpy(grid)[:, None]
        if own < side:
            z = functional.interpolate(z, (side, side), mode="bilinear", align_corners=False)
        total = total + weights[name] * z[:, 0].numpy()
    return np.asarray(total)


def map_weights(names: Collection[str], groups: Groups, context_weight: float) -> dict[str, float]:
    """Give the weight of each grid in the map, by its name; they sum to 1."""
    of_grids = 1.0 + _FINER * (len(groups) - 1)
    own = {
        name: context_weight * of_grids
        if name == CONTEXT
        else (1.0 if name == groups[-1][0] else _FINER)
        for name in names
    }
    return {name: weight / (of_grids * (1 + context_weight)) for name, weight in own.items()}
