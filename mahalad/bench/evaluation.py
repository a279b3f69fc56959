"""Judge fits on images, by `AnomalyDetector` itself, so that the figures are what users get."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mahalad.arrays import take
from mahalad.bench.features import CategoryImages, Rows
from mahalad.bench.padim import Padim
from mahalad.bench.patchcore import PatchCore
from mahalad.bench.pixels import PixelTruth, compare_maps
from mahalad.choices import PUBLISHED
from mahalad.detectors.detector import AnomalyDetector
from mahalad.detectors.mahalanobis import MahalanobisDetector
from mahalad.errors import CalibrationError
from mahalad.evaluation.pixels import PixelFigures
from mahalad.possible import IMAGE, POSITIONS
from mahalad.protocols import Floats
from mahalad.result import compares_scores
from mahalad.scorers.capabilities import capabilities_of
from mahalad.scorers.level_sum import make_scorer
from mahalad.thresholds.rules import RULES


@dataclass(frozen=True)
class Recipe:
    """How features are scored; every field is a parameter of the benchmarks."""

    scope: str = "positions"
    scorer: str = "gaussian"
    reduction: str | None = None
    n_augment: int = 0
    seed: int = 0
    neighbourhood: int | str = "nearest"
    tolerate: str | Sequence[str] = "auto"
    any_orientation: str | bool = "auto"

    @property
    def is_published(self) -> bool:
        """Whether it is another's method, which knows neither thresholds nor changes."""
        return self.scorer in PUBLISHED

    @property
    def fewest_images(self) -> int:
        """Fewest good images of a fit."""
        if self.is_published:
            return int(self.make_scorer().fewest)
        return IMAGE if self.scope == "image" else POSITIONS

    @property
    def needs_pictures(self) -> bool:
        """Whether a fit changes images, so that their features alone are not enough."""
        if self.is_published:
            return False
        told = self.tolerate != "auto" or capabilities_of(self.make_scorer()).tolerates
        turns = self.any_orientation is True or (
            self.any_orientation == "auto" and self.scope == "positions"
        )
        return bool(self.n_augment or turns or (told and self.tolerate))

    def make_scorer(self) -> Any:
        """Make the scorer, not yet fitted."""
        if self.is_published:
            published = {"padim": Padim, "patchcore": PatchCore}[self.scorer]
            return published(random_state=self.seed)
        if self.scope == "image":
            return make_scorer(self.scorer, self.reduction)
        return MahalanobisDetector(neighbourhood=self.neighbourhood).unfitted_parts()[1]


@dataclass(frozen=True)
class Target:
    """A threshold rule, and the false-positive rate asked of it."""

    rule: str
    fpr: float


@dataclass(frozen=True)
class Evaluation:
    """What one fit says of test images under one rule.

    Attributes
    ----------
    scores : ndarray of shape (n_tested,)
        Raw anomaly scores, up = abnormal.
    threshold : float or None
        Scores above it are flagged; None where the rule is about another statistic.
    flagged : ndarray of bool, shape (n_tested,), or None
        None where the rule cannot give a threshold; `reason` says why.
    reason : str or None
    pixels : PixelFigures or None
        Of the anomaly maps; None without masks.
    """

    scores: Floats
    threshold: float | None = None
    flagged: NDArray[np.bool_] | None = None
    reason: str | None = None
    pixels: PixelFigures | None = None


def evaluate(
    images: CategoryImages,
    fitted: Rows,
    tested: Rows,
    recipe: Recipe,
    targets: Sequence[Target],
    groups: Sequence[str] | None = None,
    truth: PixelTruth | None = None,
) -> dict[Target, Evaluation]:
    """Fit to some images and judge others, at several targets.

    One fit serves all rules and rates but "holdout", which fits to fewer images, and
    "chi2-nominal", which tolerates no changes of them.

    Parameters
    ----------
    images : CategoryImages
    fitted, tested : ndarray of int
        Rows of `images`.
    recipe : Recipe
    targets : sequence of Target
    groups : sequence of str of length n_fitted, optional
        Images that calibration leaves out together.
    truth : PixelTruth, optional
        Masks that the anomaly maps are compared with, where `tested` are all test images.

    Notes
    -----
    Scores are those of a fit to the images themselves. Calibration folds and hold-out splits are
    drawn by hashes of what is fitted, here the features, so they are other, equally random ones.
    """
    if recipe.is_published:
        return dict.fromkeys(targets, _evaluate_published(images, fitted, tested, recipe, truth))
    found: dict[Target, Evaluation] = {}
    alone = ("holdout", *(("chi2-nominal",) if recipe.tolerate else ()))
    for rule in (None, *alone):
        wanted = [t for t in targets if (t.rule == rule if rule else t.rule not in alone)]
        if not wanted:
            continue
        # A fit for "chi2-nominal" has no calibration scores, one for the others serves it too
        # (and positions are standardized by calibration scores).
        rules = sorted({target.rule for target in wanted}, key=lambda r: r == "chi2-nominal")
        own = replace(recipe, tolerate=()) if rules[0] == "chi2-nominal" else recipe
        detector = make_detector(images.extractor, own, rules[0])
        fit_quietly(detector, images.select(fitted), groups)
        level_scores = detector.level_scores(images.select(tested))
        pixels = None
        if truth is not None:
            pixels = compare_maps(truth, detector.scorer_, images.features, tested)
        for target in wanted:
            found[target] = replace(judge(detector, level_scores, target), pixels=pixels)
    return {target: found[target] for target in targets}


def _evaluate_published(
    images: CategoryImages, fitted: Rows, tested: Rows, recipe: Recipe, truth: PixelTruth | None
) -> Evaluation:
    scorer = recipe.make_scorer().fit(take(images.features, fitted))
    scores = -scorer.score_samples(take(images.features, tested))
    pixels = None if truth is None else compare_maps(truth, scorer, images.features, tested)
    reason = f"{recipe.scorer} has no threshold for a false-positive rate"
    return Evaluation(scores, reason=reason, pixels=pixels)


def make_detector(extractor: Any, recipe: Recipe, rule: str) -> AnomalyDetector:
    """Make the detector of a recipe, not yet fitted; without an extractor it takes features."""
    nominal = recipe.scope == "positions" and rule == "chi2-nominal"
    return AnomalyDetector(
        extractor,
        recipe.make_scorer(),
        "conformal" if nominal else rule,
        n_augment=recipe.n_augment,
        max_stored=MahalanobisDetector(scope=recipe.scope).most_stored(),
        random_state=recipe.seed,
        tolerate=recipe.tolerate,
        any_orientation=recipe.any_orientation,
    )


def fit_quietly(detector: AnomalyDetector, X: Any, groups: Sequence[str] | None = None) -> None:
    """Fit, and say nothing of thresholds that are not there: a table says "n/a" instead."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "images can be scored but not judged")
        detector.fit(X, groups=groups)


def judge(detector: AnomalyDetector, level_scores: Floats, target: Target) -> Evaluation:
    """Say what a fitted detector says of images at a target, by their scores per level."""
    scores = level_scores.sum(axis=1)
    detector.set_params(threshold=target.rule).set_fpr(target.fpr)
    try:
        critical = detector.threshold_
    except CalibrationError as error:
        return Evaluation(scores, reason=str(error))
    rule: Any = RULES[target.rule]()
    statistic = rule.statistic(scores, level_scores)
    shown = critical if compares_scores(rule, statistic, scores, level_scores) else None
    return Evaluation(scores, shown, statistic > critical)
