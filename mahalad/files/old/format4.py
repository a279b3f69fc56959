"""Format 4: no checksums, and its first files lack keys that joined it without a new number."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_DETECTOR = {"autoencoder": None}
_CLASSIFIER = {"search": None, "n_self_trained": 0}


def upgrade(
    header: dict[str, Any], arrays: dict[str, NDArray[Any]]
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Make format 5 of format 4: add the keys, with what it means that they are not there.

    Votes of a classifier get a checksum of 0, which says that the vector is not known.

    Parameters
    ----------
    header, arrays
        As in a file of format 4.
    """
    kind = header.get("kind")
    if kind == "metric-knn":
        n = len(arrays["held_out/ids"]) if "held_out/ids" in arrays else 0
        header = header | {k: v for k, v in _CLASSIFIER.items() if k not in header}
        return header, arrays | {"held_out/checksums": np.zeros(n, dtype=np.uint64)}
    if kind is None:
        return header | {k: v for k, v in _DETECTOR.items() if k not in header}, arrays
    return header, arrays
