"""The fit of a detector: images to a state, a state to a calibrated scorer. Both are values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mahalad.arrays import as_input_of, in_order, rows, take
from mahalad.detectors.reservoir import FeatureStore, own_groups
from mahalad.detectors.scoring import score
from mahalad.detectors.state import Calibrated, FitRecipe, FitState, MakeScorer
from mahalad.errors import InputError
from mahalad.features.extraction import extract
from mahalad.images.reading import left_out
from mahalad.protocols import Features, Floats
from mahalad.result import Result
from mahalad.scorers.capabilities import capabilities_of
from mahalad.thresholds.calibration import choose_holdout, cross_fit_scores, leave_one_out_scores


def read(
    X: Any,
    features: Any,
    make_scorer: MakeScorer,
    recipe: FitRecipe,
    *,
    groups: Sequence[Any] | None = None,
    levels: Sequence[str] = (),
) -> FitState:
    """Read good images into a state of their own.

    Parameters
    ----------
    X : images, or features where `features` is None
    features : built feature extractor or None
    make_scorer : callable
        Makes the scorer that sums, where the recipe says that it does.
    recipe : FitRecipe
    groups : sequence of length n_images, optional
        What each image shows.
    levels : sequence of str, optional
        Names of the levels in the order of the fit, where images are added to one.

    Raises
    ------
    InputError
        `groups` and `X` differ in length, or the levels are not those of the fit.

    Warns
    -----
    UnreadableImageWarning
        For each image that could not be read.
    """
    store = FeatureStore(recipe.capacity)
    sums = make_scorer() if recipe.streams else None
    shapes: dict[str, list[int]] = {}
    unreadable: list[Result] = []
    n_read = 0
    for images, found in extract(X, features, recipe.salt, recipe.n_augment):
        good = [i for i, image in enumerate(images, start=n_read) if image.error is None]
        keys = [image.key for image in images if image.error is None]
        n_read += len(images)
        if groups is not None and n_read > len(groups):
            raise InputError(f"groups has {len(groups)} entries, but X has more images")
        labels = own_groups(keys) if groups is None else [str(groups[i]) for i in good]
        unreadable += left_out(images, stacklevel=4)
        if good:
            ordered = in_order(found, levels or tuple(shapes) or tuple(found))
            shapes = shapes or {name: list(F.shape[2:]) for name, F in ordered.items()}
            store.add(ordered, keys, labels)
            if sums is not None:
                sums.partial_fit(as_input_of(sums, rows(ordered)))
    if groups is not None and n_read != len(groups):
        raise InputError(f"groups has {len(groups)} entries, but X has {n_read} images")
    return FitState(
        store,
        scorer=sums if store.n_seen else None,
        levels=shapes,
        grouped=groups is not None,
        unreadable=tuple(unreadable),
    )


def calibrate(state: FitState, recipe: FitRecipe, make_scorer: MakeScorer) -> Calibrated:
    """Fit a scorer to all images of a state, and score good images by fits without them.

    Parameters
    ----------
    state : FitState
        It does not change.
    recipe : FitRecipe
    make_scorer : callable
        Makes a fresh scorer, for fits to a part of the images.

    Raises
    ------
    InputError
        Fewer than two images, or a threshold that the scorer is not for.
    CalibrationError
        Fewer than two independent images.
    DegenerateDataError
        The images leave nothing to estimate.
    """
    store = state.store
    if store.n_seen < 2:
        raise InputError(
            f"a fit needs at least 2 good images that can be read, and has {store.n_seen}"
            + (f"; {len(state.unreadable)} could not be read" if state.unreadable else "")
        )
    scorer = fit_scorer(state, recipe, make_scorer)
    if recipe.holds_out:
        held = state.held_out
        found = held.features if held.n_seen else take(store.features, ~fitted_part(state, recipe))
        return Calibrated(scorer, "holdout", score(scorer, found, tuple(state.levels))[0])
    can = capabilities_of(scorer)
    if recipe.threshold == "chi2-nominal":
        if can.has_maps:
            raise InputError(
                "threshold='chi2-nominal' is for Mahalanobis distances per level; the "
                "per-position scorer has none: use threshold='conformal'"
            )
        one = take(store.features, np.arange(1))
        score(scorer, one, tuple(state.levels))  # a degenerate fit shows here
        return Calibrated(scorer, "none", np.empty(0))
    # A group that is only partly in the reservoir cannot be left out of the sums.
    whole = store.is_complete or not state.grouped
    if can.standardizes and not whole:
        scorer = _left_one_out(scorer, store.features, None)[0]
    if can.leaves_one_out and whole:
        scorer, scores = _left_one_out(scorer, store.features, repeated(store.groups))
        return Calibrated(scorer, "leave-one-out", scores)
    scores = cross_fit_scores(
        make_scorer(), store.features, store.keys, store.groups, recipe.n_folds
    )
    return Calibrated(scorer, "cross-fit", scores)


def fit_scorer(state: FitState, recipe: FitRecipe, make_scorer: MakeScorer) -> Any:
    """The scorer of a state: its sums, or a fit to the features that are kept."""
    if recipe.streams:
        return state.with_sums(make_scorer).scorer
    fitted = fitted_part(state, recipe)
    features = take(state.store.features, fitted)
    scorer = make_scorer()
    scorer.fit(as_input_of(scorer, rows(features)))
    apart = repeated(state.store.groups[fitted])
    n_copies = next(iter(features.values())).shape[1]
    if capabilities_of(scorer).standardizes and (apart is not None or n_copies > 1):
        # `fit` knows neither groups nor copies, and standardized as if there were none.
        return _left_one_out(scorer, features, apart)[0]
    return scorer


def fitted_part(state: FitState, recipe: FitRecipe) -> NDArray[np.bool_]:
    """True for the images kept that are fitted, rather than split off for the threshold."""
    store = state.store
    if recipe.holds_out and not state.held_out.n_seen:
        return ~choose_holdout(store.keys, store.groups, recipe.holdout_fraction)
    return np.ones(store.n_kept, dtype=bool)


def _left_one_out(
    scorer: Any, features: Features, groups: NDArray[Any] | None
) -> tuple[Any, Floats]:
    """The scorer, standardized by leave-one-out where it is so, and the scores of the images."""
    scores, standards = leave_one_out_scores(scorer, features, groups)
    return (scorer if standards is None else scorer.standardized_by(standards)), scores


def repeated(groups: NDArray[Any]) -> NDArray[Any] | None:
    """Groups where they matter. Exact copies of a picture are one: they tell nothing new."""
    return groups if len(np.unique(groups)) < len(groups) else None
