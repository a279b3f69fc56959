"""Anomaly scores and maps of features, by a fitted scorer; up = abnormal from here on.

Features are those of a detector: (n, copies, ...), of which the image itself, the first, is scored.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mahalad.arrays import as_input_of, originals
from mahalad.protocols import Features, Floats


def score(scorer: Any, features: Features) -> tuple[Floats, Floats | None]:
    """Anomaly scores (n,) and per level (n, n_levels) of features (n, copies, ...)."""
    F = as_input_of(scorer, originals(features))
    if hasattr(scorer, "level_score_samples"):
        levels = -scorer.level_score_samples(F)
        return levels.sum(axis=1), levels
    return np.asarray(-scorer.score_samples(F), dtype=np.float64), None


def score_with_maps(scorer: Any, features: Features) -> tuple[tuple[Floats, Floats], Floats]:
    """As `score`, and maps on the scorer's grid, (n, h, w), for the work of one."""
    F = as_input_of(scorer, originals(features))
    levels, maps = scorer.scores_and_maps(F)
    return ((-levels).sum(axis=1), -levels), maps
