"""The second half of a fit: make a scorer of a state, and score good images honestly."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mahalad.arrays import as_input_of, originals, rows, take
from mahalad.detectors.changes import Changes
from mahalad.detectors.copies import joined, near_copies, near_copies_of_features
from mahalad.detectors.reservoir import FeatureStore, Kept, are_own, group_names
from mahalad.detectors.scoring import score
from mahalad.detectors.state import Calibrated, FitRecipe, FitState, MakeScorer
from mahalad.errors import CalibrationError, InputError
from mahalad.files.dates import today
from mahalad.possible import more_images
from mahalad.protocols import Floats
from mahalad.scorers.capabilities import capabilities_of
from mahalad.thresholds.calibration import choose_holdout, cross_fit_scores, leave_one_out_scores
from mahalad.thresholds.ranking import shared_weights

_log = logging.getLogger(__name__)


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
        Fewer than two independent images, or none that is independent of the fit.
    DegenerateDataError
        The images leave nothing to estimate.
    """
    if state.held_out.n_seen:
        state = replace(state, held_out=state.held_out.without(leaked(state, recipe)))
        if not state.held_out.n_kept:
            raise CalibrationError(
                "every calibration image shows a part that is in the fit as well (the same "
                "picture, a near-copy or the same group): give images of other parts"
            )
    started = time.perf_counter()
    calibrated = _calibrate(in_parts(state, recipe), recipe, make_scorer)
    if capabilities_of(calibrated.scorer).standardizes:
        calibrated.scorer.factorise()  # now, so that no question changes anything
    _log.info(
        "%s fitted to %d images; calibrated by %s: %d scores of %.4g independent parts; %.2f s",
        type(calibrated.scorer).__name__,
        state.store.n_seen,
        calibrated.method,
        len(calibrated.scores),
        calibrated.weights.sum(),
        time.perf_counter() - started,
    )
    return replace(calibrated, date=today())


def in_parts(state: FitState, recipe: FitRecipe) -> FitState:
    """Return a state whose groups are independent parts: copies are in one with each other."""
    store, held_out = _in_parts(state.store, recipe), _in_parts(state.held_out, recipe)
    return replace(state, store=store, held_out=held_out)


def _in_parts(store: FeatureStore, recipe: FitRecipe) -> FeatureStore:
    if store.n_kept < 2:
        return store
    return store.regrouped(joined(store.groups, _copies(store.kept, recipe)))


def copies_in(store: FeatureStore, recipe: FitRecipe) -> list[list[str]]:
    """Find the images that count as one because they look the same.

    Exact copies do in any case, near-copies unless the recipe or named groups say otherwise.

    Returns
    -------
    list of list of str
        Names of the images that are one part together, two or more each.
    """
    if store.n_kept < 2:
        return []
    kept = store.kept
    parts = joined(np.arange(store.n_kept), _copies(kept, recipe))
    order = np.argsort(parts, kind="stable")
    together = np.split(order, np.cumsum(np.bincount(parts))[:-1])
    return [kept.names[places].tolist() for places in together if len(places) > 1]


def leaked(state: FitState, recipe: FitRecipe) -> NDArray[np.bool_]:
    """Find the images held out (n_held_out,) that show a part which is in the fit as well."""
    store, held = state.store, state.held_out
    if held.is_empty or not store.n_kept:
        return np.zeros(held.n_kept, dtype=bool)
    found = np.isin(held.keys, store.keys) | np.isin(held.groups, store.groups)
    if recipe.near_copies == "group":
        both = Kept.joined([store.kept.originals(), held.kept.originals()])
        first, second = _alike(both, recipe.turned).T
        across = second[(first < store.n_kept) & (second >= store.n_kept)]
        found[across - store.n_kept] = True
    return np.asarray(found)


def _copies(kept: Kept, recipe: FitRecipe) -> NDArray[np.intp]:
    """Pairs of images that show the same part, whatever they are called."""
    if recipe.near_copies == "separate":
        return _same(kept)
    return np.concatenate([_same(kept), _alike(kept, recipe.turned)])


def _same(kept: Kept) -> NDArray[np.intp]:
    """Every image with the first of the same content."""
    first, which = np.unique(kept.keys, return_index=True, return_inverse=True)[1:]
    return np.column_stack([first[which], np.arange(len(which))])


def _alike(kept: Kept, turned: bool) -> NDArray[np.intp]:
    """Pairs of near-copies of which at least one is a group of its own."""
    if kept.looks.any():
        pairs = near_copies(kept.looks, turned=turned)
    else:
        pairs = near_copies_of_features(originals(kept.features))
    own = are_own(kept.groups, kept.keys)
    return pairs[own[pairs].any(axis=1)]


