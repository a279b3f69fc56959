"""Unlabelled images in the training of a projection, with the labels their neighbours agree on."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mahalad.errors import InputError
from mahalad.metric.projection import TripletProjection
from mahalad.metric.votes import nearest_neighbors, vote, winners

_VOTERS = 15
_PASSES = 1.5  # samples drawn in the second training, as a multiple of those of the first
_LEAST_EPOCHS = 10


def fit_with_unlabelled(
    projection: TripletProjection,
    X: NDArray[np.float32],
    y: NDArray[Any],
    unlabelled: NDArray[np.float32],
    *,
    confidence: float = 0.95,
) -> NDArray[np.bool_]:
    """Fit a projection to labelled features, then anew to them and to unlabelled ones as well.

    After the first fit the 15 nearest labelled neighbours vote on each unlabelled sample; it takes
    part in the second fit, with the winner as its label, if that has at least a share `confidence`
    of the votes. The second fit draws 1.5 times as many samples as the first, without validation:
    guessed labels would say how well guesses are guessed.

    Parameters
    ----------
    projection : TripletProjection
        Fitted in place.
    X : ndarray of shape (n, n_features)
    y : ndarray of shape (n,)
    unlabelled : ndarray of shape (m, n_features)
    confidence : float in (0.5, 1]

    Returns
    -------
    ndarray of bool, shape (m,)
        Which unlabelled samples took part.

    References
    ----------
    H. J. Scudder, "Probability of error of some adaptive pattern-recognition machines", 1965, for
    learning from one's own confident answers; D.-H. Lee, "Pseudo-Label", 2013.
    """
    check_confidence(confidence)
    projection.fit(X, y)
    if not len(unlabelled):
        return np.zeros(0, bool)
    classes = [str(name) for name in projection.classes_]
    rows, distances = nearest_neighbors(
        projection.transform(X), projection.transform(unlabelled), min(_VOTERS, len(X)),
        projection.distance,
    )  # fmt: skip
    near = y[rows].astype(str)
    shares = vote(near, distances, classes)
    guessed = projection.classes_[winners(shares, near, distances, classes)]
    sure: NDArray[np.bool_] = shares.max(axis=1) >= confidence
    if not sure.any():
        return sure
    before = {name: getattr(projection, name) for name in ("max_epochs", "validation_fraction")}
    n_all = len(X) + int(sure.sum())
    epochs = max(_LEAST_EPOCHS, round(_PASSES * projection.best_epoch_ * len(X) / n_all))
    try:
        projection.set_params(max_epochs=epochs, validation_fraction=0.0)
        projection.fit(np.concatenate([X, unlabelled[sure]]), np.concatenate([y, guessed[sure]]))
    finally:
        projection.set_params(**before)
    return sure


def check_confidence(confidence: Any) -> None:
    """Refuse a share of votes that is no majority.

    Raises
    ------
    InputError
    """
    is_number = isinstance(confidence, (int, float)) and not isinstance(confidence, bool)
    if not is_number or not 0.5 < confidence <= 1:
        raise InputError(f"self_training must be a share of votes in (0.5, 1], got {confidence!r}")
