"""Images taken out of a fit: sums over images subtract as they add."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np

from mahalad.arrays import as_input_of, rows
from mahalad.detectors.reservoir import Kept
from mahalad.detectors.state import FitState, MakeScorer
from mahalad.errors import InputError, one_line
from mahalad.scorers.capabilities import capabilities_of


def without(state: FitState, removed: Kept, make_scorer: MakeScorer) -> FitState:
    """Return the state of the other images. The given one does not change.

    Parameters
    ----------
    state : FitState
        With sums, for a scorer that has such.
    removed : Kept
        Images that are known by their content.
    make_scorer : callable

    Raises
    ------
    InputError
        An image that is not in the state, or none is left.
    """
    stores = {"store": state.store, "held_out": state.held_out}
    gone = {
        name: np.isin(store.keys, removed.keys)
        for name, store in stores.items()
        if not store.is_empty
    }
    known = np.concatenate([stores[name].keys for name in gone])
    strange = removed.names[~np.isin(removed.keys, known)]
    if len(strange):
        n, n_kept = state.store.n_seen, state.store.n_kept
        kept = f" that were kept ({n_kept} of {n})" if n_kept < n else ""
        raise InputError(
            f"{strange[0]} is not among the images of the fit{kept}: nothing was removed"
        )
    if gone["store"].all():
        which = "" if state.store.is_complete else " that is kept"
        raise InputError(f"every image of the fit{which} would be removed: nothing was")
    rest = {name: stores[name].without(which) for name, which in gone.items()}
    scorer = state.scorer
    if state.store.is_complete:
        scorer = None  # made anew of the images that are left, and so without rounding
    elif scorer is not None:
        scorer = _subtracted(scorer, state.store.kept.take(gone["store"]), make_scorer)
    held_out = rest.get("held_out", state.held_out)
    changes = state.changes.without(removed.keys)
    if not changes.n_images and capabilities_of(scorer).tolerates:
        scorer = scorer.tolerating({}, 0)  # one read from a file was told of changes
    return replace(state, scorer=scorer, store=rest["store"], held_out=held_out, changes=changes)


def _subtracted(scorer: Any, gone: Kept, make_scorer: MakeScorer) -> Any:
    """A scorer without some of its images, by their sums."""
    if not capabilities_of(scorer).unmergeable:
        raise InputError(
            f"{one_line(scorer)} cannot take images out of its sums, and not all "
            "images were kept: fit again without them, or with a larger max_stored"
        )
    if not len(gone.keys):
        return scorer
    out = make_scorer()
    out.partial_fit(as_input_of(out, rows(gone.features)))
    return copy.deepcopy(scorer).unmerge(out)
