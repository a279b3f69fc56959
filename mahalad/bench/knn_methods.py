"""Classifiers that learn from few labels, for `bench knn`: neighbours that vote, and others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import StratifiedShuffleSplit

from mahalad.choices import CLASS_WEIGHTS
from mahalad.metric.triplets.losses import LOSSES
from mahalad.metric.triplets.projection import TripletProjection
from mahalad.metric.triplets.self_training import fit_with_unlabelled
from mahalad.metric.votes import Voting, nearest_neighbors, winners

ENCODER, LOGISTIC = "encoder", "logistic"
SCALED, SELF_TRAINED = "batch-hard-scaled", "scaled, self-trained"
SUPERVISED = "logistic, all labels"
METHODS = (ENCODER, *LOSSES, SELF_TRAINED, LOGISTIC)
VOTINGS = tuple(Voting(k, class_weight=w) for k in (1, 3, 5, 9, 15) for w in CLASS_WEIGHTS)
MARGINS = (0.1, 0.3)
STRENGTHS = tuple((C, weight) for C in (1e-3, 1e-2, 1e-1, 1.0) for weight in CLASS_WEIGHTS)
EPOCHS = 100
N_SPLITS = 3  # of the labels drawn, to choose hyper-parameters
_CHOSEN_ON = 0.25  # share of them that is held out

Fit = Callable[..., dict[Any, NDArray[Any]]]
"""Takes a hyper-parameter, features, labels, test features and a seed; gives labels by voting."""


def choose(method: str, F: NDArray[np.float32], y: NDArray[Any], seed: int) -> dict[str, Any]:
    """Choose the hyper-parameters that tell held-out parts of the labelled samples best.

    Parameters
    ----------
    method : str
        One of `METHODS`. `SELF_TRAINED` takes those of the same loss without unlabelled samples.
    F : ndarray of shape (n, n_features)
    y : ndarray of shape (n,)
    seed : int
        Of the splits, and of the training.

    Returns
    -------
    dict
        "candidate" (a margin, or the strength and class weight of a logistic regression), "voting"
        (None without votes), and the "validation_f1" that they reached.
    """
    candidates, fit = _candidates(method)
    share = max(_CHOSEN_ON, len(np.unique(y)) / len(y))
    splits = StratifiedShuffleSplit(N_SPLITS, test_size=share, random_state=seed)
    totals: dict[Any, float] = {}
    for inner, outer in splits.split(F, y):
        for candidate in candidates:
            found = fit(candidate, F[inner], y[inner], F[outer], seed)
            for voting, predicted in found.items():
                f1 = f1_score(y[outer], predicted, average="macro", zero_division=0)
                totals[candidate, voting] = totals.get((candidate, voting), 0.0) + f1
    candidate, voting = max(totals, key=totals.__getitem__)  # of equal ones the first
    best = totals[candidate, voting] / N_SPLITS
    return {"candidate": candidate, "voting": voting, "validation_f1": best}


def fit_and_predict(
    method: str,
    chosen: dict[str, Any],
    F: NDArray[np.float32],
    y: NDArray[Any],
    test: NDArray[np.float32],
    seed: int,
    *,
    further: NDArray[np.float32] | None = None,
) -> tuple[NDArray[Any], dict[str, Any]]:
    """Fit a method to all labelled samples and predict labels of test samples.

    Parameters
    ----------
    method, F, y, seed
        As for `choose`.
    chosen : dict
        What `choose` gave.
    test : ndarray of shape (n_test, n_features)
    further : ndarray of shape (m, n_features), optional
        Unlabelled samples, of which one of the methods makes use.

    Returns
    -------
    ndarray of shape (n_test,)
    dict
        What else there is to say of the fit, as JSON.
    """
    candidate, voting = chosen["candidate"], chosen["voting"]
    if method == SELF_TRAINED and further is not None:
        projection = _projection(SCALED, candidate, seed)
        sure = fit_with_unlabelled(projection, F, y, further, class_weight=voting.class_weight)
        about = {"unlabelled": len(further), "took_part": int(sure.sum())}
        return _votes(projection.transform(F), y, projection.transform(test))[voting], about
    return _candidates(method)[1](candidate, F, y, test, seed)[voting], {}


def _candidates(method: str) -> tuple[Sequence[Any], Fit]:
    """Give the hyper-parameters to choose from, besides the voting, and the function that fits."""
    if method == ENCODER:
        return [None], _raw
    if method == LOGISTIC:
        return STRENGTHS, _logistic
    return MARGINS, _triplets(SCALED if method == SELF_TRAINED else method)


def _raw(
    candidate: Any, F: NDArray[Any], y: NDArray[Any], test: NDArray[Any], seed: int
) -> dict[Any, NDArray[Any]]:
    return _votes(F, y, test)


def _triplets(loss: str) -> Fit:
    def fit(
        margin: float, F: NDArray[Any], y: NDArray[Any], test: NDArray[Any], seed: int
    ) -> dict[Any, NDArray[Any]]:
        projection = _projection(loss, margin, seed).fit(F, y)
        return _votes(projection.transform(F), y, projection.transform(test))

    return fit


def _projection(loss: str, margin: float, seed: int) -> TripletProjection:
    return TripletProjection(
        loss=loss, margin=margin, max_epochs=EPOCHS, validation_fraction=0, random_state=seed
    )


def _logistic(
    candidate: Any, F: NDArray[Any], y: NDArray[Any], test: NDArray[Any], seed: int
) -> dict[Any, NDArray[Any]]:
    C, weight = candidate
    model = LogisticRegression(C=C, class_weight=weight, max_iter=3000).fit(F, y)
    return {None: model.predict(test)}


def _votes(E: NDArray[Any], y: NDArray[Any], test: NDArray[Any]) -> dict[Any, NDArray[Any]]:
    """Let the neighbours among `E` vote, in each way of voting."""
    classes, counts = np.unique(y, return_counts=True)
    most = min(max(voting.k for voting in VOTINGS), len(E))
    rows, distances = nearest_neighbors(E, test, most, "euclidean")
    names = [str(name) for name in classes]
    found = {}
    for voting in VOTINGS:
        if voting.k <= len(E):
            near, far = y[rows[:, : voting.k]].astype(str), distances[:, : voting.k]
            shares = voting.shares(near, far, names, counts)
            found[voting] = classes[winners(shares, near, far, names)]
    return found
