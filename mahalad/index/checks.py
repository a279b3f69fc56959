"""Checks of what is given to an index, and of what is recorded with it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mahalad.checks import Whole, check_parameters
from mahalad.choices import EMBEDDING_DISTANCES
from mahalad.errors import InputError
from mahalad.index.contract import Distance

LARGEST_ID = 2**63 - 1
_LARGEST_VALUE = 1e15
"""Of one coordinate: with more, squares of float32 overflow."""
_UNIT_TOLERANCE = 2e-7
"""Rows as near to unit length as float32 gets stay as they are, so that copies are exact."""


def checked_vectors(vectors: ArrayLike, n_features: int, distance: Distance) -> NDArray[np.float32]:
    """Copy vectors (n, n_features) to a float32 array; of unit length for cosine."""
    given = np.asarray(vectors)
    if given.dtype.kind not in "fiu" or given.ndim != 2 or given.shape[1] != n_features:
        raise InputError(
            f"vectors must be numbers of shape (n, {n_features}), got {given.dtype} of shape "
            f"{given.shape}; the index and the vectors must come from the same encoder"
        )
    with np.errstate(over="ignore"):
        X = np.array(given, dtype=np.float32, order="C")
    sizes = np.abs(X)
    if not sizes.max(initial=0) <= _LARGEST_VALUE:  # true for NaN as well
        bad = ~(sizes <= _LARGEST_VALUE).all(axis=1)
        raise InputError(
            f"vectors with NaN, infinite or huge values (beyond {_LARGEST_VALUE:g}) in rows "
            f"{some(np.flatnonzero(bad))}"
        )
    return unit_rows(X) if distance == "cosine" else X


def unit_rows(X: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale rows to unit length; those that have it already do not change by a bit."""
    lengths = np.sqrt(np.einsum("ij,ij->i", X, X, dtype=np.float64))
    if not lengths.all():
        raise InputError(
            f"vectors of zeros in rows {some(np.flatnonzero(lengths == 0))}: they have no "
            "direction, which cosine distances need"
        )
    other = np.abs(lengths - 1) > _UNIT_TOLERANCE
    if other.any():
        X[other] = X[other] / lengths[other, None]
    return X


def checked_texts(values: Sequence[str], n: int, what: str) -> NDArray[np.object_]:
    """Put n texts into an array of objects."""
    if isinstance(values, str):
        raise InputError(f"{what} must be a sequence of {n} texts, got one text: {values!r}")
    texts = list(values)
    if len(texts) != n:
        raise InputError(f"{len(texts)} {what} given for {n} points")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"{what}[{i}] must be a text, got {text!r}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"{what}[{i}] cannot be stored as UTF-8: {text!r}; rename the file or the label"
            ) from error
    array = np.empty(n, dtype=object)
    array[:] = [str(text) for text in texts]
    return array


def checked_ids(ids: Any) -> NDArray[np.int64]:
    """Copy ids to an int64 array; none may be negative."""
    given = np.asarray(ids)
    if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
        raise InputError(f"ids must be a sequence of whole numbers from 0 to 2^63 - 1, got {ids!r}")
    wrong = (given < 0) | (given > LARGEST_ID)
    if wrong.any():
        raise InputError(f"ids must lie between 0 and 2^63 - 1, got {some(given[wrong])}")
    return np.array(given, dtype=np.int64)


def checked_settings(
    n_features: int | None, distance: str | None, about: dict[str, Any] | None, name: str
) -> dict[str, Any]:
    """Give what is recorded with a new index, as JSON; `distance` is cosine unless given."""
    if n_features is None:
        raise InputError(f"{name}: a new index needs n_features, the length of its vectors")
    check_parameters({"n_features": Whole(1)}, {"n_features": n_features})
    if distance is not None and distance not in EMBEDDING_DISTANCES:
        raise InputError(
            f"unknown distance {distance!r}; choose {' or '.join(EMBEDDING_DISTANCES)}"
        )
    return {
        "format": 1,
        "n_features": int(n_features),
        "distance": distance or "cosine",
        "about": as_json(about or {}),
    }


def check_agreement(
    recorded: dict[str, Any],
    n_features: int | None,
    distance: str | None,
    about: dict[str, Any] | None,
    name: str,
) -> None:
    """Refuse an index that holds other vectors than those asked for (None: any).

    Raises
    ------
    InputError
        What differs, with both values.
    """
    if recorded.get("format") != 1:
        raise InputError(
            f"{name}: written in format {recorded.get('format')!r}; this version of mahalad "
            "reads format 1: pip install --upgrade mahalad"
        )
    asked = {"n_features": n_features, "distance": distance}
    pairs: list[tuple[str, Any, Any]] = [
        (key, recorded[key], value) for key, value in asked.items() if value is not None
    ]
    if about is not None:
        wanted, have = as_json(about), recorded["about"]
        pairs += [(key, have.get(key), wanted.get(key)) for key in sorted({*have, *wanted})]
    wrong = [f"{key} is {have!r}, not {want!r}" for key, have, want in pairs if have != want]
    if wrong:
        raise InputError(
            f"{name}: the index holds vectors of another kind ({'; '.join(wrong)}). Open it with "
            "the encoder that filled it, or fill a new index"
        )


def as_json(about: dict[str, Any]) -> dict[str, Any]:
    """Give `about` as it comes back from a file (tuples are lists)."""
    try:
        value: dict[str, Any] = json.loads(json.dumps(about, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(f"about must be JSON ({error}), got {about!r}") from error
    return value


def some(values: Iterable[Any], limit: int = 10) -> str:
    """Name the first few values: "0, 5, 7 and 3 more"."""
    texts = [str(value) for value in values]
    more = f" and {len(texts) - limit} more" if len(texts) > limit else ""
    return ", ".join(texts[:limit]) + more
