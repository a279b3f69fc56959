"""Answers of a fitted detector, batch by batch: scores, maps, verdicts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mahalad.detectors.given import check_columns
from mahalad.detectors.maps import in_pixels, maps_of
from mahalad.detectors.scoring import score, score_with_maps
from mahalad.detectors.swapped import Swapping
from mahalad.features.extraction import Batch, extract
from mahalad.images.pixels import pixels_of
from mahalad.images.reading import ReadImage
from mahalad.protocols import Features, Floats, Threshold
from mahalad.result import Result, judge
from mahalad.scorers.capabilities import capabilities_of, score_names


@dataclass(frozen=True)
class Fitted:
    """Hold all that scoring needs.

    Attributes
    ----------
    features : built feature extractor or None
        None if the user gives features instead of images.
    scorer : fitted scorer
    levels : tuple of str
        Names of the levels, in the order of the fit.
    salt : int
        Salt of the images' content hashes.
    keys : ndarray of uint64, shape (n,)
        Content hashes of images of the fit.
    left_out : ndarray of shape (n,)
        Scores of these images by fits without them; NaN where there is none.
    columns : tuple of str
        Names of the features at the fit, if it had a data frame.
    depths : frozenset of str
        How the images of the fit were stored; empty where that is not known.
    calibration : ndarray of shape (n_calibration,)
        Scores of good images.
    n_independent : float
        Independent parts among these.
    """

    features: Any
    scorer: Any
    levels: tuple[str, ...]
    salt: int
    keys: NDArray[np.uint64]
    left_out: Floats
    columns: tuple[str, ...] = ()
    depths: frozenset[str] = frozenset()
    calibration: Floats = field(default_factory=lambda: np.empty(0))
    n_independent: float = 0.0

    def scores(self, X: Any) -> tuple[Floats, Floats | None]:
        """Return anomaly scores (n,), and scores per level (n, n_levels) or None without levels.

        An image of the fit has the score by the fit without it; its scores per level are by the
        fit as it is.

        Raises
        ------
        ImageReadError, ImageValueError
            The first image that cannot be read.
        """
        parts, swapping = [], self._swapping()
        for images, features in self._extract(X):
            _raise_first_error(images)
            scores, own_levels = score(self.scorer, features, self.levels)
            honest, in_fit, _ = self._honest(images, scores)
            swapping.see(images, honest, in_fit)
            parts.append((honest, own_levels))
        scores = np.concatenate([own for own, _ in parts])
        levels = [own for _, own in parts if own is not None]
        return scores, np.concatenate(levels) if levels else None

    def maps(self, X: Any) -> Iterator[tuple[list[dict[str, Floats]], Floats]]:
        """Yield, for each batch, the maps of each image's levels and all maps in image coordinates.

        Raises
        ------
        ImageReadError, ImageValueError
            The first image that cannot be read.
        """
        for images, features in self._extract(X):
            _raise_first_error(images)
            yield maps_of(self.features, self.scorer, images, features, self.levels)

    def inspect(
        self,
        X: Any,
        threshold: Threshold,
        fpr: float,
        *,
        maps: bool = False,
        batch_size: int | None = None,
        promptly: bool = False,
    ) -> Iterator[Result]:
        """Judge images in their order; one that cannot be read gives a result with an error.

        `batch_size` and `promptly` are those of `extract`.
        """
        names = score_names(self.scorer, self.levels)
        batches = self._extract(X, batch_size=batch_size, promptly=promptly)
        swapping = self._swapping()
        for images, features in batches:
            readable = [image for image in images if image.error is None]
            good: Iterator[Result] = iter(())
            if readable:
                (found, levels), places = self._scores_and_maps(images, features, maps)
                scores, *marks = self._honest(readable, found)
                remark = swapping.see(readable, scores, marks[0])
                paths = [image.source.name for image in readable]
                judged = judge(paths, scores, levels, names, threshold, fpr, places, *marks)
                good = (replace(result, remark=remark) for result in judged)
            for image in images:
                if image.error is None:
                    yield next(good)
                else:
                    yield Result(image.source.name, error=str(image.error))

    def _honest(
        self, images: Sequence[ReadImage], scores: Floats
    ) -> tuple[Floats, NDArray[np.bool_], NDArray[np.bool_]]:
        """Scores (n,) of images, which are in the fit, and which of these have the score without.

        In-sample scores say nothing: a bad image that was fitted has made room for itself.
        """
        places = [np.flatnonzero(self.keys == np.uint64(image.key))[:1] for image in images]
        in_fit = np.array([len(place) > 0 for place in places])
        known = np.full(len(images), np.nan)
        known[in_fit] = self.left_out[np.concatenate([np.empty(0, np.intp), *places])]
        left_out = np.isfinite(known)
        return np.where(left_out, known, scores), in_fit, left_out

    def _swapping(self) -> Swapping:
        channels = pixels_of(self.features).channels
        return Swapping(self._score_prepared, self.calibration, self.n_independent, channels)

    def _score_prepared(self, prepared: list[NDArray[Any]]) -> Floats:
        found = self.features.transform(prepared)
        copies = {name: np.asarray(values)[:, None] for name, values in found.items()}
        return score(self.scorer, copies, self.levels)[0]

    def _extract(self, X: Any, **options: Any) -> Iterator[Batch]:
        if self.features is None:
            check_columns(X, self.columns)
        return extract(X, self.features, self.salt, fitted=self.depths, **options)

    def _scores_and_maps(
        self, images: list[ReadImage], features: Features, maps: bool
    ) -> tuple[tuple[Floats, Floats | None], Floats | None]:
        if not maps:
            return score(self.scorer, features, self.levels), None
        if capabilities_of(self.scorer).scores_with_maps:
            scores, places = score_with_maps(self.scorer, features, self.levels)
            return scores, in_pixels(self.features, places, images)
        scored = score(self.scorer, features, self.levels)
        return scored, maps_of(self.features, self.scorer, images, features, self.levels)[1]


def _raise_first_error(images: Sequence[ReadImage]) -> None:
    for image in images:
        if image.error is not None:
            raise type(image.error)(
                f"{image.error} (inspect() reports such images and scores the rest)"
            ) from image.error
