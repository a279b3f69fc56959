"""Format 1: levels are pooled, detectors look at whole images, a scorer has no state."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray


def upgrade(
    header: dict[str, Any], arrays: dict[str, NDArray[Any]]
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Make format 2 of format 1: ``scope="image"``, and a shape in place of a number of features.

    Parameters
    ----------
    header, arrays
        As in the file.
    """
    new = {"scorer": None, **header}
    if header.get("class") == "MahalanobisDetector" and "params" in header:
        new["params"] = {"scope": "image", **header["params"]}
    if "levels" in header.get("fit", {}):
        sizes = header["fit"]["levels"]
        new["fit"] = {**header["fit"], "levels": {name: [size] for name, size in sizes.items()}}
    return new, arrays
