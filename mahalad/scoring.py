"""Anomaly scores and maps of features, by a fitted scorer; up = abnormal from here on.

Features are those of a detector: (n, copies, ...), of which the image itself, the first, is scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mahalad.errors import InputError
from mahalad.moments import Floats
from mahalad.protocols import Features
from mahalad.reading import ReadImage
from mahalad.scorers import as_input_of
from mahalad.store import originals


def in_order(features: Features, level_names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """The levels in the order of the fit, whatever the order they were given in."""
    if set(features) != set(level_names):
        raise InputError(
            f"features of levels {', '.join(features)} given to a detector of levels "
            f"{', '.join(level_names)}"
        )
    return {name: features[name] for name in level_names}


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


def maps_of(
    extractor: Any,
    scorer: Any,
    images: list[ReadImage],
    features: Features,
    level_names: Sequence[str],
) -> tuple[list[dict[str, Floats]], Floats]:
    """For each readable image the maps of its levels; and all maps in image coordinates."""
    if hasattr(scorer, "anomaly_maps"):
        F = as_input_of(scorer, originals(in_order(features, level_names)))
        maps = scorer.anomaly_maps(F)
        return [{"positions": one} for one in maps], in_pixels(extractor, maps, images)
    from mahalad.attribution import attribute, can_attribute, enlarge_keeping_sum

    if not can_attribute(extractor, scorer):
        raise InputError(
            f"no anomaly maps from {scorer!r}: use the per-position scorer "
            "(scope='positions'), or Gaussians per level of a network's features"
        )
    prepared = [image.prepared for image in images if image.prepared is not None]
    shares = attribute(extractor, scorer, prepared)
    side, boxes = extractor.backbone_.side, extractor.boxes(prepared)
    per_image = [
        {name: np.asarray(values[i]) for name, values in shares.items()}
        for i in range(len(prepared))
    ]
    enlarged = [enlarge_keeping_sum(values, side, boxes) for values in shares.values()]
    return per_image, np.sum(enlarged, axis=0)


def in_pixels(extractor: Any, maps: Floats, images: list[ReadImage]) -> Floats:
    """Maps on a grid, in image coordinates."""
    backbone = getattr(extractor, "backbone_", None)
    if backbone is None:
        return maps
    from mahalad.attribution import enlarge

    prepared = [image.prepared for image in images if image.prepared is not None]
    return enlarge(maps, backbone.side, extractor.boxes(prepared))


def map_threshold(scorer: Any) -> float:
    """Median of the largest values in the maps of good images; see `map_threshold_`."""
    maxima = getattr(scorer, "map_maxima_", None)
    if maxima is None and hasattr(scorer, "map_maxima_"):
        raise InputError(
            "this model was written in format 2, whose maps were others: fit and save it again "
            "for maps and their threshold"
        )
    if maxima is None:
        raise InputError(
            f"the maps of {scorer!r} have no threshold: the per-position "
            "scorer (scope='positions') has"
        )
    return float(np.median(maxima))
