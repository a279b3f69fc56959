"""Standards: they turn distances per position into standard deviations of good images.

A padded image has distances around its picture, too. These never count: `inside` says which
positions lie in the picture. A position counts in no image where too few good images have it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from mahalad.errors import InputError
from mahalad.possible import POSITIONS
from mahalad.protocols import Floats, Value
from mahalad.scorers.moments import Moments

MIN_SAMPLES = POSITIONS
"""Good images that a position needs, for its Gaussian and for its standards."""

_PRIOR = 10  # images' worth of the mean variance in the variance of one position's distances
_POWER = 8  # of deviations, in the measure of tails
_LEAST = 0.1  # of that measure; more only where nothing varies at all
_REACH = 0.1  # standard deviation of "thereabouts", as a share of the side
_OFFSET = 0.3  # added before the logarithm, as a share of the mean distance


MapStandard = tuple[float, float, Floats]
"""Offset of a grid's distances, mean and deviations of their logarithms."""


@dataclass(frozen=True, eq=False)
class Finer(Value):
    """What a finer grid than the coarsest counts in the score of positions.

    Attributes
    ----------
    grid : str
        Its name.
    weight : float
        Of the mean of its largest standardized distances, which is added to that of the coarsest.
    standard : tuple of two ndarrays of shape (n_positions,)
        Mean and standard deviation of the distances at each position.
    n_largest : int
        How many of them are averaged.
    """

    grid: str
    weight: float
    standard: tuple[Floats, Floats]
    n_largest: int


@dataclass(frozen=True, eq=False)
class Standards(Value):
    """What good images say of distances: the units of scores and maps.

    Attributes
    ----------
    scale : tuple of two floats
        Standard deviations of both parts of the score (positions, image) among good images.
    standard : tuple of two ndarrays of shape (n_positions,)
        Mean and standard deviation of the distances at each position of the coarsest grid.
    map_standards : mapping of str to (float, float, ndarray of shape (n_positions,))
        By the name of a grid: the offset of its distances, and mean and standard deviations of
        their logarithms. Empty for a fit read from a file of format 2.
    map_maxima : ndarray of shape (n_calibration,) or None
        Largest value in the map of each good image, by the fit without it; None for format 2.
    n_active : int
        Positions of the coarsest grid that vary among good images.
    context_weight : float
        Weight of the context in the map, as a share of all other weights together: 0.6 times the
        share of the variance of good features that their position does not explain.
    blend : float
        What the score counts of the distance to a position's Gaussian, added to that to the nearest
        good patch; 0 for one of the two alone.
    common : float
        The most that is taken from all standardized distances of an image, where their median is
        above 0; see `mean_of_largest`.
    finer : Finer or None
        The next finer grid's part in the score, if it has one.
    """

    scale: tuple[float, float]
    standard: tuple[Floats, Floats]
    map_standards: Mapping[str, MapStandard]
    map_maxima: Floats | None
    n_active: int
    context_weight: float
    blend: float = 0.0
    common: float = 0.0
    finer: Finer | None = None

    def of_originals(self, n_copies: int) -> Standards:
        """Keep the maxima of the images themselves: of every `n_copies`-th row."""
        if self.map_maxima is None:
            return self
        return replace(self, map_maxima=self.map_maxima[::n_copies])

    def check_has_maps(self) -> None:
        """Raise `InputError` for a fit read from a file of format 2: its maps were others."""
        if not self.map_standards:
            raise InputError(
                "this model was written in format 2, whose maps were others: fit and save it "
                "again for maps (its scores are as they were)"
            )


class Standardized:
    """What the `standards_` of a scorer say, as attributes that can only be read."""

    standards_: Standards

    @property
    def scale_(self) -> tuple[float, float]:
        """Standard deviations of both parts of the score among good images."""
        return self.standards_.scale

    @property
    def standard_(self) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the coarsest grid's distances, (n_positions,) each."""
        return self.standards_.standard

    @property
    def map_standards_(self) -> Mapping[str, MapStandard]:
        """Offset, mean and deviations of every grid; see `Standards`."""
        return self.standards_.map_standards

    @property
    def map_maxima_(self) -> Floats | None:
        """Largest values in the maps of good images, (n_calibration,); None for format 2."""
        return self.standards_.map_maxima

    @property
    def n_active_(self) -> int:
        """Positions of the coarsest grid that vary among good images."""
        return self.standards_.n_active

    @property
    def context_weight_(self) -> float:
        """Weight of the context in the map, as a share of all other weights."""
        return self.standards_.context_weight


