"""`mahalad bench mvtec`: accuracy on categories in the layout of MVTec AD.

A report (plain JSON) is measured first; the text and the plot are made from it alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import KFold

from mahalad.bench.evaluation import Evaluation, Recipe, Target, evaluate
from mahalad.bench.experiments import Variant, networks_of, variants_of
from mahalad.bench.features import (
    CategoryImages,
    FeatureOptions,
    Rows,
    check_kinds,
    check_scope,
    extract_categories,
)
from mahalad.bench.mvtec_text import METRICS, PIXEL_METRICS, as_text
from mahalad.bench.outputs import check_outputs, versions, write_json
from mahalad.bench.pixels import PixelTruth, read_truth
from mahalad.bench.plots import draw_mvtec, save_figure
from mahalad.checks import FPR, N_AUGMENT, SEED_NUMBER, Limit, OneOf, check_parameters
from mahalad.choices import BENCH_PROTOCOLS, BENCH_TABLES, THRESHOLDS
from mahalad.errors import BackboneError, InputError, MissingExtraError, WeightsError
from mahalad.evaluation.images import average_precision, f1_max, mean_and_sem, rates_at, roc_auc
from mahalad.images.mvtec import Category, find_categories
from mahalad.progress import Progress, no_progress

if TYPE_CHECKING:
    from mahalad.features.levels import Levels

_LIMITS: dict[str, Limit] = {
    "protocol": OneOf(BENCH_PROTOCOLS),
    "table": OneOf(BENCH_TABLES),
    "threshold": OneOf(THRESHOLDS),
    "fpr": FPR,
    "n_augment": N_AUGMENT,
    "seed": SEED_NUMBER,
}


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
    neighbourhood: int | str = 0,
    tolerate: str | Sequence[str] = "auto",
    reduction: str | None = None,
    scorer: str = "gaussian",
    threshold: str = "conformal",
    fpr: float = 0.05,
    n_augment: int = 0,
    seed: int = 0,
    protocol: str = "official",
    table: str = "categories",
    networks: Sequence[str] = (),
    progress: Progress = no_progress,
) -> str:
    """Measure accuracy per category and return it as text.

    Parameters
    ----------
    roots, categories
        See `mahalad.images.mvtec.find_categories`.
    json_file, plot_file : path, optional
        Files to write: everything that is needed to redraw, and the plot.
    backbone, weights, scope, levels, input_size, resize, tiles, device, engine, batch_size,
    neighbourhood, tolerate
        See `MahalanobisDetector`. With ``scope="positions"``, the anomaly maps of categories
        with masks are measured too (not for ``table="thresholds"``).
    reduction, scorer
        See `make_scorer`; for ``scope="image"``. ``table="distances"`` compares scorers and
        does not use `scorer`.
    threshold, fpr
        The rule and rate at which FPR and TPR are measured; ``table="thresholds"`` compares
        all rules, at `fpr` and some other rates.
    n_augment, seed
        As `n_augment` and `random_state` of `AnomalyDetector`.
    protocol : {"official", "paper"}
    table : {"categories", "levels", "distances", "networks", "sizes", "thresholds"}
        ``"levels"`` and ``"distances"`` are of pooled features, ``scope="image"``.
    networks : sequence of str
        ``"NAME"`` or ``"NAME=WEIGHTS"``: rows of ``table="networks"`` and ``"sizes"``. By
        default `backbone` and a list of the paper's networks, with weights from timm's hub.
        A network whose weights are out of reach is reported as not run.
    progress : callable
        Wraps an iterable of images and their number.
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
        "reduction": reduction,
        "scorer": scorer,
        "threshold": threshold,
        "fpr": fpr,
        "n_augment": n_augment,
        "seed": seed,
        "protocol": protocol,
        "table": table,
        "networks": networks,
    }
    check_parameters(_LIMITS, parameters)
    check_outputs(json_file, plot_file)
    check_scope(scope, scorer, reduction, None if table == "thresholds" else threshold)
    found = find_categories(roots, categories)
    _check(found, protocol, table, scope)
    has_pixels = scope == "positions" and table != "thresholds"
    truths = {one.name: read_truth(one) if has_pixels else None for one in found}
    recipe = Recipe(scope, scorer, reduction, n_augment, seed, neighbourhood, tolerate)
    target = Target(threshold, fpr)
    rows = []
    for name, file in networks_of(table, networks, backbone, weights):
        extractor = replace(options, backbone=name, weights=file).extractor()
        try:
            extractor.build()
        except (WeightsError, MissingExtraError, BackboneError) as error:
            rows.append({"name": name, "network": None, "not_run": str(error)})
            failure = error
            continue
        images = extract_categories(found, extractor, recipe.needs_pictures, progress)
        variants = variants_of(table, name, recipe, target, tuple(images[0].features))
        rows += _rows(images, variants, protocol, extractor.record(), truths)
    if all(row["not_run"] for row in rows):
        raise failure
    report = {
        "benchmark": "mvtec",
        "parameters": parameters,
        "versions": versions(),
        "images": {category.name: _describe(category, truths[category.name]) for category in found},
        "rows": rows,
    }
    if json_file is not None:
        write_json(report, json_file)
    if plot_file is not None:
        save_figure(draw_mvtec(report), plot_file)
    return as_text(report)