def _calibrate(state: FitState, recipe: FitRecipe, make_scorer: MakeScorer) -> Calibrated:
    store = state.store
    if store.n_seen < 2:
        raise InputError(
            f"a fit needs at least 2 good images that can be read, and has {store.n_seen}"
            + (f"; {len(state.unreadable)} could not be read" if state.unreadable else "")
            + f": {more_images(store.n_seen)}"
        )
    if recipe.capacity is not None and len(group_names(store)) < 2 and store.limit is not None:
        raise CalibrationError(
            f"groups are kept as a whole, and of {store.n_seen} images there is room for "
            f"{recipe.capacity} (max_stored), which is less than two groups: give a larger "
            "max_stored"
        )
    scorer = _fit(state, recipe, make_scorer)
    levels = tuple(state.levels)
    given = state.held_out
    if recipe.holds_out and not given.n_seen:
        rest = ~_fitted_part(state, recipe)
        scores = score(scorer, take(store.features, rest), levels)[0]
        return _calibrated(scorer, "holdout", scores, store.groups[rest], store.keys[rest])
    can = capabilities_of(scorer)
    if recipe.threshold == "chi2-nominal":
        if can.has_maps:
            raise InputError(
                "threshold='chi2-nominal' is for Mahalanobis distances per level; the "
                "per-position scorer has none: use threshold='conformal'"
            )
        score(scorer, take(store.features, np.arange(1)), levels)  # a degenerate fit shows here
        return _calibrated(scorer, "none", np.empty(0), np.empty(0), np.empty(0, np.uint64))
    # A group that is only partly in the reservoir cannot be left out of the sums.
    if can.standardizes and (given.n_seen or not store.whole):
        apart = repeated(store.groups) if store.whole else None
        scorer = _left_one_out(scorer, store, apart, state.changes)[0]
    if given.n_seen:
        scores = score(scorer, given.features, levels)[0]
        return _calibrated(scorer, "holdout", scores, given.groups, given.keys)
    if can.leaves_one_out and store.whole:
        scorer, scores = _left_one_out(scorer, store, repeated(store.groups), state.changes)
        return _calibrated(scorer, "leave-one-out", scores, store.groups, store.keys)
    scores = cross_fit_scores(
        make_scorer(), store.features, store.keys, store.groups, recipe.n_folds
    )
    return _calibrated(scorer, "cross-fit", scores, store.groups, store.keys)


def _calibrated(
    scorer: Any, method: str, scores: Floats, groups: NDArray[Any], keys: NDArray[np.uint64]
) -> Calibrated:
    return Calibrated(scorer, method, scores, shared_weights(groups), keys)


def fit_scorer(state: FitState, recipe: FitRecipe, make_scorer: MakeScorer) -> Any:
    """Return the scorer of a state: its sums, or a fresh fit to the features that it keeps."""
    if recipe.streams:
        return _fit(state, recipe, make_scorer)
    return _fit(in_parts(state, recipe), recipe, make_scorer)


def tolerating(scorer: Any, state: FitState) -> Any:
    """Return a scorer that knows the harmless changes of a state; the same one if there are none.

    The given scorer stays as it is, fitted or not.
    """
    if not state.changes.n_images or not capabilities_of(scorer).tolerates:
        return scorer
    return scorer.tolerating(state.changes.rows, state.changes.n_images)


def _fit(state: FitState, recipe: FitRecipe, make_scorer: MakeScorer) -> Any:
    if recipe.streams:
        return tolerating(state.with_sums(make_scorer).scorer, state)
    store = state.store.without(~_fitted_part(state, recipe))
    unfitted = state.store.keys[~np.isin(state.store.keys, store.keys)]
    changes = state.changes.without(unfitted)  # they say nothing of how the scorer is made
    scorer = tolerating(make_scorer(), replace(state, changes=changes))
    scorer.fit(as_input_of(scorer, rows(store.features)))
    apart = repeated(store.groups)
    n_copies = next(iter(store.features.values())).shape[1]
    knows_all = apart is None and n_copies == 1 and not changes.n_images
    if capabilities_of(scorer).standardizes and not knows_all:
        # `fit` knows neither groups nor copies nor changes, and standardized as if there were none.
        return _left_one_out(scorer, store, apart, changes)[0]
    return scorer


def _fitted_part(state: FitState, recipe: FitRecipe) -> NDArray[np.bool_]:
    """Return True for each kept image that is fitted, False for those split off."""
    store = state.store
    if recipe.holds_out and not state.held_out.n_seen:
        return ~choose_holdout(store.keys, store.groups, recipe.holdout_fraction)
    return np.ones(store.n_kept, dtype=bool)


def _left_one_out(
    scorer: Any, store: FeatureStore, groups: NDArray[Any] | None, changes: Changes
) -> tuple[Any, Floats]:
    """Score images by leave-one-out; return the scorer (standardized, if it can be) and scores."""
    known = changes.n_images and capabilities_of(scorer).tolerates
    changed = changes.places(store.keys) if known else None
    scores, standards = leave_one_out_scores(scorer, store.features, groups, changed)
    return (scorer if standards is None else scorer.standardized_by(standards)), scores


def repeated(groups: NDArray[Any]) -> NDArray[Any] | None:
    """Return the groups if some have several images, else None.

    Exact copies of a picture form a group as well: they tell nothing new.
    """
    return groups if len(np.unique(groups)) < len(groups) else None
