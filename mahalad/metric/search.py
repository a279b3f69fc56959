"""A search for the parameters of a classifier, on held-out parts of its labelled images alone."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.stats import loguniform
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.metrics import f1_score
from sklearn.model_selection import ParameterSampler, StratifiedShuffleSplit
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from mahalad.choices import CLASS_WEIGHTS
from mahalad.errors import CollapseError, InputError
from mahalad.features.copying import copy_extractor
from mahalad.metric.classifier import MetricKNNClassifier
from mahalad.metric.embedding import Embedding, check_some, embedding_distance
from mahalad.metric.held_out import Folds
from mahalad.metric.labelled import check_labels
from mahalad.metric.parts import checked_groups, number_parts, rows_of
from mahalad.metric.search_record import OF_VOTES, Search, values_of
from mahalad.metric.votes import Voting, nearest_neighbors, winners

_log = logging.getLogger(__name__)

N_SPLITS = 3
HELD_OUT = 0.25
FEWEST = 4
"""Images of a label, so that splits leave 3 to train with and 1 to ask about."""
_OF_PROJECTION: dict[str, Any] = {
    "margin": loguniform(0.05, 1.0),
    "dropout": [0.0, 0.25, 0.5, 0.75],
    "n_components": [16, 32, 64, 128, 256],
    "learning_rate": loguniform(3e-4, 1e-2),
}
_CONTINUOUS = ("margin", "learning_rate")
_NEIGHBORS = (1, 3, 5, 9, 15, 25)
SEARCHED = (*_OF_PROJECTION, *OF_VOTES)


def search_parameters(
    classifier: MetricKNNClassifier,
    X: Any,
    y: Sequence[Any] | NDArray[Any],
    *,
    n_candidates: int = 20,
    over: Sequence[str] = SEARCHED,
    groups: Sequence[Any] | None = None,
    unlabelled: Any = None,
) -> Search:
    """Choose parameters of an unfitted classifier and of its projection, and set them.

    Every candidate is standardised, trained and asked on the same random splits of the labelled
    images, `N_SPLITS` times with `HELD_OUT` of each label held out, copies and groups together. The
    values that the classifier came with are a candidate as well, and stay where none is better.

    Parameters
    ----------
    classifier : MetricKNNClassifier
        Its `n_neighbors`, `class_weight` and `projection` (a clone) are set; fit it afterwards.
    X, y : images and their labels
        As `MetricKNNClassifier.fit` takes them.
    n_candidates : int, default=20
        Drawn at random, besides the values that the classifier came with.
    over : sequence of str
        Which parameters are chosen: of `SEARCHED`. Without a projection those of the votes alone.
    groups, unlabelled : optional
        As for `fit`; unlabelled images standardise the features.

    Returns
    -------
    Search
        Also kept as ``classifier.search_``, and written to the model file.

    Raises
    ------
    InputError
        Fewer than 4 images of a label, unknown names in `over`, no candidates.
    CollapseError
        The training failed for every candidate.

    Notes
    -----
    Deterministic, given the `random_state` of classifier and projection. It takes about
    ``3 * (n_candidates + 1)`` times as long as the training of one projection.

    References
    ----------
    J. Bergstra, Y. Bengio, "Random Search for Hyper-Parameter Optimization", 2012.
    """
    over = [name for name in over if classifier.projection is not None or name in OF_VOTES]
    if not over:
        raise InputError(
            f"nothing is left to search: without a projection there are {' and '.join(OF_VOTES)} "
            "alone, and they are given; leave one out, or the search"
        )
    if n_candidates < 1 or not over or not set(over) <= set(SEARCHED):
        raise InputError(
            f"a search needs n_candidates of at least 1, and parameters to choose among "
            f"{', '.join(SEARCHED)} (without a projection the last two alone); got {n_candidates} "
            f"and {', '.join(over)}"
        )
    F, names, parts, own = _features(classifier, X, y, groups, unlabelled)
    first = np.unique(parts, return_index=True)[1]
    counts = np.unique(names[first], return_counts=True)
    if counts[1].min() < FEWEST:
        few = {str(name): int(n) for name, n in zip(*counts, strict=True) if n < FEWEST}
        raise InputError(
            f"a search holds out a part of every label, and needs {FEWEST} images of each; of "
            f"{few} there are fewer, copies and groups counted once: label more, or leave the "
            "search out"
        )
    seed = classifier.random_state or 0
    drawn = StratifiedShuffleSplit(N_SPLITS, test_size=HELD_OUT, random_state=seed)
    kinds = names[first]
    splits = [(rows_of(parts, i), rows_of(parts, o)) for i, o in drawn.split(kinds, kinds)]
    n_train = min(len(inner) for inner, _ in splits)
    candidates = _candidates(classifier, over, n_candidates, n_train, seed)
    scores = _scores(_pipeline(classifier, own), candidates, F, names, splits)
    if not np.isfinite(scores).any():
        raise CollapseError(
            f"the training failed for all {len(candidates)} candidates of the search: see what "
            "fit says without it"
        )
    best = int(np.nanargmax(scores))  # of equal ones the first
    found = [None if np.isnan(score) else float(score) for score in scores]
    search = Search(
        candidates[best],
        float(scores[best]),
        found[0],
        [{**c, "validation_f1": f1} for c, f1 in zip(candidates, found, strict=True)],
    )
    classifier.adopt(search)
    return search


def _features(
    classifier: MetricKNNClassifier, X: Any, y: Any, groups: Sequence[Any] | None, unlabelled: Any
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.intp], bool]:
    """Features of readable images, their labels and parts, and whether splits standardise."""
    encoder = copy_extractor(classifier.encoder)
    embedding = Embedding(None if encoder is None else encoder.build(), None, classifier.cache)
    images, F = embedding.read_all(X)  # `fit` will name those that cannot be read
    check_some(F)
    if len(images) != len(y):
        raise InputError(f"{len(y)} labels given for {len(images)} images")
    readable = [image.error is None for image in images]
    names = np.asarray(y)[readable].astype(str)
    check_labels(names.tolist(), "labels of the images")
    embedding.standardize_as([F])
    parts = number_parts(embedding.standardized(F), groups=checked_groups(groups, readable))
    if not classifier.standardize or unlabelled is None:
        return F, names, parts, classifier.standardize
    embedding.standardize_as(part for _, part in embedding.read(unlabelled) if len(part))
    return embedding.standardized(F), names, parts, False


def _candidates(
    classifier: MetricKNNClassifier, over: Sequence[str], n: int, n_train: int, seed: int
) -> list[dict[str, Any]]:
    """Values of the parameters in `over`: those that are set, then n drawn ones, all different."""
    known = [k for k in _NEIGHBORS if k <= n_train]
    space = {**_OF_PROJECTION, "n_neighbors": known, "class_weight": list(CLASS_WEIGHTS)}
    space = {name: space[name] for name in over}
    before = values_of(over, classifier.get_params(deep=False))
    if before.get("n_neighbors", 0) > n_train:
        raise InputError(
            f"n_neighbors={before['n_neighbors']}, but the splits of the search leave {n_train} "
            "labelled images to choose from"
        )
    sizes = [len(values) for values in space.values() if isinstance(values, list)]
    if len(sizes) == len(space):  # a finite space may have fewer candidates
        n = min(n, int(np.prod(sizes)))
    drawn = [
        {name: float(f"{v:.3g}") if name in _CONTINUOUS else v for name, v in candidate.items()}
        for candidate in ParameterSampler(space, n, random_state=seed)
    ]
    return [before, *(candidate for candidate in drawn if candidate != before)]


def _pipeline(classifier: MetricKNNClassifier, own: bool) -> Pipeline:
    steps: list[tuple[str, Any]] = [("scale", StandardScaler())] if own else []
    if classifier.projection is not None:
        steps.append(("projection", classifier.projection))
    vote = _Votes(
        classifier.n_neighbors,
        classifier.weights,
        classifier.class_weight,
        embedding_distance(classifier.distance, classifier.projection),
    )
    return Pipeline([*steps, ("vote", vote)])


class _Votes(ClassifierMixin, BaseEstimator):
    """The last step of a pipeline: what the votes of nearest neighbours say."""

    def __init__(
        self, n_neighbors: int, weights: str, class_weight: str | None, distance: str
    ) -> None:
        self.n_neighbors = n_neighbors
        self.weights = weights
        self.class_weight = class_weight
        self.distance = distance

    def fit(self, X: NDArray[Any], y: NDArray[Any]) -> Self:
        self.X_, self.y_ = X, y
        self.classes_, self.counts_ = np.unique(y, return_counts=True)
        return self

    def predict(self, X: NDArray[Any]) -> NDArray[Any]:
        classes = self.classes_.tolist()
        voting = Voting(self.n_neighbors, self.weights, self.class_weight)
        rows, distances = nearest_neighbors(self.X_, X, voting.k, self.distance)
        near = self.y_[rows]
        shares = voting.shares(near, distances, classes, self.counts_)
        return np.asarray(self.classes_[winners(shares, near, distances, classes)])


def _scores(
    pipeline: Pipeline,
    candidates: list[dict[str, Any]],
    F: NDArray[Any],
    names: NDArray[Any],
    splits: Folds,
) -> NDArray[np.float64]:
    """Mean macro F1 of each candidate over the splits, NaN where one of them failed."""
    scores = np.full((len(candidates), len(splits)), np.nan)
    for row, candidate in zip(scores, candidates, strict=True):
        trial = clone(pipeline).set_params(**_in_pipeline(pipeline, candidate))
        try:
            for i, (inner, outer) in enumerate(splits):
                predicted = trial.fit(F[inner], names[inner]).predict(F[outer])
                row[i] = f1_score(names[outer], predicted, average="macro", zero_division=0)
        except CollapseError:  # recorded as None; any other error is one of all candidates
            row[:] = np.nan
        _log.info("%s: macro F1 %.4f", candidate, row.mean())
    return np.asarray(scores.mean(axis=1))


def _in_pipeline(pipeline: Pipeline, candidate: dict[str, Any]) -> dict[str, Any]:
    """A candidate's values by the steps that take them: `n_neighbors` is for both."""
    return {
        f"{step}__{name}": value
        for name, value in candidate.items()
        for step in ("projection", "vote")
        if step in pipeline.named_steps and f"{step}__{name}" in pipeline.get_params()
    }