def _check(categories: Sequence[Category], protocol: str, table: str, scope: str) -> None:
    if scope == "positions" and table in ("levels", "distances"):
        raise InputError(
            f"table={table!r} is the paper's experiment with pooled features: it needs "
            "scope='image'"
        )
    check_kinds(categories)
    for category in categories:
        if protocol == "paper" and len(category.train) < 5:
            raise InputError(
                f"category {category.name}: 5 folds need at least 5 training images, and it has "
                f"{len(category.train)}"
            )


def _describe(category: Category, truth: PixelTruth | None) -> dict[str, Any]:
    return {
        "n_train": len(category.train),
        "test": list(category.test),
        "split": category.split,
        "is_anomaly": [kind != "good" for kind in category.kinds],
        "n_masks": truth and truth.n_masks,
        "left_out_of_pixels": list(truth.left_out) if truth else [],
    }


def _rows(
    images: Sequence[CategoryImages],
    variants: Sequence[Variant],
    protocol: str,
    network: dict[str, Any],
    truths: dict[str, PixelTruth | None],
) -> list[dict[str, Any]]:
    """Measure one network and give its rows of the report."""
    measured = {
        one.category.name: _measure(one, variants, protocol, truths[one.category.name])
        for one in images
    }
    rows = []
    for i, variant in enumerate(variants):
        results = {category: found[i] for category, found in measured.items()}
        row = {"name": variant.name, "network": network, "not_run": None}
        row |= {"target": asdict(variant.target), "categories": results}
        rows.append(row | {"mean": _mean_over(list(results.values()))})
    return rows


def _measure(
    images: CategoryImages,
    variants: Sequence[Variant],
    protocol: str,
    truth: PixelTruth | None,
) -> list[dict[str, Any]]:
    """Measure every variant on one category; variants that differ in the target share fits."""
    tested = np.arange(images.n_train, len(images.paths))
    folds = _folds(images.n_train, protocol)
    results = []
    for (recipe, levels), same in groupby(variants, key=lambda v: (v.recipe, v.levels)):
        targets = [variant.target for variant in same]
        chosen = images.at_levels(*levels) if levels else images
        found = [evaluate(chosen, fold, tested, recipe, targets, truth=truth) for fold in folds]
        for target in targets:
            judged = [(len(fold), at[target]) for fold, at in zip(folds, found, strict=True)]
            results.append(_summarise(images.is_anomaly[tested], judged))
    return results


def _folds(n_train: int, protocol: str) -> list[Rows]:
    """Give the rows to fit to, one array for each fit."""
    if protocol == "official":
        return [np.arange(n_train)]
    folds = KFold(5, shuffle=True, random_state=0)
    return [fitted for fitted, _ in folds.split(np.arange(n_train))]


def _summarise(
    is_anomaly: NDArray[np.bool_], judged: Sequence[tuple[int, Evaluation]]
) -> dict[str, Any]:
    """Compute the figures of each fit (number of images, what it says) and their means."""
    folds = []
    for n_fitted, found in judged:
        rates = (None, None) if found.flagged is None else rates_at(is_anomaly, found.flagged)
        figures = {
            "roc_auc": roc_auc(found.scores, is_anomaly),
            "average_precision": average_precision(found.scores, is_anomaly),
            "f1_max": f1_max(found.scores, is_anomaly),
            "fpr": rates[0],
            "tpr": rates[1],
            "pixel_roc_auc": found.pixels and found.pixels.roc_auc,
            "pixel_aupro": found.pixels and found.pixels.aupro,
            "pixel_f1_max": found.pixels and found.pixels.f1_max,
        }
        about = {"n_fitted": n_fitted, "threshold": found.threshold, "reason": found.reason}
        folds.append(figures | about | {"scores": found.scores.tolist()})
    reasons = [fold["reason"] for fold in folds if fold["reason"]]
    means = {
        metric: None
        if any(fold[metric] is None for fold in folds)
        else float(np.mean([fold[metric] for fold in folds]))
        for metric in METRICS | PIXEL_METRICS
    }
    return means | {"reason": reasons[0] if reasons else None, "folds": folds}


def _mean_over(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Average each metric over the categories that have it, with the standard error."""
    means = {}
    for metric in METRICS | PIXEL_METRICS:
        values = [result[metric] for result in results if result[metric] is not None]
        mean, sem = mean_and_sem(values)
        means[metric] = {"mean": mean, "sem": sem, "n": len(values)}
    return means
