"""The per-position scorer: how far each place, and the image as a whole, is from the good ones."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from mahalad.errors import InputError
from mahalad.images.geometry import BOX
from mahalad.protocols import Features, Floats
from mahalad.scorers.gaussian import LedoitWolfGaussian
from mahalad.scorers.positions import file as patch_scorer_file
from mahalad.scorers.positions.gaussians import PatchGaussian
from mahalad.scorers.positions.grids import (
    CONTEXT,
    CONTEXT_STEPS,
    features_of,
    group_levels,
    inside_of,
    one_map,
    side_by_side,
)
from mahalad.scorers.positions.sharing import distances_of, left_out_distances, samples_of
from mahalad.scorers.positions.standards import (
    map_standard,
    map_standard_by_others,
    standardization,
    standardization_by_others,
    varying,
)

_CONTEXT_WEIGHT = 0.6  # in the map, as a share of all other weights, where position tells nothing


class PatchScorer(BaseEstimator):
    """Score by Gaussians per position, with the image-level distance as further evidence.

    Levels that are maps, (n, height, width, n_features), get one Gaussian per position: those on
    the coarsest grid together, every finer one by itself. The image's score is the mean of the
    largest distances on the coarsest grid, standardized, position by position, by mean and
    standard deviation of the leave-one-out distances of good images. Its map is the weighted mean
    over grids of the distances' logarithms, each in standard deviations of good images; a grid of
    means over 4 x 4 positions of the coarsest one, the context, takes part the more, the less parts
    lie in place. Pooled levels, (n, n_features), get one Gaussian each; the sum of their distances
    is added to the score.

    Parameters
    ----------
    top_fraction : float, default=0.03
        Share of the positions whose mean is the score; 0 for the single largest.
    image_weight : float, default=0.2
        Weight of the image-level distance, where one standard deviation among good images
        counts as much as one of the positions' score.
    smoothing : float, default=0
        Standard deviation, in positions of the finest grid, of a Gaussian filter over the map.
    floor : float, default=0.01
        See `PatchGaussian`.
    neighbourhood : int or "all", default=0
        For parts that do not lie still: the Gaussian of a position is fitted to the features of
        all positions up to this many steps away ((2r + 1)^2 times the work of a fit), or one
        Gaussian to all positions. On parts in place one for all costs accuracy.

    Attributes
    ----------
    patch_gaussians_ : dict of str to PatchGaussian
        By the name of the first level; "(context)" for the context, where the coarsest grid has
        at least 8 x 8 positions.
    context_weight_ : float
        Of the context in the map: 0.6 of the other weights together, times the share of the
        variance of good features that their position does not explain.
    image_gaussians_ : dict of str to LedoitWolfGaussian
    map_maxima_ : ndarray of shape (n_calibration,), or None
        Largest value in the map of each good image, by the fit without it. None for a fit read
        from a file of format 2, which has no maps: they were others.

    Notes
    -----
    A grid's part in the map is (log(0.3 + d / m) - mean) / deviation, with m the mean distance of
    good images; finer grids count 1.5 times. Logarithms keep one glaring place on one grid from
    hiding what all grids show faintly. Mean and deviation are those of all positions, times the
    ratio of the tails about a place and everywhere: of the mean 8th power of what lies above the
    mean, to the power 1/8. Where good images now and then have something (dust on the ground, say),
    a place must be odder to stand out.

    On textures what is odd is often a whole region, no place of which stands out: there the context
    counts. Where position explains nearly all, it would blur the map, and hardly counts.

    Leave-one-out scores and `map_maxima_` are standardized by the other images alone. With the
    image's own distance among them, whose largest values matter here, thresholds would be too
    low: 12 to 16 % of good images flagged where 10 % are asked for (simulated, 60 images).

    Of padded images (with their boxes among the levels), places around the picture neither count
    for a score nor for a threshold. Where fewer than 5 good images have a place within the
    picture, it counts in no image.
    """

    accepts_levels = True

    def __init__(
        self,
        *,
        top_fraction: float = 0.03,
        image_weight: float = 0.2,
        smoothing: float = 0.0,
        floor: float = 0.01,
        neighbourhood: int | str = 0,
    ) -> None:
        self.top_fraction = top_fraction
        self.image_weight = image_weight
        self.smoothing = smoothing
        self.floor = floor
        self.neighbourhood = neighbourhood

    def fit(self, X: Features, y: Any = None) -> Self:
        """Fit to the levels of good images, at least 5."""
        for name in ("patch_gaussians_", "image_gaussians_", "groups_"):
            if hasattr(self, name):
                delattr(self, name)
        self.partial_fit(X)
        self.leave_one_out_level_scores(X)
        return self

    def partial_fit(self, X: Features, y: Any = None) -> Self:
        """Add images. `leave_one_out_level_scores` of all images must follow before scoring."""
        self._check_parameters()
        if not hasattr(self, "groups_"):
            self.groups_ = group_levels(X)
            self.patch_gaussians_ = {group[0]: PatchGaussian(self.floor) for group in self.groups_}
            if X[self.groups_[-1][0]].shape[1] >= 2 * CONTEXT_STEPS:
                self.patch_gaussians_[CONTEXT] = PatchGaussian(self.floor)
            self.boxed_ = BOX in X
            pooled = [n for n, values in X.items() if np.ndim(values) == 2 and n != BOX]
            self.image_gaussians_ = {name: LedoitWolfGaussian() for name in pooled}
        grids, inside = self._grids(X), self._inside(X)
        self._forget_standards()
        for name, values in grids.items():
            shared = samples_of(values, inside[name], self.neighbourhood)
            self.patch_gaussians_[name].partial_fit(shared)
        for name, gaussian in self.image_gaussians_.items():
            gaussian.partial_fit(X[name])
        return self

    def merge(self, other: PatchScorer) -> Self:
        """Add the images of another fit."""
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
        self._forget_standards()
        for name, patch_gaussian in self.patch_gaussians_.items():
            patch_gaussian.merge(other.patch_gaussians_[name])
        for name, gaussian in self.image_gaussians_.items():
            gaussian.merge(other.image_gaussians_[name])
        return self

    @property
    def score_names_(self) -> tuple[str, ...]:
        """Names of the parts of a score: the columns of `level_score_samples`."""
        check_is_fitted(self, "groups_")
        return ("positions", "image") if self._weight() else ("positions",)

    def level_score_samples(self, X: Features) -> Floats:
        """Both parts of the score, shape (n_images, 2), up = normal."""
        check_is_fitted(self, "scale_")
        self._check_levels(X)
        coarsest = self.groups_[-1]
        distances = self._distances(coarsest[0], side_by_side(X, coarsest))
        inside = self._inside(X)[coarsest[0]]
        return -self._parts(distances, inside, self._image_distance(X), self.standard_)

    def score_samples(self, X: Features) -> Floats:
        """Sum of both parts, shape (n_images,), up = normal."""
        return np.asarray(self.level_score_samples(X).sum(axis=1))

    def anomaly_maps(self, X: Features) -> Floats:
        """How unlike good ones each place is, on the finest grid, (n_images, side, side).

        Up = abnormal, 0 = as good images on average, in standard deviations of these.
        """
        check_is_fitted(self, "scale_")
        self._check_has_maps()
        distances = self._all_distances(X)
        return self._maps(distances, self._inside(X), self.map_standards_)

    def scores_and_maps(self, X: Features) -> tuple[Floats, Floats]:
        """`level_score_samples` and `anomaly_maps` for the work of one."""
        check_is_fitted(self, "scale_")
        self._check_has_maps()
        distances = self._all_distances(X)
        inside, coarsest = self._inside(X), self.groups_[-1][0]
        image = self._image_distance(X)
        scores = -self._parts(distances[coarsest], inside[coarsest], image, self.standard_)
        return scores, self._maps(distances, inside, self.map_standards_)

    def leave_one_out_level_scores(self, X: Features, groups: Any = None) -> Floats:
        """`level_score_samples` of fitted images, each by the fit without it (or its group).

        Sets the standardization and `map_maxima_` from the same distances.
        """
        self._check_parameters()
        check_is_fitted(self, "groups_")
        grids, insides = self._grids(X), self._inside(X)
        distances = {
            name: left_out_distances(
                self.patch_gaussians_[name], values, insides[name], self.neighbourhood, groups
            )
            for name, values in grids.items()
        }
        image = sum(
            g.leave_one_out_distances(X[name], groups) for name, g in self._used_image_gaussians()
        )
        name = self.groups_[-1][0]
        coarsest, inside = distances[name], insides[name]
        self.standard_ = standardization(coarsest, inside)
        self.map_standards_ = {n: map_standard(d, insides[n]) for n, d in distances.items()}
        active = varying(coarsest, inside)
        self.n_active_ = int(active.sum())
        self.context_weight_ = self._context_weight(active)
        self.scale_ = (1.0, 1.0)
        by_others = standardization_by_others(coarsest, inside, groups)
        parts = self._parts(coarsest, inside, image, by_others)
        scales = [max(float(part.std()), np.finfo(float).tiny) for part in parts.T]
        self.scale_ = (scales[0], scales[-1] / self._weight() if self._weight() else 1.0)
        maps_by_others = {
            name: map_standard_by_others(d, insides[name], groups) for name, d in distances.items()
        }
        self.map_maxima_ = self._maps(distances, insides, maps_by_others).max(axis=(1, 2))
        return -self._parts(coarsest, inside, image, by_others)

    @property
    def has_sums_(self) -> bool:
        """False for a fit read from a file without its sums: it can only score."""
        return all(gaussian.has_sums_ for gaussian in self.patch_gaussians_.values())

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """All that scoring needs, as JSON and named arrays (without the sums)."""
        check_is_fitted(self, "scale_")
        return patch_scorer_file.state(self)

    def restore(self, about: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Self:
        """Become what `state` described."""
        patch_scorer_file.restore(self, about, arrays)
        return self

    def _grids(self, X: Features) -> dict[str, NDArray[Any]]:
        """Features of every grid and of the context, (n, P, D), by their names."""
        self._check_levels(X)
        return features_of(X, self.groups_, self.patch_gaussians_)

    def _inside(self, X: Features) -> dict[str, NDArray[np.bool_]]:
        """Which positions lie in the picture, (n, P), by the name of a grid's first level."""
        return inside_of(X, self.groups_, self.patch_gaussians_)

    def _maps(
        self,
        distances: dict[str, Floats],
        inside: dict[str, NDArray[np.bool_]],
        standards: dict[str, Any],
    ) -> Floats:
        maps = one_map(distances, inside, standards, self.groups_, self.context_weight_)
        if self.smoothing:
            maps = gaussian_filter(maps, (0, self.smoothing, self.smoothing), mode="nearest")
        return np.asarray(maps)

    def _all_distances(self, X: Features) -> dict[str, Floats]:
        return {name: self._distances(name, values) for name, values in self._grids(X).items()}

    def _distances(self, name: str, values: NDArray[Any]) -> Floats:
        """Distances (n, P) of features (n, P, D) on a grid."""
        return distances_of(self.patch_gaussians_[name], values, self.neighbourhood)

    def _context_weight(self, active: NDArray[np.bool_]) -> float:
        """Share of the coarsest grid's variance that its position does not explain, times 0.6."""
        if CONTEXT not in self.patch_gaussians_:
            return 0.0
        if self.neighbourhood == "all":
            return _CONTEXT_WEIGHT
        moments = self.patch_gaussians_[self.groups_[-1][0]].moments_
        mean = moments.mean()
        variance = moments.q2 / moments.n_samples - ((mean - moments.shift) ** 2).sum(axis=1)
        within = float(variance[active].mean())
        between = float(mean[active].var(axis=0).sum())
        return _CONTEXT_WEIGHT * within / max(within + between, np.finfo(float).tiny)

    def _image_distance(self, X: Features) -> Any:
        """Sum over pooled levels, (n,); 0 where there are none or they have no weight."""
        return sum(g.distances(X[name]) for name, g in self._used_image_gaussians())

    def _parts(
        self,
        distances: Floats,
        inside: NDArray[np.bool_],
        image: Any,
        standard: tuple[Floats, Floats],
    ) -> Floats:
        """Anomaly scores of positions and image, (n, 2): in standard deviations of good images."""
        location, scale = standard
        counted = inside & np.isfinite(scale)
        z = np.where(counted, (distances - location) / scale, -np.inf)
        k = max(1, round(self.top_fraction * self.n_active_))
        top = np.partition(z, z.shape[1] - k, axis=1)[:, -k:]
        n_top = np.clip(counted.sum(axis=1), 1, k)  # of a picture with fewer positions, all
        columns = [np.where(np.isfinite(top), top, 0.0).sum(axis=1) / n_top / self.scale_[0]]
        if self._weight():
            columns.append(self._weight() * image / self.scale_[1])
        return np.column_stack(columns)

    def _forget_standards(self) -> None:
        """Images were added: what standardizes distances is to be found again."""
        for name in ("scale_", "standard_", "map_standards_", "map_maxima_", "n_active_"):
            self.__dict__.pop(name, None)
        self.__dict__.pop("context_weight_", None)

    def _check_has_maps(self) -> None:
        if not self.map_standards_:
            raise InputError(
                "this model was written in format 2, whose maps were others: fit and save it "
                "again for maps (its scores are as they were)"
            )

    def _weight(self) -> float:
        return self.image_weight if self.image_gaussians_ else 0.0

    def _used_image_gaussians(self) -> list[tuple[str, LedoitWolfGaussian]]:
        return list(self.image_gaussians_.items()) if self._weight() else []

    def _check_parameters(self) -> None:
        if not 0 <= self.top_fraction <= 1:
            raise InputError(f"top_fraction must lie in [0, 1], got {self.top_fraction!r}")
        share = self.neighbourhood
        is_whole = isinstance(share, (int, np.integer)) and not isinstance(share, bool)
        if share != "all" and not (is_whole and 0 <= int(share) <= 5):
            raise InputError(f"neighbourhood must be 0 to 5 positions or 'all', got {share!r}")
        for name in ("image_weight", "smoothing", "floor"):
            value = getattr(self, name)
            if not np.isfinite(value) or value < 0:
                raise InputError(f"{name} must be a number >= 0, got {value!r}")

    def _check_levels(self, X: Features) -> None:
        known = {name for group in self.groups_ for name in group} | set(self.image_gaussians_)
        known |= {BOX} if self.boxed_ else set()
        if set(X) != known:
            raise InputError(
                f"features of levels {', '.join(X)} given to a scorer of levels "
                f"{', '.join(sorted(known))}"
            )
