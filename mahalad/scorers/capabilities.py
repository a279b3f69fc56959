"""What a scorer can do beside `fit` and `score_samples`: asked of it once, in one place.

Any scikit-learn outlier estimator can be a scorer, so its methods and attributes are looked for
by name. Nothing else in the package does so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mahalad.protocols import ComparesTurned, Floats


@dataclass(frozen=True)
class Capabilities:
    """What a scorer can do, fitted or not. The protocols are those of `mahalad.protocols`.

    Attributes
    ----------
    mergeable : bool
        It learns batch by batch and from other fits (`Mergeable`).
    unmergeable : bool
        It can take the images of another fit out of its own (`Unmergeable`).
    leaves_one_out : bool
        It has a leave-one-out in closed form (`LeavesOneOut`).
    has_levels : bool
        It has scores per level (`HasLevels`).
    has_maps : bool
        It has anomaly maps (`HasMaps`).
    scores_with_maps : bool
        It gives scores and maps for the work of one (`ScoresWithMaps`).
    standardizes : bool
        Its scores are in units that its leave-one-out finds (`Standardizes`).
    keeps_sums : bool
        It is made from sums over samples alone (`KeepsSums`).
    tolerates : bool
        It can be given what harmless changes do to features (`Tolerates`).
    travels : bool
        Its sums can be sent to another process (`Travels`).
    smooth : bool
        Its scores change smoothly with the images it is fitted to: cross-fitted scores may be
        extrapolated. False for scorers that do not say so, which may be random.
    """

    mergeable: bool
    unmergeable: bool
    leaves_one_out: bool
    has_levels: bool
    has_maps: bool
    scores_with_maps: bool
    standardizes: bool
    keeps_sums: bool
    tolerates: bool
    travels: bool
    smooth: bool


def capabilities_of(scorer: Any) -> Capabilities:
    """Find what a scorer can do; a fit does not change the answer.

    Methods are looked for by name, not by `isinstance` with a protocol: that finds methods which
    an object's class has, and a `LevelSum` has some only for some estimators.
    """

    def has(*names: str) -> bool:
        return all(hasattr(scorer, name) for name in names)

    keeps_sums = has("sums") and getattr(scorer, "keeps_sums", False) is True
    return Capabilities(
        mergeable=has("partial_fit", "merge"),
        unmergeable=has("unmerge"),
        leaves_one_out=has("leave_one_out_level_scores"),
        has_levels=has("level_score_samples"),
        has_maps=has("anomaly_maps"),
        scores_with_maps=has("scores_and_maps"),
        standardizes=has("leave_one_out", "standardized_by"),
        keeps_sums=keeps_sums,
        tolerates=has("tolerating"),
        travels=keeps_sums and has("summed", "restore_summed"),
        smooth=getattr(scorer, "smooth", False) is True,
    )


def score_names(scorer: Any, levels: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the columns of `level_score_samples`: those of the levels, unless it says other."""
    return tuple(getattr(scorer, "score_names_", levels))


def degrees_of_freedom(scorer: Any) -> int | None:
    """Number of features that a fitted scorer scores, or None if it does not say."""
    degrees: int | None = getattr(scorer, "degrees_of_freedom_", None)
    return degrees


def comparing_turned(scorer: Any) -> ComparesTurned | None:
    """The scorer, if it can say whether turned images are like the others; else None."""
    found: ComparesTurned | None = scorer if hasattr(scorer, "turned_alike") else None
    return found


def has_sums(scorer: Any) -> bool:
    """Whether images can be added to a fitted scorer: False if a file gave it without its sums."""
    return bool(getattr(scorer, "has_sums_", True))


def map_maxima(scorer: Any) -> Floats | None:
    """Largest values in the maps of good images, (n,); None for a scorer that does not say."""
    maxima: Floats | None = getattr(scorer, "map_maxima_", None)
    return maxima
