"""Anomaly maps of a fitted scorer, on its grids and in image coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mahalad.arrays import as_input_of, in_order, originals
from mahalad.detectors.attribution import attribute, enlarge, enlarge_keeping_sum
from mahalad.errors import InputError, one_line
from mahalad.images.reading import ReadImage
from mahalad.protocols import Features, Floats, PoolsMaps
from mahalad.scorers.capabilities import capabilities_of, map_maxima


def maps_of(
    extractor: Any,
    scorer: Any,
    images: list[ReadImage],
    features: Features,
    level_names: Sequence[str],
) -> tuple[list[dict[str, Floats]], Floats]:
    """Return the maps of each readable image's levels, and all maps in image coordinates."""
    if capabilities_of(scorer).has_maps:
        F = as_input_of(scorer, originals(in_order(features, level_names)))
        maps = scorer.anomaly_maps(F)
        return [{"positions": one} for one in maps], in_pixels(extractor, maps, images)
    if not can_attribute(extractor, scorer):
        raise InputError(
            f"no anomaly maps from {one_line(scorer)}: use the per-position scorer "
            "(scope='positions'), or Gaussians per level of a network's features"
        )
    prepared = [image.prepared for image in images if image.prepared is not None]
    shares = attribute(extractor, scorer, prepared)
    side, boxes = extractor.side(), extractor.boxes(prepared)
    per_image = [
        {name: np.asarray(values[i]) for name, values in shares.items()}
        for i in range(len(prepared))
    ]
    enlarged = [enlarge_keeping_sum(values, side, boxes) for values in shares.values()]
    return per_image, np.sum(enlarged, axis=0)


def can_attribute(extractor: Any, scorer: Any) -> bool:
    """Whether the features are pooled maps and the scorer is a Gaussian per level."""
    can = capabilities_of(scorer)
    return isinstance(extractor, PoolsMaps) and can.keeps_sums and not can.has_maps


def in_pixels(extractor: Any, maps: Floats, images: list[ReadImage]) -> Floats:
    """Enlarge maps (n, h, w) on a grid to the square of the images, (n, side, side)."""
    if not isinstance(extractor, PoolsMaps):
        return maps
    prepared = [image.prepared for image in images if image.prepared is not None]
    return enlarge(maps, extractor.side(), extractor.boxes(prepared))


def map_threshold(scorer: Any) -> float:
    """Return the median of the largest values in maps of good images; see `map_threshold_`."""
    maxima = map_maxima(scorer)
    if maxima is not None:
        return float(np.median(maxima))
    if capabilities_of(scorer).has_maps:
        raise InputError(
            "this model was written in format 2, whose maps were others: fit and save it again "
            "for maps and their threshold"
        )
    raise InputError(
        f"the maps of {one_line(scorer)} have no threshold: the per-position scorer "
        "(scope='positions') has"
    )
