"""Format 8: nearest neighbours did not tolerate harmless changes of pictures."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

Header = dict[str, Any]
Arrays = dict[str, NDArray[Any]]


def upgrade(header: Header, arrays: Arrays) -> tuple[Header, Arrays]:
    """Make format 9 of format 8: a detector by nearest neighbours tolerates nothing.

    Parameters
    ----------
    header, arrays
        As in a file of format 8.
    """
    if header.get("class") == "KNNDetector" and isinstance(header.get("params"), dict):
        header = {**header, "params": {**header["params"], "tolerate": []}}
    return header, arrays
