"""Answers to labelled images by votes that had not seen them: cross-fits, and leave-one-out."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.model_selection import KFold, StratifiedKFold

from mahalad.errors import CalibrationError
from mahalad.files.checksum import hash_rows
from mahalad.index.contract import VectorIndex
from mahalad.metric.embedding import Embedding
from mahalad.metric.parts import number_parts, rows_of
from mahalad.metric.triplets.self_training import fit_with_unlabelled
from mahalad.metric.votes import (
    HeldOut,
    Voting,
    label_codes,
    leave_one_out_votes,
    nearest_neighbors,
    vote,
)
from mahalad.protocols import Floats
from mahalad.thresholds.ranking import shared_weights

MAX_HELD_OUT = 5000
"""Stored images that are left out in turn; of more, so many are drawn at random."""


Folds = list[tuple[NDArray[np.intp], NDArray[np.intp]]]
"""Rows to fit to and rows held out, of each fold."""


def draw_folds(
    codes: NDArray[np.intp],
    parts: NDArray[np.intp],
    wanted: int,
    k: int,
    seed: int,
    *,
    trains: bool = True,
) -> Folds:
    """Split labelled rows into folds, all rows of a part into one.

    Parameters
    ----------
    codes : ndarray of int, shape (n,)
        The class of each row. A part counts for that of its first row.
    parts : ndarray of int, shape (n,)
        See `mahalad.metric.parts.number_parts`.
    wanted : int
        At most that many folds.
    k : int
        Neighbours that every fit must leave to choose from.
    trains : bool, default=True
        Whether something is trained with the labels: then folds are stratified, and a fit needs 3
        parts of every class, a pair to train with and one to validate with.

    Returns
    -------
    list of (rows to fit to, rows held out); empty if there are too few rows
    """
    kinds = codes[np.unique(parts, return_index=True)[1]]
    n, smallest = len(kinds), int(np.bincount(kinds, minlength=codes.max() + 1).min())
    n_folds = min(wanted, smallest if trains else n)
    if n_folds < 2 or (trains and smallest - -(-smallest // n_folds) < 3):
        return []
    kind = StratifiedKFold if trains else KFold
    splits = kind(n_folds, shuffle=True, random_state=seed).split(kinds, kinds)
    folds = [(rows_of(parts, inner), rows_of(parts, outer)) for inner, outer in splits]
    return folds if min(len(rows) for rows, _ in folds) >= k else []


def cross_fit(
    embedding: Embedding,
    projection: Any,
    F: Floats,
    labels: NDArray[Any],
    classes: list[str],
    folds: Folds,
    *,
    standardize: bool,
    k: int,
    weights: str,
    distance: str,
    further: NDArray[np.float32] | None = None,
    self_training: float | None = None,
    class_weight: str | None = None,
) -> tuple[Floats, Floats]:
    """Cast votes on each image by fits that have not seen it.

    A projection pulls the images it was trained on towards their own class, so their votes in its
    embedding are far better than those of new images; and an image that is among those that
    standardise the features lies nearer to them. Here each fold is standardised and projected as
    the others demand, and has its neighbours among these.

    Parameters
    ----------
    embedding : Embedding
        Its mean and deviation are used unless `standardize` is set.
    projection : estimator or None
        Cloned for every fold.
    F : ndarray of shape (n, n_features)
        Not standardised.
    labels : ndarray of str, shape (n,)
    standardize : bool
        Each fold by the mean and deviation of the others.
    further, self_training, class_weight
        See `train`.

    Returns
    -------
    probabilities : ndarray of shape (n, n_classes)
        Not balanced: that is for the counts of all that is stored.
    distances : ndarray of shape (n,)
        To the k-th neighbour. There are fewer to choose from than the final index has, so they
        are a little too large on average.
    """
    probabilities, distances = np.empty((len(F), len(classes))), np.empty(len(F))
    for rows, held_out in folds:
        fold = Embedding(None, clone(projection, safe=False))
        fold.mean, fold.scale = embedding.mean, embedding.scale
        if standardize:
            fold.standardize_as([F[rows]])
        Z = fold.standardized(F)
        if fold.projection is not None:
            train(fold.projection, Z[rows], labels[rows], further, self_training, class_weight)
        stored, asked = fold.project(Z[rows]), fold.project(Z[held_out])
        indices, found = nearest_neighbors(stored, asked, k, distance)
        probabilities[held_out] = vote(labels[rows][indices], found, classes, weights)
        distances[held_out] = found[:, -1]
    return probabilities, distances


def train(
    projection: Any,
    Z: NDArray[np.float32],
    labels: NDArray[Any],
    further: NDArray[np.float32] | None,
    self_training: float | None,
    class_weight: str | None,
) -> int:
    """Fit a projection, also to unlabelled features if wanted; count those that took part."""
    if further is None or self_training is None:
        projection.fit(Z, labels)
        return 0
    took_part = fit_with_unlabelled(
        projection, Z, labels, further, confidence=self_training, class_weight=class_weight
    )
    return int(took_part.sum())


def held_out_votes(
    index: VectorIndex,
    cross_fitted: HeldOut,
    checksums: NDArray[np.uint64],
    classes: list[str],
    voting: Voting,
) -> tuple[HeldOut, NDArray[Any]]:
    """Give answers to stored images by votes that had not seen them, and their labels (n,).

    Those that are known from `cross_fitted` are taken from there, where the stored vector has the
    checksum of the one that was voted on: another may have come under its id. All others are left
    out of the index one at a time, with all copies of them. Distances are the same there and here
    up to training: see `cross_fit`.
    Votes are balanced by what is stored now, the image itself as well, as they are for new images:
    a threshold must mean the same for both.

    Raises
    ------
    CalibrationError
        The index holds no more than k images besides an image and its copies.
    """
    _check_enough(len(index) - 1, voting.k)
    records = list(index.records())
    ids = np.concatenate([r.ids for r in records])
    labels = np.concatenate([r.labels for r in records])
    rows = np.arange(len(ids))
    if len(rows) > MAX_HELD_OUT:
        rows = np.sort(np.random.default_rng(0).choice(rows, MAX_HELD_OUT, replace=False))
    shares, distances = np.zeros((len(rows), len(classes))), np.empty(len(rows))
    row_of = {id_: row for row, id_ in enumerate(cross_fitted.ids.tolist())}
    known = np.array([row_of.get(id_, -1) for id_ in ids[rows].tolist()])
    vectors = np.concatenate([r.vectors for r in records])
    done = known >= 0
    done[done] = hash_rows(vectors[rows[done]]) == checksums[known[done]]
    # Classes that came later got no votes then.
    shares[done, : cross_fitted.probabilities.shape[1]] = cross_fitted.probabilities[known[done]]
    distances[done] = cross_fitted.distances[known[done]]
    parts = number_parts(vectors, index.distance)
    if not done.all():
        asked = rows[~done]
        n_others = len(vectors) - int(np.bincount(parts)[parts[asked]].max())
        _check_enough(n_others, voting.k)
        shares[~done], distances[~done] = leave_one_out_votes(
            vectors, labels, classes, voting.k, voting.weights, index.distance, asked, parts
        )
    counts = np.bincount(label_codes(labels, classes), minlength=len(classes))
    weights = shared_weights(parts[rows])
    return HeldOut(ids[rows], voting.balanced(shares, counts), distances, weights), labels[rows]


def _check_enough(n_others: int, k: int) -> None:
    """Raise `CalibrationError` unless k neighbours can be found among so many others."""
    if n_others < k:
        raise CalibrationError(
            f"{k} neighbours besides the image itself and its copies are needed, and {n_others} "
            "others are stored: label more images, or take a smaller n_neighbors"
        )
