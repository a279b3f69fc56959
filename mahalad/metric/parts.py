"""Which labelled images show the same: copies, near-copies and groups, which folds keep together.

An image that is held out says nothing of new ones while a copy of it is still there and votes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from mahalad.detectors.copies import joined
from mahalad.errors import InputError

SAME = 1e-3
"""Largest difference of two embeddings of one image, as a share of their length. Other images in
the same pass through the network change it by up to 9e-4, where few images standardise features
that hardly vary."""

_DIRECTIONS = 8  # a copy is near in each of them, and hardly any other vector in all


def number_parts(
    vectors: NDArray[Any], distance: str = "euclidean", groups: Sequence[Any] | None = None
) -> NDArray[np.intp]:
    """Number the parts that images show: those of one group, and copies, are of one part.

    Parameters
    ----------
    vectors : ndarray of shape (n, n_features)
        Vectors of copies differ by at most `SAME` of their length.
    distance : {"euclidean", "cosine"}
        With "cosine" the length of vectors does not count.
    groups : sequence of length n, optional

    Returns
    -------
    ndarray of int, shape (n,)
        From 0, in the order in which parts first appear.
    """
    X = np.asarray(vectors, dtype=np.float64)
    if distance == "cosine":
        X = X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), 1e-300)
    own, of_row = np.unique(X, axis=0, return_inverse=True)  # exact copies
    of_row = of_row.reshape(-1)
    first, second = of_row[_first_of_group(groups, len(X))], of_row
    pairs = _near(own)
    ends = np.concatenate([first, pairs[:, 0]]), np.concatenate([second, pairs[:, 1]])
    part = joined(np.arange(len(own)), np.column_stack(ends))[of_row]
    _, appears, numbers = np.unique(part, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(appears))[numbers.reshape(-1)], dtype=np.intp)


def checked_groups(groups: Sequence[Any] | None, readable: Sequence[bool]) -> list[str] | None:
    """Give the groups of the readable images as texts; None without groups.

    Raises
    ------
    InputError
        Not one group for each image.
    """
    if groups is None:
        return None
    if len(groups) != len(readable):
        raise InputError(f"{len(groups)} groups given for {len(readable)} images")
    return [str(group) for group, good in zip(groups, readable, strict=True) if good]


def rows_of(parts: NDArray[np.intp], chosen: NDArray[np.intp]) -> NDArray[np.intp]:
    """Find the rows of some parts, in the order of these."""
    place = np.full(parts.max() + 1, -1)
    place[chosen] = np.arange(len(chosen))
    rows = np.flatnonzero(place[parts] >= 0)
    return np.asarray(rows[np.argsort(place[parts[rows]], kind="stable")], dtype=np.intp)


def _first_of_group(groups: Sequence[Any] | None, n: int) -> NDArray[np.intp]:
    """The first row of each row's group; without groups the row itself."""
    if groups is None:
        return np.arange(n)
    _, first, group = np.unique(
        np.asarray(groups, dtype=str), return_index=True, return_inverse=True
    )
    return np.asarray(first[group.reshape(-1)], dtype=np.intp)


def _near(X: NDArray[np.float64]) -> NDArray[np.intp]:
    """Pairs of vectors (n, n_features) that differ by at most `SAME` of their length.

    A vector that is a copy of one before it is not compared with others again: of n pictures of the
    same there would be n^2 pairs.
    """
    lengths = np.linalg.norm(X, axis=1)
    directions = np.random.default_rng(0).normal(size=(X.shape[1], _DIRECTIONS))
    projected = X @ np.linalg.qr(directions)[0]  # orthonormal: nothing gets farther apart
    tree = KDTree(projected)
    is_copy = np.zeros(len(X), dtype=bool)
    pairs = [np.empty((0, 2), dtype=np.intp)]
    for i, limit in enumerate(SAME * lengths):
        if is_copy[i]:
            continue
        around = np.array(tree.query_ball_point(projected[i], limit * (1 + 1e-9)), dtype=np.intp)
        found = around[np.linalg.norm(X[around] - X[i], axis=1) <= limit]
        if len(found) > 1:
            is_copy[found] = True
            pairs.append(np.column_stack([np.full_like(found, i), found]))
    return np.concatenate(pairs)
