"""Format 5: harmless changes of pictures were not tolerated."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Header = dict[str, Any]
Arrays = dict[str, NDArray[Any]]


def upgrade(header: Header, arrays: Arrays) -> tuple[Header, Arrays]:
    """Make format 6 of format 5: nothing is tolerated, and Gaussians say their covariance.

    Parameters
    ----------
    header, arrays
        As in a file of format 5.
    """
    if header.get("class") == "MahalanobisDetector" and isinstance(header.get("params"), dict):
        header = {**header, "params": {**header["params"], "tolerate": []}}
    scorer = header.get("scorer")
    pooled = scorer.get("pooled") if isinstance(scorer, dict) else None
    for name in pooled if isinstance(pooled, list) else ():
        arrays = _with_variances(f"scorer/levels/{name}", arrays)
    return header, arrays


def _with_variances(stem: str, arrays: Arrays) -> Arrays:
    """Put variances along the axes where eigenvalues of C and scalars were, (n, rho, m)."""
    scalars, eigenvalues = (arrays.get(f"{stem}/{name}") for name in ("scalars", "eigenvalues"))
    if scalars is None or eigenvalues is None or scalars.shape != (3,):
        return arrays  # the audit comes afterwards
    _, shrinkage, mean_variance = scalars.tolist()
    ridge = shrinkage * mean_variance
    rest = {k: v for k, v in arrays.items() if k not in (f"{stem}/scalars", f"{stem}/eigenvalues")}
    variances = (1 - shrinkage) * eigenvalues + ridge
    return rest | {f"{stem}/variances": variances, f"{stem}/ridge": np.array([ridge])}
