"""What n good images are enough for: the one place that knows, and says it in errors.

Nothing is imported here but the standard library, so that every folder can ask.
"""

from __future__ import annotations

import math

GAUSSIAN = 3
"""Samples of a Gaussian of several features: of two the Ledoit-Wolf shrinkage is 0."""

IMAGE = GAUSSIAN + 1
"""Good images of `scope="image"`: each is left out once, which leaves a Gaussian of the others."""

POSITIONS = 5
"""Good images of `scope="positions"`: a position's standards need as many."""

CHI2 = 5
"""Calibration scores that a chi-square is matched to."""


def fewest(n_features: int) -> int:
    """Fewest samples of a Gaussian: of two the shrinkage is 0, which leaves directions without."""
    return GAUSSIAN if n_features > 1 else 2


def more_images(n: int) -> str:
    """Say what to do where a fit has too few images, `n`: only what then works."""
    if n >= IMAGE:
        return f"give more, or use the image-level detector (scope='image'), which needs {IMAGE}"
    return f"give at least {POSITIONS} ({IMAGE} are enough for scope='image')"


def lowest_fpr(n: float) -> float:
    """Lowest rate that a conformal threshold has with n scores, rounded up to three digits."""
    scale = 10.0 ** (2 - math.floor(math.log10(1 / (n + 1))))
    return math.ceil(scale / (n + 1) * (1 - 1e-12)) / scale


def other_rules(n: float, *, ranked: int, matches: bool = False) -> str:
    """Say what to do where a threshold needs more than n scores: only what then works.

    Parameters
    ----------
    n : float
        Independent calibration scores that there are.
    ranked : int
        Scores that a conformal threshold needs at the rate asked for.
    matches : bool, default=False
        Whether a chi-square can be matched to the scores: they are distances that differ.
    """
    ways = ["give more good images"]
    if n >= ranked:
        ways.append(
            f"use threshold='conformal', which needs {ranked} and promises the rate on average "
            "over fits"
        )
    elif n > 0:
        ways.append(f"ask for fpr >= {lowest_fpr(n):g} with threshold='conformal'")
    if matches and n >= CHI2:
        ways.append("use threshold='chi2', which extrapolates")
    return ", or ".join(ways)
