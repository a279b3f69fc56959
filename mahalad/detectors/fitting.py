"""The fit of a detector: images read into sums and a store, from these a scorer, calibrated.

The images come in batches, at any time; scorer and calibration are brought up to date when they
are next needed.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mahalad.arrays import as_input_of, in_order, rows, take
from mahalad.detectors.reservoir import FeatureStore, own_groups
from mahalad.errors import InputError, UnreadableImageWarning
from mahalad.features.extraction import extract
from mahalad.images.reading import ReadImage
from mahalad.protocols import Floats
from mahalad.result import Result
from mahalad.scorers.capabilities import capabilities_of
from mahalad.thresholds.calibration import (
    choose_holdout,
    cross_fit_scores,
    leave_one_out_scores,
)

if TYPE_CHECKING:
    from mahalad.detectors.detector import AnomalyDetector


def reset(detector: AnomalyDetector) -> None:
    """Forget all images, and take the parameters as they are now."""
    detector.unreadable_ = []
    detector._grouped = False
    detector._level_names = ()
    detector._fitted_params = detector._params_of_fit()
    detector._held_out = FeatureStore()
    _, scorer = detector._make_parts()
    capacity = detector._most_stored() if _streams(detector, scorer) else None
    detector._store = FeatureStore(capacity)
    detector._stale = True


def _streams(detector: AnomalyDetector, scorer: Any) -> bool:
    """Whether the scorer learns batch by batch, so that features need not all be kept."""
    splits = detector.threshold == "holdout"
    return hasattr(scorer, "partial_fit") and hasattr(scorer, "merge") and not splits


def _is_mergeable(detector: AnomalyDetector) -> bool:
    return detector._store.capacity is not None


def ingest(
    detector: AnomalyDetector, X: Any, groups: Sequence[Any] | None, n_augment: int
) -> tuple[FeatureStore, Any]:
    """Read images into a store, and into a scorer of their own if it learns by batches."""
    store = FeatureStore(detector._store.capacity)
    scorer = detector._make_parts()[1]
    unreadable: list[Result] = []
    n_read = 0
    for images, features in extract(X, detector.features_, detector._salt(), n_augment):
        good = [i for i, image in enumerate(images, start=n_read) if image.error is None]
        keys = [image.key for image in images if image.error is None]
        n_read += len(images)
        if groups is not None and n_read > len(groups):
            raise InputError(f"groups has {len(groups)} entries, but X has more images")
        labels = own_groups(keys) if groups is None else [str(groups[i]) for i in good]
        for image in images:
            if image.error is not None:
                unreadable.append(_reported(image))
        if good:
            detector._level_names = detector._level_names or tuple(features)
            ordered = in_order(features, detector._level_names)
            store.add(ordered, keys, labels)
            if _is_mergeable(detector):
                scorer.partial_fit(as_input_of(scorer, rows(ordered)))
    if groups is not None and n_read != len(groups):
        raise InputError(f"groups has {len(groups)} entries, but X has {n_read} images")
    # Last: what failed until here has changed nothing.
    detector._grouped |= groups is not None
    detector.unreadable_.extend(unreadable)
    return store, scorer


def add(detector: AnomalyDetector, store: FeatureStore, scorer: Any) -> None:
    """Add images that were read: all at once, so that a failed read adds none."""
    if not store.n_seen:
        return
    if _is_mergeable(detector):
        if detector._store.n_seen:
            ensure_sums(detector)
            detector._scorer.merge(scorer)
        else:
            detector._scorer = scorer
    detector._store.merge(store)
    detector._stale = True


def _reported(image: ReadImage) -> Result:
    warnings.warn(f"left out of the fit: {image.error}", UnreadableImageWarning, stacklevel=4)
    return Result(image.source.name, error=str(image.error))


def refresh(detector: AnomalyDetector) -> None:
    """Bring scorer and calibration up to date with all images added."""
    if not detector._stale:
        return
    store = detector._store
    if store.n_seen < 2:
        raise InputError(
            f"a fit needs at least 2 good images that can be read, and has {store.n_seen}"
            + (f"; {len(detector.unreadable_)} could not be read" if detector.unreadable_ else "")
        )
    if not _is_mergeable(detector):
        fit_from_store(detector)
    detector._calibration_method, detector._calibration_scores = _calibrate(detector)
    detector._stale = False


def ensure_sums(detector: AnomalyDetector) -> None:
    """Sum anew what a model file keeps as features only."""
    if not getattr(detector._scorer, "has_sums_", True):
        fit_from_store(detector)
        detector._stale = True


def fit_from_store(detector: AnomalyDetector) -> None:
    """Fit a fresh scorer to the features that are kept, but for those held out."""
    detector._scorer = detector._make_parts()[1]
    fitted = np.flatnonzero(~_split_off(detector))
    training = take(detector._store.features, fitted)
    detector._scorer.fit(as_input_of(detector._scorer, rows(training)))
    apart = _repeated(detector._store.groups[fitted])
    n_copies = next(iter(training.values())).shape[1]
    if hasattr(detector._scorer, "map_maxima_") and (apart is not None or n_copies > 1):
        # `fit` knows neither groups nor copies, and standardized as if there were none.
        standards = leave_one_out_scores(detector._scorer, training, apart)[1]
        detector._scorer = detector._scorer.standardized_by(standards)


def _split_off(detector: AnomalyDetector) -> NDArray[np.bool_]:
    """True for the images that `fit` holds out for the threshold."""
    store = detector._store
    if detector.threshold == "holdout" and not detector._held_out.n_seen:
        return choose_holdout(store.keys, store.groups, detector.holdout_fraction)
    return np.zeros(store.n_kept, dtype=bool)


def _calibrate(detector: AnomalyDetector) -> tuple[str, Floats]:
    """Scores of good images that the scorer has not seen, after the way they were made."""
    if detector.threshold == "holdout":
        held = detector._held_out.features if detector._held_out.n_seen else None
        if held is None:
            held = take(detector._store.features, np.flatnonzero(_split_off(detector)))
        return "holdout", detector._score(held)[0]
    if detector.threshold == "chi2-nominal":
        if hasattr(detector._scorer, "anomaly_maps"):
            raise InputError(
                "threshold='chi2-nominal' is for Mahalanobis distances per level; the "
                "per-position scorer has none: use threshold='conformal'"
            )
        detector._score(take(detector._store.features, np.arange(1)))  # a degenerate fit shows here
        return "none", np.empty(0)
    features, groups = detector._store.features, detector._store.groups
    # A group that is only partly in the reservoir cannot be left out of the sums.
    whole = detector._store.is_complete or not detector._grouped
    can = capabilities_of(detector._scorer)
    if can.standardizes or (can.leaves_one_out and whole):
        groups_of = _repeated(groups) if whole else None
        scores, standards = leave_one_out_scores(detector._scorer, features, groups_of)
        if standards is not None:
            detector._scorer = detector._scorer.standardized_by(standards)
        if whole:
            return "leave-one-out", scores
    scorer = detector._make_parts()[1]
    return "cross-fit", cross_fit_scores(
        scorer, features, detector._store.keys, groups, detector.n_folds
    )


def _repeated(groups: NDArray[Any]) -> NDArray[Any] | None:
    """Groups where they matter. Exact copies of a picture are one: they tell nothing new."""
    return groups if len(np.unique(groups)) < len(groups) else None
