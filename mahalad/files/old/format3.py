"""Format 3: maps have no context."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray


def upgrade(
    header: dict[str, Any], arrays: dict[str, NDArray[Any]]
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Make format 4 of format 3: a context that has no weight in the maps.

    Parameters
    ----------
    header, arrays
        As in a file of format 3.
    """
    scorer = header.get("scorer")
    if scorer is None or "maps" not in scorer:
        return header, arrays
    return {**header, "scorer": {"context_weight": 0.0, **scorer}}, arrays
