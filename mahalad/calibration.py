"""Scores that good images get from a fit that has not seen them: what thresholds are set on.

Scores of the images a fit was made from are useless for this (nearly all new good images lie
above their 95 % quantile). Three ways give honest ones: the closed-form leave-one-out of the
plain Gaussian, K-fold cross-fitting for everything else, and images held out.
All scores here are anomaly scores, up = abnormal.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from mahalad.errors import CalibrationError
from mahalad.moments import Floats
from mahalad.protocols import Features
from mahalad.scorers import as_input_of, take
from mahalad.store import originals, rows


def has_leave_one_out(scorer: Any) -> bool:
    """Whether the scorer has a closed-form leave-one-out."""
    return hasattr(scorer, "leave_one_out_level_scores")


def leave_one_out_scores(scorer: Any, features: Features) -> Floats:
    """Closed-form leave-one-out scores of fitted images (n, 1, D), shape (n,)."""
    return np.asarray(-scorer.leave_one_out_level_scores(originals(features)).sum(axis=1))


def cross_fit_scores(
    scorer: Any,
    features: Features,
    keys: NDArray[np.uint64],
    groups: NDArray[Any],
    n_folds: int,
) -> Floats:
    """Score each image by a fit on the other folds.

    Parameters
    ----------
    scorer : estimator
        Cloned and refitted, with everything that it learns, in each fold.
    features : mapping of str to ndarray of shape (n_images, n_copies, n_features)
        All copies of an image are in one fold; only the image itself is scored.
    keys, groups : ndarray of shape (n_images,)
        Hash and group of each image. A group is in one fold.
    n_folds : int
        Largest number of folds; one image (group) per fold where there are fewer.

    Returns
    -------
    ndarray of shape (n_images,)
    """
    folds = assign_folds(keys, groups, n_folds)
    scores = np.empty(len(keys))
    for fold in range(folds.max() + 1):
        held_out = folds == fold
        fitted = clone(scorer).fit(
            as_input_of(scorer, rows(take(features, np.flatnonzero(~held_out))))
        )
        tested = originals(take(features, np.flatnonzero(held_out)))
        scores[held_out] = -fitted.score_samples(as_input_of(scorer, tested))
    return scores


def assign_folds(keys: NDArray[np.uint64], groups: NDArray[Any], n_folds: int) -> NDArray[np.intp]:
    """Fold of each image: groups in the order of their smallest key, dealt out in turn.

    Keys are hashes, so the order is as good as random, yet the same for the same images.
    """
    order, group_of = _groups_by_key(keys, groups)
    if len(order) < 2:
        raise CalibrationError(
            f"calibration leaves images out, and needs at least 2 independent ones: there "
            f"{'is' if len(order) == 1 else 'are'} {len(order)} (of {len(keys)} images)"
        )
    rank = np.empty(len(order), dtype=np.intp)
    rank[order] = np.arange(len(order))
    return np.asarray(rank[group_of] % min(n_folds, len(order)))


def choose_holdout(
    keys: NDArray[np.uint64], groups: NDArray[Any], fraction: float
) -> NDArray[np.bool_]:
    """True for about `fraction` of the images, whole groups at a time."""
    order, group_of = _groups_by_key(keys, groups)
    n_held = min(max(round(fraction * len(order)), 1), len(order) - 1)
    held = np.zeros(len(order), dtype=bool)
    held[order[:n_held]] = True
    return np.asarray(held[group_of])


def _groups_by_key(
    keys: NDArray[np.uint64], groups: NDArray[Any]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Groups in the order of their smallest key, and the group of each image."""
    names, group_of = np.unique(groups, return_inverse=True)
    smallest = np.full(len(names), np.iinfo(np.uint64).max, dtype=np.uint64)
    np.minimum.at(smallest, group_of, keys)
    return np.argsort(smallest, kind="stable"), group_of
