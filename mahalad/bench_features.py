"""What the benchmarks share: features extracted once, fits judged on images, text and files.

Features come through the product's own code, and every figure through `AnomalyDetector`, so a
benchmark measures what users get.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mahalad.bench_pixels import PixelTruth, compare_maps
from mahalad.datasets import Category
from mahalad.detector import AnomalyDetector
from mahalad.errors import CalibrationError, InputError
from mahalad.extraction import extract
from mahalad.localization import PixelFigures
from mahalad.mahalanobis import SCOPES, MahalanobisDetector
from mahalad.modelfile import write_atomically
from mahalad.moments import Floats
from mahalad.protocols import FeatureExtractor, Features
from mahalad.reading import content_key
from mahalad.scorers import make_scorer, take
from mahalad.store import originals
from mahalad.thresholds import RULES

Progress = Callable[[Iterable[Any], int], Iterable[Any]]
Rows = NDArray[np.intp]
PLOT_SUFFIXES = (".png", ".svg", ".pdf")
WIDTH = 100
_NEEDED = re.compile(r"needs at least (\d+)")  # as CalibrationError says it
_PACKAGES = ("mahalad", "numpy", "scikit-learn", "torch", "timm", "pillow")


def check_scope(scope: str, scorer: str, reduction: Any) -> None:
    """Refuse what a scope does not have, before the work.

    Raises
    ------
    InputError
        An unknown scope; or another scorer than the Gaussian, or a reduction, per position.
    """
    if scope not in SCOPES:
        raise InputError(f"unknown scope {scope!r}; one of {', '.join(SCOPES)}")
    for name, value, default in (("scorer", scorer, "gaussian"), ("reduction", reduction, None)):
        if scope == "positions" and value != default:
            raise InputError(
                f"{name}={value!r} is for features pooled over the image: it needs scope='image'"
            )


def make_features(scope: str, backbone: str, levels: Any, **options: Any) -> Any:
    """The unbuilt feature extractor of `MahalanobisDetector`.

    Parameters
    ----------
    scope, backbone, levels
        As of `MahalanobisDetector`.
    **options
        Its `weights`, `input_size`, `resize`, `tiles`, `device` and `batch_size`.
    """
    detector = MahalanobisDetector(backbone, scope=scope, levels=levels, **options)
    return detector._make_parts()[0]


def describe_scorer(parameters: dict[str, Any], scorer: str | None = None) -> str:
    """What a report's header says of the scorer: of its parameters, unless `scorer` is given."""
    n_copies = parameters["n_augment"]
    copies = f", {n_copies} augmented copies" if n_copies else ""
    if parameters["scope"] == "positions":
        steps = parameters.get("neighbourhood", 0)
        share = f", neighbourhood {steps}" if steps else ""
        return (
            f"scope positions: a Gaussian per position{share}, one of the image{copies}; raw scores"
        )
    reduction = parameters["reduction"] or "none"
    return (
        f"scope image: {scorer or parameters['scorer']}, reduction {reduction}{copies}; raw scores"
    )


def no_progress(items: Iterable[Any], total: int) -> Iterable[Any]:
    """Iterate without a progress bar."""
    return items


class CachedExtractor:
    """A built feature extractor that passes every picture through the network once.

    Augmented copies need the images at every fit, and most fits share most images.
    """

    def __init__(
        self,
        extractor: FeatureExtractor,
        levels: tuple[str, ...] = (),
        cache: dict[tuple[Any, int], dict[str, NDArray[Any]]] | None = None,
    ) -> None:
        self.batch_size = extractor.batch_size
        self._extractor = extractor
        self._levels = levels
        self._cache = {} if cache is None else cache

    def at_levels(self, levels: tuple[str, ...]) -> CachedExtractor:
        """The same extractor and cache, for some levels only."""
        return CachedExtractor(self._extractor, levels, self._cache)

    def __sklearn_clone__(self) -> Self:
        return self

    def build(self) -> Self:
        """Nothing is left to build."""
        return self

    def prepare(self, image: Any) -> NDArray[Any]:
        """Prepare a decoded image as the extractor does."""
        return self._extractor.prepare(image)

    def transform(self, prepared: Sequence[NDArray[Any]]) -> Features:
        """Pooled features of prepared images, each level (n, n_features)."""
        keys = [(image.shape, content_key(image, 0)) for image in prepared]
        missing = {
            key: image for key, image in zip(keys, prepared, strict=True) if key not in self._cache
        }
        if missing:
            new = self._extractor.transform(list(missing.values()))
            for i, key in enumerate(missing):
                self._cache[key] = {name: values[i] for name, values in new.items()}
        levels = self._levels or tuple(self._cache[keys[0]])
        return {name: np.stack([self._cache[key][name] for key in keys]) for name in levels}


