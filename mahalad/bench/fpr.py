"""`mahalad bench fpr`: asked against achieved false-positive rate, for threshold rules.

The test normals of a benchmark need not come as its training normals did, and then no rule can
hold on them. So all good images are pooled and split at random many times, and the official
split is reported beside that.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import GroupShuffleSplit

from mahalad.bench.evaluation import Evaluation, Recipe, Target, evaluate
from mahalad.bench.features import CategoryImages, FeatureOptions, check_scope, extract_categories
from mahalad.bench.fpr_text import FIGURES, as_text
from mahalad.bench.outputs import check_outputs, versions, write_json
from mahalad.bench.plots import draw_fpr, save_figure
from mahalad.checks import FPR, N_AUGMENT, SEED_NUMBER, SPLITS, Limit, Some, check_parameters
from mahalad.choices import THRESHOLDS
from mahalad.detectors.reservoir import own_groups
from mahalad.errors import InputError
from mahalad.evaluation.images import mean_and_deviation, mean_and_sem, rates_at
from mahalad.images.mvtec import Category, find_categories, grouping
from mahalad.progress import Progress, no_progress

if TYPE_CHECKING:
    from mahalad.features.levels import Levels

TEST_SHARE = 0.3
_LIMITS: dict[str, Limit] = {
    "splits": SPLITS,
    "n_augment": N_AUGMENT,
    "seed": SEED_NUMBER,
    "thresholds": Some(THRESHOLDS),
}


def run(
    *,
    roots: Sequence[str | Path],
    categories: Sequence[str] = (),
    json_file: str | Path | None = None,
    plot_file: str | Path | None = None,
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
    n_augment: int = 0,
    seed: int = 0,
    thresholds: Sequence[str] = (),
    alphas: Sequence[float] = (0.01, 0.05, 0.1),
    splits: int = 40,
    groups: Sequence[str] = (),
    progress: Progress = no_progress,
) -> str:
    """Measure achieved false-positive rates and return them as text.

    Parameters
    ----------
    roots, categories
        See `mahalad.images.mvtec.find_categories`.
    json_file, plot_file : path, optional
        Files to write: everything that is needed to redraw, and the plot.
    cache : path, optional
        Folder where features are kept: another run over the same images, with another scorer
        say, computes none of them again.
    backbone, weights, scope, levels, input_size, resize, tiles, device, engine, batch_size,
    neighbourhood, tolerate, any_orientation
        See `MahalanobisDetector`.
    reduction, scorer
        See `make_scorer`; for ``scope="image"``.
    n_augment, seed
        As `n_augment` and `random_state` of `AnomalyDetector`; `seed` also draws the splits.
    thresholds : sequence of str
        Rules; all, if empty. "holdout" and "chi2-nominal" each need a fit of their own in every
        split, the others share one.
    alphas : sequence of float
        Rates asked for.
    splits : int
        Random splits of the pooled good images, 30 % of them held out as test.
    groups : sequence of str
        ``"REGEX"`` (for all categories) or ``"CATEGORY=REGEX"``: images whose path gives the
        same match are kept on one side of every split, and left out together in calibration.
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
        "n_augment": n_augment,
        "seed": seed,
        "thresholds": [rule for rule in THRESHOLDS if rule in thresholds] or list(THRESHOLDS),
        "alphas": alphas,
        "splits": splits,
        "groups": groups,
    }
    check_parameters(_LIMITS, parameters | {"thresholds": thresholds})
    for alpha in alphas:
        check_parameters({"alphas": FPR}, {"alphas": alpha})
    check_outputs(json_file, plot_file)
    check_scope(scope, scorer, reduction)
    found = find_categories(roots, categories, with_masks=False)
    patterns = _patterns(groups, found)
    names = {category.name: _groups(category, patterns) for category in found}
    extractor = options.extractor().build()
    recipe = Recipe(
        scope, scorer, reduction, n_augment, seed, neighbourhood, tolerate, any_orientation
    )
    rates = sorted(set(alphas))
    targets = [Target(rule, alpha) for rule in parameters["thresholds"] for alpha in rates]
    measured = {
        images.category.name: _measure(images, names[images.category.name], recipe, targets, splits)
        for images in extract_categories(found, extractor, recipe.needs_pictures, progress, cache)
    }
    report: dict[str, Any] = {
        "benchmark": "fpr",
        "parameters": parameters,
        "versions": versions(),
        "network": extractor.record(),
        "categories": measured,
        "mean": _mean_over(measured, targets),
    }
    if json_file is not None:
        write_json(report, json_file)
    if plot_file is not None:
        save_figure(draw_fpr(report), plot_file)
    return as_text(report)


