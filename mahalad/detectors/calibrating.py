"""The second half of a fit: make a scorer of a state, and score good images honestly."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mahalad.arrays import as_input_of, rows, take
from mahalad.detectors.scoring import score
from mahalad.detectors.state import Calibrated, FitRecipe, FitState, MakeScorer
from mahalad.errors import InputError
from mahalad.possible import more_images
from mahalad.protocols import Features, Floats
from mahalad.scorers.capabilities import capabilities_of
from mahalad.thresholds.calibration import choose_holdout, cross_fit_scores, leave_one_out_scores


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
    calibrated = _calibrate(state, recipe, make_scorer)
    if capabilities_of(calibrated.scorer).standardizes:
        calibrated.scorer.factorise()  # now, so that no question changes anything
    return calibrated


def _calibrate(state: FitState, recipe: FitRecipe, make_scorer: MakeScorer) -> Calibrated:
    store = state.store
    if store.n_seen < 2:
        raise InputError(
            f"a fit needs at least 2 good images that can be read, and has {store.n_seen}"
            + (f"; {len(state.unreadable)} could not be read" if state.unreadable else "")
            + f": {more_images(store.n_seen)}"
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
    given = state.held_out
    if can.standardizes and (given.n_seen or not whole):
        apart = repeated(store.groups) if whole else None
        scorer = _left_one_out(scorer, store.features, apart)[0]
    if given.n_seen:  # with threshold="tolerance", which takes them or does without
        return Calibrated(scorer, "holdout", score(scorer, given.features, tuple(state.levels))[0])
    if can.leaves_one_out and whole:
        scorer, scores = _left_one_out(scorer, store.features, repeated(store.groups))
        return Calibrated(scorer, "leave-one-out", scores)
    scores = cross_fit_scores(
        make_scorer(), store.features, store.keys, store.groups, recipe.n_folds
    )
    return Calibrated(scorer, "cross-fit", scores)


def fit_scorer(state: FitState, recipe: FitRecipe, make_scorer: MakeScorer) -> Any:
    """Return the scorer of a state: its sums, or a fresh fit to the features that it keeps."""
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
    """Return True for each kept image that is fitted, False for those split off."""
    store = state.store
    if recipe.holds_out and not state.held_out.n_seen:
        return ~choose_holdout(store.keys, store.groups, recipe.holdout_fraction)
    return np.ones(store.n_kept, dtype=bool)


def _left_one_out(
    scorer: Any, features: Features, groups: NDArray[Any] | None
) -> tuple[Any, Floats]:
    """Score images by leave-one-out; return the scorer (standardized, if it can be) and scores."""
    scores, standards = leave_one_out_scores(scorer, features, groups)
    return (scorer if standards is None else scorer.standardized_by(standards)), scores


def repeated(groups: NDArray[Any]) -> NDArray[Any] | None:
    """Return the groups if some have several images, else None.

    Exact copies of a picture form a group as well: they tell nothing new.
    """
    return groups if len(np.unique(groups)) < len(groups) else None
