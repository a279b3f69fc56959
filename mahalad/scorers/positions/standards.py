"""What turns distances per position into standard deviations of good images.

Of padded images, distances count only at positions that lie in the picture (`inside`), and nowhere
where too few good images have the position.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from mahalad.protocols import Floats
from mahalad.scorers.positions.gaussians import MIN_SAMPLES

_PRIOR = 10  # images' worth of the mean variance in the variance of one position's distances
_POWER = 8  # of deviations, in the measure of tails
_LEAST = 0.1  # of that measure; more only where nothing varies at all
_REACH = 0.1  # standard deviation of "thereabouts", as a share of the side
_OFFSET = 0.3  # added before the logarithm, as a share of the mean distance


def standardization(distances: Floats, inside: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Mean and standard deviation per position, (P,), of distances (n, P) inside the pictures.

    The variance is drawn a little towards that over all positions, for fits to few images. The
    deviation is infinite, and no distance counts, where too few images have the position.
    """
    n = inside.sum(axis=0)
    mean = _mean(distances, inside)
    variance = _mean((distances - mean) ** 2, inside)
    seen = _seen(inside)
    shrunk = (n * variance + _PRIOR * variance[seen].mean()) / (n + _PRIOR)
    scale = np.sqrt(np.maximum(shrunk, np.finfo(float).tiny))
    return mean, np.where(seen, scale, np.inf)


def standardization_by_others(
    distances: Floats, inside: NDArray[np.bool_], groups: Any
) -> tuple[Floats, Floats]:
    """`standardization` for each image by those that are not of its group, (n, P) each."""
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
    variance = np.maximum((squares.sum(axis=0) - squares) / divisor - shift**2, 0)
    overall = np.where(seen, variance, 0.0).sum(axis=1) / seen.sum(axis=1)
    shrunk = (rest * variance + _PRIOR * overall[:, None]) / (rest + _PRIOR)
    scale = np.where(seen, np.sqrt(np.maximum(shrunk, np.finfo(float).tiny)), np.inf)
    return (mean + shift)[labels], scale[labels]


def _mean(values: Floats, inside: NDArray[np.bool_]) -> Floats:
    """Mean per position, (P,), of values (n, P) inside the pictures; 0 where there are none."""
    sums = np.where(inside, values, 0.0).sum(axis=0)
    return np.asarray(sums / np.maximum(inside.sum(axis=0), 1))


def map_standard(distances: Floats, inside: NDArray[np.bool_]) -> tuple[float, float, Floats]:
    """Offset of a grid's distances (n, P), mean and deviations (P,) of their logarithms."""
    offset, mean, deviation, powers = _logarithms(distances, inside)
    tails = _tails(powers.sum(axis=0), len(powers), powers.mean())
    return offset, mean, np.where(_seen(inside), deviation * tails, np.inf)


def map_standard_by_others(
    distances: Floats, inside: NDArray[np.bool_], groups: Any
) -> tuple[float, float, Floats]:
    """`map_standard` with deviations (n, P), for each image by those not of its group.

    Offset, mean and the deviation of all positions together are those of all images.
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
    """Positions (P,) that are not the same in all images, as those out of the region are."""
    highest = np.where(inside, distances, -np.inf).max(axis=0)
    lowest = np.where(inside, distances, np.inf).min(axis=0)
    seen = _seen(inside)
    found: NDArray[np.bool_] = (highest > lowest) & seen
    return found if found.any() else ~found & seen
