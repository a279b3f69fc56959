"""The per-position scorer: how far each place, and the image as a whole, is from the good ones."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from copy import copy
from dataclasses import replace
from types import MappingProxyType
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from mahalad.arrays import check_levels
from mahalad.checks import Limit, Real, check_parameters
from mahalad.errors import InputError
from mahalad.images.geometry import BOX
from mahalad.protocols import Features, Floats
from mahalad.scorers.file import restore_sums, sums_of
from mahalad.scorers.gaussian import LedoitWolfGaussian
from mahalad.scorers.nuisance import Nuisance
from mahalad.scorers.positions import file, grids, sharing
from mahalad.scorers.positions.gaussians import PatchGaussian
from mahalad.scorers.positions.grids import CONTEXT, CONTEXT_STEPS
from mahalad.scorers.positions.nearest import LeftOut, Nearest
from mahalad.scorers.positions.patches import N_FINER, N_IMAGES, Patches
from mahalad.scorers.positions.scoring import COMMON, GAUSSIANS, IMAGE_TOLERANCE, Inside, Scoring
from mahalad.scorers.positions.standards import Standardized, Standards, unexplained, varying
from mahalad.scorers.positions.turning import LEAST_SIDE, turned_alike
from mahalad.scorers.sets import numbered

_CONTEXT_WEIGHT = 0.6  # in the map, as a share of all other weights, where position tells nothing

PAIRS = (2**9, 2**12)
"""Pairs of images that are left out together: for maps, and for the score."""


class PatchScorer(Standardized, BaseEstimator):
    """Score places by good patches or by Gaussians, with the image-level distance beside them.

    Levels that are maps, (n, height, width, n_features), are grouped by their grids: those on the
    coarsest one go together, finer ones each by itself. Each patch, the features of a position, is
    compared with the good ones at most one position away: its distance is the Mahalanobis distance
    to the nearest of them. On the coarsest grid the distance to a Gaussian of the position is added
    to it: patches are better where parts move or have many forms, Gaussians where there are many
    images. The image's score is the mean of the largest of these sums, and some of that of the
    largest distances on the next finer grid, where small defects are (of its levels, the one of
    most features). Mean and standard deviation
    of their leave-one-out values of good images (and what harmless changes add to these)
    standardize them, position by position. The image's map is the weighted mean over grids of the
    logarithms of distances, each in standard deviations of good images. A further grid, the
    context, has Gaussians of means over 4 x 4 positions of the coarsest one; it counts the more,
    the less parts lie in place. Pooled levels, (n, n_features), get one Gaussian each; the sum of
    their distances is added to the score.

    Parameters
    ----------
    top_fraction : float in [0, 1], default=0.03
        Share of the positions whose mean is the score, of the finer grid a third of it; 0 for the
        single largest.
    image_weight : float, default=0.1
        Weight of the image-level distance, where one standard deviation among good images
        counts as much as one of the positions' score.
    smoothing : float, default=0
        Standard deviation, in positions of the finest grid, of a Gaussian filter over the map.
    floor : float, default=0.01
        See `PatchGaussian`.
    neighbourhood : "nearest", int or "all", default="nearest"
        What patches are compared with: ``"nearest"``, the nearest good patch about their position
        (and, for scores, its Gaussian). 0: a Gaussian per position alone. It may be fitted to the
        features of all positions up to a number of steps away, at most 5 ((2r + 1)^2 times the work
        of a fit), or, ``"all"``, one Gaussian to all positions of a grid; if parts lie still, one
        for all costs accuracy.

    Attributes
    ----------
    patch_gaussians_ : dict of str to PatchGaussian
        By the name of the first level; "(context)" for the context, where the coarsest grid has
        at least 8 x 8 positions.
    image_gaussians_ : dict of str to LedoitWolfGaussian
    blends_ : bool
        Whether a score counts the Gaussians of the coarsest grid, too: so do all fits that compare
        patches, but those of files of format 7.
    patches_ : dict of str to Patches
        Good patches by the name of a grid's first level, of 200 images at most on the coarsest grid
        and 100 on finer ones; empty if patches are compared with Gaussians alone.
    standards_ : Standards
        The units of scores and maps. What they hold can be read as `scale_`, `standard_`,
        `map_standards_`, `map_maxima_`, `n_active_` and `context_weight_`, too.
    map_maxima_ : ndarray of shape (n_calibration,), or None
        Largest value in the map of each good image, by the fit without it. None for a fit read
        from a file of format 2, which has no maps: they were others.

    Notes
    -----
    A grid's part in the map is (log(0.3 + d / m) - mean) / deviation, with m the mean distance of
    good images; finer grids count 1.5 times. Logarithms keep one glaring place on one grid from
    hiding what all grids show faintly. Mean and deviation are those of all positions, times the
    ratio of the tails about a place to those everywhere. The measure of tails is the mean 8th
    power of what lies above the mean, to the power 1/8. Where good images now and then have
    something (dust on the ground, say), a place must be odder to stand out.

    On textures a defect is often a whole region, no place of which stands out: there the context
    counts. Where position explains nearly all, the context would blur the map, and hardly counts.

    Leave-one-out scores and `map_maxima_` are standardized by the other images alone. With the
    image's own distance among them, whose largest values matter here, thresholds would be too
    low: 12 to 16 % of good images flagged where 10 % are asked for (simulated, 60 images).

    Where harmless changes are tolerated, the median of an image's standardized distances, up to 1,
    is taken from each of them before the largest are averaged: light and noise raise distances
    everywhere, a defect those of its place. The image-level distance has 10 times the covariance
    of these changes.

    Where patches are compared, the score is about d + b g, of the distance d to the nearest patch
    and g to the Gaussian. With s the root mean variance over positions of either among good images,
    left out, b = min(n / 400, 2) s_d / s_g for n images, copies among them: Gaussians know little
    of few. The mean of the largest distances on the next finer grid is added to that of the largest
    of these sums, with the weight with which its standard deviation among good images is 0.7 / (1 +
    min(n / 400, 2)) times as large.

    The metric of patches is the covariance about the mean of a position, averaged over blocks of
    some 4 x 4 positions and, with the same weight, over all of them, shrunk by 0.05 to its mean
    variance, with 0.3 times the covariance of harmless changes. To score an image of the fit, its
    patches are left out of the good ones and out of the metric, the latter in 5 folds (in 20 where
    fewer than 10 samples of positions that vary come to a feature); by how much distances that the
    score counts are too large for that is told by those with two folds left out.

    Places around the picture of a padded image (which has its box among the levels) count neither
    for a score nor for a threshold. A place that fewer than 5 good images have within their
    picture counts in no image.
    """

    _limits: ClassVar[Mapping[str, Limit]] = {
        "top_fraction": Real("[0, 1]"),
        "image_weight": Real("[0, inf)"),
        "smoothing": Real("[0, inf)"),
        "floor": Real("[0, inf)"),
        "neighbourhood": sharing.NeighbourhoodLimit(),
    }

    accepts_levels = True
    keeps_sums = True
    _changes: tuple[Features, int] | None = None
    _image_tolerance = IMAGE_TOLERANCE
    _nearest: Mapping[str, Nearest] = MappingProxyType({})  # made when it is first needed

    def __init__(
        self,
        *,
        top_fraction: float = 0.03,
        image_weight: float = 0.1,
        smoothing: float = 0.0,
        floor: float = 0.01,
        neighbourhood: int | str = "nearest",
    ) -> None:
        self.top_fraction = top_fraction
        self.image_weight = image_weight
        self.smoothing = smoothing
        self.floor = floor
        self.neighbourhood = neighbourhood

    def check_parameters(self) -> None:
        """Raise `InputError` where a parameter is out of its limits."""
        check_parameters(self._limits, self)

    def fit(self, X: Features, y: Any = None) -> Self:
        """Fit to the levels of good images, at least 5."""
        for name in ("patch_gaussians_", "image_gaussians_", "groups_", "patches_", "blends_"):
            self.__dict__.pop(name, None)
        self.partial_fit(X)
        self.standards_ = self.leave_one_out(X)[1]
        return self

    def partial_fit(self, X: Features, y: Any = None) -> Self:
        """Add images, and forget the standards: `standardized_by` must follow before scoring."""
        self.check_parameters()
        if not hasattr(self, "groups_"):
            self.groups_ = grids.group_levels(X)
            self.patch_gaussians_ = {group[0]: PatchGaussian(self.floor) for group in self.groups_}
            if X[self.groups_[-1][0]].shape[1] >= 2 * CONTEXT_STEPS:
                self.patch_gaussians_[CONTEXT] = PatchGaussian(self.floor)
            self.boxed_ = BOX in X
            pooled = [n for n, values in X.items() if np.ndim(values) == 2 and n != BOX]
            self.image_gaussians_ = {name: LedoitWolfGaussian() for name in pooled}
            self.patches_: dict[str, Patches] = {}
            self._tolerate(self._changes)
            compared = [group[0] for group in self.groups_] if self._compares else []
            self.blends_ = self._compares
        else:
            compared = list(self.patches_)
        features, inside = self._grids(X), self._inside(X)
        self._forget()
        for name, values in features.items():
            shared = sharing.samples_of(values, inside[name], self._steps)
            self.patch_gaussians_[name].partial_fit(shared)
        for name, gaussian in self.image_gaussians_.items():
            gaussian.partial_fit(X[name])
        own = {n: Patches.of(features[n], inside[n], self._most_images(n)) for n in compared}
        known = self.patches_
        self.patches_ = {n: known[n].merged(p) if n in known else p for n, p in own.items()}
        return self

    @property
    def _compares(self) -> bool:
        """Whether patches are compared with the nearest good one."""
        return self.neighbourhood == "nearest"

    def _most_images(self, name: str) -> int:
        """Images whose patches are kept on a grid."""
        return N_IMAGES if name == self.groups_[-1][0] else N_FINER

    @property
    def _steps(self) -> int | str:
        """Steps to the positions that share a Gaussian, or "all"."""
        return 0 if self._compares else self.neighbourhood

    def _forget(self) -> None:
        """Forget what was made of the sums: others follow."""
        self.__dict__.pop("standards_", None)
        self._nearest = {}

    def merge(self, other: PatchScorer) -> Self:
        """Add the images of another fit, and forget the standards, as `partial_fit` does."""
        self._check_mergeable(other)
        self._forget()
        self.patches_ = {n: own.merged(other.patches_[n]) for n, own in self.patches_.items()}
        for name, patch_gaussian in self.patch_gaussians_.items():
            patch_gaussian.merge(other.patch_gaussians_[name])
        for name, gaussian in self.image_gaussians_.items():
            gaussian.merge(other.image_gaussians_[name])
        return self

    def unmerge(self, other: PatchScorer) -> Self:
        """Take the images of another fit, which are part of this one, out of it.

        Warns
        -----
        UserWarning
            Patches of as many images as are kept were there, and some went: those of others, which
            a fit without these images would have in their place, are gone.
        """
        self._check_mergeable(other)
        self._forget()
        before = self.patches_
        self.patches_ = {n: own.without(other.patches_[n]) for n, own in before.items()}
        fewer = [
            f"{len(self.patches_[name].keys)} of {own.most} images ({name})"
            for name, own in before.items()
            if len(own.keys) == own.most > len(self.patches_[name].keys)
        ]
        if fewer:
            warnings.warn(
                f"images are now compared with patches of {', '.join(fewer)}: a fit without what "
                "was removed would have others in their place, which were not kept; fit again for "
                "its very scores",
                stacklevel=2,
            )
        for name, patch_gaussian in self.patch_gaussians_.items():
            patch_gaussian.unmerge(other.patch_gaussians_[name])
        for name, gaussian in self.image_gaussians_.items():
            gaussian.unmerge(other.image_gaussians_[name])
        return self

    def _check_mergeable(self, other: PatchScorer) -> None:
        check_is_fitted(self, "groups_")
        mine, theirs = (
            (one.groups_, one.boxed_, set(one.image_gaussians_)) for one in (self, other)
        )
        if mine != theirs:
            raise InputError("cannot merge fits to other levels")
        if set(self.patch_gaussians_) - set(other.patch_gaussians_):
            raise InputError(
                "cannot merge a fit of format 3, whose maps had no context, into a newer one: fit "
                "and save it again, or merge the newer one into it, which keeps maps as they were"
            )
        if set(self.patches_) - set(other.patches_):
            raise InputError(
                "cannot merge a fit of format 7, whose maps compare patches of the coarsest grid "
                "alone, into a newer one: fit and save it again, or merge the newer one into it, "
                "which keeps maps as they were"
            )

    @property
    def score_names_(self) -> tuple[str, ...]:
        """Names of the parts of a score: the columns of `level_score_samples`."""
        check_is_fitted(self, "groups_")
        return ("positions", "image") if self._weight() else ("positions",)

    def level_score_samples(self, X: Features) -> Floats:
        """Both parts of the score, shape (n_images, 2), up = normal."""
        check_is_fitted(self, "standards_")
        self._check_levels(X)
        finer = self.standards_.finer
        scored = (self.groups_[-1][0], finer.grid if finer else None)
        features = {
            group[0]: grids.side_by_side(X, group) for group in self.groups_ if group[0] in scored
        }
        return self._scores(self._all_distances(features), self._inside(X), X)

    def score_samples(self, X: Features) -> Floats:
        """Sum of both parts, shape (n_images,), up = normal."""
        return np.asarray(self.level_score_samples(X).sum(axis=1))

    def anomaly_maps(self, X: Features) -> Floats:
        """How unlike good ones each place is, on the finest grid, (n_images, side, side).

        Up = abnormal, 0 = as good images on average, in standard deviations of these.
        """
        check_is_fitted(self, "standards_")
        self.standards_.check_has_maps()
        features = self._grids(X)
        found = {name: self._distances(name, values) for name, values in features.items()}
        return self._maps(found, self._inside(X))

    def scores_and_maps(self, X: Features) -> tuple[Floats, Floats]:
        """`level_score_samples` and `anomaly_maps` for the work of one."""
        check_is_fitted(self, "standards_")
        self.standards_.check_has_maps()
        distances, inside = self._all_distances(self._grids(X)), self._inside(X)
        scores = self._scores(distances, inside, X)
        distances.pop(GAUSSIANS, None)
        return scores, self._maps(distances, inside)

    def leave_one_out_level_scores(self, X: Features, groups: Any = None) -> Floats:
        """`level_score_samples` of fitted images, each by the fit without it (or its group).

        Both are standardized by the other images; see `leave_one_out`.
        """
        return self.leave_one_out(X, groups)[0]

    def leave_one_out(
        self, X: Features, groups: Any = None, changed: Any = None
    ) -> tuple[Floats, Standards]:
        """Score fitted images by the fit without them, and find the standards that they set.

        Parameters
        ----------
        X : mapping of str to ndarray of shape (n_images, ...)
            Levels of images that were part of the fit: all of them, or some.
        groups : array-like of shape (n_images,), optional
            Images with the same label are left out together.
        changed : ndarray of int of shape (n_images,), optional
            Number of the image among those of `tolerating`, below 0 for others: the differences of
            an image are left out with it.

        Returns
        -------
        ndarray of shape (n_images, n_parts)
            Up = normal, standardized by the other images.
        Standards
            Of these images; `standardized_by` makes a scorer that has them.
        """
        self.check_parameters()
        check_is_fitted(self, "groups_")
        features, inside = self._grids(X), self._inside(X)
        coarsest = self.groups_[-1][0]
        content = np.where(inside[coarsest], features[coarsest].sum(axis=2), 0.0).sum(axis=1)
        groups = numbered(content, groups)
        distances, growth, tolerated = {}, {}, {}
        for name, values in features.items():
            if name in self.patches_:
                left_out = self._patches_left_out(name, values, groups, changed)
                distances[name], growth[name] = left_out.distances, left_out.growth
                if name in (coarsest, self._finer):
                    tolerated[name] = (left_out.tolerated, left_out.tolerated_by_others)
            if self._uses_gaussians(name):
                key = GAUSSIANS if name in self.patches_ else name
                gaussian, n_pairs = self.patch_gaussians_[name], PAIRS[name == coarsest]
                distances[key], growth[key] = sharing.leave_one_out(
                    gaussian, values, inside[name], self._steps, groups, n_pairs, changed
                )
        image = sum(
            g.calibration_distances(X[name], groups, changed)
            for name, g in self._used_image_gaussians()
        )
        weight = self._context_weight(varying(distances[coarsest], inside[coarsest]))
        n_images = self.patch_gaussians_[coarsest].moments_.n_samples
        common = COMMON if self._changes is not None and self._changes[0] else 0.0
        return self._scoring().leave_one_out(
            distances, growth, inside, image, groups, weight, n_images, tolerated, common
        )

    def standardized_by(self, standards: Standards) -> Self:
        """Make a fitted scorer of the same images, in other units; this one stays as it is.

        Both share their sums and what was computed from them. Images can be added to either
        without a change of the other.
        """
        check_is_fitted(self, "groups_")
        other = copy(self)
        other.patch_gaussians_ = {name: copy(g) for name, g in self.patch_gaussians_.items()}
        other.image_gaussians_ = {name: copy(g) for name, g in self.image_gaussians_.items()}
        other.standards_ = standards
        return other

    def tolerating(self, differences: Features, n_images: int) -> Self:
        """Make a scorer, fitted or not as this one, to which harmless changes matter less.

        Both share their sums; the new one keeps standards, which must be found anew.

        Parameters
        ----------
        differences : mapping of str to ndarray of shape (n_images * n_ways, ...)
            Levels of changed copies of images, less those of the images; empty for none.
        n_images : int
            See `mahalad.scorers.nuisance.Nuisance`.
        """
        other = copy(self)
        other._changes = (differences, n_images)
        if hasattr(self, "groups_"):
            if other.patch_gaussians_[other.groups_[-1][0]].has_sums_:
                other._nearest = {}  # else a file told what it was made of before
            other.patch_gaussians_ = {name: copy(g) for name, g in self.patch_gaussians_.items()}
            other.image_gaussians_ = {name: copy(g) for name, g in self.image_gaussians_.items()}
            other._tolerate(other._changes)
        return other

    def _tolerate(self, changes: tuple[Features, int] | None) -> None:
        """Give the Gaussians the changes, or none."""
        if changes is None:
            return
        differences, n_images = changes
        if not differences:
            for gaussian in self.patch_gaussians_.values():
                gaussian.tolerate(None)
            for image_gaussian in self.image_gaussians_.values():
                image_gaussian.tolerate(None)
            return
        found = grids.features_of(differences, self.groups_, self.patch_gaussians_)
        for name, gaussian in self.patch_gaussians_.items():
            values = sharing.alone(found[name], self._steps)
            gaussian.tolerate(Nuisance(values, n_images, len(values) // len(found[name])))
        for name, image_gaussian in self.image_gaussians_.items():
            root = np.sqrt(self._image_tolerance)
            image_gaussian.tolerate(Nuisance(root * differences[name].astype(float), n_images))

    def tells_turns(self, X: Features) -> bool:
        """Whether `turned_alike` can tell of levels like these.

        It cannot where patches are compared with Gaussians alone, or images are padded, nor by a
        coarsest grid of fewer than 8 x 8 positions.
        """
        side = X[grids.group_levels(X)[-1][0]].shape[1]
        return self._compares and BOX not in X and side >= LEAST_SIDE

    def turned_alike(
        self, X: Features, turns: Iterable[Features], groups: NDArray[np.intp]
    ) -> bool:
        """Whether good images are as far from others that are turned as from others as they are.

        Parameters
        ----------
        X : mapping of str to ndarray of shape (n_images, ...)
            Levels of good images; the scorer need not be fitted.
        turns : iterable of such mappings
            Levels of the same images turned, one way after the other.
        groups : ndarray of int of shape (n_images,)
            Images of one number are not compared.

        Returns
        -------
        bool
            False where it cannot tell, by `tells_turns`.
        """
        if not self.tells_turns(X):
            return False
        coarsest = grids.group_levels(X)[-1]
        own = grids.side_by_side(X, coarsest)
        others = (grids.side_by_side(levels, coarsest) for levels in turns)
        return turned_alike(own, others, groups, max(1, round(self.top_fraction * own.shape[1])))

    def factorise(self) -> Self:
        """Compute now what scoring needs of the sums, rather than at the first question."""
        for name, gaussian in self.patch_gaussians_.items():
            if name in self.patches_:
                self._fitted_nearest(name).ready()
            if self._uses_gaussians(name):
                gaussian.factorise()
        return self

    def _fitted_nearest(self, name: str) -> Nearest:
        if name not in self._nearest:
            moments = self.patch_gaussians_[name].moments_
            found = Nearest.of(moments, self.patches_[name], self.floor, self._nuisance(name))
            self._nearest = {**self._nearest, name: found}
        return self._nearest[name]

    def _patches_left_out(
        self,
        name: str,
        values: NDArray[Any],
        groups: NDArray[np.intp],
        changed: NDArray[np.intp] | None,
    ) -> LeftOut:
        moments, nuisance = self.patch_gaussians_[name].moments_, self._nuisance(name)
        return self._fitted_nearest(name).left_out(
            values,
            groups,
            moments,
            self.patches_[name],
            self.floor,
            nuisance,
            changed,
            scored=name in (self.groups_[-1][0], self._finer),
        )

    def _nuisance(self, name: str) -> Nuisance | None:
        """What harmless changes do to a grid's positions."""
        if self._changes is None or not self._changes[0]:
            return None
        differences, n_images = self._changes
        found = grids.features_of(differences, self.groups_, self.patch_gaussians_)[name]
        return Nuisance(found, n_images)

    @property
    def has_sums_(self) -> bool:
        """False for a fit read from a file without its sums: it can only score."""
        return all(gaussian.has_sums_ for gaussian in self.patch_gaussians_.values())

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """All that scoring needs, as JSON and named arrays (without the sums)."""
        check_is_fitted(self, "standards_")
        pooled = list(self.image_gaussians_)
        about, arrays = file.describe(self.standards_, self.groups_, pooled, self.boxed_)
        if self.standards_.common:
            about["image_tolerance"] = self._image_tolerance
        for name, gaussian in self.patch_gaussians_.items():
            if name in self.patches_:
                keys = self.patches_[name].keys
                arrays |= file.nearest_arrays(name, self._fitted_nearest(name), keys)
            if self._uses_gaussians(name):
                arrays |= file.level_arrays(name, gaussian.scoring_state())
        if self.patches_:
            about["nearest"] = list(self.patches_)
        if self.blends_:
            about["blend"] = self.standards_.blend
        for name, image_gaussian in self.image_gaussians_.items():
            arrays |= file.level_arrays(name, image_gaussian.scoring_state())
        return about, arrays

    def restore(self, about: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Self:
        """Become what `state` described."""
        self.groups_ = tuple(tuple(group) for group in about["groups"])
        self.boxed_ = bool(about.get("boxed", False))
        self.standards_ = file.standards_of(about, arrays)
        self.blends_ = "blend" in about
        self._image_tolerance = float(about.get("image_tolerance", 1.0))
        self._nearest, self.patches_ = {}, {}
        for name in about.get("nearest", ()):
            self._nearest[name], keys = file.nearest_of(name, arrays)
            self.patches_[name] = self._nearest[name].patches(keys, self._most_images(name))
        context = [CONTEXT] if CONTEXT in self.map_standards_ else []
        self.patch_gaussians_ = {}
        for name in [group[0] for group in self.groups_] + context:
            gaussian = PatchGaussian(self.floor)
            if self._uses_gaussians(name):
                gaussian.restore_scoring(**file.arrays_of_positions(name, arrays))
            else:
                gaussian.without_sums(self._nearest[name].location.shape)
            self.patch_gaussians_[name] = gaussian
        self.image_gaussians_ = {
            name: LedoitWolfGaussian().restore_scoring(file.arrays_of_pooled(name, arrays))
            for name in about["pooled"]
        }
        return self

    def sums(self) -> dict[str, NDArray[Any]]:
        """Sums of all Gaussians, as named arrays: what adding images needs."""
        arrays = sums_of(self.patch_gaussians_) | sums_of(self.image_gaussians_)
        return arrays | {f"patches/{n}/features": own.features for n, own in self.patches_.items()}

    def restore_sums(self, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Give a restored scorer the `sums` that a file has; without any it can only score."""
        restore_sums(self.patch_gaussians_, arrays)
        restore_sums(self.image_gaussians_, arrays)
        stems = {name: f"patches/{name}/features" for name in self.patches_}
        self.patches_ = self.patches_ | {
            name: replace(self.patches_[name], features=arrays[stem].astype(np.float32))
            for name, stem in stems.items()
            if stem in arrays  # as they were, not rounded
        }
        return self

    def summed(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """All that merging needs, as JSON and arrays: `sums` and patches, but no standards."""
        check_is_fitted(self, "groups_")
        about = {
            "groups": [list(group) for group in self.groups_],
            "boxed": self.boxed_,
            "positions": list(self.patch_gaussians_),
            "pooled": list(self.image_gaussians_),
            "nearest": list(self.patches_),
            "blends": self.blends_,
        }
        arrays = self.sums()
        for name, own in self.patches_.items():
            arrays[f"patches/{name}/keys"] = own.keys
            arrays[f"patches/{name}/inside"] = own.inside.astype(np.uint8)
        return about, arrays

    def restore_summed(self, about: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Become the fit whose `summed` are given; `standardized_by` must follow before scoring."""
        self._forget()
        self.groups_ = tuple(tuple(group) for group in about["groups"])
        self.boxed_, self.blends_ = bool(about["boxed"]), bool(about["blends"])
        self.patch_gaussians_ = {name: PatchGaussian(self.floor) for name in about["positions"]}
        self.image_gaussians_ = {name: LedoitWolfGaussian() for name in about["pooled"]}
        restore_sums(self.patch_gaussians_, arrays)
        restore_sums(self.image_gaussians_, arrays)
        self.patches_ = {
            name: Patches(
                arrays[f"patches/{name}/keys"].astype(np.uint64),
                arrays[f"patches/{name}/features"].astype(np.float32),
                arrays[f"patches/{name}/inside"].astype(bool),
                self._most_images(name),
            )
            for name in about["nearest"]
        }
        return self

    def _grids(self, X: Features) -> dict[str, NDArray[Any]]:
        """Features of every grid and of the context, (n, P, D), by their names."""
        self._check_levels(X)
        return grids.features_of(X, self.groups_, self.patch_gaussians_)

    def _inside(self, X: Features) -> dict[str, Inside]:
        """Which positions lie in the picture, (n, P), by the name of a grid's first level."""
        return grids.inside_of(X, self.groups_, self.patch_gaussians_)

    def _uses_gaussians(self, name: str) -> bool:
        """Whether Gaussians of a grid's positions count, beside its patches or alone."""
        return name not in self.patches_ or (self.blends_ and name == self.groups_[-1][0])

    @property
    def _finer(self) -> str | None:
        """Name of the finer grid that counts in a score: next to the coarsest, if it has patches.

        Of several levels of one side the one of most features, which is the deepest of a network. A
        fit of a file of format 7 has patches of the coarsest grid alone.
        """
        names = [name for name, *_ in self.groups_[:-1] if name in self.patches_]

        def coarsest_and_deepest_first(name: str) -> tuple[int, int, str]:
            _, n_positions, n_features = self.patches_[name].features.shape
            return n_positions, -n_features, name

        return min(names, key=coarsest_and_deepest_first, default=None) if self.blends_ else None

    def _all_distances(self, features: Features) -> dict[str, Floats]:
        """Distances of the features of grids, by their names, and all that the score is about."""
        found = {name: self._distances(name, values) for name, values in features.items()}
        if self.blends_:
            name = self.groups_[-1][0]
            gaussian = self.patch_gaussians_[name]
            found[GAUSSIANS] = sharing.distances_of(gaussian, features[name], self._steps)
        return found

    def _distances(self, name: str, values: NDArray[Any]) -> Floats:
        if name in self.patches_:
            return self._fitted_nearest(name).distances(values)
        return sharing.distances_of(self.patch_gaussians_[name], values, self._steps)

    def _context_weight(self, active: Inside) -> float:
        if CONTEXT not in self.patch_gaussians_:
            return 0.0
        if self.neighbourhood == "all":  # one Gaussian: no position of its own explains anything
            return _CONTEXT_WEIGHT
        moments = self.patch_gaussians_[self.groups_[-1][0]].moments_
        by_patches = len(self.patches_) == len(self.groups_)  # on all grids
        return (0.5 if by_patches else 1) * _CONTEXT_WEIGHT * unexplained(moments, active)

    def _scoring(self) -> Scoring:
        return Scoring(self.groups_, self.top_fraction, self._weight(), self.smoothing, self._finer)

    def _scores(
        self, distances: dict[str, Floats], inside: dict[str, Inside], X: Features
    ) -> Floats:
        # Without pooled levels, or without a weight for them, there is no distance to add.
        image = sum(g.distances(X[name]) for name, g in self._used_image_gaussians())
        return self._scoring().scores(distances, inside, image, self.standards_)

    def _maps(self, distances: dict[str, Floats], inside: dict[str, Inside]) -> Floats:
        standards = self.standards_
        return self._scoring().maps(
            distances, inside, standards.map_standards, standards.context_weight
        )

    def _weight(self) -> float:
        return self.image_weight if self.image_gaussians_ else 0.0

    def _used_image_gaussians(self) -> list[tuple[str, LedoitWolfGaussian]]:
        return list(self.image_gaussians_.items()) if self._weight() else []

    def _check_levels(self, X: Features) -> None:
        known = {name for group in self.groups_ for name in group} | set(self.image_gaussians_)
        check_levels(X, sorted(known | {BOX} if self.boxed_ else known))
