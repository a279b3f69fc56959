"""Unlabelled images in the training of a projection, with the labels their neighbours agree on."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mahalad.checks import MAJORITY, check_parameters
from mahalad.metric.triplets.projection import TripletProjection
from mahalad.metric.votes import Voting, nearest_neighbors, winners
from mahalad.protocols import Floats

ROUNDS = 3
_MOST_VOTERS, _LEAST_VOTERS = 15, 5
_PASSES = 4  # samples drawn in each further training, as a multiple of those of the first
_LEAST_EPOCHS = 10


def fit_with_unlabelled(
    projection: TripletProjection,
    X: NDArray[np.float32],
    y: NDArray[Any],
    unlabelled: NDArray[np.float32],
    *,
    confidence: float = 0.95,
    class_weight: str | None = None,
    rounds: int = ROUNDS,
) -> NDArray[np.bool_]:
    """Fit a projection to labelled features, then anew to them and to unlabelled ones as well.

    After the first fit the nearest labelled neighbours vote on each unlabelled sample: 15 of them,
    or half as many as there are of the rarest label (all of them, up to 5), so that each label can
    win all votes. A sample takes part in the next fit, with the winner as its label, if the winner
    has at least a share `confidence` of the votes. The neighbours vote again in the projection of
    that fit, and so on; each round forgets what the one before guessed. Each further fit draws 4
    times as many samples as the first, without validation: guessed labels would say how well
    guesses are guessed.

    Parameters
    ----------
    projection : TripletProjection
        Fitted in place.
    X : ndarray of shape (n, n_features)
    y : ndarray of shape (n,)
    unlabelled : ndarray of shape (m, n_features)
    confidence : float in (0.5, 1]
    class_weight : {None, "balanced"}
        Of the votes; see `mahalad.metric.votes.Voting`.
    rounds : int
        How many further fits there are at most; fewer where nothing is sure, or nothing changes.

    Returns
    -------
    ndarray of bool, shape (m,)
        Which unlabelled samples took part in the last fit.

    References
    ----------
    H. J. Scudder, "Probability of error of some adaptive pattern-recognition machines", 1965, for
    learning from one's own confident answers; D.-H. Lee, "Pseudo-Label", 2013.
    """
    check_parameters({"confidence": MAJORITY}, {"confidence": confidence})
    projection.fit(X, y)
    took_part = np.zeros(len(unlabelled), bool)
    if not len(unlabelled):
        return took_part
    n_drawn = _PASSES * projection.best_epoch_ * len(X)
    rarest = int(np.unique(y, return_counts=True)[1].min())
    k = min(_MOST_VOTERS, max(rarest // 2, min(rarest, _LEAST_VOTERS)))
    voting = Voting(k, class_weight=class_weight)
    before = {name: getattr(projection, name) for name in ("max_epochs", "validation_fraction")}
    last = None
    try:
        for _ in range(rounds):
            guessed, shares = _guess(projection, X, y, unlabelled, voting)
            sure = shares >= confidence
            learnt = np.where(sure, guessed, "")
            if not sure.any() or (last is not None and (learnt == last).all()):
                break
            took_part, last = sure, learnt
            epochs = max(_LEAST_EPOCHS, round(n_drawn / (len(X) + int(sure.sum()))))
            projection.set_params(max_epochs=epochs, validation_fraction=0.0)
            labels = np.concatenate([y, guessed[sure]])
            projection.fit(np.concatenate([X, unlabelled[sure]]), labels)
    finally:
        projection.set_params(**before)
    return took_part


def _guess(
    projection: TripletProjection,
    X: NDArray[np.float32],
    y: NDArray[Any],
    unlabelled: NDArray[np.float32],
    voting: Voting,
) -> tuple[NDArray[Any], Floats]:
    """Labels (m,) that win the votes of labelled neighbours, and their shares of these."""
    rows, distances = nearest_neighbors(
        projection.transform(X), projection.transform(unlabelled), voting.k, projection.distance
    )
    near = y[rows].astype(str)
    classes = [str(name) for name in projection.classes_]
    counts = [np.sum(y == name) for name in projection.classes_]
    shares = voting.shares(near, distances, classes, counts)
    return projection.classes_[winners(shares, near, distances, classes)], shares.max(axis=1)
