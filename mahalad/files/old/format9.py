"""Format 9: scores were about the coarsest grid alone."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

Header = dict[str, Any]
Arrays = dict[str, NDArray[Any]]


def upgrade(header: Header, arrays: Arrays) -> tuple[Header, Arrays]:
    """Make format 10 of format 9: the same, since its scorers do not say `finer`.

    Parameters
    ----------
    header, arrays
        As in a file of format 9.
    """
    return header, arrays