def mean_of_largest(
    distances: Floats,
    inside: NDArray[np.bool_],
    standard: tuple[Floats, Floats],
    k: int,
    common: float = 0.0,
) -> Floats:
    """Mean, (n,), of the `k` largest standardized distances (n, P) of each image.

    An image with fewer positions in its picture has the mean of all of them. The median of all that
    count, of two the lower one, is taken from each if it is above 0, but no more than `common`:
    what happens to a picture as a whole, less light or noise, raises them all alike, and a defect
    those of its place.
    """
    location, scale = standard
    counted = inside & np.isfinite(scale)
    z = np.sort(np.where(counted, (distances - location) / scale, -np.inf), axis=1)
    n_counted, n_all = counted.sum(axis=1), z.shape[1]
    top = z[:, -k:]
    n_top = np.clip(n_counted, 1, k)
    found = np.where(np.isfinite(top), top, 0.0).sum(axis=1) / n_top
    if common:
        median = z[np.arange(len(z)), n_all - n_counted + (n_counted - 1) // 2]
        found -= np.clip(np.where(n_counted > 0, median, 0.0), 0, common)
    return np.asarray(found)


def unexplained(moments: Moments, active: NDArray[np.bool_]) -> float:
    """Share of the features' variance that their position does not explain, in [0, 1].

    Parameters
    ----------
    moments : Moments
        Sums over samples, one set per position.
    active : ndarray of bool of shape (n_positions,)
        The positions that count.
    """
    mean = moments.mean()
    variance = moments.q2 / moments.n_samples - ((mean - moments.shift) ** 2).sum(axis=1)
    within = float(variance[active].mean())
    between = float(mean[active].var(axis=0).sum())
    return within / max(within + between, np.finfo(float).tiny)


def mean_deviation(distances: Floats, inside: NDArray[np.bool_]) -> float:
    """Root mean variance, over the positions that vary, of distances (n, P) inside pictures."""
    at = varying(distances, inside)
    d, counted = distances[:, at], inside[:, at]
    return float(np.sqrt(_mean((d - _mean(d, counted)) ** 2, counted).mean()))


def standardization(distances: Floats, inside: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Find mean and standard deviation per position, (P,), of distances (n, P) inside pictures.

    The variance is drawn a little towards that over all positions, for fits to few images. Where
    too few images have the position the deviation is infinite, and no distance counts.
    """
    n = inside.sum(axis=0)
    mean = _mean(distances, inside)
    variance = _mean((distances - mean) ** 2, inside)
    seen = _seen(inside)
    shrunk = (n * variance + _PRIOR * variance[seen].mean()) / (n + _PRIOR)
    scale = np.sqrt(np.maximum(shrunk, np.finfo(float).tiny))
    return mean, np.where(seen, scale, np.inf)


def standardization_by_others(
    distances: Floats, inside: NDArray[np.bool_], groups: Any, growth: Any = 1.0
) -> tuple[Floats, Floats]:
    """Find the `standardization` of each image by the images that are not of its group.

    `groups` (n,) has the label of each image; with None each image is its own group. `growth`
    (n, P), the same for all images of a group, is the factor by which the distances of the others
    are larger in a fit without the image. Mean and standard deviation have the shape (n, P).
    """
    n, mean = len(distances), _mean(distances, inside)
    centred = np.where(inside, distances - mean, 0.0)
    labels = np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1]
    sums, squares, own = np.zeros((3, labels.max() + 1, distances.shape[1]))
    np.add.at(sums, labels, centred)
    np.add.at(squares, labels, centred**2)
    np.add.at(own, labels, inside)
    rest = inside.sum(axis=0) - own
    seen = rest >= np.minimum(MIN_SAMPLES, n - np.bincount(labels))[:, None]
    divisor = np.maximum(rest, 1)
    shift = -sums / divisor
    by_label = np.ones_like(sums)
    by_label[labels] = growth
    variance = by_label**2 * ((squares.sum(axis=0) - squares) / divisor - shift**2).clip(0)
    overall = np.where(seen, variance, 0.0).sum(axis=1) / seen.sum(axis=1)
    shrunk = (rest * variance + _PRIOR * overall[:, None]) / (rest + _PRIOR)
    scale = np.where(seen, np.sqrt(np.maximum(shrunk, np.finfo(float).tiny)), np.inf)
    return (by_label * (mean + shift))[labels], scale[labels]


def _mean(values: Floats, inside: NDArray[np.bool_]) -> Floats:
    """Mean per position, (P,), of values (n, P) inside the pictures; 0 where there are none."""
    sums = np.where(inside, values, 0.0).sum(axis=0)
    return np.asarray(sums / np.maximum(inside.sum(axis=0), 1))


def map_standard(distances: Floats, inside: NDArray[np.bool_]) -> MapStandard:
    """Find what standardizes the logarithms of a grid's distances (n, P) inside pictures.

    Returns
    -------
    offset : float
        Added to distances before the logarithm.
    mean : float
        Mean of the logarithms.
    deviation : ndarray of shape (n_positions,)
        Their standard deviation, times how heavy the tails about each position are; infinite
        where too few images have the position.
    """
    offset, mean, deviation, powers = _logarithms(distances, inside)
    tails = _tails(powers.sum(axis=0), len(powers), powers.mean())
    return offset, mean, np.where(_seen(inside), deviation * tails, np.inf)


def map_standard_by_others(
    distances: Floats, inside: NDArray[np.bool_], groups: Any
) -> MapStandard:
    """Find the `map_standard` of each image by the images not of its group: deviations (n, P).

    Only the tails are those of the other images: offset, mean and the deviation of all positions
    together are those of all images.
    """
    offset, mean, deviation, powers = _logarithms(distances, inside)
    labels = np.arange(len(powers)) if groups is None else np.unique(groups, return_inverse=True)[1]
    own = np.zeros((labels.max() + 1, powers.shape[1]))
    np.add.at(own, labels, powers)
    rest = (len(powers) - np.bincount(labels))[:, None]
    others = powers.sum(axis=0) - own
    tails = _tails(others, rest, others.sum(axis=1, keepdims=True) / (rest * powers.shape[1]))
    return offset, mean, np.where(_seen(inside), (deviation * tails)[labels], np.inf)


def _logarithms(distances: Floats, inside: NDArray[np.bool_]) -> tuple[float, float, float, Floats]:
    """Offset, mean and deviation of the logarithms, over positions that vary, and the 8th powers
    of what lies above the mean, (n, P), in deviations."""
    counted = inside & varying(distances, inside)
    offset = max(_OFFSET * _by_position(distances, counted).mean(), np.finfo(float).tiny)
    logarithms = np.log(distances + offset)
    known = _by_position(logarithms, counted)
    mean, deviation = float(known.mean()), max(float(known.std()), np.finfo(float).tiny)
    powers = np.maximum((logarithms - mean) / deviation, 0) ** _POWER
    powers[~counted] = _by_position(powers, counted).mean()  # neither heavy nor light
    return float(offset), mean, deviation, powers


def _tails(sums: Floats, n: Any, overall: Any) -> Floats:
    """How heavy tails of n images are about each position, (..., P); everywhere together = 1."""
    side = round(sums.shape[-1] ** 0.5)
    means = (sums + _PRIOR * overall) / (n + _PRIOR)
    grids = means.reshape(-1, side, side)
    reach = _REACH * side
    around = gaussian_filter(grids, (0, reach, reach), mode="nearest").reshape(means.shape)
    ratio: Floats = (around / np.maximum(overall, np.finfo(float).tiny)) ** (1 / _POWER)
    return np.maximum(ratio, _LEAST)


def _by_position(values: Floats, counted: NDArray[np.bool_]) -> Floats:
    """Values (n, P) that count, in one row, position by position."""
    return np.asarray(values.T[counted.T])


def _seen(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Positions (P,) that enough good images have within the picture to be judged."""
    return np.asarray(inside.sum(axis=0) >= min(MIN_SAMPLES, len(inside)))


def varying(distances: Floats, inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Find the positions (P,) at which images differ; outside a region of interest none do."""
    highest = np.where(inside, distances, -np.inf).max(axis=0)
    lowest = np.where(inside, distances, np.inf).min(axis=0)
    seen = _seen(inside)
    found: NDArray[np.bool_] = (highest > lowest) & seen
    return found if found.any() else ~found & seen
