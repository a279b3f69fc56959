"""Sets of samples that are left out together, by their labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mahalad.protocols import Floats


def numbered(content: Floats, groups: Any) -> NDArray[np.intp]:
    """Number groups of samples, or the samples (n,), in an order that is not that of the rows.

    So it does not depend on that order which of many others stand for new samples. `content` (n,)
    is any number made of each sample; a group has the least of its samples.
    """
    n = len(content)
    labels = np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1]
    least = np.full(labels.max() + 1, np.inf)
    np.minimum.at(least, labels, content)
    rank = np.empty(len(least), dtype=np.intp)
    rank[np.argsort(least, kind="stable")] = np.arange(len(least))
    return np.asarray(rank[labels])


def sets_by_size(labels: NDArray[np.intp]) -> Iterator[NDArray[np.intp]]:
    """Samples of the same label in rows, (n_sets, g), for each size g that there is."""
    counts = np.bincount(labels)[labels]
    for g in np.unique(counts):
        members = np.flatnonzero(counts == g)
        yield members[np.argsort(labels[members], kind="stable")].reshape(-1, g)


def changed_sets(
    labels: NDArray[np.intp], changed: NDArray[np.intp] | None
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Samples that are left out with changed images, and which of these go with them.

    `changed` (n,) is the number of the changed image that a sample is of, below 0 for others; None
    where there are none.
    """
    if changed is None:
        return
    for label in np.unique(labels[changed >= 0]):
        members = np.flatnonzero(labels == label)
        yield members, np.unique(changed[members][changed[members] >= 0])


def pairs_of(
    labels: NDArray[np.intp], n_pairs: int
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]]:
    """Sets, others that stand for new samples, and the labels of the sets, by sizes of both."""
    n_sets = labels.max() + 1
    chosen = spaced(n_sets, max(n_pairs // (n_sets * np.bincount(labels).max()), 1))
    sized = [(sets, labels[sets[:, 0]]) for sets in sets_by_size(labels)]
    for ones, of_ones in sized:
        for others, of_others in sized:
            some = np.isin(of_others, chosen)
            a, b = np.nonzero(of_ones[:, None] != of_others[some][None])
            if len(a):
                yield ones[a], others[some][b], of_ones[a]


def spaced(n: int, n_chosen: int) -> NDArray[np.intp]:
    """Places among n, evenly spaced: all of them unless there are more others than are wanted."""
    if n_chosen >= n - 1:
        return np.arange(n)
    return np.linspace(0, n - 1, n_chosen + 2)[1:-1].round().astype(np.intp)
