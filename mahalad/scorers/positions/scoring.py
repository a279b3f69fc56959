"""From distances per position to the scores and maps of images, and the standards they need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from mahalad.protocols import Floats
from mahalad.scorers.positions.grids import Groups, one_map
from mahalad.scorers.positions.standards import (
    Finer,
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

Variances = tuple[Floats, Floats] | tuple[float, float]
"""What harmless changes add to the variances of distances: in the standards, and by the others."""

_NOTHING: Variances = (0.0, 0.0)

_ENOUGH = 400  # images of which Gaussians count as much as patches: of few they know little
_MOST = 2.0  # times as much as patches, of twice as many images and more

_FINER = 0.7  # what the next finer grid counts beside patches of the coarsest alone, and less,
# the more Gaussians count; where a standard deviation counts the same
_FINER_TOP = 1 / 3  # of `top_fraction`: a small defect has a smaller share of a finer grid


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
    finer: str | None = None
    """Name of the finer grid that counts in the score of new fits, if one does."""

    @property
    def coarsest(self) -> str:
        """Name of the grid that the score is most about."""
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
        k = self._n_largest(standards.n_active)
        top = mean_of_largest(d, own, standards.standard, k, standards.common)
        if finer := standards.finer:
            top = top + finer.weight * mean_of_largest(
                distances[finer.grid],
                inside[finer.grid],
                finer.standard,
                finer.n_largest,
                standards.common,
            )
        parts = self._parts(top, image)
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
        tolerated: Mapping[str, Variances] = MappingProxyType({}),
        common: float = 0.0,
    ) -> tuple[Floats, Standards]:
        """Score good images by leave-one-out distances, and find the standards that these set.

        Each image is standardized by those that are not of its group (`labels`, or None), whose
        distances are then those to fits without the image, too: by the factor `growth` (n, P).
        `tolerated` has what is added to the variances of distances, by grid: in the standards (P,),
        and in those of each image by the others (n, P). `n_images` is the number of images in the
        fit, copies among them, of which these may be some. `common` goes into the standards.
        """
        own = inside[self.coarsest]
        blend = self._blend(distances, own, n_images)
        d, d_growth = self._blended(distances, blend), growth[self.coarsest]
        if blend:
            d_growth = self._blended_growth(distances, growth, blend)
        n_active = int(varying(d, own).sum())
        by_all, by_each = tolerated.get(self.coarsest, _NOTHING)
        by_others = _widened(standardization_by_others(d, own, labels, d_growth), by_each)
        top = mean_of_largest(d, own, by_others, self._n_largest(n_active), common)
        finer = None
        if name := self.finer:
            more, finer = self._finer(
                distances[name],
                growth[name],
                inside[name],
                labels,
                tolerated.get(name, _NOTHING),
                common,
                _FINER / (1 + _share(n_images)) * float(top.std()),
            )
            top = top + more
        parts = self._parts(top, image)
        scales = [max(float(part.std()), np.finfo(float).tiny) for part in parts.T]
        distances = {name: values for name, values in distances.items() if name != GAUSSIANS}
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
            finer=finer,
        )
        return np.asarray(-parts / standards.scale[: parts.shape[1]]), standards

    def _finer(
        self,
        d: Floats,
        growth: Floats,
        inside: Inside,
        labels: Any,
        tolerated: Variances,
        common: float,
        scale: float,
    ) -> tuple[Floats, Finer]:
        """Find what a finer grid adds to the scores of good images, (n,), and to those of others.

        `scale` is the standard deviation that these have.
        """
        by_all, by_each = tolerated
        k = self._n_largest(int(varying(d, inside).sum()), _FINER_TOP)
        by_others = _widened(standardization_by_others(d, inside, labels, growth), by_each)
        top = mean_of_largest(d, inside, by_others, k, common)
        assert self.finer is not None
        deviation = float(top.std())
        weight = scale / deviation if deviation > 0 else 0.0
        standard = _widened(standardization(d, inside), by_all)
        return weight * top, Finer(self.finer, weight, standard, k)

    def _blend(self, distances: Mapping[str, Floats], own: Inside, n_images: int) -> float:
        """Find the weight of Gaussians: they deviate by `_share` times as much as patches do.

        It is 0 where they never vary.
        """
        if GAUSSIANS not in distances:
            return 0.0
        nearest, gaussians = (
            mean_deviation(distances[name], own) for name in (self.coarsest, GAUSSIANS)
        )
        return _share(n_images) * nearest / gaussians if gaussians > 0 else 0.0

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

    def _n_largest(self, n_active: int, share: float = 1.0) -> int:
        """How many of the largest distances are averaged, of those of so many positions."""
        return max(1, round(share * self.top_fraction * n_active))

    def _parts(self, top: Floats, image: Any) -> Floats:
        """Parts of the score in units of their own, (n, 1 or 2), up = abnormal."""
        return np.column_stack([top, self.image_weight * image] if self.image_weight else [top])


def _share(n_images: int) -> float:
    """How much Gaussians count, where the patches of the same grid count 1."""
    return min(n_images / _ENOUGH, _MOST)


def _widened(standard: tuple[Floats, Floats], more: Any) -> tuple[Floats, Floats]:
    """Add to the variances of mean and standard deviation."""
    mean, deviation = standard
    return mean, np.sqrt(deviation**2 + more)
