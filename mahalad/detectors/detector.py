"""The detectors: images to features to scores to a threshold with the asked false-positive rate."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import OutlierMixin

from mahalad.detectors import file, lots
from mahalad.detectors.asking import Fitted
from mahalad.detectors.calibrating import calibrate, copies_in
from mahalad.detectors.checkpoints import Checkpoint, read_with_checkpoint
from mahalad.detectors.fit_warnings import warn_of_copies, warn_of_mixture
from mahalad.detectors.fitting import FitReader, read
from mahalad.detectors.given import check_columns, check_good
from mahalad.detectors.maps import map_threshold
from mahalad.detectors.parameters import FitParameters
from mahalad.detectors.removing import without
from mahalad.detectors.state import LEFT_OUT, Calibrated, FitRecipe, FitState, joined_depths
from mahalad.detectors.suspects import suspected
from mahalad.detectors.turning import check_orientation, lies_at_any_angle
from mahalad.errors import CalibrationError, InputError
from mahalad.features.file import engines_of, restore_features
from mahalad.features.parameters import (
    ask_for,
    changed_params,
    check_unchanged,
    run_as_asked,
)
from mahalad.files.classes import class_named
from mahalad.files.container import read_model, write_model
from mahalad.files.damage import naming
from mahalad.files.spec import params_spec, to_spec
from mahalad.protocols import Floats, Threshold
from mahalad.result import Result, judge
from mahalad.scorers.capabilities import degrees_of_freedom
from mahalad.thresholds.conformal import ConformalThreshold, check_fpr
from mahalad.thresholds.guarantee import Guarantee, guarantee_of
from mahalad.thresholds.rules import (
    check_calibration,
    check_threshold,
    fit_threshold,
    needs_scores,
)
from mahalad.unfitted import NotFittedError

_log = logging.getLogger(__name__)

_MUST_MATCH = (
    "threshold", "tolerate", "any_orientation", "n_augment", "random_state", "max_stored",
    "near_copies",
)  # fmt: skip


class AnomalyDetector(OutlierMixin, FitParameters):
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
        ``"conformal"`` (leave-one-out or cross-fitted), ``"holdout"`` (split conformal),
        ``"tolerance"`` (the rate of this fit is bounded with 95 % confidence;
        `ToleranceThreshold` for another), ``"chi2"`` or ``"chi2-nominal"``.
    fpr : float, default=0.05
        Share of good images that may be flagged, on average over fits, if they come as those of
        the fit came (exchangeable); `guarantee_` has a bound for one fit, and
        ``threshold="tolerance"`` keeps it below `fpr`. Changeable after fit (`set_fpr`).
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
    near_copies : {"group", "separate"}, default="group"
        What to make of pictures that are another one saved again (in another format, at another
        size, a frame of a camera that stands still), where no `groups` say what they show: one part
        together with it, or parts of their own. Left apart they would be scored by a fit that
        knows them, and any rate would be exceeded. Exact copies are always one part.
    tolerate : "auto" or sequence of str, default=()
        Harmless changes of pictures that shall not be taken for defects; see
        `MahalanobisDetector`. ``"auto"``: all, if the scorer is a Gaussian for each level or
        position without a reduction, and not for ``threshold="chi2-nominal"``.
    any_orientation : "auto" or bool, default=False
        Whether images of the fit count in their four quarter turns; see `MahalanobisDetector`.

    Attributes
    ----------
    features_, scorer_
        The fitted parts.
    calibration_scores_ : ndarray of shape (n_calibration,)
        Honest anomaly scores of good images, up = abnormal.
    calibration_method_ : {"leave-one-out", "cross-fit", "holdout", "none"}
    guarantee_ : Guarantee
        What the threshold promises, on average over fits and of this one.
    n_images_ : int
        Images fitted.
    fit_date_ : str or None
        Day of the fit.
    any_orientation_ : bool
        Whether images were fitted in their four quarter turns.
    unreadable_ : list of Result
        Images that `fit` had to leave out.
    copies_ : list of list of str
        Names of images that are copies or near-copies of each other.
    suspects_ : list of Result
        Images of the fit that do not fit the others.

    Notes
    -----
    After a fit, `set_params` may change `fpr`, `batch_size` and `device`, `bits` and `channels`,
    which say how images are read, and `threshold` among rules that use the same scores: they take
    effect at the next question. If any other parameter is changed, questions and `save` raise
    `InputError` until it is set back, or `fit` called.

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

    features_: Any
    _state: FitState
    _calibrated: Calibrated | None  # None: images were added since it was made

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
        near_copies: str = "group",
        tolerate: str | Sequence[str] = (),
        any_orientation: str | bool = False,
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
        self.near_copies = near_copies
        self.tolerate = tolerate
        self.any_orientation = any_orientation

    # -- fitting ---------------------------------------------------------------------------

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        groups: Sequence[Any] | None = None,
        calibration: Any = None,
        calibration_groups: Sequence[Any] | None = None,
        checkpoint: str | Path | None = None,
        checkpoint_every: int = 1000,
    ) -> Self:
        """Fit to good images, forgetting earlier ones.

        Parameters
        ----------
        X : images
            A folder, a glob, a list of paths, PIL images or arrays, or an iterator of these
            (see `mahalad.images.iter_sources`); features where `features` is None. Arrays have red
            first, unless the features' ``channels="bgr"`` says that they are of OpenCV.
        y : array of shape (n_images,), optional
            Only looked at for labels -1, abnormal, which are an `InputError`.
        groups : sequence of length n_images, optional
            What each image shows (a part's serial number, say). Images of one group are left
            out together and count as one, so that the rate holds for parts that were never seen.
        calibration : images, optional
            Further good images, of other parts than X, on which ``threshold="holdout"`` or
            ``"tolerance"`` sets the threshold.
        calibration_groups : sequence of length n_calibration_images, optional
            What each of these shows.
        checkpoint : str or Path, optional
            File that keeps what is read so far: where it is there, the fit goes on from it, and is
            that of a run that was not broken off. It may be deleted afterwards.
        checkpoint_every : int, default=1000
            Images after which it is written, rounded up to whole batches.

        Returns
        -------
        self

        Warns
        -----
        UnreadableImageWarning
            For each image that could not be read; it is left out and listed in `unreadable_`.
        UserWarning
            Images are copies or near-copies of others, or calibration images show parts of the fit
            and do not count.

        Raises
        ------
        InputError
            No images, only one, or parameters out of range; the checkpoint of another fit.
        DegenerateDataError
            All images are the same.
        ModelFileError
            The checkpoint cannot be written or read.
        """
        check_good(y)
        keep = None if checkpoint is None else (checkpoint, checkpoint_every)
        return self._begin(X, groups, calibration, calibration_groups, keep=keep)

    def fit_predict(
        self, X: Any, y: Any = None, *, groups: Sequence[Any] | None = None
    ) -> NDArray[np.int64]:
        """Fit to good images and judge them: +1 for good and -1 for abnormal ones, shape (n,).

        Parameters are those of `fit`, and iterators are read into a list.
        """
        X = [copy.copy(image) for image in X] if isinstance(X, Iterator) else X
        return self.fit(X, y, groups=groups).predict(X)

    def partial_fit(self, X: Any, y: Any = None, *, groups: Sequence[Any] | None = None) -> Self:
        """Add good images; the result is that of one fit on all of them.

        The first call may be with a single image; questions need two. With
        ``any_orientation="auto"``, whether parts lie at any angle is found out by the first images.
        """
        check_good(y)
        if not self.__sklearn_is_fitted__():
            return self._begin(X, groups, fewest=1)
        self._check_updatable()
        if self.features_ is None:
            check_columns(X, self._state.columns)
        mine, recipe = self._with_sums(self._state), self._recipe()
        added = read(
            X,
            self.features_,
            self.unfitted_scorer,
            recipe,
            groups=groups,
            levels=tuple(mine.levels),
            bounds=mine.bounds,
        )
        self._state = mine.merge(added)
        _log.info("%d images added to %d", added.store.n_seen, mine.store.n_seen)
        warn_of_mixture(self._state, mine, self.features_)
        if added.store.n_seen:
            self._calibrated = None
        return self

    def merge(self, other: AnomalyDetector) -> Self:
        """Add the images of another fitted detector with the same parameters.

        Fits on shards of the images, merged, equal one fit on all of them; where only one of both
        found that parts lie at any angle, one with ``any_orientation=False``.

        Warns
        -----
        UserWarning
            That is so.

        Raises
        ------
        InputError
            The other detector has other features (network, weights, levels, size) or another
            scorer; or one of both found parts at any angle, and not all of its images are kept.
        """
        self._check_updatable()
        other._check_updatable()
        mine, theirs = file.identity_of(self.features_), file.identity_of(other.features_)
        if mine != theirs:
            difference = file.describe_difference(mine, theirs)
            raise InputError(f"cannot merge fits with different features: {difference}")
        mine, theirs = to_spec(self.unfitted_scorer()), to_spec(other.unfitted_scorer())
        if mine != theirs:
            raise InputError(
                f"cannot merge fits with different scorer: {mine} and {theirs}; fit one of them "
                "with the parameters of the other (an older model has the defaults of its time)"
            )
        mine, theirs = self._state.params, other._state.params
        for name in _MUST_MATCH:
            if name in changed_params(mine, theirs):
                raise InputError(
                    f"cannot merge fits with different {name}: {mine[name]} and {theirs[name]}"
                )
        mine, theirs = self._state, other._state
        if mine.turned != theirs.turned and mine.store.n_seen and theirs.store.n_seen:
            mine, theirs = mine.as_they_are(), theirs.as_they_are()
            warnings.warn(
                "the parts of one of both fits were found to lie at any angle, and those of the "
                "other were not: the fit to all takes images as they are (any_orientation=True or "
                "False in both says which)",
                stacklevel=2,
            )
        mine = self._with_sums(mine)
        self._state = mine.merge(self._with_sums(theirs))
        _log.info("%d images joined with %d", self.n_images_ - mine.store.n_seen, mine.store.n_seen)
        warn_of_mixture(self._state, mine, self.features_)
        self._calibrated = None
        return self

    def remove(self, X: Any) -> Self:
        """Take images out of the fit; what is left is the fit to the others.

        Parameters
        ----------
        X : images
            Pictures that are in the fit, as those of `suspects_`; copies of one go together.

        Raises
        ------
        InputError
            An image that is not in the fit (or was not kept, see `max_stored`), or that cannot be
            read. Nothing is removed then.

        Warns
        -----
        UserWarning
            Not all images were kept, and of those that were not patches are missing now.
        """
        self._check_updatable()
        mine, recipe = self._with_sums(self._state), self._recipe()
        all_kept = replace(recipe, capacity=None, n_augment=0, turned=False, tolerate=())
        found = read(
            X, self.features_, lambda: None, all_kept, levels=tuple(mine.levels), to_fit=False
        )
        if found.unreadable:
            raise InputError(f"cannot be removed: {found.unreadable[0].error}")
        self._state = without(mine, found.store.kept, self.unfitted_scorer)
        _log.info("%d images left of %d", self.n_images_, mine.store.n_seen)
        self._state = self._with_sums(self._state)
        self._calibrated = None
        if mine.changes.n_images and not self._state.changes.n_images:
            warnings.warn(
                "every image whose harmless changes were tolerated is removed: nothing is "
                "tolerated until good images are added; fit again, or add some",
                stacklevel=2,
            )
        return self

    def reader(
        self, header: dict[str, Any] | None = None, arrays: file.Arrays | None = None
    ) -> FitReader:
        """Make what reads good images in parts, here or on other machines, to be fitted to.

        Parameters
        ----------
        header, arrays : optional
            What `mahalad.detectors.parts.pack_reader` said elsewhere of the same features.

        Returns
        -------
        FitReader
            It knows the parameters of now. This detector does not change.
        """
        self._check_parameters(None)
        features, _ = self.unfitted_parts()
        if header is not None:
            if header["autoencoder"] is not None:
                file.restore_learned(features, header["autoencoder"], arrays or {})
            if header["features"] is not None:
                restore_features(features, header["features"], arrays or {})
        elif features is not None:
            features.build()
        if features is None and self.n_augment:
            raise InputError("n_augment changes images; it needs a feature extractor")
        if features is None and self.tolerate != "auto" and self.tolerated():
            raise InputError("tolerate is about images; it needs a feature extractor")
        check_orientation(self.any_orientation, features)
        return FitReader(
            type(self).__name__,
            params_spec(self),
            features,
            self.unfitted_scorer,
            replace(self._recipe(), turned=super()._turns()),  # whatever an earlier fit found
            {
                "params": self._params_of_fit(),
                "features": None if header is not None else file.identity_of(features),
            },
        )

    def fit_state(self, reader: FitReader, state: FitState) -> Self:
        """Become the fit to the images of a state, calibrated, forgetting earlier ones.

        Parameters
        ----------
        reader : FitReader
            Of this detector, by `reader`; its parameters are not changed since.
        state : FitState
            What it read, here or elsewhere, merged by `FitState.merge`.

        Raises
        ------
        InputError, CalibrationError, DegenerateDataError
            As of `fit`.
        """
        return self._become(reader, state, stacklevel=4)

    def set_fpr(self, fpr: float) -> Self:
        """Ask for another false-positive rate; no images and no refit are needed.

        The rate holds for good images that are exchangeable with those of the fit.
        """
        self.fpr = check_fpr(fpr)
        return self

    # -- asking ----------------------------------------------------------------------------

    def anomaly_score(self, X: Any) -> Floats:
        """Anomaly score of each image, shape (n,), up = abnormal."""
        return self._fitted().scores(X)[0]

    def level_scores(self, X: Any) -> Floats:
        """Anomaly scores per level, shape (n, n_levels), up = abnormal; they sum to the score.

        Of an image of the fit they are by the fit as it is, and the score by the fit without it.
        """
        levels = self._fitted().scores(X)[1]
        if levels is None:
            raise InputError(f"the scorer {self.scorer_!r} has no scores per level")
        return levels

    def score_samples(self, X: Any) -> Floats:
        """Negative anomaly score, shape (n,), up = normal (scikit-learn's sign)."""
        return -self.anomaly_score(X)

    def decision_function(self, X: Any) -> Floats:
        """Distance to the threshold, shape (n,), negative = flagged."""
        threshold = self._fitted_threshold()
        critical = threshold.critical_value(check_fpr(self.fpr))
        return np.asarray(critical - threshold.statistic(*self._fitted().scores(X)))

    def predict(self, X: Any) -> NDArray[np.int64]:
        """+1 for good images and -1 for anomalies, shape (n,)."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def p_values(self, X: Any) -> Floats:
        """p-value of each image, shape (n,), small = abnormal."""
        threshold = self._fitted_threshold()
        return threshold.p_values(threshold.statistic(*self._fitted().scores(X)))

    def select(self, X: Any, *, fdr: float = 0.1) -> NDArray[np.bool_]:
        """Select the abnormal images of a lot, with a bounded share of good ones among them.

        Where `predict` bounds the share of good images that are flagged, this bounds the share of
        those flagged that are good, whatever the lot has of both; `fpr` and `threshold` play no
        part.

        Parameters
        ----------
        X : images
            The whole lot.
        fdr : float, default=0.1
            False-discovery rate, on average over fits and lots.

        Returns
        -------
        ndarray of bool, shape (n,)

        Raises
        ------
        CalibrationError
            A fit without calibration scores (``threshold="chi2-nominal"``).

        Notes
        -----
        Benjamini and Hochberg's procedure on conformal p-values. With images held out
        (``threshold="holdout"``) the rate is a theorem (Bates et al., Annals of Statistics 2023);
        with leave-one-out it is simulated. With n calibration images no p-value is below
        1 / (n + 1): of a lot of m images none is selected unless m / (n + 1) / fdr are abnormal.
        """
        return lots.select(self._conformal_rule(), self.anomaly_score(X), fdr)

    def judge_lot(self, X: Any, *, fdr: float = 0.1) -> lots.Lot:
        """Judge a lot as `select` does; an unreadable image is reported, not raised.

        Returns
        -------
        Lot
            Its `results` in order, and the estimated `share` of abnormal images.
        """
        rule = self._conformal_rule()
        judged = self._fitted().inspect(X, rule, 0.5)  # this rate says nothing: the lot decides
        return lots.judge_lot(judged, rule, fdr)

    def anomaly_map(self, X: Any) -> Floats:
        """Where each image differs from the good ones, up = abnormal.

        Returns
        -------
        ndarray of shape (n, side, side)
            A map covers the image, squashed to a square of `side` pixels: the network's input
            times the tiles along a side, also if the network saw the image padded. For features
            without images it has the size of the finest map. Of an image of the fit it is by the
            fit as it is, and the score by the fit without it. The per-position scorer gives
            standard deviations of good images. Image-level Gaussians give the exact shares of
            positions in the score: they are signed, and their mean times side^2 is the score.

        Raises
        ------
        InputError
            The scorer has no maps, or an image cannot be read.
        """
        return np.concatenate([maps for _, maps in self._fitted().maps(X)])

    def explain(self, X: Any) -> list[dict[str, Floats]]:
        """Return, for each image, the maps of its levels on their own grids, (height, width).

        A map of an image-level Gaussian sums, over positions, to exactly the level's distance
        (`level_scores`). The per-position scorer has one map of all its levels, on the finest grid.
        Grids cover the network's whole square, with what an image was padded with.
        """
        return [maps for batch, _ in self._fitted().maps(X) for maps in batch]

    def inspect(
        self, X: Any, *, maps: bool = False, batch_size: int | None = None
    ) -> Iterator[Result]:
        """Judge images one after the other; an unreadable one is reported, not raised.

        Parameters
        ----------
        X : images
        maps : bool, default=False
            With the anomaly map of every image.
        batch_size : int, optional
            Images drawn from X and judged together. None: 1 if X is a stream (an iterator, anything
            without a length), so that each result comes before the next image is drawn; else the
            detector's own number. It changes no result, and is not for features.

        Yields
        ------
        Result
            One for each image, in order.

        Raises
        ------
        Exception
            What drawing from X raises, after the results of what was drawn before.
        """
        threshold, fpr = self._fitted_threshold(), check_fpr(self.fpr)
        threshold.critical_value(fpr)  # too few calibration images: better before the work
        yield from self._fitted().inspect(
            X, threshold, fpr, maps=maps, batch_size=batch_size, promptly=True
        )

    @property
    def scorer_(self) -> Any:
        """Scorer, fitted to all images so far."""
        return self._up_to_date().scorer

    @property
    def calibration_scores_(self) -> Floats:
        """Honest anomaly scores of good images, shape (n_calibration,), up = abnormal."""
        return self._up_to_date().scores

    @property
    def calibration_method_(self) -> str:
        """How these scores were made: "leave-one-out", "cross-fit", "holdout" or "none"."""
        return self._up_to_date().method

    @property
    def threshold_(self) -> float:
        """Critical value at the present `fpr`: scores above it are flagged."""
        return self._fitted_threshold().critical_value(check_fpr(self.fpr))

    @property
    def guarantee_(self) -> Guarantee:
        """What the threshold promises at the present `fpr`, with a bound for the rate of this fit.

        The `fpr` is a rate on average over fits; the rate of one fit to 100 good images at 5 % may
        be 8.9 %. Its `str` is a sentence.
        """
        fitted = self._up_to_date()
        found = guarantee_of(
            to_spec(self.threshold),
            fitted.method,
            len(fitted.scores),
            check_fpr(self.fpr),
            n_independent=float(fitted.weights.sum()),
            counts_parts=fitted.counts_parts,
        )
        try:
            self._fitted_threshold()
        except CalibrationError as error:
            return replace(found, bound=None, reason=str(error))
        return found

    @property
    def map_threshold_(self) -> float:
        """Value of the anomaly map at which colour begins in flagged images, whatever the `fpr`.

        It is the median of the largest values in the maps of good images, each by the fit without
        the image: every second good image exceeds it somewhere. Colour flagged images only, as
        overlays do. Then no more than a share `fpr` of good images shows any colour.
        """
        return map_threshold(self._up_to_date().scorer)

    @property
    def n_images_(self) -> int:
        """Number of images fitted."""
        self._check_fitted()
        return self._state.store.n_seen

    @property
    def fit_date_(self) -> str | None:
        """Day of the fit, or of the last change of its images, ISO 8601 in UTC.

        None for a model file of before there were dates.
        """
        return self._up_to_date().date

    @property
    def n_features_in_(self) -> int:
        """Number of features, of a fit to an array of features."""
        self._check_fitted()
        levels = self._state.levels
        if self.features_ is not None or list(levels) != ["features"]:
            raise AttributeError("n_features_in_ is for fits to an array of features")
        return int(levels["features"][-1])

    @property
    def feature_names_in_(self) -> NDArray[np.object_]:
        """Names of the features, shape (n_features_in_,), of a fit to a data frame."""
        self._check_fitted()
        if not self._state.columns:
            raise AttributeError("feature_names_in_ is for fits to a data frame")
        return np.array(self._state.columns, dtype=object)

    @property
    def unreadable_(self) -> list[Result]:
        """Images that were left out of the fit, with the reasons."""
        self._check_fitted()
        return list(self._state.unreadable)

    @property
    def any_orientation_(self) -> bool:
        """Whether images were fitted in their four quarter turns."""
        self._check_fitted()
        return self._state.turned

    @property
    def suspects_(self) -> list[Result]:
        """Images of the fit that do not fit the others, the most abnormal first.

        By the score without the image itself, more than 4 robust standard deviations above the
        median. About 1 % of good images is listed as well. They stay in the fit; `remove` takes
        them out.
        """
        threshold, fitted = self._fitted_threshold(), self._up_to_date()
        store = self._state.store
        if store.is_empty or fitted.method not in LEFT_OUT:
            return []
        which = np.flatnonzero(suspected(fitted.scores, fitted.weights))
        which = which[np.argsort(-fitted.scores[which], kind="stable")]
        names, marks = store.kept.names[which].tolist(), np.ones(len(which), dtype=bool)
        scores = fitted.scores[which]
        try:
            return judge(names, scores, None, (), threshold, self.fpr, None, marks, marks)
        except CalibrationError:  # too few images for a verdict, not for these
            return [Result(*pair, in_fit=True) for pair in zip(names, scores.tolist(), strict=True)]

    @property
    def copies_(self) -> list[list[str]]:
        """Names of images of the fit that are copies, or taken for near-copies, of each other."""
        self._check_fitted()
        return copies_in(self._state.store, self._recipe())

    def parts_to_ask(self) -> tuple[Fitted, Calibrated]:
        """Give all that scoring and judging need, as values: for an export."""
        return self._fitted(), self._up_to_date()

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
            cannot be updated, merged or recalibrated. Only Gaussians without a reduction can be
            saved so.
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
        header, arrays = file.describe(
            type(self).__name__,
            params_spec(self),
            self.features_,
            self._state,
            self._up_to_date(),
            include_features=include_features,
            include_weights=include_weights,
        )
        write_model(path, header, arrays)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        weights: str | Path | None = None,
        device: str | None = None,
        engine: str | None = None,
        features: Any = None,
        scorer: Any = None,
        threshold: Any = None,
    ) -> Self:
        """Read a detector of this class; the options and errors are those of `mahalad.load`."""
        header, arrays = read_model(path)
        given = {"features": features, "scorer": scorer, "threshold": threshold}
        with naming(path):
            saved = class_named(file.class_of(header))
            detector = saved(**file.read_params(header, arrays, given))
            if isinstance(detector, AnomalyDetector):
                detector._restore(header, arrays, weights, {"device": device, "engine": engine})
        if not isinstance(detector, cls):
            raise InputError(
                f"{path}: holds a {saved.__name__}, not a {cls.__name__}: use mahalad.load"
            )
        return detector

    def _restore(
        self, header: dict[str, Any], arrays: file.Arrays, weights: Any, asked: dict[str, Any]
    ) -> None:
        """Become fitted as a file says, and check the golden inputs."""
        if self.unfitted_parts()[0] is not None:
            for name, value in asked.items():
                if value is not None:
                    ask_for(self, name, value, ("features",))
        self._check_values()
        if header["autoencoder"] is not None:
            file.restore_learned(self.features, header["autoencoder"], arrays)
        features, _ = self.unfitted_parts()
        if header["features"] is not None:
            restore_features(features, header["features"], arrays, weights)
        else:
            file.build_outside(features)
        state, calibrated = file.restore(header, arrays, self._recipe(), self.unfitted_scorer)
        state = replace(state, params=self._params_of_fit())
        found = file.golden_scores(features, state, calibrated.scorer)
        file.check_golden(found, header["golden"], engines_of(features, header["features"]))
        self.features_, self._state, self._calibrated = features, state, calibrated

    # -- inside ----------------------------------------------------------------------------

    def _begin(
        self,
        X: Any,
        groups: Any,
        calibration: Any = None,
        calibration_groups: Any = None,
        *,
        fewest: int = 2,
        keep: tuple[str | Path, int] | None = None,
    ) -> Self:
        """Fit to good images; of fewer than two, if so few will do, wait for the next ones."""
        self._check_parameters(calibration, calibration_groups)
        for name in ("_state", "_calibrated", "features_"):
            self.__dict__.pop(name, None)  # a failed fit leaves no half-fitted detector
        reader, kept, every = self.reader(), None, 0
        if keep is not None:
            every = reader.whole_batches(keep[1])
            kept = Checkpoint(keep[0], reader.recipe, reader.make_scorer, reader.identity)
        if self.any_orientation == "auto":
            found = None if kept is None else kept.turned
            if found is None:
                found = lies_at_any_angle(
                    X, reader.features, reader.make_scorer(), groups, reader.recipe.salt
                )
            reader = replace(reader, recipe=replace(reader.recipe, turned=found))
        if kept is None:
            state = reader.read(X, groups, to_fit=True, stacklevel=4)
        else:
            state = read_with_checkpoint(reader.read, X, groups, every, kept, stacklevel=4)
        if calibration is not None:
            state = _holding_out(
                state, calibration, calibration_groups, reader.features, reader.recipe
            )
        return self._become(reader, state, fewest, stacklevel=5)

    def _become(
        self, reader: FitReader, state: FitState, fewest: int = 2, *, stacklevel: int
    ) -> Self:
        """Take a state and calibrate it, unless more images are waited for."""
        state = replace(state, params=self._params_of_fit())
        calibrated = None
        if not fewest <= state.store.n_seen < 2:
            recipe = replace(reader.recipe, turned=state.turned)
            calibrated = calibrate(state, recipe, self.unfitted_scorer)
        self.features_, self._state, self._calibrated = reader.features, state, calibrated
        _log.info("%s: threshold %s, fpr %g", type(self).__name__, self.threshold, self.fpr)
        warn_of_mixture(state, FitState(), self.features_, stacklevel)
        if calibrated is not None:
            warn_of_copies(state, recipe, stacklevel)
            self._warn_if_uncalibrated(stacklevel)
        return self

    def _turns(self) -> bool:
        """Whether images are fitted turned: once there is a fit, it says so."""
        return self._state.turned if self.__sklearn_is_fitted__() else super()._turns()

    def _with_sums(self, state: FitState) -> FitState:
        """A state with the sums of a scorer that has such."""
        return state.with_sums(self.unfitted_scorer) if self._recipe().streams else state

    def _up_to_date(self) -> Calibrated:
        """Scorer and calibration, brought up to date with all images added, and parameters.

        Raises
        ------
        InputError
            A parameter that only a fit can give effect was changed since.
        """
        self._check_fitted()
        self._check_as_fitted()
        if self._calibrated is None:
            self._calibrated = calibrate(self._state, self._recipe(), self.unfitted_scorer)
        elif self._calibrated.method == "none" and needs_scores(self.threshold):
            raise InputError(
                f"threshold changed by set_params after the fit: {self.threshold!r} needs the "
                "calibration scores of good images, and this fit has none: fit again, or set it "
                "back (threshold='chi2-nominal')"
            )
        run_as_asked(self.features_, self.get_params(), "features")
        return self._calibrated

    def _fitted(self) -> Fitted:
        fitted, state = self._up_to_date(), self._state
        keys, scores = state.left_out(fitted)
        if not needs_scores(self.threshold):  # its verdicts are not about scores
            scores = np.full(len(keys), np.nan)
        return Fitted(
            self.features_,
            fitted.scorer,
            tuple(state.levels),
            self._salt(),
            keys,
            scores,
            columns=state.columns,
            depths=frozenset(state.depths or ()),
            calibration=fitted.scores,
            n_independent=float(fitted.weights.sum()),
        )

    def _fitted_threshold(self) -> Threshold:
        self._check_fitted()
        check_threshold(self.threshold)
        if self._calibrated is not None:
            check_calibration(self.threshold, self._calibrated.method)
        fitted = self._up_to_date()
        degrees = degrees_of_freedom(fitted.scorer)
        return fit_threshold(self.threshold, fitted.method, fitted.scores, degrees, fitted.weights)

    def _conformal_rule(self) -> ConformalThreshold:
        fitted = self._up_to_date()
        return lots.conformal_rule(fitted.scores, fitted.weights)

    def _warn_if_uncalibrated(self, stacklevel: int) -> None:
        try:
            self._fitted_threshold().critical_value(self.fpr)
        except CalibrationError as error:
            warnings.warn(f"images can be scored but not judged: {error}", stacklevel=stacklevel)

    def _check_fitted(self) -> None:
        if not self.__sklearn_is_fitted__():
            raise NotFittedError(
                f"this {type(self).__name__} is not fitted: call fit with good images, or load "
                "a model file"
            )

    def _check_updatable(self) -> None:
        self._check_fitted()
        self._check_as_fitted()
        run_as_asked(self.features_, self.get_params(), "features")
        if self._state.only_scores:
            raise InputError(
                "this model was saved without the features of its images: it can score, but not "
                "be updated or merged"
            )

    def _check_as_fitted(self) -> None:
        """Refuse parameters out of their limits, and those that were changed since the fit."""
        self._check_values()
        check_unchanged(self._state.params, self._params_of_fit())

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_state")


def _holding_out(
    state: FitState, X: Any, groups: Sequence[Any] | None, features: Any, recipe: FitRecipe
) -> FitState:
    """The state with further images that only set the threshold."""
    all_kept = replace(recipe, capacity=None, n_augment=0, turned=False, tolerate=())
    names = tuple(state.levels)
    given = read(X, features, lambda: None, all_kept, groups=groups, levels=names, stacklevel=5)
    if not given.store.n_seen:
        raise InputError("none of the calibration images could be read")
    unreadable = (*state.unreadable, *given.unreadable)
    depths = joined_depths(state.depths, given.depths)
    return replace(state, held_out=given.store, unreadable=unreadable, depths=depths)
