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
    mean_deviation,
    mean_of_largest,
    standardization,
    standardization_by_others,
    varying,
)

Inside = NDArray[np.bool_]

GAUSSIANS = "(gaussians)"
"""In place of a grid's name: distances to the Gaussians of the coarsest one, where its patches are
compared with good ones, too."""

COMMON = 1.0
"""The most that is taken from standardized distances as common to all of an image, where harmless
changes are tolerated. These raise the median by 0 to 1.5, as measured, and large defects by up to
7."""

IMAGE_TOLERANCE = 10.0
"""Weight of the covariance of harmless changes in the image-level Gaussian; of 1, 3 and 10 the one
with which fewest changed pictures are flagged, at the same accuracy."""

_SHARE = 0.5  # of these in a score, of many images
_FEW = 100  # images of which it is half of that: of few a Gaussian knows little


@dataclass(frozen=True)
class Scoring:
    """How distances become scores and maps; see `PatchScorer` for the parameters.

    Distances (n, P) and `inside` (n, P), which says which positions lie in the picture, come by
    the name of a grid's first level, or `GAUSSIANS`. `image` (n,) is the image-level distance, or
    0.
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
        own = inside[self.coarsest]
        d = self._blended(distances, standards.blend)
        parts = self._parts(d, own, image, standards.standard, standards.n_active, standards.common)
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
        n_images: int,
        tolerated: tuple[Floats, Floats] | None = None,
        common: float = 0.0,
    ) -> tuple[Floats, Standards]:
        """Score good images by leave-one-out distances, and find the standards that these set.

        Each image is standardized by those that are not of its group (`labels`, or None), whose
        distances are then those to fits without the image, too: by the factor `growth` (n, P).
        `tolerated` has what is added to the variances of distances on the coarsest grid: in the
        standards (P,), and in those of each image by the others (n, P). `n_images` is the number of
        images in the fit, of which these may be some. `common` goes into the standards.
        """
        own = inside[self.coarsest]
        blend = self._blend(distances, own, n_images)
        d, d_growth = self._blended(distances, blend), growth[self.coarsest]
        if blend:
            d_growth = self._blended_growth(distances, growth, blend)
        n_active = int(varying(d, own).sum())
        by_all, by_each = (0.0, 0.0) if tolerated is None else tolerated
        by_others = _widened(standardization_by_others(d, own, labels, d_growth), by_each)
        parts = self._parts(d, own, image, by_others, n_active, common)
        distances = {name: values for name, values in distances.items() if name != GAUSSIANS}
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
            blend=blend,
            common=common,
        )
        return np.asarray(-parts / standards.scale[: parts.shape[1]]), standards

    def _blend(self, distances: Mapping[str, Floats], own: Inside, n_images: int) -> float:
        """Find the weight of Gaussians; `_SHARE` is of distances that deviate by as much.

        It is 0 where one of the two never varies.
        """
        if GAUSSIANS not in distances:
            return 0.0
        nearest, gaussians = (
            mean_deviation(distances[name], own) for name in (self.coarsest, GAUSSIANS)
        )
        share = _SHARE * n_images / (n_images + _FEW)
        return share / (1 - share) * nearest / gaussians if gaussians > 0 else 0.0

    def _blended(self, distances: Mapping[str, Floats], blend: float) -> Floats:
        """Distances (n, P) that the score is about."""
        found = distances[self.coarsest]
        return found + blend * distances[GAUSSIANS] if blend else found

    def _blended_growth(
        self, distances: Mapping[str, Floats], growth: Mapping[str, Floats], blend: float
    ) -> Floats:
        """Growth of the mean of blended distances, (n, P)."""
        of = {name: distances[name].mean(axis=0) for name in (self.coarsest, GAUSSIANS)}
        before = of[self.coarsest] + blend * of[GAUSSIANS]
        after: Floats = (
            growth[self.coarsest] * of[self.coarsest] + blend * growth[GAUSSIANS] * of[GAUSSIANS]
        )
        return np.asarray(np.divide(after, before, out=np.ones_like(after), where=before > 0))

    def _parts(
        self,
        distances: Floats,
        inside: Inside,
        image: Any,
        standard: tuple[Floats, Floats],
        n_active: int,
        common: float,
    ) -> Floats:
        """Parts of the score in units of their own, (n, 1 or 2), up = abnormal."""
        k = max(1, round(self.top_fraction * n_active))
        columns = [mean_of_largest(distances, inside, standard, k, common)]
        if self.image_weight:
            columns.append(self.image_weight * image)
        return np.column_stack(columns)


def _widened(standard: tuple[Floats, Floats], more: Any) -> tuple[Floats, Floats]:
    """Add to the variances of mean and standard deviation."""
    mean, deviation = standard
    return mean, np.sqrt(deviation**2 + more)
