"""Format 4, the present one: what its first files lack, since it came without a new number."""

from __future__ import annotations

from typing import Any

_DETECTOR = {"autoencoder": None}
_CLASSIFIER = {"search": None, "n_self_trained": 0}


def complete(header: dict[str, Any]) -> dict[str, Any]:
    """Add keys that joined the format later, with what it means that they are not there.

    Parameters
    ----------
    header : dict
        Of a file of format 4.
    """
    kind = header.get("kind")
    if kind == "metric-knn":
        return {**_CLASSIFIER, **header}
    return header if kind is not None else {**_DETECTOR, **header}
