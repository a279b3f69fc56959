"""From distances per position to the scores and maps of images, and the standards they need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from mahalad.protocols import Floats
from mahalad.scorers.positions.grids import Groups, one_map
from mahalad.scorers.positions.standards import (
    MapStandard,
    Standards,
    map_standard,
    map_standard_by_others,
    mean_of_largest,
    standardization,
    standardization_by_others,
    varying,
)

Inside = NDArray[np.bool_]


@dataclass(frozen=True)
class Scoring:
    """How distances become scores and maps; see `PatchScorer` for the parameters.

    Distances (n, P) and `inside` (n, P), which says which positions lie in the picture, come by
    the name of a grid's first level. `image` (n,) is the image-level distance, or 0.
    """

    groups: Groups
    top_fraction: float
    image_weight: float
    smoothing: float

    @property
    def coarsest(self) -> str:
        """Name of the grid that the score is about."""
        return self.groups[-1][0]

    def scores(
        self,
        distances: Mapping[str, Floats],
        inside: Mapping[str, Inside],
        image: Any,
        standards: Standards,
    ) -> Floats:
        """Score images, (n, n_parts), up = normal."""
        parts = self._parts(distances, inside, image, standards.standard, standards.n_active)
        return np.asarray(-parts / standards.scale[: parts.shape[1]])

    def maps(
        self,
        distances: Mapping[str, Floats],
        inside: Mapping[str, Inside],
        map_standards: Mapping[str, MapStandard],
        context_weight: float,
    ) -> Floats:
        """Make the map of each image, (n, side, side), up = abnormal."""
        maps = one_map(distances, inside, map_standards, self.groups, context_weight)
        if self.smoothing:
            maps = gaussian_filter(maps, (0, self.smoothing, self.smoothing), mode="nearest")
        return np.asarray(maps)

    def leave_one_out(
        self,
        distances: Mapping[str, Floats],
        growth: Mapping[str, Floats],
        inside: Mapping[str, Inside],
        image: Any,
        labels: Any,
        context_weight: float,
        tolerated: tuple[Floats, Floats] | None = None,
    ) -> tuple[Floats, Standards]:
        """Score good images by leave-one-out distances, and find the standards that these set.

        Each image is standardized by those that are not of its group (`labels`, or None), whose
        distances are then those to fits without the image, too: by the factor `growth` (n, P).
        `tolerated` has what is added to the variances of distances on the coarsest grid: in the
        standards (P,), and in those of each image by the others (n, P).
        """
        d, own = distances[self.coarsest], inside[self.coarsest]
        n_active = int(varying(d, own).sum())
        by_all, by_each = (0.0, 0.0) if tolerated is None else tolerated
        by_others = _widened(
            standardization_by_others(d, own, labels, growth[self.coarsest]), by_each
        )
        parts = self._parts(distances, inside, image, by_others, n_active)
        scales = [max(float(part.std()), np.finfo(float).tiny) for part in parts.T]
        maps_by_others = {
            name: map_standard_by_others(values, inside[name], labels)
            for name, values in distances.items()
        }
        # As by the fit to all images. Growth is from n - 1 to n - 2 of these, a larger step
        # than from n to n - 1: about n / (n - 2) times, as errors of a fit go with 1 / n.
        power = 1 - 2 / (len(d) if labels is None else len(np.unique(labels)))
        as_by_all = {name: values / growth[name] ** power for name, values in distances.items()}
        maps = self.maps(as_by_all, inside, maps_by_others, context_weight)
        standards = Standards(
            scale=(scales[0], scales[-1] / self.image_weight if self.image_weight else 1.0),
            standard=_widened(standardization(d, own), by_all),
            map_standards={
                name: map_standard(values, inside[name]) for name, values in distances.items()
            },
            map_maxima=maps.max(axis=(1, 2)),
            n_active=n_active,
            context_weight=context_weight,
        )
        return np.asarray(-parts / standards.scale[: parts.shape[1]]), standards

    def _parts(
        self,
        distances: Mapping[str, Floats],
        inside: Mapping[str, Inside],
        image: Any,
        standard: tuple[Floats, Floats],
        n_active: int,
    ) -> Floats:
        """Parts of the score in units of their own, (n, 1 or 2), up = abnormal."""
        k = max(1, round(self.top_fraction * n_active))
        columns = [mean_of_largest(distances[self.coarsest], inside[self.coarsest], standard, k)]
        if self.image_weight:
            columns.append(self.image_weight * image)
        return np.column_stack(columns)


def _widened(standard: tuple[Floats, Floats], more: Any) -> tuple[Floats, Floats]:
    """Add to the variances of mean and standard deviation."""
    mean, deviation = standard
    return mean, np.sqrt(deviation**2 + more)
