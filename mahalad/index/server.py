"""The index on a Qdrant server, for several processes and machines (extra ``qdrant``)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, Self, TypeVar
from urllib.parse import unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from mahalad.errors import InputError, MissingExtraError
from mahalad.index.base import StoredElsewhere, partly_added
from mahalad.index.checks import check_agreement, checked_settings
from mahalad.index.contract import Distance, IndexUnavailableError, Records
from mahalad.index.edge import found_by, from_points, to_points

API_KEY = "MAHALAD_QDRANT_API_KEY"
"""Environment variable with the server's API key; there is no other way to give one."""
DEFAULT_TIMEOUT = 10.0
_QUERIES_AT_ONCE = 64
_POINTS_AT_ONCE = 1000
_VALUES_AT_ONCE = 500_000  # about 5 MB as JSON; servers take 32 MB
_LONGEST_WAIT = 30.0
_OURS = "mahalad"  # key in the collection's metadata

T = TypeVar("T")


class Address(NamedTuple):
    """Where a collection is: ``qdrant://host:6333/collection``."""

    server: str
    collection: str


class ServerIndex(StoredElsewhere):
    """Nearest neighbours from a collection of a Qdrant server.

    Requests that fail because the server is down, slow or busy are made again after waits that
    double. Points have the same ids in every attempt, so that none is stored twice.

    Parameters
    ----------
    url : str
        ``qdrant://host:6333/collection`` (6333 unless given); ``qdrants://`` or port 443 for https.
        An API key comes from the environment variable ``MAHALAD_QDRANT_API_KEY``.
    n_features : int, optional
        For a new collection; of an old one the recorded number is taken, and must agree if given.
    distance : {"cosine", "euclidean"}, optional
        Likewise; cosine for a new collection unless given.
    about : dict, optional
        Likewise: JSON of what made the vectors. None takes any.
    create : bool, default=True
        False: a missing collection is an error.
    exact : bool, default=True
        False: the server may search by its graph (HNSW), which may miss neighbours, and is faster
        where there are many points.
    timeout : float, default=10
        Seconds (whole ones, rounded up) to wait for each answer.
    retries : int, default=4
        Attempts after the first.
    backoff : float, default=0.5
        Seconds before the first of them; doubled before each further one.
    client : qdrant_client.QdrantClient, optional
        A ready client instead of one for the address in `url`; `close` leaves it open.

    Raises
    ------
    MissingExtraError
        ``qdrant-client`` is not installed.
    InputError
        A wrong address, somebody else's collection, or one that holds other vectors.
    IndexUnavailableError
        The server does not answer, or refuses.

    Notes
    -----
    What the vectors are is recorded in the collection's metadata (Qdrant 1.16 or newer). Any
    number of processes may read. Of those that write, only one at a time may leave ids
    to be chosen: two that look for the largest id together find the same one, and the second
    would replace the points of the first. Others give ids of their own.
    """

    def __init__(
        self,
        url: str,
        *,
        n_features: int | None = None,
        distance: Distance | None = None,
        about: dict[str, Any] | None = None,
        create: bool = True,
        exact: bool = True,
        timeout: float = DEFAULT_TIMEOUT,
        retries: int = 4,
        backoff: float = 0.5,
        client: Any = None,
    ) -> None:
        address = parse_url(url)
        if not timeout > 0 or retries < 0 or not backoff >= 0:
            raise InputError(
                "timeout must be above 0, retries and backoff at least 0, got "
                f"{timeout}, {retries} and {backoff}"
            )
        self._models = _import_client().models
        self._url, self._collection = url, address.collection
        self.exact = exact
        self._timeout, self._retries, self._backoff = timeout, retries, backoff
        self._own = client is None
        self._client = _connect(address.server, timeout) if client is None else client
        self._closed = False
        try:
            recorded = self._open(n_features, distance, about, create)
            check_agreement(recorded, n_features, distance, about, url)
        except BaseException:
            self._release()
            raise
        super().__init__(recorded["n_features"], recorded["distance"], recorded["about"], url)

    def counts(self) -> dict[str, int]:
        """See `VectorIndex.counts`."""
        found = self._do(self._client.facet, key="label", limit=max(1, len(self)), exact=True)
        return dict(sorted((str(hit.value), int(hit.count)) for hit in found.hits))

    def __len__(self) -> int:
        return int(self._do(self._client.count, exact=True).count)

    def flush(self) -> None:
        """Do nothing: every request waits until the server has stored what it brought."""
        self._check_open()

    def _reopen(self) -> Callable[[], Self]:
        return partial(
            type(self),
            self._url,
            create=False,
            n_features=self.n_features,
            distance=self.distance,
            about=self.about,
            exact=self.exact,
            timeout=self._timeout,
            retries=self._retries,
            backoff=self._backoff,
        )

    def _put(self, points: Records) -> None:
        size = max(1, min(_POINTS_AT_ONCE, _VALUES_AT_ONCE // self.n_features))
        for start in range(0, len(points), size):
            batch = to_points(points[start : start + size], self._models.PointStruct)
            try:
                self._do(self._client.upsert, points=batch, wait=True)
            except IndexUnavailableError as error:
                raise partly_added(error, points.ids, start) from error

    def _drop(self, ids: NDArray[np.int64]) -> None:
        which = self._models.PointIdsList(points=ids.tolist())
        self._do(self._client.delete, points_selector=which, wait=True)

    def _set_label(self, ids: NDArray[np.int64], label: str) -> None:
        payload = {"label": label}
        self._do(self._client.set_payload, payload=payload, points=ids.tolist(), wait=True)

    def _candidates(self, Q: NDArray[np.float32], k: int, label: str | None) -> Iterator[Records]:
        models, only = self._models, None
        if label is not None:
            match = models.FieldCondition(key="label", match=models.MatchValue(value=label))
            only = models.Filter(must=[match])

        def search(part: NDArray[np.float32], exact: bool) -> Any:
            requests = [
                models.QueryRequest(
                    query=q,
                    limit=k,
                    filter=only,
                    params=models.SearchParams(exact=exact),
                    with_payload=True,
                    with_vector=True,
                )
                for q in part.tolist()
            ]
            answers = self._do(self._client.query_batch_points, requests=requests)
            return [answer.points for answer in answers]

        yield from found_by(search, Q, k, self.exact, _QUERIES_AT_ONCE, self.n_features)

    def _present(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        found = self._retrieve(ids, whole=False)
        return np.array(sorted(point.id for point in found), dtype=np.int64)

    def _get(self, ids: NDArray[np.int64]) -> Records:
        found = self._retrieve(ids, whole=True)
        return from_points(sorted(found, key=lambda point: int(point.id)), self.n_features)

    def _page(self, start: int, size: int) -> Records:
        points, _ = self._do(
            self._client.scroll, offset=start, limit=size, with_payload=True, with_vectors=True
        )
        return from_points(points, self.n_features)

    def _first_id(self, start: int) -> int | None:
        points, _ = self._do(
            self._client.scroll, offset=start, limit=1, with_payload=False, with_vectors=False
        )
        return int(points[0].id) if points else None

    def _retrieve(self, ids: NDArray[np.int64], *, whole: bool) -> list[Any]:
        found: list[Any] = []
        for start in range(0, len(ids), _POINTS_AT_ONCE):
            part = ids[start : start + _POINTS_AT_ONCE].tolist()
            found += self._do(
                self._client.retrieve, ids=part, with_payload=whole, with_vectors=whole
            )
        return found

    def _release(self) -> None:
        if self._own:
            self._client.close()

    def _open(
        self,
        n_features: int | None,
        distance: str | None,
        about: dict[str, Any] | None,
        create: bool,
    ) -> dict[str, Any]:
        """What is recorded with the collection, which is made if it is missing."""
        if not self._do(self._client.collection_exists):
            if not create:
                raise InputError(f"{self._url}: there is no such collection on the server")
            self._create(checked_settings(n_features, distance, about, self._url))
        info = self._do(self._client.get_collection)
        settings: dict[str, Any] | None = (info.config.metadata or {}).get(_OURS)
        if settings is None:
            raise InputError(
                f"{self._url}: the collection is not one of mahalad's (its metadata has no entry "
                f"{_OURS!r}); choose another name. Servers before Qdrant 1.16 keep no metadata"
            )
        if "label" not in info.payload_schema:  # new, or its maker was interrupted
            kind = self._models.PayloadSchemaType.KEYWORD
            create_index = self._client.create_payload_index
            self._do(create_index, field_name="label", field_schema=kind, wait=True)
        return settings

    def _create(self, settings: dict[str, Any]) -> None:
        measures = self._models.Distance
        measure = measures.DOT if settings["distance"] == "cosine" else measures.EUCLID
        vectors = self._models.VectorParams(size=settings["n_features"], distance=measure)
        try:
            self._do(
                self._client.create_collection, vectors_config=vectors, metadata={_OURS: settings}
            )
        except IndexUnavailableError:  # another process, or an attempt without an answer, made it
            if not self._do(self._client.collection_exists):
                raise

    def _do(self, function: Callable[..., T], **arguments: Any) -> T:
        """Make a request; again after a while where that may help."""
        self._check_open()
        for attempt in range(self._retries + 1):
            try:
                return function(collection_name=self._collection, **arguments)
            except Exception as error:
                wait = _wait_before_retry(error)
                if wait is None:
                    if isinstance(error, _import_client().exceptions):
                        raise self._refused(error) from error
                    raise
                if attempt == self._retries:
                    raise IndexUnavailableError(
                        f"{self._url}: no answer after {attempt + 1} attempts "
                        f"({_reason(error)}). Is the server running? To start one: "
                        "docker run -p 6333:6333 qdrant/qdrant"
                    ) from error
                time.sleep(min(max(wait, self._backoff * 2**attempt), _LONGEST_WAIT))
        raise AssertionError("unreachable")

    def _refused(self, error: Exception) -> IndexUnavailableError:
        """What to raise for an error that will not go away by itself."""
        status = getattr(error, "status_code", None)
        if status in (401, 403):
            given = "is not accepted" if os.environ.get(API_KEY) else "is not set"
            return IndexUnavailableError(
                f"{self._url}: the server refuses access ({status}); the environment variable "
                f"{API_KEY} {given}"
            )
        return IndexUnavailableError(f"{self._url}: the request failed ({_reason(error)})")

    def _check_open(self) -> None:
        if self._closed:
            raise IndexUnavailableError(f"{self._url}: the index is closed; open it again")


def parse_url(url: str) -> Address:
    """Read ``qdrant://host:port/collection``.

    Raises
    ------
    InputError
        Another form; a user, password or query in it (API keys come from the environment).

    Examples
    --------
    >>> parse_url("qdrants://example.org:6333/beans")
    Address(server='https://example.org:6333', collection='beans')
    """
    form = "qdrant://host:6333/collection"
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise InputError(  # the address is not repeated: there may be a key in it
            f"the address of a Qdrant server has a key, user or option in it; give {form}, and "
            f"the API key by the environment variable {API_KEY}"
        )
    collection = unquote(parts.path.strip("/"))
    try:
        port = parts.port or 6333
    except ValueError as error:
        raise InputError(f"{url}: not a port number; give {form}") from error
    known = parts.scheme in ("qdrant", "qdrants")
    if not known or not parts.hostname or not collection or "/" in collection:
        raise InputError(f"{url}: not the address of a collection; give {form}")
    scheme = "https" if parts.scheme == "qdrants" or port == 443 else "http"
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return Address(f"{scheme}://{host}:{port}", collection)


def _import_client() -> Any:
    try:
        import httpx
        import qdrant_client
        from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
        from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse
    except ImportError as error:
        raise MissingExtraError(
            "an index on a Qdrant server needs the client: "
            'pip install "mahalad[qdrant]" (it brings qdrant-client)'
        ) from error
    return _Client(
        qdrant_client.QdrantClient,
        qdrant_client.models,
        (ResponseHandlingException, UnexpectedResponse, ResourceExhaustedResponse),
        (httpx.TransportError, ConnectionError, TimeoutError),
    )


class _Client(NamedTuple):
    """The parts of qdrant-client that are used."""

    make: Any
    models: Any
    exceptions: tuple[type[Exception], ...]
    transport: tuple[type[Exception], ...]


def _connect(server: str, timeout: float) -> Any:
    make = _import_client().make
    key = os.environ.get(API_KEY) or None
    return make(url=server, api_key=key, timeout=timeout, check_compatibility=False)


def _wait_before_retry(error: Exception) -> float | None:
    """Least seconds to wait before another attempt; None where none would help."""
    source = getattr(error, "source", error)  # of qdrant-client's ResponseHandlingException
    if isinstance(source, _import_client().transport):
        return 0.0
    if hasattr(error, "retry_after_s"):  # 429 with a time
        return float(error.retry_after_s)
    status = getattr(error, "status_code", None)
    return 0.0 if status is not None and (status in (408, 429) or status >= 500) else None


def _reason(error: Exception) -> str:
    source = getattr(error, "source", error)
    text = " ".join(str(source).split()) or type(source).__name__
    return text if len(text) <= 300 else text[:300] + " ..."
