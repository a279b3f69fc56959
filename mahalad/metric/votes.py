"""Votes of nearest neighbours: class probabilities, winners, and votes with oneself left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mahalad.choices import CLASS_WEIGHTS, EMBEDDING_DISTANCES, VOTES
from mahalad.errors import InputError
from mahalad.protocols import Floats

_CELLS = 2**24  # distances held at a time: 128 MiB


@dataclass(frozen=True)
class Voting:
    """How many neighbours vote, and what a vote counts.

    Attributes
    ----------
    k : int
    weights : {"uniform", "distance"}
        See `vote`.
    class_weight : {None, "balanced"}
        ``"balanced"``: a vote counts 1 / (number of stored images with that label), so that a rare
        label wins where it is more frequent among the neighbours than among all.
    """

    k: int
    weights: str = "uniform"
    class_weight: str | None = None

    def __str__(self) -> str:
        return f"n_neighbors={self.k}, weights={self.weights!r}, class_weight={self.class_weight!r}"

    def shares(
        self,
        labels: ArrayLike,
        distances: ArrayLike,
        classes: Sequence[str],
        counts: ArrayLike,
    ) -> Floats:
        """Give shares of the votes (n, n_classes), as `vote` counts them, and balanced if wanted.

        `counts`, of shape (n_classes,), says how many images of each class are stored.
        """
        return self.balanced(vote(labels, distances, classes, self.weights), counts)

    def balanced(self, shares: Floats, counts: ArrayLike) -> Floats:
        """Weigh shares of votes (n, n_classes) by class, as `class_weight` says.

        Raises
        ------
        InputError
            Unknown `class_weight`.
        """
        if self.class_weight not in CLASS_WEIGHTS:
            raise InputError(f"unknown class_weight {self.class_weight!r}; None or 'balanced'")
        if self.class_weight is None:
            return shares
        worth = shares / np.maximum(np.asarray(counts, dtype=np.float64), 1)
        return np.asarray(worth / worth.sum(axis=1, keepdims=True))


@dataclass(frozen=True)
class HeldOut:
    """Answers to stored images by votes that had not seen them.

    Attributes
    ----------
    ids : ndarray of int64, shape (n,)
    probabilities : ndarray of shape (n, n_classes)
    distances : ndarray of shape (n,)
        To the k-th neighbour.
    weights : ndarray of shape (n,) or None
        Copies of one picture share the weight 1. None: they have not been looked for.
    """

    ids: NDArray[np.int64]
    probabilities: Floats
    distances: Floats
    weights: Floats | None = None


def vote(
    labels: ArrayLike,
    distances: ArrayLike,
    classes: Sequence[str],
    weights: str = "uniform",
) -> Floats:
    """Count the votes of neighbours.

    Parameters
    ----------
    labels : array of str, shape (n, k)
        Labels of the neighbours of n images.
    distances : array of shape (n, k)
        Not negative.
    classes : sequence of str
        All labels there are.
    weights : {"uniform", "distance"}
        ``"distance"``: a vote counts 1/distance; neighbours at distance 0 outvote all others.

    Returns
    -------
    ndarray of shape (n, n_classes)
        Shares of the votes. With uniform weights there are k + 1 different ones.

    Raises
    ------
    InputError
        Unknown `weights`, or a label that is not among the classes.

    Examples
    --------
    >>> vote([["good", "bad", "good"]], [[0.1, 0.2, 0.4]], ["bad", "good"], "distance").round(3)
    array([[0.286, 0.714]])
    """
    codes = label_codes(labels, classes)
    cast = _vote_weights(np.asarray(distances, dtype=np.float64), weights)
    shares = np.zeros((len(codes), len(classes)))
    np.add.at(shares, (np.arange(len(codes))[:, None], codes), cast)
    return np.asarray(shares / cast.sum(axis=1, keepdims=True))


def winners(
    shares: Floats, labels: ArrayLike, distances: ArrayLike, classes: Sequence[str]
) -> NDArray[np.intp]:
    """Find the class with the largest share, by number, (n,); ties go to the nearest neighbour.

    Parameters are those of `vote`, and the shares (n, n_classes) that came of them.
    """
    codes = label_codes(labels, classes)
    nearest = np.full(shares.shape, np.inf)
    rows = np.arange(len(codes))[:, None]
    np.minimum.at(nearest, (rows, codes), np.asarray(distances, dtype=np.float64))
    best = shares >= shares.max(axis=1, keepdims=True) * (1 - 1e-12)
    return np.asarray(np.where(best, nearest, np.inf).argmin(axis=1))


def label_codes(labels: ArrayLike, classes: Sequence[str]) -> NDArray[np.intp]:
    """Find the place of each label among the classes, in the shape of `labels`."""
    place = {str(name): i for i, name in enumerate(classes)}
    array = np.asarray(labels, dtype=object)
    unknown = sorted({str(label) for label in array.ravel()} - place.keys())
    if unknown:
        raise InputError(
            f"unknown label {', '.join(map(repr, unknown[:5]))}; known are "
            f"{', '.join(map(repr, place))}"
        )
    codes = np.array([place[str(label)] for label in array.ravel()], dtype=np.intp)
    return codes.reshape(array.shape)


def _vote_weights(distances: Floats, weights: str) -> Floats:
    if weights not in VOTES:
        raise InputError(f"unknown weights {weights!r}; one of {', '.join(VOTES)}")
    if weights == "uniform":
        return np.ones_like(distances)
    with np.errstate(divide="ignore", over="ignore"):
        inverse = 1 / distances
    exact = np.isinf(inverse)
    return np.where(exact.any(axis=1, keepdims=True), exact, inverse)


def nearest_neighbors(
    stored: NDArray[Any],
    queries: NDArray[Any],
    k: int,
    distance: str = "cosine",
    parts: tuple[NDArray[np.intp], NDArray[np.intp]] | None = None,
) -> tuple[NDArray[np.intp], Floats]:
    """Find the k nearest of the stored vectors, exactly, in float64.

    Parameters
    ----------
    stored : array of shape (n_stored, d)
    queries : array of shape (n, d)
    k : int
    distance : {"cosine", "euclidean"}
        (1 - cos) / 2 in [0, 1], or the Euclidean distance, not squared.
    parts : two arrays of int, shapes (n_stored,) and (n,), optional
        Numbers of what the stored vectors, and the queries, are of: vectors of one part are not
        each other's neighbours.

    Returns
    -------
    indices : ndarray of int, shape (n, k)
    distances : ndarray of shape (n, k)
        Ascending; of equally near ones the lower index comes first.

    Raises
    ------
    InputError
        Fewer than k vectors of other parts, an unknown distance, values that are not finite, or
        vectors of length 0 where the distance is the cosine's.
    """
    n_others = len(stored)
    if parts is not None:
        n_others -= int(np.bincount(parts[0])[parts[1]].max(initial=0))
    if not 1 <= k <= n_others:
        raise InputError(f"{k} neighbours asked for; there are {n_others} vectors to choose from")
    S, Q = _comparable(stored, distance), _comparable(queries, distance)
    indices = np.empty((len(Q), k), dtype=np.intp)
    distances = np.empty((len(Q), k))
    squares = np.square(S).sum(axis=1)
    step = max(_CELLS // max(len(S), k * S.shape[1]), 1)
    for start in range(0, len(Q), step):
        block = slice(start, start + step)
        # The query's own square is the same for all: the order does not need it.
        d2 = squares - 2 * (Q[block] @ S.T)  # (step, n_stored)
        if parts is not None:
            d2[parts[1][block, None] == parts[0]] = np.inf
        found = np.sort(np.argpartition(d2, k - 1, axis=1)[:, :k], axis=1)
        # Differences, not the expanded square: the distance to an equal vector is exactly 0.
        exact = np.sqrt(np.square(S[found] - Q[block, None]).sum(axis=2))
        order = np.argsort(exact, axis=1, kind="stable")
        indices[block] = np.take_along_axis(found, order, axis=1)
        distances[block] = np.take_along_axis(exact, order, axis=1)
    if distance == "cosine":  # of unit vectors: 1 - cos = |u - v|^2 / 2
        distances = np.square(distances) / 4
    return indices, distances


def leave_one_out_neighbors(
    vectors: NDArray[Any],
    k: int,
    distance: str = "cosine",
    rows: NDArray[np.intp] | None = None,
    parts: NDArray[np.intp] | None = None,
) -> tuple[NDArray[np.intp], Floats]:
    """Find the k nearest others of every vector (n, d), or of those in `rows` alone.

    With `parts`, numbers of shape (n,), only vectors of other parts are others.

    Returns indices and distances (n, k) and raises errors as `nearest_neighbors` does.
    """
    rows = np.arange(len(vectors)) if rows is None else rows
    parts = np.arange(len(vectors)) if parts is None else parts
    return nearest_neighbors(vectors, vectors[rows], k, distance, (parts, parts[rows]))


def leave_one_out_votes(
    vectors: NDArray[Any],
    labels: NDArray[Any],
    classes: Sequence[str],
    k: int,
    weights: str = "uniform",
    distance: str = "cosine",
    rows: NDArray[np.intp] | None = None,
    parts: NDArray[np.intp] | None = None,
) -> tuple[Floats, Floats]:
    """Answer vectors (n, d), or those in `rows` alone, by the votes of all others.

    With `parts`, numbers of shape (n,), only vectors of other parts are others.

    Returns
    -------
    shares : ndarray of shape (n, n_classes)
        Of the votes that the k nearest others cast.
    distances : ndarray of shape (n,)
        To the k-th of them.
    """
    indices, distances = leave_one_out_neighbors(vectors, k, distance, rows, parts)
    near = np.asarray(labels, dtype=object)[indices]
    return vote(near, distances, classes, weights), distances[:, -1]


def _comparable(vectors: NDArray[Any], distance: str) -> Floats:
    """Vectors in float64; of length 1 where only the direction counts."""
    vectors = np.asarray(vectors, dtype=np.float64)
    if distance not in EMBEDDING_DISTANCES:
        raise InputError(f"unknown distance {distance!r}; one of {', '.join(EMBEDDING_DISTANCES)}")
    if vectors.ndim != 2 or not np.isfinite(vectors).all():
        raise InputError(f"vectors must be finite, of shape (n, d), got shape {vectors.shape}")
    if distance == "euclidean":
        return vectors
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not lengths.all():
        raise InputError(
            f"vector {int(np.argmin(lengths))} has length 0: it has no direction, which is all "
            "that the cosine distance compares; use the Euclidean distance"
        )
    return np.asarray(vectors / lengths)
