"""Scorers: how far features are from those of good images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mahalad.lazy import hand_on

_HOME_OF = {
    "LevelSum": "mahalad.scorers.level_sum",
    "MeanDistance": "mahalad.scorers.baselines",
    "NearestNeighborDistance": "mahalad.scorers.baselines",
    "SCORERS": "mahalad.scorers.level_sum",
    "StandardizedDistance": "mahalad.scorers.baselines",
    "as_input_of": "mahalad.arrays",
    "make_scorer": "mahalad.scorers.level_sum",
    "per_level": "mahalad.scorers.level_sum",
    "take": "mahalad.arrays",
}

__all__ = [
    "SCORERS",
    "LevelSum",
    "MeanDistance",
    "NearestNeighborDistance",
    "StandardizedDistance",
    "as_input_of",
    "make_scorer",
    "per_level",
    "take",
]

if TYPE_CHECKING:
    from mahalad.arrays import as_input_of, take
    from mahalad.scorers.baselines import (
        MeanDistance,
        NearestNeighborDistance,
        StandardizedDistance,
    )
    from mahalad.scorers.level_sum import SCORERS, LevelSum, make_scorer, per_level

__getattr__ = hand_on(__name__, _HOME_OF)
