"""Format 2: maps were made of the first level of each grid; there were no tolerances near 0."""

from __future__ import annotations

import re
from typing import Any

from numpy.typing import NDArray

_ATOL = 1e-9
"""Absolute tolerance of golden scores where a file does not say its own."""

_OF_OLD_MAPS = re.compile(r"scorer/(map_maxima|levels/.+/(mean|deviation))")


def upgrade(
    header: dict[str, Any], arrays: dict[str, NDArray[Any]]
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Make format 3 of format 2: a scorer without maps, since its maps have no units any more.

    Parameters
    ----------
    header, arrays
        As in a file of format 2.
    """
    new = dict(header)
    if "golden" in header:
        new["golden"] = {"atol": _ATOL, **header["golden"]}
    if header.get("features") is not None:
        new["features"] = {"maps": [], "region": None, **header["features"]}
    kept = {name: a for name, a in arrays.items() if not _OF_OLD_MAPS.fullmatch(name)}
    return new, kept
