"""What `MetricKNNClassifier.fit` does: standardise features, train a projection, cast honest votes.

Functions over values: a recipe and images come in, the fitted state comes out.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mahalad.errors import InputError
from mahalad.files.checksum import hash_rows
from mahalad.files.dates import today
from mahalad.images.pixels import describe_mixture, pixels_of
from mahalad.images.reading import ReadImage, depths_of, left_out
from mahalad.index.contract import Distance, VectorIndex
from mahalad.index.opening import open_index
from mahalad.metric.embedding import Embedding, about, check_some
from mahalad.metric.held_out import cross_fit, draw_folds, train
from mahalad.metric.label_arrays import labels_array, positive_code
from mahalad.metric.labelled import check_labels
from mahalad.metric.parts import checked_groups, number_parts
from mahalad.metric.state import Calibration, Fitted
from mahalad.metric.votes import HeldOut, Voting, label_codes, leave_one_out_votes
from mahalad.protocols import Floats

_log = logging.getLogger(__name__)

CHEAP_FOLDS = 20
"""Folds where there is nothing to train."""


@dataclass(frozen=True)
class Recipe:
    """How to fit: parameters of `MetricKNNClassifier`, which describes them.

    Attributes
    ----------
    encoder : feature extractor or None
        Of this fit alone; `build` makes it ready.
    projection : estimator or None
        Of this fit alone; it is trained in place.
    distance : {"cosine", "euclidean"}
        Between embeddings.
    index : str or None
        Where the index is, or is to be.
    """

    encoder: Any
    projection: Any
    voting: Voting
    distance: Distance
    index: str | None
    positive: str | int | None
    standardize: bool
    calibration_folds: int | None
    self_training: float | None
    cache: str | Path | None
    random_state: int


def fit(
    recipe: Recipe, X: Any, y: Any, groups: Sequence[Any] | None = None, unlabelled: Any = None
) -> Fitted:
    """Fit to labelled images; see `MetricKNNClassifier.fit`, also for warnings and errors.

    `y` is what `checked_labels` gave.
    """
    started = time.perf_counter()
    encoder = None if recipe.encoder is None else recipe.encoder.build()
    embedding = Embedding(encoder, recipe.projection, recipe.cache)
    images, F = embedding.read_all(X)
    unreadable = left_out(images, stacklevel=4)
    check_some(F)
    labels = _labels_of(images, y, recipe.voting.k)
    known = checked_groups(groups, [image.error is None for image in images])
    names, classes = labels.astype(str), np.unique(labels)
    positive_code(recipe.positive, classes)
    further = _standardize(recipe, embedding, F, unlabelled, images)
    Z = embedding.standardized(F)
    n_self_trained = 0
    if recipe.projection is not None:
        n_self_trained = train(
            recipe.projection, Z, names, further, recipe.self_training, recipe.voting.class_weight
        )
    own = recipe.standardize and unlabelled is None
    parts, texts = number_parts(Z, groups=known), classes.astype(str).tolist()
    method, probabilities, distances = _cross_fit(
        recipe, embedding, F, names, texts, parts, own=own, further=further
    )
    E = embedding.project(Z)
    if method == "leave-one-out" and known is not None:  # now, since nothing stored tells groups
        k, weights = recipe.voting.k, recipe.voting.weights
        probabilities, distances = leave_one_out_votes(
            E, names, texts, k, weights, recipe.distance, parts=parts
        )
    index = _new_index(recipe, embedding, E.shape[1])
    paths = [image.source.name for image in images if image.error is None]
    ids = index.add(E, names.tolist(), paths)
    embedding.depths = depths_of(images)
    mixture = describe_mixture(embedding.depths) if pixels_of(encoder).bits is None else ""
    if mixture:
        warnings.warn(mixture, stacklevel=3)
    votes = HeldOut(ids[: len(distances)], probabilities, distances)
    checksums = hash_rows(index.get(votes.ids).vectors)  # ids ascend
    calibration = Calibration(method, votes, checksums, recipe.voting.k, recipe.voting.weights)
    _log.info(
        "fitted to %d images of %d labels; votes by %s; %.2f s",
        len(paths),
        len(classes),
        method,
        time.perf_counter() - started,
    )
    return Fitted(embedding, index, classes, calibration, n_self_trained, unreadable, date=today())


def checked_labels(recipe: Recipe, y: Any, unlabelled: Any) -> NDArray[Any]:
    """Return the labels as an array, or refuse what cannot be fitted before any image is read."""
    if recipe.self_training is not None and (unlabelled is None or recipe.projection is None):
        raise InputError("self_training needs unlabelled images, and a projection to train")
    return labels_array(y)


def _labels_of(images: list[ReadImage], y: NDArray[Any], k: int) -> NDArray[Any]:
    """Labels of the readable images, checked."""
    if len(images) != len(y):
        raise InputError(f"{len(y)} labels given for {len(images)} images")
    labels = y[[image.error is None for image in images]]
    check_labels(labels.astype(str).tolist(), "labels of the images")
    if k > len(labels):
        raise InputError(f"n_neighbors={k}, but there are {len(labels)} labelled images")
    return labels


def _standardize(
    recipe: Recipe, embedding: Embedding, F: Floats, unlabelled: Any, labelled: list[ReadImage]
) -> NDArray[np.float32] | None:
    """Set the embedding's mean and deviation; give unlabelled features that are to train, without
    those of images that are labelled."""
    further: Floats | None = None
    images: list[ReadImage] = []
    batches: Any = [F]
    if recipe.self_training is not None:
        images, further = embedding.read_all(unlabelled)
        left_out(images, stacklevel=5)
        check_some(further)
        batches = [further]
    elif unlabelled is not None:
        batches = (part for _, part in embedding.read(unlabelled) if len(part))
    if recipe.standardize:
        embedding.standardize_as(batches)
    else:
        embedding.mean, embedding.scale = np.zeros(F.shape[1]), np.ones(F.shape[1])
    if further is None:
        return None
    known = {image.key for image in labelled}
    new = [image.key not in known for image in images if image.error is None]
    return embedding.standardized(further[new])


def _cross_fit(
    recipe: Recipe,
    embedding: Embedding,
    F: Floats,
    names: NDArray[Any],
    classes: list[str],
    parts: NDArray[np.intp],
    *,
    own: bool,
    further: NDArray[np.float32] | None,
) -> tuple[str, Floats, Floats]:
    """The method, and honest votes (n, n_classes) and distances (n,); none where leave-one-out
    will do.

    `own`: the features are standardised by these images themselves.
    """
    trains, k = recipe.projection is not None, recipe.voting.k
    none = "leave-one-out", np.empty((0, len(classes))), np.empty(0)
    if recipe.calibration_folds is None or not (trains or own):
        return none
    n_folds = recipe.calibration_folds if trains else max(recipe.calibration_folds, CHEAP_FOLDS)
    codes = label_codes(names, classes)
    folds = draw_folds(codes, parts, n_folds, k, recipe.random_state, trains=trains)
    if not folds:
        if trains:
            warnings.warn(
                f"{parts.max() + 1} labelled images are too few to train without a part of them: "
                "operating point and novelty come from leave-one-out among images that the "
                "projection was trained on, and are far too optimistic",
                stacklevel=4,
            )
        return none
    probabilities, distances = cross_fit(
        embedding,
        recipe.projection,
        F,
        names,
        classes,
        folds,
        standardize=own,
        k=k,
        weights=recipe.voting.weights,
        distance=recipe.distance,
        further=further,
        self_training=recipe.self_training,
        class_weight=recipe.voting.class_weight,
    )
    return "cross-fit", probabilities, distances


def _new_index(recipe: Recipe, embedding: Embedding, n_features: int) -> VectorIndex:
    """The index in the recipe's place, made if there is none; it must be empty."""
    index = open_index(
        recipe.index, n_features=n_features, distance=recipe.distance, about=about(embedding)
    )
    n = len(index)
    if n:
        index.close()
        raise InputError(f"{recipe.index}: holds {n} vectors already; a fit needs an empty index")
    return index
