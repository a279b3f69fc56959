"""The index on disk, in this process: Qdrant's engine, embedded (extra ``qdrant``)."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from mahalad.errors import InputError, MissingExtraError
from mahalad.files.container import write_atomically
from mahalad.index.base import StoredElsewhere, partly_added
from mahalad.index.checks import check_agreement, checked_settings, some
from mahalad.index.contract import Distance, IndexUnavailableError, Records

_QUERIES_AT_ONCE = 100
_VALUES_AT_ONCE = 1_000_000
_CREATING = "creating-"

T = TypeVar("T")


class EdgeIndex(StoredElsewhere):
    """Nearest neighbours from an embedded Qdrant shard in a folder.

    What `add`, `remove` and `relabel` returned for is on disk and survives a hard kill. One
    process at a time may have the folder open; its threads may read while one of them writes.

    Parameters
    ----------
    folder : str or Path
        Made if it does not exist; else an index, or an empty folder.
    n_features : int, optional
        For a new index; of an old one the recorded number is taken, and must agree if given.
    distance : {"cosine", "euclidean"}, optional
        Likewise; cosine for a new index unless given.
    about : dict, optional
        Likewise: JSON of what made the vectors. None takes any.
    create : bool, default=True
        False: a missing index is an error.
    exact : bool, default=True
        False: search by the graph that `optimize` builds, which may miss neighbours; without one,
        search is exact. See Notes.

    Raises
    ------
    MissingExtraError
        ``qdrant-edge-py`` is not installed.
    InputError
        The folder is something else, or the index holds other vectors.
    IndexUnavailableError
        Another process has the index open, or it is damaged.

    Notes
    -----
    The folder holds ``store/shard`` (Qdrant's files) and ``store/index.json`` (what the vectors
    are). Both are made under another name and then moved as one, so that a kill while an index is
    made leaves either an index or none. Vectors for cosine distances are stored at unit length and
    compared by their product, which keeps every bit of them.

    Search by the graph (HNSW) visits few points instead of all. How many neighbours it misses
    depends on the data: among 20,000 vectors of 128 features it found all 5 nearest where they lie
    near 12 dimensions, as embeddings do, and 70 % among random ones. `benchmarks/index_speed.py`
    measures both. An exact search reads all vectors, and gets no faster by optimising.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        n_features: int | None = None,
        distance: Distance | None = None,
        about: dict[str, Any] | None = None,
        create: bool = True,
        exact: bool = True,
    ) -> None:
        self._edge = _import_edge()
        self.exact = exact
        folder = Path(folder)
        store = folder / "store"
        if not store.is_dir():
            _check_is_free(folder, create)
            self._create(folder, checked_settings(n_features, distance, about, str(folder)))
        recorded = _read_settings(store / "index.json")
        check_agreement(recorded, n_features, distance, about, str(folder))
        super().__init__(
            recorded["n_features"], recorded["distance"], recorded["about"], str(folder)
        )
        self._shard = self._load(store / "shard")
        for leftover in folder.glob(f"{_CREATING}*"):  # by a process that was killed
            shutil.rmtree(leftover, ignore_errors=True)

    def counts(self) -> dict[str, int]:
        """See `VectorIndex.counts`."""
        request = self._edge.FacetRequest(key="label", limit=max(1, len(self)), exact=True)
        response = self._do("count labels", self._shard.facet, request)
        return dict(sorted((str(hit.value), int(hit.count)) for hit in response.hits))

    def __len__(self) -> int:
        return int(self._do("count points", self._shard.count, self._edge.CountRequest(exact=True)))

    def flush(self) -> None:
        """See `VectorIndex.flush`."""
        self._do("write to disk", self._shard.flush)

    def optimize(self) -> None:
        """Build the graph that search with ``exact=False`` goes by; 20,000 points take 15 s.

        Points that are added later are compared one by one until it is called again. Fewer than
        10 MB of vectors get no graph.
        """
        with self._writing:
            self._do("optimize", self._shard.optimize)

    def _reopen(self) -> Callable[[], Self]:
        return partial(
            type(self),
            str(Path(self.name).absolute()),
            create=False,
            n_features=self.n_features,
            distance=self.distance,
            about=self.about,
            exact=self.exact,
        )

    def _put(self, points: Records) -> None:
        size = max(1, _VALUES_AT_ONCE // self.n_features)
        for start in range(0, len(points), size):
            batch = to_points(points[start : start + size], self._edge.Point)
            try:
                self._update("add points", self._edge.UpdateOperation.upsert_points(batch))
            except IndexUnavailableError as error:
                raise partly_added(error, points.ids, start) from error

    def _drop(self, ids: NDArray[np.int64]) -> None:
        operation = self._edge.UpdateOperation.delete_points(ids.tolist())
        self._update("remove points", operation)

    def _set_label(self, ids: NDArray[np.int64], label: str) -> None:
        operation = self._edge.UpdateOperation.set_payload(ids.tolist(), {"label": label})
        self._update("relabel points", operation)

    def _candidates(self, Q: NDArray[np.float32], k: int, label: str | None) -> Iterator[Records]:
        edge = self._edge
        only = None
        if label is not None:
            match = edge.FieldCondition(key="label", match=edge.MatchValue(label))
            only = edge.Filter(must=[match])

        def search(part: NDArray[np.float32], exact: bool) -> Any:
            requests = [
                edge.QueryRequest(
                    limit=k,
                    query=edge.Query.Nearest(q),
                    filter=only,
                    params=edge.SearchParams(exact=exact),
                    with_payload=True,
                    with_vector=True,
                )
                for q in part.tolist()
            ]
            return self._do("search", self._shard.query_batch, edge.QueryBatchRequest(requests))

        yield from found_by(search, Q, k, self.exact, _QUERIES_AT_ONCE, self.n_features)

    def _present(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        found = self._do("look up points", self._shard.retrieve, ids.tolist(), False, False)
        return np.array(sorted(point.id for point in found), dtype=np.int64)

    def _get(self, ids: NDArray[np.int64]) -> Records:
        found = self._do("read points", self._shard.retrieve, ids.tolist(), True, True)
        return from_points(sorted(found, key=lambda point: int(point.id)), self.n_features)

    def _page(self, start: int, size: int) -> Records:
        request = self._edge.ScrollRequest(
            offset=start, limit=size, with_payload=True, with_vector=True
        )
        points, _ = self._do("read points", self._shard.scroll, request)
        return from_points(points, self.n_features)

    def _first_id(self, start: int) -> int | None:
        request = self._edge.ScrollRequest(
            offset=start, limit=1, with_payload=False, with_vector=False
        )
        points, _ = self._do("read points", self._shard.scroll, request)
        return int(points[0].id) if points else None

    def _release(self) -> None:
        self._shard.close()

    def _update(self, what: str, operation: Any) -> None:
        self._do(what, self._shard.update, operation)
        self._do(what, self._shard.flush)

    def _do(self, what: str, function: Callable[..., T], *arguments: Any) -> T:
        """Call the engine, whose errors are plain `Exception`s."""
        self._check_open()
        try:
            return function(*arguments)
        except Exception as error:
            raise IndexUnavailableError(f"{self.name}: cannot {what} ({error})") from error

    def _create(self, folder: Path, settings: dict[str, Any]) -> None:
        """Make an index; leave it where another process is faster."""
        edge = self._edge
        measure = edge.Distance.Dot if settings["distance"] == "cosine" else edge.Distance.Euclid
        partial = folder / f"{_CREATING}{uuid.uuid4().hex}"
        try:
            partial.mkdir(parents=True)
            vectors = edge.EdgeVectorParams(size=settings["n_features"], distance=measure)
            shard = edge.EdgeShard.create(str(partial / "shard"), edge.EdgeConfig(vectors=vectors))
            by_label = edge.UpdateOperation.create_field_index(
                "label", edge.PayloadSchemaType.Keyword
            )
            shard.update(by_label)
            shard.flush()
            shard.close()
            write_atomically(partial / "index.json", json.dumps(settings).encode())
            os.rename(partial, folder / "store")
            _sync_folder(folder)
        except Exception as error:
            if not (folder / "store").is_dir():
                raise IndexUnavailableError(f"{folder}: cannot make an index ({error})") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _load(self, shard: Path) -> Any:
        try:
            return self._edge.EdgeShard.load(str(shard))
        except Exception as error:
            if "WouldBlock" in str(error):  # the lock of the write-ahead log
                raise IndexUnavailableError(
                    f"{self.name}: another process (or another object in this one) has the index "
                    "open; close it there, or serve several processes by a Qdrant server: "
                    "qdrant://host:6333/collection"
                ) from error
            raise IndexUnavailableError(
                f"{self.name}: the index cannot be opened ({error}); restore the folder from a "
                "copy, or remove it and fill the index again"
            ) from error


def found_by(
    search: Callable[[NDArray[np.float32], bool], Sequence[Any]],
    Q: NDArray[np.float32],
    k: int,
    exact: bool,
    at_once: int,
    n_features: int,
) -> Iterator[Records]:
    """Give what Qdrant finds for each query: ``search(queries, exact)`` asks for some of them.

    A graph may lead to fewer than k points where there are more: then all are compared.
    """
    for start in range(0, len(Q), at_once):
        part = Q[start : start + at_once]
        for i, points in enumerate(search(part, exact)):
            if not exact and len(points) < k:
                [points] = search(part[i : i + 1], True)
            yield from_points(points, n_features)


def to_points(points: Records, make: Callable[..., T]) -> list[T]:
    """Turn points into Qdrant's."""
    columns = (points.ids.tolist(), points.vectors.tolist(), points.labels, points.paths)
    return [
        make(id=number, vector=vector, payload={"label": label, "path": path})
        for number, vector, label, path in zip(*columns, strict=True)
    ]


def from_points(points: Sequence[Any], n_features: int) -> Records:
    """Turn Qdrant's points, with payload and vector, into records in the order given."""
    labels, paths = np.empty((2, len(points)), dtype=object)
    labels[:] = [point.payload["label"] for point in points]
    paths[:] = [point.payload["path"] for point in points]
    vectors = np.array([point.vector for point in points], dtype=np.float32)
    return Records(
        np.array([point.id for point in points], dtype=np.int64),
        vectors.reshape(len(points), n_features),
        labels,
        paths,
    )


def _import_edge() -> Any:
    try:
        import qdrant_edge
    except ImportError as error:
        raise MissingExtraError(
            "an index in a folder needs the embedded Qdrant engine: "
            'pip install "mahalad[qdrant]" (it brings qdrant-edge-py)'
        ) from error
    return qdrant_edge


def _check_is_free(folder: Path, create: bool) -> None:
    """A new index may go here: nothing is, but what an interrupted attempt left."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: a file; an index is a folder")
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    other = [path.name for path in found if not path.name.startswith(_CREATING)]
    if other:
        raise InputError(
            f"{folder}: not an index (it holds {some(other, 3)}); name an index, or a folder that "
            "is new or empty"
        )
    if not create:
        raise InputError(f"{folder}: there is no index (looked in {folder.absolute()})")


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not {"format", "n_features", "distance", "about"} <= set(settings):
            raise ValueError("entries are missing")
    except (OSError, ValueError, TypeError) as error:
        raise IndexUnavailableError(
            f"{path}: what the index holds cannot be read ({error}); restore the folder from a "
            "copy, or remove it and fill the index again"
        ) from error
    return settings


def _sync_folder(folder: Path) -> None:
    """Make a renaming safe against a loss of power, where the system can."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
