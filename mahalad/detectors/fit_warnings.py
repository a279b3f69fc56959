"""What the images of a fit give rise to say."""

from __future__ import annotations

import warnings
from typing import Any

from mahalad.detectors.calibrating import copies_in, leaked
from mahalad.detectors.copies import describe
from mahalad.detectors.state import FitRecipe, FitState
from mahalad.images.pixels import describe_mixture, pixels_of


def warn_of_mixture(state: FitState, before: FitState, features: Any, stacklevel: int = 3) -> None:
    """Say that images are stored in 16 bits and otherwise, unless they were before."""
    if pixels_of(features).bits is not None:
        return
    text = describe_mixture(state.depths or {})
    if text and not describe_mixture(before.depths or {}):
        warnings.warn(text, stacklevel=stacklevel)


def warn_of_copies(state: FitState, recipe: FitRecipe, stacklevel: int) -> None:
    """Say which images show what others show, and which calibration images do not count."""
    ignored = int(leaked(state, recipe).sum())
    if ignored:
        warnings.warn(
            f"{ignored} of {state.held_out.n_kept} calibration images show parts that are in the "
            "fit as well, and do not count",
            stacklevel=stacklevel,
        )
    store = state.store
    if not state.held_out.is_empty and not store.is_complete:
        warnings.warn(
            f"of {store.n_seen} images of the fit {store.n_kept} are kept (max_stored): whether "
            "calibration images are among the others was not seen; they must not be",
            stacklevel=stacklevel,
        )
    together = copies_in(store, recipe)
    if together:
        warnings.warn(describe(together), stacklevel=stacklevel)
