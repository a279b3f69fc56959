"""Format 6: patches were compared with Gaussians alone, where a file says so by a number."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

Header = dict[str, Any]
Arrays = dict[str, NDArray[Any]]


def upgrade(header: Header, arrays: Arrays) -> tuple[Header, Arrays]:
    """Make format 7 of format 6: a per-position scorer goes on to compare with Gaussians.

    Parameters
    ----------
    header, arrays
        As in a file of format 6.
    """
    params = header.get("params")
    if not isinstance(params, dict):
        return header, arrays  # the audit comes afterwards
    params = dict(params)
    if header.get("class") == "MahalanobisDetector":
        params.setdefault("neighbourhood", 0)
    spec = params.get("scorer")
    if isinstance(spec, dict) and spec.get("class") == "PatchScorer":
        own = spec.get("params")
        if isinstance(own, dict):
            params["scorer"] = {**spec, "params": {"neighbourhood": 0, **own}}
    return {**header, "params": params}, arrays
