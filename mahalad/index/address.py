"""Where an index is: a folder, or the address of a collection on a server."""

from __future__ import annotations

import os


def absolute(where: str | os.PathLike[str] | None) -> str | None:
    """Give a folder's whole path, so that it is found from anywhere; leave an address as it is.

    Parameters
    ----------
    where : str, Path or None
        As `mahalad.index.opening.open_index` takes it.
    """
    if where is None:
        return None
    name = os.fspath(where)
    return name if "://" in name else os.path.abspath(name)
