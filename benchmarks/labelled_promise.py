"""What a classifier promises of recall, precision and novelty, and what new images get, simulated.

`promise.py` prints it. 100 labelled images of two classes that overlap stand for 100 parts, and may
each be there several times; new images are of other parts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mahalad.errors import CalibrationError
from mahalad.metric.classifier import MetricKNNClassifier
from mahalad.metric.triplets.projection import TripletProjection
from mahalad.protocols import Floats

N_PARTS = 100
RECALL = 0.6
"""What is asked for."""


@dataclass(frozen=True)
class Cell:
    """One kind of labelled images.

    Attributes
    ----------
    n_times : int
        Images of each part.
    noise : float
        Standard deviation between images of a part, which are a group then; 0: they are copies.
    options : mapping
        Parameters of the classifier.
    before : str
        Recall and precision of the version before, promised and got.
    novel_before : str
        Its rates of novelty at 5 and 10 %.
    """

    n_times: int
    noise: float = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    before: str = ""
    novel_before: str = ""


NO_FOLDS = {"calibration_folds": None}
QUICK = {
    "projection": TripletProjection(n_components=8, max_epochs=10, learning_rate=1e-2),
    "calibration_folds": 3,
}
CELLS = {
    "labels, once": Cell(1),
    "labels, twice": Cell(2, before="98, 59; 100, 77", novel_before="-, 17"),
    "labels, twice, no folds": Cell(2, options=NO_FOLDS),
    "labels, pairs": Cell(2, 0.05),
    "labels, pairs, no folds": Cell(2, 0.05, NO_FOLDS),
    "labels, twice, projection": Cell(2, options=QUICK),
}


def draw(rng: np.random.Generator, n: int) -> tuple[Floats, NDArray[np.str_]]:
    """Features (n, 8) of two classes that overlap, and their labels, (n,)."""
    y = np.where(rng.random(n) < 0.4, "bad", "good")
    F = rng.normal(size=(n, 8))
    F[y == "bad", :2] += 1.5
    return F, y


def fitted(cell: Cell, rng: np.random.Generator) -> MetricKNNClassifier:
    """A classifier of such images, with its operating point."""
    F, y = draw(rng, N_PARTS)
    F, y = np.repeat(F, cell.n_times, axis=0), np.repeat(y, cell.n_times)
    groups = np.repeat(np.arange(N_PARTS), cell.n_times) if cell.noise else None
    knn = MetricKNNClassifier(weights="distance", positive="bad", **cell.options)
    knn.fit(F + cell.noise * rng.normal(size=F.shape), y, groups=groups)
    return knn.set_operating_point(recall=RECALL)


def outcomes(
    cell: Cell, n_draws: int, asked: Sequence[float], n_new: int = 1000
) -> tuple[Floats, Floats]:
    """What is promised and what new images get, for the seeds 0, 1, ...

    Returns
    -------
    points : ndarray of shape (n_draws, 4)
        Recall, promised and got; precision, promised and got.
    novel : ndarray of shape (n_draws, len(asked))
        Share of new images called novel at each of the rates; NaN where parts are too few.
    """
    points, novel = np.empty((n_draws, 4)), np.full((n_draws, len(asked)), np.nan)
    for seed in range(n_draws):
        rng = np.random.default_rng(seed)
        knn = fitted(cell, rng)
        new, truth = draw(rng, n_new)
        called, bad = knn.predict(new) == "bad", truth == "bad"
        hits, point = (called & bad).sum(), knn.operating_point_
        assert point is not None
        points[seed] = point.recall, hits / bad.sum(), point.precision, hits / called.sum()
        distances = knn.kneighbors(new).distances[:, -1]
        for column, fpr in enumerate(asked):
            with contextlib.suppress(CalibrationError):
                threshold = knn.set_novelty_fpr(fpr).novelty_threshold_
                novel[seed, column] = np.mean(distances > threshold)
    return points, novel
