"""Scores that good images get from a fit that has not seen them: what thresholds are set on.

Scores of the images a fit was made from are useless for this (nearly all new good images lie
above their 95 % quantile). Three ways give honest ones: the closed-form leave-one-out of the
plain Gaussian (of single images, or of groups and augmented copies together), K-fold
cross-fitting for everything else, and images held out.
All scores here are anomaly scores, up = abnormal.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from mahalad.arrays import as_input_of, originals, rows, take
from mahalad.errors import CalibrationError
from mahalad.protocols import Features, Floats
from mahalad.scorers.capabilities import capabilities_of
from mahalad.scorers.positions.standards import Standards


def leave_one_out_scores(
    scorer: Any,
    features: Features,
    groups: NDArray[Any] | None = None,
    changed: NDArray[np.intp] | None = None,
) -> tuple[Floats, Standards | None]:
    """Closed-form scores of fitted images by the fit without them.

    Parameters
    ----------
    scorer : LeavesOneOut
        Fitted to all copies of all images; it stays as it is.
    features : mapping of str to ndarray of shape (n_images, n_copies, ..., n_features)
        An image is left out with all its copies; only the image itself is scored.
    groups : ndarray of shape (n_images,), optional
        Images of a group are left out together.
    changed : ndarray of int of shape (n_images,), optional
        Number of an image among those whose harmless changes the scorer knows, below 0 for others:
        these changes are left out with it.

    Returns
    -------
    ndarray of shape (n_images,)
        Up = abnormal.
    Standards or None
        What these images say of scores and maps, if the scorer has such units: its maxima are
        those of the images themselves.
    """
    n_images, n_copies = next(iter(features.values())).shape[:2]
    if groups is None and n_copies > 1:
        groups = np.arange(n_images)
    labels = None if groups is None else np.repeat(groups, n_copies)
    more = {} if changed is None else {"changed": np.repeat(changed, n_copies)}
    standards: Standards | None = None
    if capabilities_of(scorer).standardizes:
        levels, found = scorer.leave_one_out(rows(features), labels, **more)
        standards = found.of_originals(n_copies)
    else:
        levels = scorer.leave_one_out_level_scores(rows(features), labels, **more)
    scores = -levels.sum(axis=1)
    return np.asarray(scores.reshape(n_images, n_copies)[:, 0]), standards


def cross_fit_scores(
    scorer: Any,
    features: Features,
    keys: NDArray[np.uint64],
    groups: NDArray[Any],
    n_folds: int,
) -> Floats:
    """Score each image by fits on other folds.

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

    Notes
    -----
    A fit on fewer images scores new ones differently from a fit on all of them: with a
    reduction, whose number of components grows with the images, enough to turn a rate of 10 %
    into 3-80 % (simulated with 20 folds, n = 20-1000, D = 16-500). To first order the difference is
    proportional to the share left out, so for the smooth scorers of this library two shares are
    scored, p and 2p, and the score is extrapolated to none left out: 2 s(p) - s(2p). A scorer
    from outside may be random (a forest): its noise would be extrapolated too, so it is not.
    """
    folds = assign_folds(keys, groups, n_folds)
    scores = _fold_scores(scorer, features, folds)
    if capabilities_of(scorer).smooth and folds.max() > 2:
        scores = 2 * scores - _fold_scores(scorer, features, folds // 2)
    return scores


def _fold_scores(scorer: Any, features: Features, folds: NDArray[np.intp]) -> Floats:
    scores = np.empty(len(folds))
    for fold in range(folds.max() + 1):
        held_out = folds == fold
        training = rows(take(features, np.flatnonzero(~held_out)))
        fitted = clone(scorer).fit(as_input_of(scorer, training))
        tested = originals(take(features, np.flatnonzero(held_out)))
        scores[held_out] = -fitted.score_samples(as_input_of(scorer, tested))
    return scores


def assign_folds(keys: NDArray[np.uint64], groups: NDArray[Any], n_folds: int) -> NDArray[np.intp]:
    """Fold of each image: groups in the order of their smallest key, dealt out in turn.

    Keys are hashes, so the order is as good as random, yet the same for the same images.
    """
    order, group_of = _groups_by_key(keys, groups)
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
    if len(names) < 2:
        raise CalibrationError(
            "calibration leaves images out, and needs at least 2 independent ones: there "
            f"{'is' if len(names) == 1 else 'are'} {len(names)} (of {len(keys)} images)"
        )
    smallest = np.full(len(names), np.iinfo(np.uint64).max, dtype=np.uint64)
    np.minimum.at(smallest, group_of, keys)
    return np.argsort(smallest, kind="stable"), group_of
