"""What all stores share: each argument is checked, and each distance computed, in one place."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mahalad.checks import Whole, check_parameters
from mahalad.errors import InputError
from mahalad.index.checks import LARGEST_ID, checked_ids, checked_texts, checked_vectors, some
from mahalad.index.contract import Distance, IndexUnavailableError, Neighbors, Records


class CheckedIndex(ABC):
    """A `VectorIndex` but for the storage.

    A store gives the abstract methods below, and is given arguments that are right. Writers take
    turns; readers do not wait for them.
    """

    def __init__(
        self, n_features: int, distance: Distance, about: dict[str, Any] | None, name: str
    ) -> None:
        self.n_features = n_features
        self.distance = distance
        self.about = about or {}
        self.name = name
        self._writing = threading.RLock()
        self._above = 0  # larger than every id this object has seen
        self._closed = False

    def add(
        self,
        vectors: ArrayLike,
        labels: Sequence[str],
        paths: Sequence[str],
        ids: Sequence[int] | NDArray[np.int64] | None = None,
    ) -> NDArray[np.int64]:
        """See `VectorIndex.add`."""
        self._check_open()
        X = checked_vectors(vectors, self.n_features, self.distance)
        texts = checked_texts(labels, len(X), "labels"), checked_texts(paths, len(X), "paths")
        with self._writing:
            numbers = self._new_ids(len(X)) if ids is None else checked_ids(ids)
            if len(numbers) != len(X):
                raise InputError(f"{len(numbers)} ids given for {len(X)} vectors")
            repeated = np.unique(numbers, return_counts=True)
            if (repeated[1] > 1).any():
                raise InputError(f"ids given twice: {some(repeated[0][repeated[1] > 1])}")
            if len(X):
                self._put(Records(numbers, X, *texts))
                self._above = max(self._above, int(numbers.max()) + 1)
        return numbers

    def remove(self, ids: Sequence[int] | NDArray[np.int64]) -> int:
        """See `VectorIndex.remove`."""
        self._check_open()
        with self._writing:
            present = self._present(np.unique(checked_ids(ids)))
            if len(present):
                self._drop(present)
        return len(present)

    def relabel(self, ids: Sequence[int] | NDArray[np.int64], labels: Sequence[str]) -> None:
        """See `VectorIndex.relabel`."""
        self._check_open()
        numbers = checked_ids(ids)
        names = checked_texts(labels, len(numbers), "labels")
        if len(np.unique(numbers)) < len(numbers):
            raise InputError("an id is given twice in one relabelling")
        with self._writing:
            unknown = np.setdiff1d(numbers, self._present(np.unique(numbers)))
            if len(unknown):
                raise InputError(
                    f"{self.name}: no points with ids {some(unknown)}; nothing was relabelled"
                )
            for name in dict.fromkeys(names):
                self._set_label(numbers[names == name], name)

    def query(self, vectors: ArrayLike, k: int, *, label: str | None = None) -> Neighbors:
        """See `VectorIndex.query`."""
        self._check_open()
        check_parameters({"k": Whole(1)}, {"k": k})
        Q = checked_vectors(vectors, self.n_features, self.distance)
        found = []
        for q, candidates in zip(Q, self._candidates(Q, int(k), label), strict=True):
            if len(candidates) < k:
                raise InputError(self._too_few(int(k), label))
            found.append(nearest(q, candidates, int(k), self.distance))
        if not found:
            none = np.empty((0, k), dtype=object)
            return Neighbors(none.astype(np.int64), none.astype(np.float64), none, none)
        ids, distances, labels, paths = zip(*found, strict=True)
        return Neighbors(np.array(ids), np.array(distances), np.array(labels), np.array(paths))

    def get(self, ids: Sequence[int] | NDArray[np.int64]) -> Records:
        """See `VectorIndex.get`."""
        self._check_open()
        return self._get(np.unique(checked_ids(ids)))

    def records(self, batch_size: int = 1000) -> Iterator[Records]:
        """See `VectorIndex.records`."""
        check_parameters({"batch_size": Whole(1)}, {"batch_size": batch_size})
        start = 0
        while start <= LARGEST_ID:
            self._check_open()
            page = self._page(start, batch_size)
            if len(page):
                yield page
                start = int(page.ids[-1]) + 1
            if len(page) < batch_size:
                return

    def close(self) -> None:
        """See `VectorIndex.close`."""
        with self._writing:
            if not self._closed:
                self._closed = True
                self._release()

    def __getstate__(self) -> dict[str, Any]:
        """Pickle and copy an index in memory whole, but for its lock."""
        state = self.__dict__.copy()
        del state["_writing"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._writing = threading.RLock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = ", closed" if self._closed else ""
        return (
            f"{type(self).__name__}({self.name}, n_features={self.n_features}, "
            f"distance={self.distance!r}{state})"
        )

    @abstractmethod
    def counts(self) -> dict[str, int]:
        """See `VectorIndex.counts`."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def flush(self) -> None:
        """See `VectorIndex.flush`."""

    @abstractmethod
    def _put(self, points: Records) -> None:
        """Store points, some perhaps in the place of others; safe when it returns."""

    @abstractmethod
    def _drop(self, ids: NDArray[np.int64]) -> None:
        """Remove points that exist."""

    @abstractmethod
    def _set_label(self, ids: NDArray[np.int64], label: str) -> None:
        """Label points that exist."""

    @abstractmethod
    def _candidates(self, Q: NDArray[np.float32], k: int, label: str | None) -> Iterable[Records]:
        """For each query at least its k nearest points, in any order; fewer where there are."""

    @abstractmethod
    def _present(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of the ids that exist."""

    @abstractmethod
    def _get(self, ids: NDArray[np.int64]) -> Records:
        """Those of the points that exist, ascending."""

    @abstractmethod
    def _page(self, start: int, size: int) -> Records:
        """The first `size` points with ids from `start` on, ascending."""

    @abstractmethod
    def _first_id(self, start: int) -> int | None:
        """The smallest id from `start` on."""

    @abstractmethod
    def _release(self) -> None:
        """Let go of files and connections."""

    def _new_ids(self, n: int) -> NDArray[np.int64]:
        """n ids, one after the other, above every id in the index."""
        first = self.next_id()
        if first + n - 1 > LARGEST_ID:
            raise InputError(f"{self.name}: no {n} ids left above {first - 1}; give ids yourself")
        return np.arange(first, first + n, dtype=np.int64)

    def next_id(self) -> int:
        """See `VectorIndex.next_id`; it asks for single points only.

        n different ids none of which is n or more are 0 to n - 1; otherwise look further up in
        steps that double.
        """
        low, high, step = max(len(self), self._above), LARGEST_ID + 1, 1
        while low < high:
            middle = min(low + step - 1, (low + high) // 2)
            found = self._first_id(middle)
            if found is None:
                high, step = middle, 1
            else:
                low, step = found + 1, 2 * step
        return low

    def _too_few(self, k: int, label: str | None) -> str:
        if label is None:
            return f"{self.name}: {k} neighbours asked for, but it holds {len(self)} points"
        counts = self.counts()
        known = ", ".join(f"{name!r} {count}" for name, count in list(counts.items())[:20])
        return (
            f"{self.name}: {k} neighbours labelled {label!r} asked for, but there are "
            f"{counts.get(label, 0)} (labels: {known or 'none'})"
        )

    def _check_open(self) -> None:
        if self._closed:
            raise IndexUnavailableError(f"{self.name}: the index is closed; open it again")


class StoredElsewhere(CheckedIndex):
    """An index whose points outlive the object: in a folder, or on a server.

    A pickle refers to it, and opens it again; a copy is the same index, for the same reason.
    """

    @abstractmethod
    def _reopen(self) -> Callable[[], Self]:
        """What opens the index again, in any process; it can be pickled."""

    def __reduce__(self) -> tuple[Callable[[], Self], tuple[()]]:
        return self._reopen(), ()

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


def distances_to(q: NDArray[Any], vectors: NDArray[Any], distance: Distance) -> NDArray[np.float64]:
    """Compute distances from one vector, in float64; equal vectors have distance 0 exactly.

    Parameters
    ----------
    q : ndarray of shape (n_features,)
    vectors : ndarray of shape (n, n_features)
    distance : {"cosine", "euclidean"}

    Returns
    -------
    ndarray of shape (n,)

    Notes
    -----
    For vectors of unit length ``(1 - cos) / 2 = |a - b|^2 / 4``, without the cancellation.
    """
    a, B = q.astype(np.float64), vectors.astype(np.float64)
    if distance == "euclidean":
        difference = B - a
        return np.asarray(np.sqrt(np.einsum("ij,ij->i", difference, difference)))
    difference = B / np.sqrt(np.einsum("ij,ij->i", B, B))[:, None] - a / np.sqrt(a @ a)
    return np.asarray(np.minimum(np.einsum("ij,ij->i", difference, difference) / 4, 1.0))


def nearest(
    q: NDArray[Any], points: Records, k: int, distance: Distance
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Find ids, distances, labels and paths of the k points nearest to q, (k,) each."""
    distances = distances_to(q, points.vectors, distance)
    order = np.lexsort((points.ids, distances))[:k]
    return points.ids[order], distances[order], points.labels[order], points.paths[order]


def partly_added(
    error: IndexUnavailableError, ids: NDArray[np.int64], done: int
) -> IndexUnavailableError:
    """Make the error of an `add` of which the first `done` points are stored."""
    return IndexUnavailableError(
        f"{error}; {done} of {len(ids)} points were acknowledged. No point is lost: add those in "
        "the error's `unacknowledged` again, under these ids",
        acknowledged=ids[:done].tolist(),
        unacknowledged=ids[done:].tolist(),
    )
