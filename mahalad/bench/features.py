"""Extract the features of data sets, once, by the code that users run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mahalad.arrays import originals, take
from mahalad.checks import OneOf, check_parameters
from mahalad.choices import PUBLISHED, SCOPES
from mahalad.detectors.mahalanobis import FOR_POSITIONS, MahalanobisDetector
from mahalad.errors import InputError
from mahalad.features.cache import CachedFeatures
from mahalad.features.extraction import extract
from mahalad.images.mvtec import Category
from mahalad.progress import Progress

if TYPE_CHECKING:
    from mahalad.features.levels import Levels

Rows = NDArray[np.intp]


@dataclass(frozen=True)
class FeatureOptions:
    """Parameters of `MahalanobisDetector` that say which features it uses."""

    backbone: str
    weights: str | Path | None
    scope: str
    levels: Levels
    input_size: int | None
    resize: str
    tiles: int
    device: str
    engine: str
    batch_size: int

    def extractor(self) -> Any:
        """Give the feature extractor, not yet built."""
        return MahalanobisDetector(**vars(self)).unfitted_parts()[0]


def check_scope(scope: str, scorer: str, reduction: Any, threshold: str | None = None) -> None:
    """Refuse what a scope does not have, before the work.

    Raises
    ------
    InputError
        An unknown scope; or another scorer than the Gaussian, a reduction, or the paper's rule,
        per position.
    """
    check_parameters({"scope": OneOf(SCOPES)}, {"scope": scope})
    if scorer in PUBLISHED:
        raise InputError(f"scorer={scorer!r} is a baseline of bench mvtec alone")
    for name, value, default in (("scorer", scorer, "gaussian"), ("reduction", reduction, None)):
        if scope == "positions" and value != default:
            raise InputError(
                f"{name}={value!r} is for features pooled over the image: it needs scope='image'"
            )
    if scope == "positions" and threshold == "chi2-nominal":
        raise InputError("threshold='chi2-nominal' is the paper's rule: it needs scope='image'")


def check_published(parameters: Mapping[str, Any]) -> None:
    """Refuse parameters that a published method does not have, before the work.

    Raises
    ------
    InputError
    """
    usual: dict[str, Any] = {"scope": "positions", "reduction": None, "n_augment": 0}
    usual["neighbourhood"] = FOR_POSITIONS["neighbourhood"]
    changed = [name for name, value in usual.items() if parameters[name] != value]
    changed += ["resize"] if parameters["resize"] != "squash" else []
    changed += ["tolerate"] if parameters["tolerate"] not in ("auto", ()) else []
    changed += ["any_orientation"] if parameters.get("any_orientation") is True else []
    changed += ["table"] if parameters["table"] not in ("categories", "networks", "sizes") else []
    if changed:
        name = changed[0]
        raise InputError(
            f"{name}={parameters[name]!r} does not go with scorer={parameters['scorer']!r}, which "
            "is the published method as it is, over maps: leave it out"
        )


def check_kinds(categories: Sequence[Category]) -> None:
    """Refuse categories whose test images are all good or all bad, before the work.

    Raises
    ------
    InputError
    """
    for category in categories:
        n_good = category.kinds.count("good")
        if not 0 < n_good < len(category.kinds):
            raise InputError(
                f"category {category.name}: {n_good} of its {len(category.kinds)} test images are "
                "good; AUROC needs good and bad ones"
            )


def refuse_unreadable(errors: Sequence[Exception], n_images: int) -> None:
    """Refuse images some of which cannot be read: a benchmark leaves none out.

    Raises
    ------
    InputError
        It names all of them.
    """
    if errors:
        raise InputError(
            f"{len(errors)} of {n_images} images cannot be read, and a benchmark leaves none "
            f"out: {'; '.join(map(str, errors))}"
        )


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
    extractor : CachedFeatures or None
        For fits that change the images.
    """

    category: Category
    features: dict[str, NDArray[Any]]
    keys: tuple[int, ...]
    extractor: CachedFeatures | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """Files of all images."""
        return (*self.category.train, *self.category.test)

    @property
    def n_train(self) -> int:
        """Number of training images, the first ones."""
        return len(self.category.train)

    @property
    def is_anomaly(self) -> NDArray[np.bool_]:
        """Whether each image is abnormal, shape (n_images,)."""
        test = [kind != "good" for kind in self.category.kinds]
        return np.array([False] * self.n_train + test)

    def at_levels(self, *levels: str) -> CategoryImages:
        """Give the same images with the features of some levels only."""
        features = {name: self.features[name] for name in levels}
        extractor = None if self.extractor is None else self.extractor.at_levels(levels)
        return replace(self, features=features, extractor=extractor)

    def select(self, rows: Rows) -> Any:
        """Give some rows as `AnomalyDetector` takes them: features, or paths if it makes copies."""
        if self.extractor is None:
            return take(self.features, rows)
        return [self.paths[i] for i in rows]


def extract_categories(
    categories: Sequence[Category],
    extractor: Any,
    changes: bool,
    progress: Progress,
    cache: str | Path | None = None,
) -> list[CategoryImages]:
    """Extract the features of all images of some categories, each image once.

    Parameters
    ----------
    categories : sequence of Category
    extractor : feature extractor, built
    changes : bool
        With changed copies to come, the extractor is kept with the images.
    progress : callable
        Wraps the images (an iterable, and how many).
    cache : str or Path, optional
        Folder where features are kept, and found by another run; see `CachedFeatures`.

    Raises
    ------
    InputError
        An image cannot be read: a benchmark leaves none out. The message names all of them.

    Notes
    -----
    The features of all images are held in memory once; those of a category are views. Maps take
    some 0.8 MB an image at 320 pixels.
    """
    cached = CachedFeatures(extractor, cache) if changes or cache is not None else None
    paths = [path for category in categories for path in (*category.train, *category.test)]
    levels: dict[str, NDArray[Any]] = {}
    keys: list[int] = []
    errors: list[Exception] = []
    sources = iter(progress(paths, len(paths)))
    for images, features in extract(sources, cached or extractor, salt=0):
        errors += [image.error for image in images if image.error is not None]
        for name, values in originals(features).items() if not errors else ():
            levels.setdefault(name, np.empty((len(paths), *values.shape[1:]), values.dtype))
            levels[name][len(keys) : len(keys) + len(images)] = values
        keys += [image.key for image in images]
    refuse_unreadable(errors, len(paths))
    of_changes = cached if changes else None
    found, start = [], 0
    for category in categories:
        stop = start + len(category.train) + len(category.test)
        own = {name: values[start:stop] for name, values in levels.items()}
        found.append(CategoryImages(category, own, tuple(keys[start:stop]), of_changes))
        start = stop
    return found