@dataclass(frozen=True)
class CategoryImages:
    """All images of one category, training images first, with their features.

    Attributes
    ----------
    category : Category
    features : dict of str to ndarray of shape (n_images, n_features)
        Or maps, (n_images, height, width, n_features).
    keys : tuple of int
        Hash of each image's pixels.
    extractor : CachedExtractor or None
        For fits to augmented copies.
    """

    category: Category
    features: dict[str, NDArray[Any]]
    keys: tuple[int, ...]
    extractor: CachedExtractor | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        return (*self.category.train, *self.category.test)

    @property
    def n_train(self) -> int:
        return len(self.category.train)

    @property
    def is_anomaly(self) -> NDArray[np.bool_]:
        test = [kind != "good" for kind in self.category.kinds]
        return np.array([False] * self.n_train + test)

    def at_levels(self, *levels: str) -> CategoryImages:
        """The same images with the features of some levels only."""
        features = {name: self.features[name] for name in levels}
        extractor = None if self.extractor is None else self.extractor.at_levels(levels)
        return replace(self, features=features, extractor=extractor)

    def select(self, rows: Rows) -> Any:
        """What `AnomalyDetector` is given: features, or paths where copies must be made."""
        if self.extractor is None:
            return take(self.features, rows)
        return [self.paths[i] for i in rows]


def extract_categories(
    categories: Sequence[Category], extractor: Any, n_augment: int, progress: Progress
) -> list[CategoryImages]:
    """Extract the features of all images of some categories, each image once.

    Parameters
    ----------
    categories : sequence of Category
    extractor : feature extractor, built
    n_augment : int
        With copies to come, the extractor is kept with the images.
    progress : callable
        Wraps the images (an iterable, and how many).

    Raises
    ------
    InputError
        Images that cannot be read: a benchmark leaves none out. All are named.

    Notes
    -----
    The features of all images are held, once: maps take some 0.8 MB an image at 320 pixels.
    Those of a category are views.
    """
    cached = CachedExtractor(extractor) if n_augment else None
    paths = [path for category in categories for path in (*category.train, *category.test)]
    levels: dict[str, NDArray[Any]] = {}
    keys: list[int] = []
    errors: list[str] = []
    sources = iter(progress(paths, len(paths)))
    for images, features in extract(sources, cached or extractor, salt=0):
        errors += [str(image.error) for image in images if image.error is not None]
        for name, values in originals(features).items() if not errors else ():
            levels.setdefault(name, np.empty((len(paths), *values.shape[1:]), values.dtype))
            levels[name][len(keys) : len(keys) + len(images)] = values
        keys += [image.key for image in images]
    if errors:
        raise InputError(
            f"{len(errors)} of {len(paths)} images cannot be read, and a benchmark leaves none "
            f"out: {'; '.join(errors)}"
        )
    found, start = [], 0
    for category in categories:
        stop = start + len(category.train) + len(category.test)
        own = {name: values[start:stop] for name, values in levels.items()}
        found.append(CategoryImages(category, own, tuple(keys[start:stop]), cached))
        start = stop
    return found


@dataclass(frozen=True)
class Recipe:
    """How features are scored: scope, `make_scorer`'s arguments, augmentation, salt, and the
    neighbourhood of positions."""

    scope: str = "positions"
    scorer: str = "gaussian"
    reduction: str | None = None
    n_augment: int = 0
    seed: int = 0
    neighbourhood: int | str = 0

    def make_scorer(self) -> Any:
        """The unfitted scorer."""
        if self.scope == "image":
            return make_scorer(self.scorer, self.reduction)
        return MahalanobisDetector(neighbourhood=self.neighbourhood)._make_parts()[1]


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

    One fit serves all rules and rates but "holdout", which fits to fewer images.

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
    found: dict[Target, Evaluation] = {}
    for held_out in (False, True):
        wanted = [target for target in targets if (target.rule == "holdout") == held_out]
        if not wanted:
            continue
        # A fit for "chi2-nominal" has no calibration scores, one for the others serves it too
        # (and positions are standardized by calibration scores).
        rules = sorted({target.rule for target in wanted}, key=lambda r: r == "chi2-nominal")
        nominal = recipe.scope == "positions" and rules[0] == "chi2-nominal"
        detector = AnomalyDetector(
            images.extractor,
            recipe.make_scorer(),
            "conformal" if nominal else rules[0],
            n_augment=recipe.n_augment,
            max_stored=MahalanobisDetector(scope=recipe.scope)._most_stored(),
            random_state=recipe.seed,
        )
        with warnings.catch_warnings():  # reported as "n/a" instead
            warnings.filterwarnings("ignore", "images can be scored but not judged")
            detector.fit(images.select(fitted), groups=groups)
        level_scores = detector.level_scores(images.select(tested))
        pixels = None
        if truth is not None:
            pixels = compare_maps(truth, detector.scorer_, images.features, tested)
        for target in wanted:
            found[target] = replace(_judge(detector, level_scores, target), pixels=pixels)
    return {target: found[target] for target in targets}


