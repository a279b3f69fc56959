"""What every vector index does, whatever store it is in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mahalad.errors import MahaladError

Distance = Literal["cosine", "euclidean"]


class IndexUnavailableError(MahaladError, ConnectionError):
    """A store cannot be reached, opened or written.

    Attributes
    ----------
    acknowledged, unacknowledged : ndarray of int64
        Of a failed `add`: ids of the points that are stored for certain, and of the others.
        Adding those again under the same ids is safe, also where some did arrive.
    """

    def __init__(
        self, message: str, *, acknowledged: Sequence[int] = (), unacknowledged: Sequence[int] = ()
    ) -> None:
        super().__init__(message)
        self.acknowledged = np.asarray(acknowledged, dtype=np.int64)
        self.unacknowledged = np.asarray(unacknowledged, dtype=np.int64)


@dataclass(frozen=True)
class Neighbors:
    """The k nearest points of n queries, nearest first; equal distances by ascending id.

    Attributes
    ----------
    ids : ndarray of shape (n, k), int64
    distances : ndarray of shape (n, k)
        "cosine": (1 - cos) / 2 in [0, 1]; "euclidean": unsquared.
    labels, paths : ndarray of shape (n, k), object (str)
    """

    ids: NDArray[np.int64]
    distances: NDArray[np.float64]
    labels: NDArray[np.object_]
    paths: NDArray[np.object_]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Records:
    """Stored points.

    Attributes
    ----------
    ids : ndarray of shape (n,), int64
    vectors : ndarray of shape (n, n_features), float32
        Of unit length for cosine distances.
    labels, paths : ndarray of shape (n,), object (str)
    """

    ids: NDArray[np.int64]
    vectors: NDArray[np.float32]
    labels: NDArray[np.object_]
    paths: NDArray[np.object_]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: slice | NDArray[Any]) -> Records:
        """Some of the points, by slice, positions or mask."""
        return Records(self.ids[rows], self.vectors[rows], self.labels[rows], self.paths[rows])


class VectorIndex(Protocol):
    """Labelled vectors with nearest-neighbour search, wherever they are kept.

    Search is exact, unless a store was opened with ``exact=False``.

    Attributes
    ----------
    n_features : int
    distance : {"cosine", "euclidean"}
    about : dict
        JSON: what made the vectors (fingerprint of encoder and projection). Recorded with the
        store; opening it with another is refused.
    """

    n_features: int
    distance: Distance
    about: dict[str, Any]

    def add(
        self,
        vectors: ArrayLike,
        labels: Sequence[str],
        paths: Sequence[str],
        ids: Sequence[int] | NDArray[np.int64] | None = None,
    ) -> NDArray[np.int64]:
        """Store points, safely once it returns, and give their ids.

        Parameters
        ----------
        vectors : array-like of shape (n, n_features)
            Kept as float32; scaled to unit length for cosine distances.
        labels, paths : sequence of str
        ids : sequence of int >= 0, optional
            A point whose id is there already is replaced. None: one after the other, above
            every id in the index.

        Raises
        ------
        InputError
            Wrong shapes, NaN or infinite vectors (the rows are named), vectors of zeros with
            cosine distances, an id twice.
        IndexUnavailableError
            The store could not take them all; it says which ones it did.
        """
        ...

    def remove(self, ids: Sequence[int] | NDArray[np.int64]) -> int:
        """Remove points and give how many there were; unknown ids are left alone."""
        ...

    def relabel(self, ids: Sequence[int] | NDArray[np.int64], labels: Sequence[str]) -> None:
        """Give points other labels; unknown ids are an `InputError`, and nothing is changed."""
        ...

    def query(self, vectors: ArrayLike, k: int, *, label: str | None = None) -> Neighbors:
        """Find the k nearest points, exactly (ties within 1e-6 in any order).

        Parameters
        ----------
        vectors : array-like of shape (n, n_features)
        k : int
            More than there are points (with that label) is an `InputError`.
        label : str, optional
            Only among points with this label.
        """
        ...

    def get(self, ids: Sequence[int] | NDArray[np.int64]) -> Records:
        """Give those of the points that exist, by ascending id."""
        ...

    def records(self, batch_size: int = 1000) -> Iterator[Records]:
        """Iterate over all points in batches, by ascending id."""
        ...

    def counts(self) -> dict[str, int]:
        """Count points by label."""
        ...

    def __len__(self) -> int: ...

    def next_id(self) -> int:
        """Give an id above all others: that of the next point, unless its id is given."""
        ...

    def flush(self) -> None:
        """Write to disk what is not there yet; what `add` returned for is safe without it."""
        ...

    def close(self) -> None:
        """Release the store; may be called twice."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...
