"""A lot of images judged together: which are abnormal, with few good ones among them, and how many.

References
----------
Y. Benjamini, Y. Hochberg, "Controlling the false discovery rate", JRSS B 1995; S. Bates, E. Candès,
L. Lei, Y. Romano, M. Sesia, "Testing for outliers with conformal p-values", Annals of Statistics
2023; J. Storey, "A direct approach to false discovery rates", JRSS B 2002.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from mahalad.checks import FPR, check_parameters
from mahalad.protocols import Floats

_EPS = 1e-12  # conformal p-values are fractions, and often on the limit


def benjamini_hochberg(p_values: Floats, fdr: float) -> NDArray[np.bool_]:
    """Select those of small p-values that are a share `fdr` of good ones at most, on average.

    Parameters
    ----------
    p_values : ndarray of shape (n,)
        Small = abnormal.
    fdr : float
        False-discovery rate: the share of good images among those selected, on average over lots
        (0 where none is selected).

    Returns
    -------
    ndarray of bool, shape (n,)

    Raises
    ------
    InputError
        `fdr` does not lie between 0 and 1.

    Notes
    -----
    The k smallest p-values are selected, with the largest k for which the k-th is at most
    fdr * k / n.
    """
    check_parameters({"fdr": FPR}, {"fdr": fdr})
    p = np.sort(p_values)
    below = np.flatnonzero(p <= fdr * np.arange(1, len(p) + 1) / max(len(p), 1) * (1 + _EPS))
    return np.asarray(p_values <= (p[below[-1]] if len(below) else -1.0))


def fewest_found(n_images: int, n_calibration: float, fdr: float) -> int:
    """Fewest abnormal images of a lot that can be selected: no p-value is below 1 / (n + 1)."""
    return max(math.ceil(n_images / (n_calibration + 1) / fdr * (1 - _EPS)), 1)


def share_abnormal(p_values: Floats, n_calibration: float) -> tuple[float, float]:
    """Estimate which share of a lot is abnormal, from conformal p-values.

    Parameters
    ----------
    p_values : ndarray of shape (n,), n >= 1
    n_calibration : float
        Independent parts among the calibration images.

    Returns
    -------
    share : float
        In [0, 1]. Too low rather than too high: abnormal images with a p-value above 0.5 count as
        good ones.
    error : float
        Its standard error, of this lot and of the calibration images.

    Notes
    -----
    Storey's: p-values of good images are uniform, so that half of these exceed 0.5; the share of
    good ones is twice the share of p-values above 0.5.
    """
    above = float(np.mean(p_values > 0.5))
    variance = above * (1 - above) / len(p_values) + above**2 / (n_calibration + 2)
    return min(max(1 - 2 * above, 0.0), 1.0), 2 * math.sqrt(variance)
