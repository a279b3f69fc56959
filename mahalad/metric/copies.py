"""Images that are added to an index which has them already: every copy has a vote of its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mahalad.index.checks import some
from mahalad.index.contract import VectorIndex
from mahalad.metric.parts import SAME
from mahalad.metric.votes import leave_one_out_neighbors


def find_copies(
    index: VectorIndex, E: NDArray[np.float32]
) -> tuple[NDArray[np.intp], NDArray[np.int64], NDArray[np.object_]]:
    """Find embeddings that are stored already.

    Parameters
    ----------
    index : VectorIndex
    E : ndarray of shape (n, n_features)

    Returns
    -------
    rows : ndarray of shape (n_copies,)
        Those of `E` that have a copy in the index.
    ids, labels : ndarray of shape (n_copies,)
        The stored point that is nearest to each.
    """
    if not len(E) or not len(index):
        return np.empty(0, np.intp), np.empty(0, np.int64), np.empty(0, object)
    found = index.query(E, 1)
    rows = np.flatnonzero(found.distances[:, 0] <= _limit(E, index.distance))
    return rows, found.ids[rows, 0], found.labels[rows, 0]


def count_repeated(E: NDArray[np.float32], distance: str) -> int:
    """Count embeddings (n, n_features) whose nearest other is a copy that comes before them."""
    if len(E) < 2:
        return 0
    rows, distances = leave_one_out_neighbors(E, 1, distance)
    is_copy = distances[:, 0] <= _limit(E, distance)
    return int((is_copy & (rows[:, 0] < np.arange(len(E)))).sum())


def _limit(E: NDArray[np.float32], distance: str) -> NDArray[np.float64]:
    """Distances up to which two embeddings are of one image, (n,)."""
    if distance == "cosine":  # |a - b|^2 / 4 of unit vectors
        return np.full(len(E), SAME**2 / 4)
    return np.asarray(np.linalg.norm(E.astype(np.float64), axis=1) * SAME)


def describe_copies(index: VectorIndex, E: NDArray[np.float32], labels: Sequence[str]) -> str:
    """Tell a user of copies among embeddings (n, n_features) to be added; "" if there are none."""
    rows, ids, stored = find_copies(index, E)
    n_repeated = count_repeated(E, index.distance)
    parts = []
    if len(rows):
        parts.append(f"{len(rows)} of {len(E)} images are in the index already (ids {some(ids)})")
        given = np.asarray(labels, dtype=object)[rows]
        other = [
            f"{number} is {label!r}"
            for number, label in zip(ids[stored != given], stored[stored != given], strict=True)
        ]
        if other:
            parts.append(f"{len(other)} of these with another label ({some(other)})")
    if n_repeated:
        parts.append(f"{n_repeated} of {len(E)} images are copies of others that are given")
    if not parts:
        return ""
    return (
        f"{'; '.join(parts)}. They were added all the same, and every copy votes: `relabel` "
        "corrects a label, `remove` takes a copy away"
    )
