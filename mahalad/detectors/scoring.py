"""Score features by a fitted scorer; up = abnormal from here on.

Features come as a detector has them, (n, copies, ...). The first copy is the image itself, and only
it is scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mahalad.arrays import as_input_of, in_order, originals
from mahalad.protocols import Features, Floats
from mahalad.scorers.capabilities import capabilities_of


def score(
    scorer: Any, features: Features, level_names: Sequence[str]
) -> tuple[Floats, Floats | None]:
    """Return anomaly scores (n,), and scores per level (n, n_levels) or None without levels.

    Raises
    ------
    InputError
        The features have other levels than `level_names`.
    """
    F = as_input_of(scorer, originals(in_order(features, level_names)))
    if capabilities_of(scorer).has_levels:
        levels = -scorer.level_score_samples(F)
        return levels.sum(axis=1), levels
    return np.asarray(-scorer.score_samples(F), dtype=np.float64), None


def score_with_maps(
    scorer: Any, features: Features, level_names: Sequence[str]
) -> tuple[tuple[Floats, Floats], Floats]:
    """Return what `score` does, and maps (n, h, w) on the scorer's grid, for the work of one."""
    F = as_input_of(scorer, originals(in_order(features, level_names)))
    levels, maps = scorer.scores_and_maps(F)
    return ((-levels).sum(axis=1), -levels), maps
