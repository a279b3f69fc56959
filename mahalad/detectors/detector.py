"""The detectors: images to features to scores to a threshold with the asked false-positive rate."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone

from mahalad.arrays import in_order
from mahalad.detectors import file as persistence
from mahalad.detectors import fitting
from mahalad.detectors.maps import in_pixels, map_threshold, maps_of
from mahalad.detectors.reservoir import FeatureStore
from mahalad.detectors.scoring import score, score_with_maps
from mahalad.errors import CalibrationError, InputError
from mahalad.features.copying import copy_extractor
from mahalad.features.extraction import Batch, extract
from mahalad.files.spec import params_spec
from mahalad.images.reading import ReadImage
from mahalad.protocols import Features, Floats, Threshold
from mahalad.result import Result, judge
from mahalad.scorers.level_sum import make_scorer
from mahalad.thresholds.rules import check_fpr, check_threshold, fit_threshold
from mahalad.unfitted import NotFittedError

_MAY_CHANGE = ("fpr", "device", "batch_size")
_MUST_MATCH = ("threshold", "n_augment", "random_state", "max_stored")


class AnomalyDetector(BaseEstimator):
    """Compose a feature extractor, a scorer and a threshold into a detector.

    Parameters
    ----------
    features : feature extractor or None, default=None
        For instance `BackboneFeatures()`. None: what is given to `fit` and `predict` are
        features already, an array (n, n_features) or a mapping of level name to such arrays.
    scorer : estimator or None, default=None
        Any scikit-learn outlier estimator (`fit`, `score_samples`), such as IsolationForest or
        a Pipeline; None for a Gaussian per level, summed. Levels are put side by side for a
        scorer without ``accepts_levels = True``.
    threshold : str or threshold object, default="conformal"
        ``"conformal"`` (leave-one-out or cross-fitted), ``"chi2"``, ``"holdout"`` (split
        conformal) or ``"chi2-nominal"``.
    fpr : float, default=0.05
        Share of good images that may be flagged, if they come as those of the fit came
        (exchangeable); changeable after fit (`set_fpr`).
    n_augment : int, default=0
        Slightly changed copies of each image that are fitted as well. Calibration always
        leaves an image out together with its copies.
    n_folds : int, default=40
        Folds of the cross-fitting that calibrates a scorer without a closed-form leave-one-out.
    holdout_fraction : float, default=0.3
        Share of the images held out by ``threshold="holdout"`` when `fit` is given none.
    max_stored : int, default=10000
        Images whose features are kept for calibration. A mergeable scorer is still fitted to
        all of them; any other scorer learns from kept features, so all are kept.
    random_state : int or None, default=None
        Salt of the hashes that decide folds, hold-out split and augmentation. They depend on
        the images' content alone, so None (the same as 0) is reproducible too.

    Attributes
    ----------
    features_, scorer_
        The fitted parts.
    calibration_scores_ : ndarray of shape (n_calibration,)
        Honest anomaly scores of good images, up = abnormal.
    calibration_method_ : {"leave-one-out", "cross-fit", "holdout", "none"}
    n_images_ : int
        Images fitted.
    unreadable_ : list of Result
        Images that `fit` had to leave out.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.ensemble import IsolationForest
    >>> from mahalad import AnomalyDetector
    >>> normals = np.random.default_rng(0).normal(size=(200, 5))
    >>> detector = AnomalyDetector(scorer=IsolationForest(random_state=0), fpr=0.1)
    >>> detector.fit(normals).predict([[0, 0, 0, 0, 0], [9, 9, 9, 9, 9]]).tolist()
    [1, -1]
    """

    max_stored: int | None
    features_: Any
    _scorer: Any
    unreadable_: list[Result]
    _calibration_method: str
    _calibration_scores: Floats
    _store: FeatureStore
    _held_out: FeatureStore
    _level_sizes: dict[str, list[int]]
    _level_names: tuple[str, ...]
    _fitted_params: dict[str, Any]
    _grouped: bool
    _stale: bool

    def __init__(
        self,
        features: Any = None,
        scorer: Any = None,
        threshold: str | Threshold = "conformal",
        *,
        fpr: float = 0.05,
        n_augment: int = 0,
        n_folds: int = 40,
        holdout_fraction: float = 0.3,
        max_stored: int = 10_000,
        random_state: int | None = None,
    ) -> None:
        self.features = features
        self.scorer = scorer
        self.threshold = threshold
        self.fpr = fpr
        self.n_augment = n_augment
        self.n_folds = n_folds
        self.holdout_fraction = holdout_fraction
        self.max_stored = max_stored
        self.random_state = random_state

    # -- fitting ---------------------------------------------------------------------------

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        groups: Sequence[Any] | None = None,
        calibration: Any = None,
    ) -> Self:
        """Fit to good images, forgetting earlier ones.

        Parameters
        ----------
        X : images
            A folder, a glob, a list of paths, PIL images or arrays, or an iterator of these
            (see `mahalad.images.iter_sources`); features where `features` is None.
        y : ignored
        groups : sequence of length n_images, optional
            What each image shows (a part's serial number, say). Images of one group are left
            out together, so that the rate holds for parts that were never seen.
        calibration : images, optional
            Further good images on which ``threshold="holdout"`` sets the threshold.

        Returns
        -------
        self

        Warns
        -----
        UnreadableImageWarning
            For each image that could not be read; it is left out and listed in `unreadable_`.

        Raises
        ------
        InputError
            No images, only one, or parameters out of range.
        DegenerateDataError
            All images are the same.
        """
        self._check_parameters(calibration)
        fitting.reset(self)
        try:
            self.features_, self._scorer = self._make_parts()
            if self.features_ is not None:
                self.features_.build()
            elif self.n_augment:
                raise InputError("n_augment changes images; it needs a feature extractor")
            fitting.add(self, *fitting.ingest(self, X, groups, self.n_augment))
            if calibration is not None:
                self._held_out = fitting.ingest(self, calibration, None, 0)[0]
                if not self._held_out.n_seen:
                    raise InputError("none of the calibration images could be read")
            fitting.refresh(self)
        except BaseException:
            del self._store  # a failed fit leaves no half-fitted detector
            raise
        self._warn_if_uncalibrated()
        return self

    def partial_fit(self, X: Any, y: Any = None, *, groups: Sequence[Any] | None = None) -> Self:
        """Add good images; the result is that of one fit on all of them."""
        if not hasattr(self, "_store"):
            return self.fit(X, groups=groups)
        self._check_updatable()
        fitting.add(self, *fitting.ingest(self, X, groups, self.n_augment))
        return self

    def merge(self, other: AnomalyDetector) -> Self:
        """Add the images of another fitted detector with the same parameters.

        Fits on shards of the images, merged, equal one fit on all of them.

        Raises
        ------
        InputError
            The other detector has other features (network, weights, levels, size) or another
            scorer.
        """
        self._check_updatable()
        other._check_updatable()
        for what in ("features", "scorer"):
            mine, theirs = (persistence.describe(d, what) for d in (self, other))
            if mine != theirs:
                raise InputError(f"cannot merge fits with different {what}: {mine} and {theirs}")
        for name in self._changed_since(other._fitted_params, _MUST_MATCH):
            raise InputError(
                f"cannot merge fits with different {name}: {self._fitted_params[name]} and "
                f"{other._fitted_params[name]}"
            )
        fitting.ensure_sums(other)
        fitting.add(self, other._store, other._scorer)  # first: it may refuse
        self._held_out.merge(other._held_out)
        self._grouped |= other._grouped
        self.unreadable_ = self.unreadable_ + other.unreadable_
        return self

    def set_fpr(self, fpr: float) -> Self:
        """Ask for another false-positive rate; no images and no refit are needed.

        The rate holds for good images that are exchangeable with those of the fit.
        """
        self.fpr = check_fpr(fpr)
        return self

    # -- asking ----------------------------------------------------------------------------

    def anomaly_score(self, X: Any) -> Floats:
        """Anomaly score of each image, shape (n,), up = abnormal."""
        return self._score_all(X)[0]

    def level_scores(self, X: Any) -> Floats:
        """Anomaly scores per level, shape (n, n_levels), up = abnormal; they sum to the score."""
        levels = self._score_all(X)[1]
        if levels is None:
            raise InputError(f"the scorer {self._scorer!r} has no scores per level")
        return levels

    def score_samples(self, X: Any) -> Floats:
        """Negative anomaly score, shape (n,), up = normal (scikit-learn's sign)."""
        return -self.anomaly_score(X)

    def decision_function(self, X: Any) -> Floats:
        """Distance to the threshold, shape (n,), negative = flagged."""
        threshold = self._fitted_threshold()
        critical = threshold.critical_value(check_fpr(self.fpr))
        return np.asarray(critical - threshold.statistic(*self._score_all(X)))

    def predict(self, X: Any) -> NDArray[np.int64]:
        """+1 for good images and -1 for anomalies, shape (n,)."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def p_values(self, X: Any) -> Floats:
        """p-value of each image, shape (n,), small = abnormal."""
        threshold = self._fitted_threshold()
        return threshold.p_values(threshold.statistic(*self._score_all(X)))

    def anomaly_map(self, X: Any) -> Floats:
        """Where each image differs from the good ones, up = abnormal.

        Returns
        -------
        ndarray of shape (n, side, side)
            Over the image squashed to a square of `side` pixels, the network's input times the
            tiles along a side, also where the network saw it padded (to the finest map, for
            features without images). Of the per-position scorer: standard deviations of good
            images. Of image-level Gaussians: the exact shares of positions in the score; they
            are signed, and their mean times side^2 is the score.

        Raises
        ------
        InputError
            The scorer has no maps, or an image cannot be read.
        """
        return np.concatenate([maps for _, maps in self._each_map(X)])

    def explain(self, X: Any) -> list[dict[str, Floats]]:
        """For each image, the maps of its levels on their own grids, (height, width).

        For image-level Gaussians their sum over positions is exactly the level's distance
        (`level_scores`). The per-position scorer has one map of all its levels, on the finest grid.
        Grids are over the network's whole square, with what an image was padded with.
        """
        return [maps for batch, _ in self._each_map(X) for maps in batch]

    def inspect(self, X: Any, *, maps: bool = False) -> Iterator[Result]:
        """Judge images one after the other; an unreadable one is reported, not raised.

        Parameters
        ----------
        X : images
        maps : bool, default=False
            With the anomaly map of every image.

        Yields
        ------
        Result
            One for each image, in order.
        """
        threshold, fpr = self._fitted_threshold(), check_fpr(self.fpr)
        threshold.critical_value(fpr)  # too few calibration images: better before the work
        for images, features in self._extract(X):
            names = [image.source.name for image in images if image.error is None]
            scores: Any = (np.empty(0), None)
            places: Any = None
            if names and maps and hasattr(self._scorer, "scores_and_maps"):
                scores, places = self._score_with_maps(features)
                places = in_pixels(self.features_, places, images)
            elif names:
                scores = self._score(features)
                places = self._maps_of(images, features)[1] if maps else None
            good = iter(
                judge(names, scores[0], scores[1], self._score_names(), threshold, fpr, places)
            )
            for image in images:
                if image.error is None:
                    yield next(good)
                else:
                    yield Result(image.source.name, error=str(image.error))

    @property
    def scorer_(self) -> Any:
        self._check_fitted()
        fitting.refresh(self)
        return self._scorer

    @property
    def calibration_scores_(self) -> Floats:
        self._check_fitted()
        fitting.refresh(self)
        return self._calibration_scores

    @property
    def calibration_method_(self) -> str:
        self._check_fitted()
        fitting.refresh(self)
        return self._calibration_method

    @property
    def threshold_(self) -> float:
        """Critical value at the present `fpr`: scores above it are flagged."""
        return self._fitted_threshold().critical_value(check_fpr(self.fpr))

    @property
    def map_threshold_(self) -> float:
        """Value of the anomaly map at which colour begins in flagged images, whatever the `fpr`.

        Every second good image exceeds it somewhere: the median of the largest values in their
        maps, each by the fit without the image. Show it in flagged images only, as overlays do:
        then no more than a share `fpr` of good images shows any colour.
        """
        self._check_fitted()
        fitting.refresh(self)
        return map_threshold(self._scorer)

    @property
    def n_images_(self) -> int:
        self._check_fitted()
        return self._store.n_seen

    # -- files -----------------------------------------------------------------------------

    def save(
        self, path: str | Path, *, include_features: bool = True, include_weights: bool = True
    ) -> None:
        """Write the fitted detector to one file (safetensors with a JSON header), atomically.

        Parameters
        ----------
        path : str or Path
        include_features : bool, default=True
            False leaves out the features of the fitted images: the loaded detector scores, but
            cannot be updated, merged or recalibrated. For a Gaussian without reduction.
        include_weights : bool, default=True
            Embed weights that came from a file or a hub, so that one file is all that scoring
            needs; False records their hash only. Weights of an installed package are always
            recorded by hash.

        Raises
        ------
        ModelFileError
            The file cannot be written; an older file of that name is then intact.
        """
        self._check_fitted()
        self._check_unchanged()
        fitting.refresh(self)
        persistence.save(
            self, path, include_features=include_features, include_weights=include_weights
        )

    @classmethod
    def load(cls, path: str | Path, **options: Any) -> Self:
        """Read a detector of this class; the options and errors are those of `mahalad.load`."""
        from mahalad.loading import load

        detector = load(path, **options)
        if not isinstance(detector, cls):
            raise InputError(
                f"{path}: holds a {type(detector).__name__}, not a {cls.__name__}: use mahalad.load"
            )
        return detector

    # -- inside ----------------------------------------------------------------------------

    def _make_parts(self) -> tuple[Any, Any]:
        """Fresh feature extractor and scorer, unfitted."""
        scorer = make_scorer("gaussian") if self.scorer is None else self.scorer
        return copy_extractor(self.features), clone(scorer)

    def __sklearn_clone__(self) -> Self:
        copy: Self = super().__sklearn_clone__()
        if "features" in self.get_params(deep=False):  # fitted ones stay so: `fit` does not
            copy.features = copy_extractor(self.features)
        return copy

    def _most_stored(self) -> int:
        return 10_000 if self.max_stored is None else self.max_stored

    def _extract(self, X: Any) -> Iterator[Batch]:
        return extract(X, self.features_, self._salt())

    def _score(self, features: Features) -> tuple[Floats, Floats | None]:
        """Anomaly scores (n,) and per level (n, n_levels) of features (n, copies, D)."""
        return score(self._scorer, in_order(features, self._level_names))

    def _score_with_maps(self, features: Features) -> tuple[tuple[Floats, Floats], Floats]:
        return score_with_maps(self._scorer, in_order(features, self._level_names))

    def _maps_of(
        self, images: list[ReadImage], features: Features
    ) -> tuple[list[dict[str, Floats]], Floats]:
        """For each readable image the maps of its levels; and all maps in image coordinates."""
        return maps_of(self.features_, self._scorer, images, features, self._level_names)

    def _each_map(self, X: Any) -> Iterator[tuple[list[dict[str, Floats]], Floats]]:
        self._check_fitted()
        fitting.refresh(self)
        for images, features in self._extract(X):
            _raise_first_error(images)
            yield self._maps_of(images, features)

    def _score_names(self) -> Sequence[str]:
        return getattr(self._scorer, "score_names_", self._level_names)

    def _score_all(self, X: Any) -> tuple[Floats, Floats | None]:
        self._check_fitted()
        fitting.refresh(self)
        parts = []
        for images, features in self._extract(X):
            _raise_first_error(images)
            parts.append(self._score(features))
        scores = np.concatenate([score for score, _ in parts])
        levels = [level for _, level in parts if level is not None]
        return scores, np.concatenate(levels) if levels else None

    def _fitted_threshold(self) -> Threshold:
        self._check_fitted()
        fitting.refresh(self)
        degrees = getattr(self._scorer, "degrees_of_freedom_", None)
        return fit_threshold(
            self.threshold, self._calibration_method, self._calibration_scores, degrees
        )

    def _warn_if_uncalibrated(self) -> None:
        try:
            self._fitted_threshold().critical_value(self.fpr)
        except CalibrationError as error:
            warnings.warn(f"images can be scored but not judged: {error}", stacklevel=3)

    def _check_parameters(self, calibration: Any) -> None:
        check_fpr(self.fpr)
        check_threshold(self.threshold)
        for name, least in (("n_augment", 0), ("n_folds", 2), ("max_stored", 2)):
            value = self._most_stored() if name == "max_stored" else getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
                raise InputError(f"{name} must be a whole number >= {least}, got {value!r}")
        seed = self.random_state
        if seed is not None and not (isinstance(seed, (int, np.integer)) and 0 <= seed < 2**63):
            raise InputError(f"random_state must be None or a whole number >= 0, got {seed!r}")
        if not 0 < self.holdout_fraction < 1:
            raise InputError(
                f"holdout_fraction must lie between 0 and 1, got {self.holdout_fraction!r}"
            )
        if calibration is not None and self.threshold != "holdout":
            raise InputError(
                f"calibration images are for threshold='holdout', not {self.threshold!r}"
            )

    def _check_fitted(self) -> None:
        if not hasattr(self, "_store"):
            raise NotFittedError(
                f"this {type(self).__name__} is not fitted: call fit with good images, or load "
                "a model file"
            )

    def _check_updatable(self) -> None:
        self._check_fitted()
        self._check_unchanged()
        if self._store.is_empty and self._store.n_seen:
            raise InputError(
                "this model was saved without the features of its images: it can score, but not "
                "be updated or merged"
            )

    def _params_of_fit(self) -> dict[str, Any]:
        """Parameters as JSON, without those that may change after a fit."""
        params = params_spec(self)
        params["threshold"] = "holdout" if self.threshold == "holdout" else "leave-out"
        return {name: value for name, value in params.items() if name not in _MAY_CHANGE}

    def _changed_since(self, params: dict[str, Any], names: Sequence[str] = ()) -> list[str]:
        now = self._params_of_fit()
        return [n for n in names or now if n in now and now[n] != params.get(n)]

    def _check_unchanged(self) -> None:
        changed = self._changed_since(self._fitted_params)
        if changed:
            raise InputError(f"{', '.join(changed)} changed by set_params after the fit: fit again")

    def _salt(self) -> int:
        return 0 if self.random_state is None else int(self.random_state)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_store")


def _raise_first_error(images: Sequence[ReadImage]) -> None:
    for image in images:
        if image.error is not None:
            raise type(image.error)(
                f"{image.error} (inspect() reports such images and scores the rest)"
            ) from image.error
