"""`mahalad bench robust`: what harmless changes of the test pictures do to the figures.

A detector is fitted to the unchanged images of a category, once, and judges its test images as they
are and changed in each way of `mahalad.bench.changes`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mahalad.bench.changes import GRADED
from mahalad.bench.evaluation import Recipe, Target, fit_quietly, judge, make_detector
from mahalad.bench.features import (
    FeatureOptions,
    check_kinds,
    check_scope,
    refuse_unreadable,
)
from mahalad.bench.outputs import check_outputs, versions, write_json
from mahalad.bench.plots import save_figure
from mahalad.bench.plots_robust import draw_robust
from mahalad.bench.robust_text import FIGURES, as_text
from mahalad.checks import FPR, N_AUGMENT, SEED_NUMBER, Limit, OneOf, check_parameters
from mahalad.choices import THRESHOLDS
from mahalad.errors import ImageReadError, ImageValueError
from mahalad.evaluation.images import mean_and_sem, rates_at, roc_auc
from mahalad.images.decoding import open_image
from mahalad.images.mvtec import Category, find_categories
from mahalad.images.sources import source_of
from mahalad.progress import Progress, no_progress
from mahalad.protocols import Floats

if TYPE_CHECKING:
    from mahalad.features.levels import Levels

_LIMITS: dict[str, Limit] = {
    "threshold": OneOf(THRESHOLDS),
    "fpr": FPR,
    "n_augment": N_AUGMENT,
    "seed": SEED_NUMBER,
}
_ROWS = (None, *GRADED)  # the test images as they are come first


def run(
    *,
    roots: Sequence[str | Path],
    categories: Sequence[str] = (),
    json_file: str | Path | None = None,
    plot_file: str | Path | None = None,
    backbone: str = "tf_efficientnet_lite0",
    weights: str | Path | None = None,
    scope: str = "positions",
    levels: Levels = None,
    input_size: int | None = None,
    resize: str = "squash",
    tiles: int = 1,
    device: str = "auto",
    engine: str = "torch",
    batch_size: int = 32,
    neighbourhood: int | str = "nearest",
    tolerate: str | Sequence[str] = "auto",
    any_orientation: str | bool = "auto",
    reduction: str | None = None,
    scorer: str = "gaussian",
    threshold: str = "conformal",
    fpr: float = 0.05,
    n_augment: int = 0,
    seed: int = 0,
    progress: Progress = no_progress,
) -> str:
    """Measure what changed test images are taken for and return it as text.

    Parameters
    ----------
    roots, categories
        See `mahalad.images.mvtec.find_categories`.
    json_file, plot_file : path, optional
        Files to write: everything that is needed to redraw, and the plot.
    backbone, weights, scope, levels, input_size, resize, tiles, device, engine, batch_size,
    neighbourhood, tolerate, any_orientation
        See `MahalanobisDetector`.
    reduction, scorer
        See `make_scorer`; for ``scope="image"``.
    threshold, fpr
        The rule and rate at which images are flagged.
    n_augment, seed
        As `n_augment` and `random_state` of `AnomalyDetector`.
    progress : callable
        Wraps an iterable of images and their number: the test images of a category, unchanged and
        in every change.

    Raises
    ------
    InputError
        Parameters that do not go together, a category without good or bad test images, or images
        that cannot be read: before the work.
    """
    options = FeatureOptions(
        backbone, weights, scope, levels, input_size, resize, tiles, device, engine, batch_size
    )
    parameters: dict[str, Any] = {
        "roots": roots,
        "categories": categories,
        **vars(options),
        "neighbourhood": neighbourhood,
        "tolerate": tolerate,
        "any_orientation": any_orientation,
        "reduction": reduction,
        "scorer": scorer,
        "threshold": threshold,
        "fpr": fpr,
        "n_augment": n_augment,
        "seed": seed,
    }
    check_parameters(_LIMITS, parameters)
    check_outputs(json_file, plot_file)
    check_scope(scope, scorer, reduction, threshold)
    found = find_categories(roots, categories, with_masks=False)
    check_kinds(found)
    sizes = _test_sizes(found)
    extractor = options.extractor().build()
    recipe = Recipe(
        scope, scorer, reduction, n_augment, seed, neighbourhood, tolerate, any_orientation
    )
    target = Target(threshold, fpr)
    measured = {one.name: _measure(one, extractor, recipe, target, progress) for one in found}
    report = {
        "benchmark": "robust",
        "parameters": parameters,
        "versions": versions(),
        "network": extractor.record(),
        "images": {category.name: _describe(category, sizes[category.name]) for category in found},
        "rows": [_row(i, measured) for i in range(len(_ROWS))],
    }
    if json_file is not None:
        write_json(report, json_file)
    if plot_file is not None:
        save_figure(draw_robust(report), plot_file)
    return as_text(report)


def _test_sizes(categories: Sequence[Category]) -> dict[str, list[tuple[int, int]]]:
    """Find the sizes of each category's test images, smallest area first.

    All images are opened once, so that errors come before the work, and all at a time.
    """
    sizes: dict[str, set[tuple[int, int]]] = {category.name: set() for category in categories}
    errors: list[Exception] = []
    for category in categories:
        for i, path in enumerate((*category.train, *category.test)):
            try:
                height, width = np.asarray(open_image(source_of(str(path)))).shape[:2]
            except (ImageReadError, ImageValueError) as error:
                errors.append(error)
                continue
            if i >= len(category.train):
                sizes[category.name].add((width, height))
    refuse_unreadable(errors, sum(len(one.train) + len(one.test) for one in categories))
    return {name: sorted(found, key=math.prod) for name, found in sizes.items()}


def _describe(category: Category, sizes: Sequence[tuple[int, int]]) -> dict[str, Any]:
    is_anomaly = _is_anomaly(category)
    return {
        "n_train": len(category.train),
        "n_good": int((~is_anomaly).sum()),
        "n_bad": int(is_anomaly.sum()),
        "sizes": [sizes[0], *([sizes[-1]] if len(sizes) > 1 else [])],
        "test": list(category.test),
        "split": category.split,
        "is_anomaly": is_anomaly,
    }


def _is_anomaly(category: Category) -> NDArray[np.bool_]:
    return np.array([kind != "good" for kind in category.kinds])


def _measure(
    category: Category, extractor: Any, recipe: Recipe, target: Target, progress: Progress
) -> list[dict[str, Any]]:
    """Fit to a category and judge its test images, unchanged and in every change."""
    detector = make_detector(extractor, recipe, target.rule)
    fit_quietly(detector, [str(path) for path in category.train])
    n_pictures = len(_ROWS) * len(category.test)
    level_scores = detector.level_scores(progress(_pictures(category.test), n_pictures))
    by_row = level_scores.reshape(len(category.test), len(_ROWS), -1).swapaxes(0, 1)
    return [_summarise(detector, scores, target, _is_anomaly(category)) for scores in by_row]


def _pictures(paths: Sequence[Path]) -> Iterator[Any]:
    """Decode each picture once, and give it in all rows of the table, one after the other."""
    for number, path in enumerate(paths):
        image = open_image(source_of(str(path)))
        for change in _ROWS:
            yield image if change is None else change.of(image, number)


def _summarise(
    detector: Any, level_scores: Floats, target: Target, is_anomaly: NDArray[np.bool_]
) -> dict[str, Any]:
    judged = judge(detector, level_scores, target)
    rates = (None, None) if judged.flagged is None else rates_at(is_anomaly, judged.flagged)
    return {
        "fpr": rates[0],
        "tpr": rates[1],
        "roc_auc": roc_auc(judged.scores, is_anomaly),
        "threshold": judged.threshold,
        "reason": judged.reason,
        "scores": judged.scores,
    }


def _row(i: int, measured: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Give one row of the report: a change, the figures of each category, and their means."""
    change = _ROWS[i]
    categories = {name: results[i] for name, results in measured.items()}
    means = {}
    for figure in FIGURES:
        values = [one[figure] for one in categories.values() if one[figure] is not None]
        mean, sem = mean_and_sem(values)
        means[figure] = {"mean": mean, "sem": sem, "n": len(values)}
    return {
        "name": "unchanged" if change is None else change.name,
        "change": change and change.kind,
        "strength": change and change.strength,
        "categories": categories,
        "mean": means,
    }
