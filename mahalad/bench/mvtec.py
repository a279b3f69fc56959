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

from mahalad.bench.evaluation import Recipe, Target, evaluate
from mahalad.bench.experiments import Variant, networks_of, variants_of
from mahalad.bench.features import (
    CategoryImages,
    FeatureOptions,
    check_kinds,
    check_published,
    check_scope,
    extract_categories,
)
from mahalad.bench.figures import mean_over, summarise
from mahalad.bench.fits import Fits, check_shots, why_not
from mahalad.bench.mvtec_files import as_csv, as_latex
from mahalad.bench.mvtec_text import as_text
from mahalad.bench.outputs import check_outputs, versions, write_json, write_text
from mahalad.bench.pixels import PixelTruth, read_truth
from mahalad.bench.plots import draw_mvtec, save_figure
from mahalad.bench.plots_shots import draw_shots
from mahalad.checks import (
    DRAWS,
    FPR,
    N_AUGMENT,
    SEED_NUMBER,
    Limit,
    OneOf,
    Whole,
    check_parameters,
)
from mahalad.choices import BENCH_PROTOCOLS, BENCH_TABLES, PUBLISHED, THRESHOLDS
from mahalad.errors import (
    BackboneError,
    DegenerateDataError,
    InputError,
    MissingExtraError,
    WeightsError,
)
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
    "draws": DRAWS,
}


def run(
    *,
    roots: Sequence[str | Path],
    categories: Sequence[str] = (),
    json_file: str | Path | None = None,
    plot_file: str | Path | None = None,
    csv_file: str | Path | None = None,
    latex_file: str | Path | None = None,
    cache: str | Path | None = None,
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
    protocol: str = "official",
    table: str = "categories",
    networks: Sequence[str] = (),
    shots: Sequence[int] = (),
    draws: int = 5,
    progress: Progress = no_progress,
) -> str:
    """Measure accuracy per category and return it as text.

    Parameters
    ----------
    roots, categories
        See `mahalad.images.mvtec.find_categories`.
    json_file, plot_file, csv_file, latex_file : path, optional
        Files to write: everything that is needed to redraw, the plot, the figures as a line each,
        and the tables.
    cache : path, optional
        Folder where features are kept: another run over the same images, with another scorer
        say, computes none of them again.
    backbone, weights, scope, levels, input_size, resize, tiles, device, engine, batch_size,
    neighbourhood, tolerate, any_orientation
        See `MahalanobisDetector`. With ``scope="positions"``, the anomaly maps of categories
        with masks are measured too (not for ``table="thresholds"``).
    reduction, scorer
        See `make_scorer`; for ``scope="image"``. ``table="distances"`` compares scorers and
        does not use `scorer`. ``"padim"`` and ``"patchcore"`` are baselines for
        ``scope="positions"``: see `mahalad.bench.padim` and `mahalad.bench.patchcore`.
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
    shots : sequence of int
        Numbers of good images, a row each: fits to so many, drawn at random by `seed`. What a fit
        to so few cannot be is said in the row.
    draws : int
        Draws of each number of images.
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
        "any_orientation": any_orientation,
        "reduction": reduction,
        "scorer": scorer,
        "threshold": threshold,
        "fpr": fpr,
        "n_augment": n_augment,
        "seed": seed,
        "protocol": protocol,
        "table": table,
        "networks": networks,
        "shots": shots,
        "draws": draws,
    }
    check_parameters(_LIMITS, parameters)
    for n_images in shots:
        check_parameters({"shots": Whole(1)}, {"shots": n_images})
    check_outputs(json_file, plot_file, csv_file, latex_file)
    if scorer in PUBLISHED:
        check_published(parameters)
    else:
        check_scope(scope, scorer, reduction, None if table == "thresholds" else threshold)
    found = find_categories(roots, categories)
    _check(found, protocol, table, scope, shots)
    has_pixels = scope == "positions" and table != "thresholds"
    truths = {one.name: read_truth(one) if has_pixels else None for one in found}
    recipe = Recipe(
        scope, scorer, reduction, n_augment, seed, neighbourhood, tolerate, any_orientation
    )
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
        images = extract_categories(found, extractor, recipe.needs_pictures, progress, cache)
        levels = tuple(images[0].features)
        variants = variants_of(table, name, recipe, target, levels, shots)
        fits = Fits(protocol, draws, seed)
        rows += _rows(images, variants, fits, extractor.record(), truths)
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
        save_figure(draw_shots(report) if shots else draw_mvtec(report), plot_file)
    if csv_file is not None:
        write_text(as_csv(report), csv_file)
    if latex_file is not None:
        write_text(as_latex(report), latex_file)
    return as_text(report)


def _check(
    categories: Sequence[Category], protocol: str, table: str, scope: str, shots: Sequence[int]
) -> None:
    if shots and (table != "categories" or protocol != "official"):
        raise InputError(
            f"shots={list(shots)} is an experiment of its own: leave out table={table!r} and "
            f"protocol={protocol!r}"
        )
    check_shots(categories, shots)
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
    fits: Fits,
    network: dict[str, Any],
    truths: dict[str, PixelTruth | None],
) -> list[dict[str, Any]]:
    """Measure one network and give its rows of the report."""
    measured = {
        one.category.name: _measure(one, variants, fits, truths[one.category.name])
        for one in images
    }
    rows = []
    for i, variant in enumerate(variants):
        results = {category: found[i] for category, found in measured.items()}
        row = {"name": variant.name, "network": network, "not_run": None}
        row |= {"target": asdict(variant.target), "categories": results}
        rows.append(row | {"mean": mean_over(list(results.values()))})
    return rows


def _measure(
    images: CategoryImages,
    variants: Sequence[Variant],
    fits: Fits,
    truth: PixelTruth | None,
) -> list[dict[str, Any]]:
    """Measure every variant on one category; variants that differ in the target share fits."""
    tested = np.arange(images.n_train, len(images.paths))
    results = []
    for (recipe, levels, shots), same in groupby(
        variants, key=lambda v: (v.recipe, v.levels, v.shots)
    ):
        targets = [variant.target for variant in same]
        chosen = images.at_levels(*levels) if levels else images
        fitted = fits.rows(images.category, shots)
        try:
            found = [evaluate(chosen, fit, tested, recipe, targets, truth=truth) for fit in fitted]
        except (InputError, DegenerateDataError) as error:
            if shots is None:
                raise
            reason = why_not(recipe.fewest_images, shots, error)
            results += [{**summarise(images.is_anomaly[tested], []), "not_possible": reason}]
            continue
        for target in targets:
            judged = [(len(fit), at[target]) for fit, at in zip(fitted, found, strict=True)]
            results.append(summarise(images.is_anomaly[tested], judged))
    return results
