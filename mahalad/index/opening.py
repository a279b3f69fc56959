"""Open an index by one name, wherever it is."""

from __future__ import annotations

import logging
import os
from typing import Any

from mahalad.errors import InputError
from mahalad.index.checks import checked_settings
from mahalad.index.contract import Distance, VectorIndex
from mahalad.index.edge import EdgeIndex
from mahalad.index.memory import MemoryIndex
from mahalad.index.server import DEFAULT_TIMEOUT, ServerIndex

_log = logging.getLogger(__name__)


def open_index(
    where: str | os.PathLike[str] | None,
    *,
    n_features: int | None = None,
    distance: Distance | None = None,
    about: dict[str, Any] | None = None,
    create: bool = True,
    exact: bool = True,
    timeout: float = DEFAULT_TIMEOUT,
) -> VectorIndex:
    """Open an index, or make a new one.

    Parameters
    ----------
    where : str, Path or None
        None: in memory. ``qdrant://host:6333/collection`` (``qdrants://`` for https): on a Qdrant
        server; an API key comes from the environment variable ``MAHALAD_QDRANT_API_KEY``. Any
        other: a folder, with the embedded Qdrant engine.
    n_features : int, optional
        Needed for a new index; an old one is refused where it differs.
    distance : {"cosine", "euclidean"}, optional
        Of a new index (cosine unless given); an old one is refused where it differs.
    about : dict, optional
        JSON: what made the vectors (fingerprint of encoder and projection). Recorded with a new
        index; an old one is refused where it differs. None takes any.
    create : bool, default=True
        False: only an index that is there already.
    exact : bool, default=True
        False: Qdrant may search by its graph, and miss neighbours (see `EdgeIndex`, whose graph
        `optimize` builds; a server does that itself). An index in memory is always exact.
    timeout : float, default=10
        Seconds to wait for each answer of a server.

    Raises
    ------
    InputError
        No such index, an address of another form, or an index of other vectors.
    IndexUnavailableError
        The server does not answer, or another process has the folder open.
    MissingExtraError
        The extra ``qdrant`` is not installed.

    Examples
    --------
    >>> with open_index(None, n_features=2) as index:
    ...     index.add([[1.0, 0.0]], ["good"], ["a.png"])
    array([0])
    """
    _log.debug("index %s", "in memory" if where is None else os.fspath(where))
    if where is None:
        if not create:
            raise InputError("an index in memory is always new; give a folder or qdrant://...")
        settings = checked_settings(n_features, distance, about, "index in memory")
        return MemoryIndex(settings["n_features"], settings["distance"], settings["about"])
    name = os.fspath(where)
    if name.split("://")[0] in ("qdrant", "qdrants"):
        return ServerIndex(
            name,
            n_features=n_features,
            distance=distance,
            about=about,
            create=create,
            exact=exact,
            timeout=timeout,
        )
    if "://" in name:
        raise InputError(
            f"{name.split('://')[0]}://...: not an index; give a folder, or "
            "qdrant://host:6333/collection for a Qdrant server"
        )
    return EdgeIndex(
        name, n_features=n_features, distance=distance, about=about, create=create, exact=exact
    )
