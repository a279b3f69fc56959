"""The exact index in memory: NumPy alone, and saved within a model file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mahalad.errors import ModelFileError
from mahalad.index.base import CheckedIndex
from mahalad.index.checks import checked_settings
from mahalad.index.contract import Distance, Records

_BLOCK = 4_000_000
"""Products of queries and points at a time: 16 MB."""
_GROUP = 64


@dataclass(frozen=True)
class _Points:
    """The first `n` rows of arrays that have room for more; rows, once in use, never change."""

    n: int
    vectors: NDArray[np.float32]  # (capacity, n_features)
    squares: NDArray[np.float32]  # (capacity,) squared lengths
    ids: NDArray[np.int64]
    codes: NDArray[np.int32]  # positions in `names`
    paths: NDArray[np.object_]
    names: NDArray[np.object_]

    @classmethod
    def empty(cls, capacity: int, n_features: int, names: NDArray[np.object_]) -> _Points:
        return cls(
            0,
            np.empty((capacity, n_features), dtype=np.float32),
            np.empty(capacity, dtype=np.float32),
            np.empty(capacity, dtype=np.int64),
            np.empty(capacity, dtype=np.int32),
            np.empty(capacity, dtype=object),
            names,
        )

    def take(self, rows: NDArray[Any], capacity: int | None = None) -> _Points:
        """Copy some rows into arrays of their own."""
        taken = _Points.empty(max(capacity or 0, len(rows)), self.vectors.shape[1], self.names)
        for name in ("vectors", "squares", "ids", "codes", "paths"):
            getattr(taken, name)[: len(rows)] = getattr(self, name)[rows]
        return replace(taken, n=len(rows))

    def records(self, rows: NDArray[Any]) -> Records:
        labels = self.names[self.codes[rows]]
        return Records(self.ids[rows], self.vectors[rows], labels, self.paths[rows])


class MemoryIndex(CheckedIndex):
    """Exact nearest neighbours in memory.

    Nothing is on disk: `state` and `restore` are for the file of the model. Threads may read
    while one writes; a reader sees all points of an `add`, or none.

    Parameters
    ----------
    n_features : int
    distance : {"cosine", "euclidean"}, default="cosine"
    about : dict, optional
        JSON: what made the vectors.

    Examples
    --------
    >>> import numpy as np
    >>> index = MemoryIndex(2, "euclidean")
    >>> index.add(np.array([[0, 0], [3, 4]]), ["good", "bad"], ["a.png", "b.png"])
    array([0, 1])
    >>> index.query(np.array([[3, 3]]), k=2).distances.round(2)
    array([[1.  , 4.24]])
    """

    def __init__(
        self,
        n_features: int,
        distance: Distance = "cosine",
        about: dict[str, Any] | None = None,
    ) -> None:
        settings = checked_settings(n_features, distance, about, "index in memory")
        super().__init__(settings["n_features"], distance, settings["about"], "index in memory")
        self._points = _Points.empty(64, self.n_features, np.empty(0, dtype=object))

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Describe everything as JSON and arrays, for a model file."""
        points = self._points
        about = {
            "n_features": self.n_features,
            "distance": self.distance,
            "about": self.about,
            "labels": points.names.tolist(),
        }
        paths = json.dumps(points.paths[: points.n].tolist()).encode()
        arrays: dict[str, NDArray[Any]] = {
            "vectors": points.vectors[: points.n],
            "ids": points.ids[: points.n],
            "codes": points.codes[: points.n],
            "paths": np.frombuffer(paths, dtype=np.uint8),
        }
        return about, arrays

    @classmethod
    def restore(cls, about: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Self:
        """Make the index that `state` described.

        Raises
        ------
        ModelFileError
            The parts do not fit together.
        """
        try:
            index = cls(about["n_features"], about["distance"], about["about"])
            names = np.array(about["labels"], dtype=object)
            labels = names[arrays["codes"]]
            paths = json.loads(arrays["paths"].tobytes())
            index.add(arrays["vectors"], labels, paths, arrays["ids"])
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ModelFileError(f"the index in the model file is damaged ({error})") from error
        return index

    def counts(self) -> dict[str, int]:
        """See `VectorIndex.counts`."""
        self._check_open()
        points = self._points
        found = np.bincount(points.codes[: points.n], minlength=len(points.names))
        pairs = zip(points.names, found.tolist(), strict=True)
        return {name: count for name, count in sorted(pairs) if count}

    def __len__(self) -> int:
        return self._points.n

    def flush(self) -> None:
        """Do nothing: there is no disk."""
        self._check_open()

    def _put(self, new: Records) -> None:
        points, n_new = self._points, len(new)
        kept = np.flatnonzero(~np.isin(points.ids[: points.n], new.ids))
        n = len(kept)
        if n < points.n or n + n_new > len(points.ids):
            room = max(n + n_new, 2 * points.n)
            points = points.take(kept, room)
        names, codes = _encoded(points.names, new.labels)
        # Rows from n on are in no reader's view until the new points are set.
        rows = slice(n, n + n_new)
        points.vectors[rows] = new.vectors
        points.squares[rows] = np.einsum("ij,ij->i", new.vectors, new.vectors, dtype=np.float64)
        points.ids[rows] = new.ids
        points.codes[rows] = codes
        points.paths[rows] = new.paths
        self._points = replace(points, n=n + n_new, names=names)

    def _drop(self, ids: NDArray[np.int64]) -> None:
        points = self._points
        self._points = points.take(np.flatnonzero(~np.isin(points.ids[: points.n], ids)), 64)

    def _set_label(self, ids: NDArray[np.int64], label: str) -> None:
        points = self._points
        names, [code] = _encoded(points.names, np.array([label], dtype=object))
        codes = points.codes.copy()
        codes[np.flatnonzero(np.isin(points.ids[: points.n], ids))] = code
        self._points = replace(points, codes=codes, names=names)

    def _candidates(self, Q: NDArray[np.float32], k: int, label: str | None) -> Iterator[Records]:
        """The k nearest by float32 products, and all that rounding may have kept out of them.

        The square ``|x|^2 - 2 x q`` is off by less than ``(d / 2 + 2) u (|x| + |q|)^2``, u = 2^-24
        (Higham, Accuracy and Stability of Numerical Algorithms, 2002, equation 3.5).
        """
        points = self._points
        vectors, squares = points.vectors[: points.n], points.squares[: points.n]
        among = None if label is None else np.flatnonzero(_has_label(points, label))
        if not points.n or (among is not None and len(among) < k):
            for _ in Q:
                yield points.records(np.arange(0) if among is None else among)
            return
        longest = np.sqrt(float(squares.max()))
        lengths = np.sqrt(np.einsum("ij,ij->i", Q, Q, dtype=np.float64))
        slack = (self.n_features + 8) * 2.0**-24 * (longest + lengths) ** 2
        size = max(1, _BLOCK // points.n)
        for start in range(0, len(Q), size):
            block = Q[start : start + size]
            # One query by the faster matrix-vector product.
            products = block @ vectors.T if len(block) > 1 else (vectors @ block[0])[None]  # (b, n)
            for row, margin in zip(products, slack[start : start + size], strict=True):
                near = squares - 2 * row
                if among is not None:
                    near = near[among]
                if k < len(near):
                    limit = kth_smallest(near, k) + margin
                    rows = np.flatnonzero(near <= limit)
                else:
                    rows = np.arange(len(near))
                yield points.records(rows if among is None else among[rows])

    def _present(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        points = self._points
        return ids[np.isin(ids, points.ids[: points.n])]

    def _get(self, ids: NDArray[np.int64]) -> Records:
        points = self._points
        rows = np.flatnonzero(np.isin(points.ids[: points.n], ids))
        return points.records(rows[np.argsort(points.ids[rows])])

    def _page(self, start: int, size: int) -> Records:
        points = self._points
        rows = np.flatnonzero(points.ids[: points.n] >= start)
        ordered = rows[np.argsort(points.ids[rows])]
        return points.records(ordered[:size])

    def _first_id(self, start: int) -> int | None:
        ids = self._points.ids[: self._points.n]
        above = ids[ids >= start]
        return int(above.min()) if len(above) else None

    def _release(self) -> None:
        """Do nothing: there is nothing to let go of."""


def kth_smallest(values: NDArray[np.float32], k: int) -> float:
    """Find the k-th smallest of more than k values, faster than a partition of all.

    The k-th smallest of the minima of groups is at least as large as that of all values: those k
    minima are values themselves. What is not above it is little, and holds the k smallest.
    """
    groups = (
        values[: len(values) // _GROUP * _GROUP].reshape(_GROUP, -1).min(axis=0, initial=np.inf)
    )
    if k < len(groups):
        values = values[values <= np.partition(groups, k - 1)[k - 1]]
    return float(np.partition(values, k - 1)[k - 1])


def _encoded(
    names: NDArray[np.object_], labels: NDArray[np.object_]
) -> tuple[NDArray[np.object_], NDArray[np.int32]]:
    """Labels as positions among the names, which grow by those that are new."""
    position = {name: i for i, name in enumerate(names)}
    for label in labels:
        position.setdefault(label, len(position))
    grown = np.empty(len(position), dtype=object)
    grown[:] = list(position)
    return grown, np.array([position[label] for label in labels], dtype=np.int32)


def _has_label(points: _Points, label: str) -> NDArray[np.bool_]:
    [code] = np.flatnonzero(points.names == label).tolist() or [-1]
    return np.asarray(points.codes[: points.n] == code)
