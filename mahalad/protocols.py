"""The plug points: what a feature extractor, a scorer and a threshold must offer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FloatImage = NDArray[np.float32]

Features = Mapping[str, NDArray[Any]]
"""Level name to array of shape (n_samples, n_features): what travels to the scorer."""


class Value:
    """Base of frozen dataclasses whose arrays nobody changes: a deep copy is the value itself."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


@runtime_checkable
class FeatureExtractor(Protocol):
    """Turn images into features per level. `mahalad.BackboneFeatures` is one."""

    batch_size: int

    def build(self) -> Self:
        """Make ready for use (load weights); called once by `fit` and by loading."""
        ...

    def prepare(self, image: Any) -> NDArray[Any]:
        """Turn one decoded image into an array; runs in threads, next to the decoding."""
        ...

    def transform(self, prepared: Sequence[NDArray[Any]]) -> Features:
        """Extract features of prepared images, each level (n, n_features), float32."""
        ...


@runtime_checkable
class PoolsMaps(Protocol):
    """A feature extractor whose pooled features are weighted means of maps that it can give."""

    def side(self) -> int:
        """Give the side, in pixels, of the squares that images become."""
        ...

    def boxes(self, prepared: Sequence[NDArray[Any]]) -> Any:
        """Give where pictures lie in their squares, (n, 4); None where they fill them."""
        ...

    def passes(self, prepared: Sequence[NDArray[Any]]) -> Iterator[Sequence[NDArray[Any]]]:
        """Split prepared images into those of one pass through the network."""
        ...

    def unpooled(
        self, prepared: Sequence[NDArray[Any]]
    ) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
        """Give each level's maps (n, C, h, w) and the weights of positions, (h, w) or (n, h, w)."""
        ...


class Scorer(Protocol):
    """Any scikit-learn outlier estimator.

    A scorer that has an attribute `accepts_levels = True` is given the mapping of levels;
    any other gets the levels side by side as one array. What else a scorer can do it says by
    having the methods of the protocols below; `mahalad.scorers.capabilities` looks for them.
    """

    def fit(self, X: Any, y: Any = None) -> Any:
        """Fit to good images, forgetting earlier ones."""
        ...

    def score_samples(self, X: Any) -> Floats:
        """Score images, (n_images,), up = normal."""
        ...


class Mergeable(Scorer, Protocol):
    """A scorer that learns batch by batch, so that features need not all be kept."""

    def partial_fit(self, X: Any, y: Any = None) -> Any:
        """Add images; the result is that of one fit to all of them."""
        ...

    def merge(self, other: Any) -> Any:
        """Add the images of another fit, which stays as it is."""
        ...


class Unmergeable(Mergeable, Protocol):
    """A scorer that can forget images: its sums subtract as they add."""

    def unmerge(self, other: Any) -> Any:
        """Take the images of another fit, which are part of this one, out of it."""
        ...


class HasLevels(Scorer, Protocol):
    """A scorer whose score is a sum of parts."""

    def level_score_samples(self, X: Any) -> Floats:
        """Score the levels of images, (n_images, n_levels), up = normal."""
        ...


class LeavesOneOut(Scorer, Protocol):
    """A scorer that knows how its fit without an image would score the image."""

    def leave_one_out_level_scores(self, X: Any, groups: Any = None) -> Floats:
        """Score fitted images by the fit without them, (n_images, n_levels), up = normal.

        Images with the same label in `groups` (n_images,) are left out together. Nothing that
        the scorer says later is changed by the question.
        """
        ...


class Standardizes(LeavesOneOut, Protocol):
    """A scorer whose scores are in units that its leave-one-out finds."""

    def leave_one_out(self, X: Any, groups: Any = None) -> tuple[Floats, Any]:
        """Give `leave_one_out_level_scores`, and the standards that these images set."""
        ...

    def standardized_by(self, standards: Any) -> Self:
        """Make a fitted scorer that has these standards."""
        ...

    def factorise(self) -> Self:
        """Compute now what scoring needs, rather than at the first question."""
        ...


class HasMaps(HasLevels, Protocol):
    """A scorer that says where images differ from good ones."""

    def anomaly_maps(self, X: Any) -> Floats:
        """Make the maps of images, (n_images, height, width), up = abnormal."""
        ...


class ScoresWithMaps(HasMaps, Protocol):
    """A scorer that scores and makes maps for the work of one."""

    def scores_and_maps(self, X: Any) -> tuple[Floats, Floats]:
        """Give `level_score_samples` and `anomaly_maps`."""
        ...


class KeepsSums(Mergeable, Protocol):
    """A scorer that is made from sums over samples alone: a file may hold them for features."""

    @property
    def keeps_sums(self) -> bool:
        """Whether it is so with its present parameters."""
        ...

    def sums(self) -> dict[str, NDArray[Any]]:
        """Give the sums as named arrays."""
        ...


class Tolerates(Protocol):
    """A scorer to which harmless changes of images may matter less."""

    def tolerating(self, differences: Features, n_images: int) -> Self:
        """Make a scorer that is told what changes do to the levels of some images."""
        ...


class ComparesTurned(Protocol):
    """A scorer that can say whether turned images are like the others."""

    def tells_turns(self, X: Features) -> bool:
        """Whether the levels of images are such that it can tell."""
        ...

    def turned_alike(
        self, X: Features, turns: Iterable[Features], groups: NDArray[np.intp]
    ) -> bool:
        """Whether images are as far from others that are turned as from others as they are."""
        ...


class Travels(KeepsSums, Protocol):
    """A scorer whose fit to a part of the images can be sent elsewhere and merged there."""

    def summed(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Give all that merging needs, as JSON and named arrays."""
        ...

    def restore_summed(self, about: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Become the fit that `summed` described."""
        ...


class Threshold(Protocol):
    """Turn calibration scores (up = abnormal) into p-values and a critical value."""

    def fit(
        self,
        scores: Floats,
        degrees_of_freedom: int | None = None,
        weights: Floats | None = None,
    ) -> Self:
        """Learn from calibration scores (n,), up = abnormal.

        The images of one part share the weight 1. `weights` are given only where some are others
        than 1; a rule without this parameter is for fits where every image shows its own part.
        """
        ...

    def statistic(self, scores: Floats, level_scores: Floats | None = None) -> Floats:
        """Make what is compared with the critical value, (n,), up = abnormal."""
        ...

    def compares_scores(self, n_levels: int) -> bool:
        """Whether `statistic` is the score itself, so that the critical value is one of scores.

        An object without this method is asked for its statistic, which is then compared.
        """
        ...

    def p_values(self, statistic: Floats) -> Floats:
        """Give p-values (n,), small = abnormal."""
        ...

    def critical_value(self, fpr: float) -> float:
        """Give the largest statistic that is not flagged at the false-positive rate `fpr`."""
        ...