def _judge(detector: AnomalyDetector, level_scores: Floats, target: Target) -> Evaluation:
    scores = level_scores.sum(axis=1)
    detector.set_params(threshold=target.rule).set_fpr(target.fpr)
    try:
        critical = detector.threshold_
    except CalibrationError as error:
        return Evaluation(scores, reason=str(error))
    rule: Any = RULES[target.rule]()
    statistic = rule.statistic(scores, level_scores)
    shown = critical if np.allclose(statistic, scores, rtol=1e-12) else None
    return Evaluation(scores, shown, statistic > critical)


def not_available(reason: str) -> str:
    """What a table shows where a rule gives no threshold: "n/a (needs 99)"."""
    needed = _NEEDED.search(reason)
    return f"n/a (needs {needed[1]})" if needed else "n/a"


def footnotes(reasons: Iterable[str | None]) -> list[str]:
    """What a text says below a table about thresholds that are not available."""
    given = dict.fromkeys(reason for reason in reasons if reason)
    needs = [reason for reason in given if _NEEDED.search(reason)]
    lines = [f"n/a: {reason}" for reason in given if reason not in needs]
    if needs:
        lines.append("n/a (needs N): that rule needs N calibration images at that rate.")
    return lines


def percent(value: float | None, spread: float | None = None) -> str:
    """A share as text in per cent, with one decimal."""
    if value is None or math.isnan(value):
        return "-"
    text = f"{100 * value:.1f}"
    return text if spread is None or math.isnan(spread) else f"{text} ± {100 * spread:.1f}"


def format_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    n_keys: int = 1,
    n_together: int = 1,
) -> str:
    """Align a table; columns that do not fit 100 characters go below, after the same keys.

    Parameters
    ----------
    header, rows : sequences of str
    n_keys : int
        The first columns, aligned left; the others are aligned right.
    n_together : int
        Columns that are not parted.
    """
    table = [list(header), *map(list, rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    blocks: list[list[int]] = [[]]
    room = WIDTH - sum(width + 2 for width in widths[:n_keys])
    for start in range(n_keys, len(header), n_together):
        together = range(start, min(start + n_together, len(header)))
        if blocks[-1] and sum(widths[i] + 2 for i in (*blocks[-1], *together)) - 2 > room:
            blocks.append([])
        blocks[-1] += together
    texts = []
    for block in blocks:
        lines = []
        for row in table:
            cells = [row[i].ljust(widths[i]) for i in range(n_keys)]
            cells += [row[i].rjust(widths[i]) for i in block]
            lines.append("  ".join(cells).rstrip())
        lines.insert(1, "-" * max(map(len, lines)))
        texts.append("\n".join(lines))
    return "\n\n".join(texts)


def check_outputs(json_file: str | Path | None, plot_file: str | Path | None) -> None:
    """Refuse files that could not be written, before the work.

    Raises
    ------
    InputError
        The folder is missing or not writable, or the picture's format is not known.
    """
    for path in (json_file, plot_file):
        if path is not None and not os.access(Path(path).parent, os.W_OK):
            raise InputError(f"{path}: its folder is missing or not writable")
    if plot_file is not None and Path(plot_file).suffix.lower() not in PLOT_SUFFIXES:
        raise InputError(f"{plot_file}: a plot is written as {', '.join(PLOT_SUFFIXES)}")


def write_json(report: dict[str, Any], path: str | Path) -> None:
    """Write a report as JSON (NaN as null), whole or not at all."""
    text = json.dumps(_plain(report), indent=1, allow_nan=False, ensure_ascii=False)
    write_atomically(path, (text + "\n").encode())


def versions() -> dict[str, str]:
    """Versions that figures depend on."""
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"python": platform.python_version(), **found}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and math.isnan(value) else value
