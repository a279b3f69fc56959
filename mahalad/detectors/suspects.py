"""Images of the fit that do not fit the others, and lots that none of the good images is like."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mahalad.protocols import Floats

DEVIATIONS = 4.0
"""Robust standard deviations above the median from which an image of the fit is suspected. Of good
images on six sets, 90 to 103 each, in both scopes, 1 % was: their scores have heavier tails than a
normal distribution (between 0 and 3 % of a set)."""

_QUARTILE = 0.6745  # upper quartile of a standard normal distribution
_SHIFTED = 0.8  # least share of a lot at the smallest p-value
_FEWEST = 5  # images of it
_RARE = 1e-3  # probability of so many, if the lot is like the good images


def suspected(scores: Floats, weights: Floats) -> NDArray[np.bool_]:
    """Find scores (n,), by fits without the image itself, that stand out from the others.

    The images of one part share the `weights` (n,) of one image. The median and the upper quartile
    say what is usual: the bad images may be up to a quarter.
    """
    if not len(scores):
        return np.zeros(0, dtype=bool)
    order = np.argsort(scores)
    reached = np.cumsum(weights[order]) / weights.sum()
    median, upper = scores[order][np.searchsorted(reached, [0.5, 0.75], side="left")]
    return np.asarray(scores - median > DEVIATIONS * max(upper - median, 0.0) / _QUARTILE)


def describe(found: Sequence[tuple[str, float]], shown: int = 10) -> str:
    """Say which images, (name, score), do not fit the others, and what can be done."""
    names = ", ".join(f"{name} ({score:.3g})" for name, score in found[:shown])
    more = f" and {len(found) - shown} more" if len(found) > shown else ""
    return (
        f"{len(found)} of the images do not fit the others (score without the image itself; about "
        f"1 in 100 good images does not): {names}{more}. They were kept"
    )


def n_above_all(scores: Floats, calibration_scores: Floats) -> int:
    """Count scores (n,) above those of all calibration images: no p-value is smaller."""
    if not len(calibration_scores):
        return 0
    return int(np.sum(scores > np.max(calibration_scores)))


def is_shifted(n_above: int, n_images: int, n_calibration: float) -> bool:
    """Say whether more images than chance explains have the smallest p-value there is.

    Parameters
    ----------
    n_above : int
        From `n_above_all`.
    n_images : int
        Images of the lot, without those of the fit.
    n_calibration : float
        Independent parts among the calibration images.

    Notes
    -----
    Of images that come as those of the fit came, the number is beta-binomial with parameters 1 and
    n_calibration. Defects make it large too: 4 of 5 images must be so.
    """
    if n_above < max(_FEWEST, _SHIFTED * n_images):
        return False
    # All of the n_above highest of both kinds together are of the lot: the tail in closed form.
    logarithm = (
        math.lgamma(n_images + 1)
        - math.lgamma(n_images - n_above + 1)
        - math.lgamma(n_images + n_calibration + 1)
        + math.lgamma(n_images + n_calibration - n_above + 1)
    )
    return math.exp(logarithm) < _RARE


def describe_shift(n_above: int, n_images: int) -> str:
    """Ask the user what has changed."""
    return (
        f"{n_above} of {n_images} images are at the smallest possible p-value, more abnormal than "
        "every good image: has the camera, the light, the image format or its compression changed "
        "since the fit?"
    )