def _patterns(groups: Sequence[str], categories: Sequence[Category]) -> dict[str, str]:
    """Give the rule of each category that has one."""
    names = [category.name for category in categories]
    patterns: dict[str, str] = {}
    own: dict[str, str] = {}
    for text in groups:
        name, separator, pattern = text.partition("=")
        # A regular expression may hold "=" itself; what looks like a name must be one.
        if separator and name in names:
            own[name] = pattern
        elif separator and re.fullmatch(r"\w+", name):
            raise InputError(f"--group {text!r}: no category {name!r}; one of {', '.join(names)}")
        else:
            patterns = dict.fromkeys(names, text)
    return patterns | own


def _groups(category: Category, patterns: dict[str, str]) -> NDArray[Any] | None:
    """Give the group of each image, training images first; None for a category without a rule.

    Bad images are never split, so a pattern need not match them.
    """
    if category.name not in patterns:
        return None
    pattern = patterns[category.name]
    pairs = [(path, "good") for path in category.train]
    pairs += zip(category.test, category.kinds, strict=True)
    group = grouping(pattern)
    return np.array([group(str(path)) if kind == "good" else "" for path, kind in pairs])


def _measure(
    images: CategoryImages,
    groups: NDArray[Any] | None,
    recipe: Recipe,
    targets: Sequence[Target],
    splits: int,
) -> dict[str, Any]:
    """Measure rates over random splits of the good images, and on the official split."""
    is_anomaly = images.is_anomaly
    good, bad = np.flatnonzero(~is_anomaly), np.flatnonzero(is_anomaly)
    # Without groups, the same picture twice still stays on one side.
    parts = np.array(own_groups(images.keys)) if groups is None else groups
    if len(set(parts[good])) < 4:
        raise InputError(
            f"category {images.category.name}: {len(set(parts[good]))} independent good images; "
            "splitting them needs at least 4"
        )
    shuffle = GroupShuffleSplit(splits, test_size=TEST_SHARE, random_state=recipe.seed)
    pairs = [
        (good[fitted], np.concatenate([good[tested], bad]))
        for fitted, tested in shuffle.split(good, groups=parts[good])
    ]
    official = np.arange(images.n_train)
    pairs.append((official, np.arange(images.n_train, len(is_anomaly))))
    found = [
        evaluate(images, fitted, tested, recipe, targets, None if groups is None else parts[fitted])
        for fitted, tested in pairs
    ]
    rates = [
        {target: _rates(is_anomaly[tested], judged[target]) for target in targets}
        for (_, tested), judged in zip(pairs, found, strict=True)
    ]
    return {
        "n_train": images.n_train,
        "n_test_good": len(good) - images.n_train,
        "n_bad": len(bad),
        "n_groups": None if groups is None else len(set(parts[good])),
        "results": [_summarise(target, rates) for target in targets],
    }


def _rates(is_anomaly: NDArray[np.bool_], found: Evaluation) -> tuple[float, float] | str:
    """Give FPR and TPR, or the reason why there is no threshold."""
    if found.flagged is None:
        return found.reason or "no threshold"
    return rates_at(is_anomaly, found.flagged)


def _summarise(
    target: Target, rates: Sequence[dict[Target, tuple[float, float] | str]]
) -> dict[str, Any]:
    """Sum up one target on one category; the last of its splits is the official one."""
    *split_rates, official = [found[target] for found in rates]
    reasons = [rate for rate in (*split_rates, official) if isinstance(rate, str)]
    held = [rate for rate in split_rates if not isinstance(rate, str)]
    summary: dict[str, Any] = {"rule": target.rule, "alpha": target.fpr}
    for i, name in enumerate(("fpr", "tpr")):
        values = [rate[i] for rate in held] if len(held) == len(split_rates) else []
        mean, deviation = mean_and_deviation(values)
        last = None if isinstance(official, str) else official[i]
        summary |= {
            name: mean if values else None,
            f"{name}_std": deviation if values else None,
            f"{name}_splits": values,
            f"official_{name}": last,
        }
    return summary | {"reason": reasons[0] if reasons else None}


def _mean_over(measured: dict[str, Any], targets: Sequence[Target]) -> list[dict[str, Any]]:
    """Average each target's figures over the categories that have them."""
    means = []
    for i, target in enumerate(targets):
        row: dict[str, Any] = {"rule": target.rule, "alpha": target.fpr}
        for name in FIGURES:
            values = [category["results"][i][name] for category in measured.values()]
            values = [value for value in values if value is not None and value == value]
            mean, sem = mean_and_sem(values)
            row[name] = {"mean": mean, "sem": sem, "n": len(values)}
        means.append(row)
    return means
