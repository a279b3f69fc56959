"""One contract for all vector stores, with brute force as the oracle; copies; servers that fail."""

from __future__ import annotations

import http.server
import os
import socket
import subprocess
import sys
import threading
import uuid

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from mahalad.errors import InputError, MissingExtraError, ModelFileError
from mahalad.files.container import read_model, write_model
from mahalad.index import copying
from mahalad.index.checks import unit_rows
from mahalad.index.contract import IndexUnavailableError
from mahalad.index.copying import checksums, copy_index, remove_strangers
from mahalad.index.edge import EdgeIndex
from mahalad.index.memory import MemoryIndex, kth_smallest
from mahalad.index.opening import open_index
from mahalad.index.server import API_KEY, Address, ServerIndex, parse_url

pytestmark = [  # of qdrant-client's in-process mode
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect:UserWarning"),
    pytest.mark.filterwarnings("ignore:Local mode performs exact:UserWarning"),
]
SERVER = os.environ.get("MAHALAD_QDRANT_URL")
D = 8
ABOUT = {"encoder": "resnet", "levels": ["a", "b"]}


class Place:
    """Where a store keeps its points: opens indexes there, again and again."""

    def __init__(self, kind, folder):
        self.kind, self.folder, self.opened = kind, folder, []
        if kind == "edge":
            pytest.importorskip("qdrant_edge", reason="qdrant-edge-py is not installed")
        if kind == "in-process":
            qdrant = pytest.importorskip("qdrant_client", reason="qdrant-client is not installed")
            self.client = qdrant.QdrantClient(":memory:")
        self.collection = f"mahalad-test-{uuid.uuid4().hex}"

    def open(self, n_features=D, distance="cosine", about=None, create=True):
        options = {"n_features": n_features, "distance": distance, "about": about}
        if self.kind == "memory":
            index = MemoryIndex(**options)
        elif self.kind == "edge":
            index = EdgeIndex(self.folder / "index", create=create, **options)
        elif self.kind == "in-process":
            url = f"qdrant://nowhere/{self.collection}"
            index = ServerIndex(url, client=self.client, create=create, **options)
        else:
            url = f"{SERVER.rstrip('/')}/{self.collection}"
            index = ServerIndex(url, create=create, **options)
        self.opened.append(index)
        return index

    def close(self):
        for index in self.opened:
            if self.kind == "server" and not index._closed:
                index._client.delete_collection(self.collection)
            index.close()


KINDS = ["memory", "edge", "in-process", *(["server"] if SERVER else [])]


@pytest.fixture(params=KINDS)
def place(request, tmp_path):
    place = Place(request.param, tmp_path)
    yield place
    place.close()


@pytest.fixture(params=KINDS[1:])
def disk(request, tmp_path):
    """The stores that outlive an object."""
    place = Place(request.param, tmp_path)
    yield place
    place.close()


@pytest.mark.skipif(
    not SERVER, reason="no Qdrant server (set MAHALAD_QDRANT_URL=qdrant://host:6333)"
)
def test_the_server_answers():
    """Says by its reason that the contract was not tried on a real server."""
    place = Place("server", None)
    assert len(place.open()) == 0
    place.close()


def points(rng, n=60, classes=("bad", "good", "été")):
    X = rng.normal(size=(n, D)).astype(np.float32)
    labels = [classes[i % len(classes)] for i in range(n)]
    return X, labels, [f"images/{i:03}.png" for i in range(n)]


def brute_force(Q, X, distance):
    return cdist(Q, X, "cosine") / 2 if distance == "cosine" else cdist(Q, X)


# -- searching -------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_neighbours_are_those_of_brute_force(place, rng, distance):
    X, labels, paths = points(rng)
    index = place.open(distance=distance)
    ids = index.add(X, labels, paths, ids=range(100, 160))
    Q = rng.normal(size=(7, D))
    found = index.query(Q, k=5)
    wanted = brute_force(Q.astype(np.float32), X, distance)
    rows = np.argsort(wanted, axis=1)[:, :5]
    np.testing.assert_array_equal(found.ids, ids[rows])
    np.testing.assert_allclose(found.distances, np.sort(wanted, axis=1)[:, :5], atol=1e-6)
    assert found.labels.tolist() == [[labels[j] for j in row] for row in rows]
    assert found.paths.tolist() == [[paths[j] for j in row] for row in rows]
    assert found.ids.dtype == np.int64 and found.distances.dtype == np.float64 and len(found) == 7


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_as_many_neighbours_as_points_and_no_more(place, rng, distance):
    X, labels, paths = points(rng, 12)
    index = place.open(distance=distance)
    index.add(X, labels, paths)
    found = index.query(X[:2], k=12)
    assert sorted(found.ids[0]) == sorted(found.ids[1]) == list(range(12))
    assert (np.diff(found.distances, axis=1) >= 0).all()
    with pytest.raises(InputError, match="13 neighbours asked for, but it holds 12 points"):
        index.query(X[:2], k=13)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_equal_vectors_are_at_distance_zero_and_tie(place, rng, distance):
    X, labels, paths = points(rng, 20)
    X[[3, 7, 11]] = X[3]
    index = place.open(distance=distance)
    index.add(X, labels, paths)
    found = index.query(X[3:4], k=3)
    assert found.ids.tolist() == [[3, 7, 11]] and found.distances.tolist() == [[0, 0, 0]]
    two = index.query(X[3:4], k=2)  # any two of the three
    assert set(two.ids[0]) < {3, 7, 11} and two.distances.tolist() == [[0, 0]]


def test_opposite_vectors_are_at_cosine_distance_one(place):
    index = place.open(n_features=2)
    index.add([[0.3, 0.1], [-3, -1], [-1, 3]], ["a"] * 3, [""] * 3)
    found = index.query([[30, 10]], k=3)
    np.testing.assert_array_equal(found.ids, [[0, 2, 1]])
    np.testing.assert_allclose(found.distances, [[0, 0.5, 1]], atol=1e-7)
    assert found.distances.max() <= 1


def test_search_among_one_label(place, rng):
    X, labels, paths = points(rng)
    index = place.open(distance="euclidean")
    index.add(X, labels, paths)
    Q = rng.normal(size=(3, D)).astype(np.float32)
    for label in ("été", "bad"):
        own = np.flatnonzero(np.array(labels) == label)
        wanted = own[np.argsort(brute_force(Q, X[own], "euclidean"), axis=1)]
        np.testing.assert_array_equal(index.query(Q, k=20, label=label).ids, wanted)
        with pytest.raises(InputError, match=f"21 neighbours labelled '{label}' .* there are 20"):
            index.query(Q, k=21, label=label)
    with pytest.raises(InputError, match="labelled 'none such' asked for, but there are 0"):
        index.query(Q, k=1, label="none such")


def test_empty_index(place):
    index = place.open()
    assert len(index) == 0 and index.counts() == {} and list(index.records()) == []
    with pytest.raises(InputError, match="1 neighbours asked for, but it holds 0 points"):
        index.query(np.ones((1, D)), k=1)
    assert index.query(np.empty((0, D)), k=2).ids.shape == (0, 2)
    assert index.add(np.empty((0, D)), [], []).tolist() == []


@pytest.mark.parametrize("k", [0, -1, 1.5, True, "3"])
def test_wrong_number_of_neighbours(k):
    with pytest.raises(InputError, match="k must be a whole number >= 1"):
        MemoryIndex(D).query(np.ones((1, D)), k)


@pytest.mark.parametrize("offset", [0, 30, 3000])
def test_float32_products_lose_no_neighbour(rng, offset):
    """Far from the origin float32 products alone would give wrong neighbours."""
    X = (rng.normal(size=(3000, 16)) + offset).astype(np.float32)
    Q = (rng.normal(size=(40, 16)) + offset).astype(np.float32)
    index = MemoryIndex(16, "euclidean")
    index.add(X, ["a"] * 3000, [""] * 3000)
    found, wanted = index.query(Q, k=7), cdist(Q, X)
    np.testing.assert_array_equal(found.ids, np.argsort(wanted, axis=1)[:, :7])
    np.testing.assert_allclose(found.distances, np.sort(wanted, axis=1)[:, :7], rtol=1e-12)


@pytest.mark.parametrize("n", [2, 63, 64, 65, 1000, 5000])
def test_kth_smallest(rng, n):
    for values in (rng.normal(size=n), rng.integers(0, 4, size=n), np.sort(rng.normal(size=n))):
        given = values.astype(np.float32)
        for k in {1, 2, 15, 16, 17, n - 1}:
            if k < n:
                assert kth_smallest(given, k) == np.sort(given)[k - 1]


def test_queries_in_blocks_are_those_at_once(rng, monkeypatch):
    X, labels, paths = points(rng)
    index = MemoryIndex(D)
    index.add(X, labels, paths)
    whole = index.query(X, k=4)
    monkeypatch.setattr("mahalad.index.memory._BLOCK", 7 * 60)
    np.testing.assert_array_equal(index.query(X, k=4).ids, whole.ids)


# -- writing ---------------------------------------------------------------------------------


def test_ids_go_on_above_all_others(place, rng):
    X, labels, paths = points(rng, 6)
    index = place.open()
    assert index.add(X[:3], labels[:3], paths[:3]).tolist() == [0, 1, 2]
    assert index.add(X[3:4], ["a"], [""], ids=[700]).tolist() == [700]
    assert index.add(X[:2], labels[:2], paths[:2]).tolist() == [701, 702]
    index.remove([702])
    assert index.add(X[:1], ["a"], [""])[0] > 701
    assert index.add(X[:1], ["a"], [""], ids=[2**63 - 1]).tolist() == [2**63 - 1]
    with pytest.raises(InputError, match="no 1 ids left"):
        index.add(X[:1], ["a"], [""])


@pytest.mark.parametrize("present", [[5], [0, 1, 2, 9], [10**6, 3], [0, 1, 2], [2**62, 8, 4]])
def test_ids_go_on_in_an_index_opened_again(disk, present):
    index = disk.open()
    index.add(np.eye(D)[: len(present)], ["a"] * len(present), [""] * len(present), present)
    if disk.kind == "edge":
        index.close()
    again = disk.open()
    assert again.add(np.ones((1, D)), ["a"], [""]).tolist() == [max(present) + 1]


def test_an_id_added_again_is_replaced(place, rng):
    X, labels, paths = points(rng, 10)
    index = place.open(distance="euclidean")
    index.add(X, labels, paths)
    index.add(X[:2] + 5, ["new", "new"], ["x", "y"], ids=[4, 12])
    assert len(index) == 11 and index.counts()["new"] == 2
    found = index.query(X[:1] + 5, k=1)
    assert (found.ids[0, 0], found.labels[0, 0], found.paths[0, 0]) == (4, "new", "x")
    np.testing.assert_array_equal(index.get([4]).vectors, X[:1] + 5)
    assert 4 not in index.query(X[4:5], k=9).ids[:, :1]


def test_removed_points_are_gone(place, rng):
    X, labels, paths = points(rng, 30)
    index = place.open()
    index.add(X, labels, paths)
    assert index.remove([3, 4, 4, 999]) == 2
    assert index.remove([3]) == 0 and index.remove([]) == 0
    assert len(index) == 28 and index.counts() == {"bad": 9, "good": 9, "été": 10}
    assert not {3, 4} & set(index.query(X[3:5], k=28).ids.ravel())
    assert index.get([2, 3, 4, 5]).ids.tolist() == [2, 5]


def test_new_labels_hold_at_once(place, rng):
    X, labels, paths = points(rng, 9)
    index = place.open()
    index.add(X, labels, paths)
    index.relabel([8, 0, 1], ["scratch", "dent", "scratch"])
    assert index.counts() == {"bad": 2, "dent": 1, "good": 2, "scratch": 2, "été": 2}
    assert index.query(X[:1], k=1).labels.tolist() == [["dent"]]
    assert set(index.query(X[:1], k=2, label="scratch").ids[0]) == {1, 8}
    np.testing.assert_array_equal(index.get([0]).vectors, unit_rows(X[:1].copy()))
    with pytest.raises(InputError, match=r"no points with ids 77, 78; nothing was relabelled"):
        index.relabel([2, 78, 77], ["dent", "dent", "dent"])
    assert index.get([2]).labels.tolist() == [labels[2]]
    with pytest.raises(InputError, match="an id is given twice"):
        index.relabel([2, 2], ["dent", "bad"])


def test_records_come_by_ascending_id(place, rng):
    X, labels, paths = points(rng, 25)
    ids = rng.permutation(1000)[:25]
    index = place.open(distance="euclidean")
    index.add(X, labels, paths, ids)
    pages = list(index.records(batch_size=10))
    assert [len(page) for page in pages] == [10, 10, 5]
    order = np.argsort(ids)
    np.testing.assert_array_equal(np.concatenate([page.ids for page in pages]), ids[order])
    np.testing.assert_array_equal(np.concatenate([page.vectors for page in pages]), X[order])
    assert [label for page in pages for label in page.labels] == [labels[i] for i in order]
    some = index.get([*ids[[5, 2]], 5000])
    assert some.ids.tolist() == sorted(ids[[5, 2]].tolist())
    assert [path for page in pages for path in page.paths] == [paths[i] for i in order]


def test_stored_vectors_keep_every_bit_when_stored_again(place, rng):
    X = rng.normal(size=(200, D)) * 10 ** rng.uniform(-8, 8, size=(200, 1))
    index = place.open()
    index.add(X, ["a"] * 200, [""] * 200)
    once = index.get(range(200)).vectors.copy()
    np.testing.assert_allclose(np.linalg.norm(once.astype(float), axis=1), 1, atol=2e-7)
    index.add(once, ["a"] * 200, [""] * 200, range(200))
    np.testing.assert_array_equal(index.get(range(200)).vectors, once)


# -- refusals --------------------------------------------------------------------------------


def refusals():
    one = np.ones((1, D))
    nan = np.ones((4, D))
    nan[[1, 3], 2] = np.nan, np.inf
    zero = np.ones((3, D))
    zero[2] = 0
    return [
        (
            (np.ones((2, D + 1)), ["a"] * 2, [""] * 2),
            r"shape \(n, 8\), got .*\(2, 9\)",
        ),
        ((np.ones(D), ["a"], [""]), r"got float64 of shape \(8,\)"),
        ((np.array([["a"] * D]), ["a"], [""]), "vectors must be numbers"),
        ((nan, ["a"] * 4, [""] * 4), "NaN, infinite or huge .* in rows 1, 3"),
        ((one * 1e30, ["a"], [""]), "huge values .* in rows 0"),
        ((zero, ["a"] * 3, [""] * 3), "vectors of zeros in rows 2"),
        ((one, ["a", "b"], [""]), "2 labels given for 1 points"),
        ((one, "a", [""]), "labels must be a sequence of 1 texts"),
        ((one, [3], [""]), r"labels\[0\] must be a text, got 3"),
        ((one, ["a"], ["\udcff.png"]), r"paths\[0\] cannot be stored as UTF-8"),
        ((one, ["a"], [""], [-1]), "ids must lie between 0 .* got -1"),
        (
            (one, ["a"], [""], [2**63]),
            "ids must lie between 0 .* got 9223372036854775808",
        ),
        ((one, ["a"], [""], ["1"]), "ids must be a sequence of whole numbers"),
        ((one, ["a"], [""], [1, 2]), "2 ids given for 1 vectors"),
        ((np.ones((3, D)), ["a"] * 3, [""] * 3, [1, 2, 1]), "ids given twice: 1"),
    ]


def test_what_cannot_be_stored_is_refused_as_a_whole(place):
    index = place.open()
    for arguments, message in refusals():
        with pytest.raises(InputError, match=message):
            index.add(*arguments)
        assert len(index) == 0


def test_queries_are_checked_as_well(place):
    index = place.open()
    index.add(np.ones((1, D)), ["a"], [""])
    with pytest.raises(InputError, match=r"got float64 of shape \(1, 3\)"):
        index.query(np.ones((1, 3)), 1)
    with pytest.raises(InputError, match="in rows 0"):
        index.query(np.full((1, D), np.nan), 1)


def test_a_closed_index_says_so(place):
    with place.open() as index:
        index.add(np.ones((1, D)), ["a"], [""])
    index.close()
    if place.kind == "server":
        place.open()  # so that the collection is removed afterwards
    for use in (index.counts, index.flush, lambda: index.query(np.ones((1, D)), 1)):
        with pytest.raises(IndexUnavailableError, match="the index is closed"):
            use()
    assert repr(index).endswith("closed)")


# -- what is recorded with an index ----------------------------------------------------------


def test_points_are_there_after_closing_and_opening(disk, rng):
    X, labels, paths = points(rng)
    index = disk.open(about=ABOUT)
    index.add(X, labels, paths)
    index.remove([5])
    index.relabel([6], ["other"])
    before = index.query(X, k=4)
    index.flush()
    if disk.kind == "edge":
        index.close()
    again = disk.open(None, None, None, create=False)
    assert (again.n_features, again.distance, again.about) == (D, "cosine", ABOUT)
    assert len(again) == 59 and again.counts()["other"] == 1
    after = again.query(X, k=4)
    np.testing.assert_array_equal(after.ids, before.ids)
    np.testing.assert_array_equal(after.distances, before.distances)


def test_an_index_of_other_vectors_is_refused(disk):
    disk.open(about=ABOUT).close()
    wrong = [
        ({"n_features": 9}, "n_features is 8, not 9"),
        ({"distance": "euclidean"}, "distance is 'cosine', not 'euclidean'"),
        ({"about": {**ABOUT, "encoder": "vit"}}, "encoder is 'resnet', not 'vit'"),
        ({"about": {"encoder": "resnet"}}, r"levels is \['a', 'b'\], not None"),
    ]
    for options, message in wrong:
        with pytest.raises(InputError, match=message):
            disk.open(**options)
    disk.open(about={"encoder": "resnet", "levels": ("a", "b")})  # a tuple is a list in JSON


def test_a_missing_index_is_not_made_unasked(disk):
    with pytest.raises(InputError, match=r"no such collection|there is no index"):
        disk.open(create=False)
    with pytest.raises(InputError, match="a new index needs n_features"):
        disk.open(n_features=None)
    with pytest.raises(InputError, match="unknown distance 'dot'"):
        disk.open(distance="dot")
    with pytest.raises(InputError, match="about must be JSON"):
        disk.open(about={"x": object()})
    with pytest.raises(InputError, match="n_features must be a whole number >= 1"):
        disk.open(n_features=0)


# -- threads ---------------------------------------------------------------------------------


def test_readers_beside_a_writer(place, rng):
    """Every answer is right for some moment; in memory an `add` is seen whole."""
    index = place.open(n_features=16, distance="euclidean")
    X = rng.normal(size=(200, 16)).astype(np.float32)
    labels = [f"class {i % 3}" for i in range(200)]
    index.add(X[:40], labels[:40], labels[:40], range(40))
    errors, done = [], threading.Event()

    def read():
        try:
            while not done.is_set():
                found = index.query(X[:3], k=10)
                assert found.distances[:, 0].tolist() == [0, 0, 0]
                assert (np.diff(found.distances, axis=1) >= 0).all()
                assert (found.labels == np.array(labels, dtype=object)[found.ids]).all()
                if place.kind == "memory":
                    assert sum(index.counts().values()) % 20 == 0
        except Exception as error:
            errors.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    if place.kind != "in-process":  # that one is for tests, not for threads
        for start in range(40, 200, 20):
            rows = slice(start, start + 20)
            index.add(X[rows], labels[rows], labels[rows], range(start, start + 20))
        index.remove(range(100, 120))
    done.set()
    for reader in readers:
        reader.join()
    assert not errors


# -- memory: state ---------------------------------------------------------------------------


def test_state_goes_through_a_model_file(rng, tmp_path):
    X, labels, paths = points(rng)
    index = MemoryIndex(D, "cosine", ABOUT)
    index.add(X, labels, paths)
    index.remove([7])
    index.relabel([8], ["other"])
    about, arrays = index.state()
    write_model(tmp_path / "model", {"kind": "index", "index": about}, arrays)
    header, arrays = read_model(tmp_path / "model")
    again = MemoryIndex.restore(header["index"], arrays)
    assert again.about == ABOUT and again.counts() == index.counts()
    for ours, theirs in zip(index.records(), again.records(), strict=True):
        np.testing.assert_array_equal(ours.vectors, theirs.vectors)
        assert ours.ids.tolist() == theirs.ids.tolist() and (ours.paths == theirs.paths).all()
    with pytest.raises(ModelFileError, match="the index in the model file is damaged"):
        MemoryIndex.restore(header["index"], arrays | {"ids": arrays["ids"][:-1]})


def test_state_of_an_empty_index(tmp_path):
    about, arrays = MemoryIndex(D).state()
    write_model(tmp_path / "model", {"kind": "index", "index": about}, arrays)
    assert len(MemoryIndex.restore(about, read_model(tmp_path / "model")[1])) == 0


# -- folders ---------------------------------------------------------------------------------


@pytest.fixture
def edge_folder(tmp_path):
    pytest.importorskip("qdrant_edge", reason="qdrant-edge-py is not installed")
    return tmp_path / "index"


def test_a_folder_is_open_once(edge_folder):
    code = (
        "import sys; from mahalad.index.edge import EdgeIndex\n"
        "try: EdgeIndex(sys.argv[1])\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    command = [sys.executable, "-c", code, str(edge_folder)]
    with EdgeIndex(edge_folder, n_features=D):
        with pytest.raises(IndexUnavailableError, match=r"another process .* has the index open"):
            EdgeIndex(edge_folder)
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "IndexUnavailableError" in said and "another process" in said
    EdgeIndex(edge_folder).close()


def test_only_new_and_empty_folders_become_indexes(edge_folder):
    edge_folder.mkdir()
    (edge_folder / "photo.png").touch()
    with pytest.raises(InputError, match=r"not an index \(it holds photo.png\)"):
        EdgeIndex(edge_folder, n_features=D)
    with pytest.raises(InputError, match="a file; an index is a folder"):
        EdgeIndex(edge_folder / "photo.png", n_features=D)
    (edge_folder / "photo.png").unlink()
    with EdgeIndex(edge_folder, n_features=D) as index:
        assert len(index) == 0


def test_what_an_interrupted_creation_left_is_removed(edge_folder):
    (edge_folder / "creating-0123" / "shard").mkdir(parents=True)
    with EdgeIndex(edge_folder, n_features=D):
        assert [path.name for path in edge_folder.iterdir()] == ["store"]


def test_damaged_folders_are_explained(edge_folder):
    EdgeIndex(edge_folder, n_features=D).close()
    settings = edge_folder / "store" / "index.json"
    text = settings.read_text()
    for content in ("{", "[]", "{}"):
        settings.write_text(content)
        with pytest.raises(
            IndexUnavailableError, match=r"index\.json: what the index holds cannot"
        ):
            EdgeIndex(edge_folder)
    settings.write_text(text.replace('"format": 1', '"format": 2'))
    with pytest.raises(InputError, match="written in format 2"):
        EdgeIndex(edge_folder)
    settings.write_text(text)
    (edge_folder / "store" / "shard").rename(edge_folder / "elsewhere")
    with pytest.raises(IndexUnavailableError, match="the index cannot be opened"):
        EdgeIndex(edge_folder)


def test_a_full_disk_is_reported_with_what_was_stored(edge_folder, rng, monkeypatch):
    X, labels, paths = points(rng, 30)
    monkeypatch.setattr("mahalad.index.edge._VALUES_AT_ONCE", 10 * D)
    with EdgeIndex(edge_folder, n_features=D) as index:
        shard = index._shard

        class Full:
            def update(self, operation):
                if shard.count(index._edge.CountRequest()) == 20:
                    raise Exception("No space left on device")
                shard.update(operation)

            def __getattr__(self, name):
                return getattr(shard, name)

        index._shard = Full()
        with pytest.raises(
            IndexUnavailableError, match=r"No space left.*20 of 30 points"
        ) as caught:
            index.add(X, labels, paths)
        index._shard = shard
        rest = caught.value.unacknowledged
        assert caught.value.acknowledged.tolist() == list(range(20))
        index.add(X[rest], np.array(labels)[rest], np.array(paths)[rest], rest)
        np.testing.assert_array_equal(index.get(range(30)).vectors, unit_rows(X))


# -- servers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("qdrant://host/beans", ("http://host:6333", "beans")),
        ("qdrant://host:7000/beans/", ("http://host:7000", "beans")),
        ("qdrants://host/my%20beans", ("https://host:6333", "my beans")),
        ("qdrant://host:443/beans", ("https://host:443", "beans")),
        ("qdrant://[::1]:6333/beans", ("http://[::1]:6333", "beans")),
    ],
)
def test_addresses(url, wanted):
    assert parse_url(url) == Address(*wanted)


@pytest.mark.parametrize(
    "url",
    ["qdrant://host", "qdrant:///beans", "qdrant://host/a/b", "http://host/a", "qdrant://h:x/a"],
)
def test_wrong_addresses(url):
    with pytest.raises(InputError, match="qdrant://host:6333/collection"):
        parse_url(url)


@pytest.mark.parametrize("url", ["qdrant://:secret@host/a", "qdrant://host/a?api_key=secret"])
def test_a_key_in_an_address_is_refused_and_not_repeated(url):
    with pytest.raises(InputError, match=f"variable {API_KEY}") as caught:
        ServerIndex(url)
    assert "secret" not in str(caught.value)


class Failing:
    """A client whose `upsert` fails in the calls that are named, with an error for each."""

    def __init__(self, errors, client):
        self.errors, self.client, self.calls = errors, client, 0

    def upsert(self, **arguments):
        self.calls += 1
        if self.calls in self.errors:
            raise self.errors[self.calls]
        return self.client.upsert(**arguments)

    def __getattr__(self, name):
        return getattr(self.client, name)


@pytest.fixture
def failures():
    """Errors of qdrant-client by name."""
    pytest.importorskip("qdrant_client", reason="qdrant-client is not installed")
    import httpx
    from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
    from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

    def status(code, reason):
        return UnexpectedResponse(code, reason, b"details", httpx.Headers())

    return {
        "down": ResponseHandlingException(httpx.ConnectError("connection refused")),
        "slow": ResponseHandlingException(httpx.ReadTimeout("timed out")),
        "broken pipe": BrokenPipeError("broken pipe"),
        "busy": status(503, "Service Unavailable"),
        "too many": status(429, "Too Many Requests"),
        "too many, wait": ResourceExhaustedResponse("limit", 7),
        "bad request": status(400, "Bad Request"),
        "no access": status(401, "Unauthorized"),
    }


@pytest.fixture
def waits(monkeypatch):
    """Seconds the adapter would have waited."""
    seconds = []
    monkeypatch.setattr("mahalad.index.server.time.sleep", seconds.append)
    return seconds


def failing_index(errors):
    from qdrant_client import QdrantClient

    client = Failing(errors, QdrantClient(":memory:"))
    return ServerIndex("qdrant://nowhere/beans", n_features=D, client=client), client


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("down", [0.5, 1, 2]),
        ("slow", [0.5, 1, 2]),
        ("broken pipe", [0.5, 1, 2]),
        ("busy", [0.5, 1, 2]),
        ("too many", [0.5, 1, 2]),
        ("too many, wait", [7, 7, 7]),
    ],
)
def test_requests_are_made_again_until_the_server_answers(failures, waits, rng, name, expected):
    X, labels, paths = points(rng, 5)
    index, client = failing_index(dict.fromkeys([1, 2, 3], failures[name]))
    assert index.add(X, labels, paths).tolist() == list(range(5))
    assert waits == expected and client.calls == 4 and len(index) == 5


def test_a_server_that_stays_away_loses_no_point(failures, waits, rng, monkeypatch):
    X, labels, paths = points(rng, 25)
    monkeypatch.setattr("mahalad.index.server._POINTS_AT_ONCE", 10)
    index, client = failing_index(dict.fromkeys(range(2, 7), failures["down"]))
    message = r"qdrant://nowhere/beans: no answer after 5 attempts \(connection refused\)"
    with pytest.raises(IndexUnavailableError, match=rf"{message}.*10 of 25 points") as caught:
        index.add(X, labels, paths)
    assert waits == [0.5, 1, 2, 4] and client.calls == 6
    error = caught.value
    assert isinstance(error, ConnectionError)
    assert error.acknowledged.tolist() == list(range(10)) == index.get(range(25)).ids.tolist()
    rest = error.unacknowledged
    index.add(X[rest], np.array(labels)[rest], np.array(paths)[rest], rest)
    assert index.get(range(25)).paths.tolist() == paths and len(index) == 25


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bad request", "the request failed .*400"),
        ("no access", f"refuses access .*{API_KEY} is not"),
    ],
)
def test_requests_that_are_wrong_are_made_once(failures, waits, name, message, monkeypatch):
    monkeypatch.delenv(API_KEY, raising=False)
    index, client = failing_index({1: failures[name]})
    with pytest.raises(IndexUnavailableError, match=message):
        index.add(np.ones((1, D)), ["a"], [""])
    assert waits == [] and client.calls == 1


def test_errors_that_are_no_answers_come_through(failures):
    index, _ = failing_index({1: TypeError("a mistake in the program")})
    with pytest.raises(TypeError, match="a mistake in the program"):
        index.add(np.ones((1, D)), ["a"], [""])


def test_a_server_that_is_not_there(failures, waits):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(IndexUnavailableError, match=r"no answer after 3 attempts .*docker run"):
        ServerIndex(f"qdrant://127.0.0.1:{port}/beans", n_features=D, retries=2)
    assert waits == [0.5, 1]


def test_a_server_that_never_answers(failures, waits):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"qdrant://127.0.0.1:{silent.getsockname()[1]}/beans"
        with pytest.raises(IndexUnavailableError, match=r"no answer after 1 attempts .*timed out"):
            ServerIndex(url, n_features=D, retries=0, timeout=0.1)


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection:UserWarning")
def test_the_key_of_the_environment_is_sent(failures, monkeypatch):
    keys = []

    class Refuse(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            keys.append(self.headers["api-key"])
            self.send_error(403)

        def log_message(self, *arguments):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Refuse) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv(API_KEY, "secret")
        url = f"qdrant://127.0.0.1:{server.server_port}/beans"
        with pytest.raises(IndexUnavailableError, match=f"{API_KEY} is not accepted") as caught:
            ServerIndex(url, n_features=D)
        server.shutdown()
        thread.join()
    assert keys == ["secret"] and "secret" not in str(caught.value)


def test_collections_of_others_are_left_alone(failures):
    from qdrant_client import QdrantClient, models

    client = QdrantClient(":memory:")
    vectors = models.VectorParams(size=D, distance=models.Distance.COSINE)
    client.create_collection("theirs", vectors_config=vectors)
    with pytest.raises(InputError, match="the collection is not one of mahalad's"):
        ServerIndex("qdrant://nowhere/theirs", n_features=D, client=client)


@pytest.mark.parametrize("option", [{"timeout": 0}, {"retries": -1}, {"backoff": -1.0}])
def test_wrong_options_of_the_adapter(option):
    with pytest.raises(InputError, match="timeout must be above 0"):
        ServerIndex("qdrant://nowhere/beans", **option)


# -- opening ---------------------------------------------------------------------------------


def test_open_by_name(edge_folder):
    assert isinstance(open_index(None, n_features=3), MemoryIndex)
    with open_index(edge_folder, n_features=3, distance="euclidean", about=ABOUT) as index:
        assert isinstance(index, EdgeIndex) and index.about == ABOUT
    with open_index(str(edge_folder), create=False) as index:
        assert index.distance == "euclidean"
    with pytest.raises(InputError, match=r"https://\.\.\.: not an index"):
        open_index("https://host:6333/beans")
    with pytest.raises(InputError, match="an index in memory is always new"):
        open_index(None, n_features=3, create=False)
    with pytest.raises(InputError, match="not the address of a collection"):
        open_index("qdrant://host")


def embeddings(rng, n, d):
    """Vectors like those of a trained projection: 8 classes, near 12 of d dimensions."""
    centres, axes = rng.normal(size=(8, 12)), rng.normal(size=(12, d))
    near = (rng.normal(size=(n, 12)) + 3 * centres[rng.integers(0, 8, n)]) @ axes
    return (near + 0.05 * rng.normal(size=near.shape)).astype(np.float32)


def test_search_by_the_graph_finds_nearly_all(tmp_path, rng):
    pytest.importorskip("qdrant_edge", reason="qdrant-edge-py is not installed")
    n, d = 5000, 520  # just above 10 MB, below which there is no graph
    X = embeddings(rng, n + 100, d)
    X, Q, labels = X[:n], X[n:], [str(i % 2) for i in range(n)]
    memory, edge = MemoryIndex(d), open_index(tmp_path / "i", n_features=d, exact=False)
    for index in (memory, edge):
        index.add(X, labels, [""] * n)
    wanted = memory.query(Q, k=5)
    np.testing.assert_array_equal(edge.query(Q, k=5).ids, wanted.ids)  # no graph: exact
    edge.optimize()
    assert edge._shard.info().indexed_vectors_count == n
    found = edge.query(Q, k=5)
    hits = [len(set(a) & set(b)) for a, b in zip(found.ids, wanted.ids, strict=True)]
    assert np.mean(hits) / 5 >= 0.99
    np.testing.assert_array_less(wanted.distances, found.distances + 1e-9)
    among = edge.query(Q, k=5, label="1")
    assert set(among.labels.ravel()) == {"1"}
    # A point that is added later is found without another call, and one that is removed is not.
    [new] = edge.add(Q[:1], ["0"], ["new"])
    assert edge.query(Q[:1], k=1).ids.tolist() == [[new]]
    edge.remove([new])
    assert edge.query(Q[:1], k=5).ids.tolist() == found.ids[:1].tolist()
    edge.close()
    with open_index(tmp_path / "i") as again:  # exact unless asked otherwise
        np.testing.assert_array_equal(again.query(Q, k=5).ids, wanted.ids)


@pytest.mark.parametrize("kind", ["edge", "in-process"])
def test_too_few_by_the_graph_are_looked_for_exactly(kind, tmp_path, rng, monkeypatch):
    place = Place(kind, tmp_path)
    index = place.open()
    X, labels, paths = points(rng)
    index.add(X, labels, paths)
    wanted, asked = index.query(X[:3], k=4), []
    index.exact = False
    target, name = (index, "_shard") if kind == "edge" else (index._client, "query_batch_points")
    real = getattr(target, name)

    class Shard:  # a graph that finds one point only
        def query_batch(self, batch):
            asked.append(batch.queries[0].params.exact)
            found = real.query_batch(batch)
            return found if asked[-1] else [points[:1] for points in found]

        def close(self):
            real.close()

    def query_batch_points(requests, **options):
        asked.append(requests[0].params.exact)
        answers = real(requests=requests, **options)
        for answer in answers:
            answer.points = answer.points if asked[-1] else answer.points[:1]
        return answers

    monkeypatch.setattr(target, name, Shard() if kind == "edge" else query_batch_points)
    np.testing.assert_array_equal(index.query(X[:3], k=4).ids, wanted.ids)
    assert asked == [False, True, True, True]
    place.close()


def test_missing_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "qdrant_edge", None)
    monkeypatch.setitem(sys.modules, "qdrant_client", None)
    for where in (tmp_path / "index", "qdrant://host/beans"):
        with pytest.raises(MissingExtraError, match=r'pip install "mahalad\[qdrant\]"'):
            open_index(where, n_features=D)


def test_opening_imports_neither_qdrant_nor_torch():
    code = (
        "import sys, mahalad.index.opening, mahalad.index.copying\n"
        "print(sorted({'torch', 'qdrant_client', 'qdrant_edge', 'httpx'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"


# -- copying ---------------------------------------------------------------------------------


@pytest.fixture
def two_places(request, tmp_path):
    places = [Place(kind, tmp_path / str(i)) for i, kind in enumerate(request.param)]
    yield places
    for place in places:
        place.close()


@pytest.mark.parametrize(
    "two_places", [(a, b) for a in KINDS for b in KINDS], indirect=True, ids="-to-".join
)
def test_copies_are_equal_and_resumed(two_places, rng, monkeypatch):
    distance = "euclidean" if two_places[0].kind == two_places[1].kind else "cosine"
    source, target = (place.open(distance=distance, about=ABOUT) for place in two_places)
    X, labels, paths = points(rng, 45)
    source.add(X * 3, labels, paths, rng.permutation(200)[:45])
    monkeypatch.setattr(copying, "_BATCH", 10)
    store = target._put
    n_batches = 0

    def interrupted(batch):
        nonlocal n_batches
        n_batches += 1
        if n_batches == 3:
            raise KeyboardInterrupt
        store(batch)

    target._put = interrupted
    with pytest.raises(KeyboardInterrupt):
        copy_index(source, target)
    target._put = store
    assert len(target) == 20
    first = int(target.get(range(200)).ids[0])
    target.relabel([first], ["was changed"])
    seen = []
    assert copy_index(source, target, progress=lambda items, n: seen.append(n) or items) == 26
    assert copy_index(source, target) == 0 and seen == [45]
    for ours, theirs in zip(source.records(), target.records(), strict=True):
        np.testing.assert_array_equal(ours.ids, theirs.ids)
        np.testing.assert_array_equal(ours.vectors, theirs.vectors)
        assert (ours.labels == theirs.labels).all() and (ours.paths == theirs.paths).all()


def pair(distance=("cosine", "cosine"), n_features=(D, D), about=(ABOUT, ABOUT)):
    return [MemoryIndex(n_features[i], distance[i], about[i]) for i in range(2)]


def test_copies_between_other_kinds_are_refused():
    with pytest.raises(InputError, match=r"target of a copy: .*n_features is 9, not 8"):
        copy_index(*pair(n_features=(D, 9)))
    with pytest.raises(InputError, match="distance is 'euclidean', not 'cosine'"):
        copy_index(*pair(distance=("cosine", "euclidean")))
    with pytest.raises(InputError, match="encoder is None, not 'resnet'"):
        copy_index(*pair(about=(ABOUT, {})))


def test_a_target_with_points_of_its_own_is_left_alone(rng):
    X, labels, paths = points(rng, 10)
    source, target = pair()
    source.add(X, labels, paths)
    target.add(X[:4], labels[:4], paths[:4], ids=[1, 0, 50, 3])
    wanted = (
        r"the target holds 1 points that the source does not have \(ids 50\) and 2 other points "
        r"under ids 0, 1 \(another vector or path than there\)\. .* Nothing was changed"
    )
    with pytest.raises(InputError, match=wanted):
        copy_index(source, target)
    assert target.get(range(60)).ids.tolist() == [0, 1, 3, 50]
    np.testing.assert_array_equal(target.get([0, 1]).vectors, unit_rows(X[[1, 0]]))


@pytest.mark.parametrize(
    "two_places", [("memory", kind) for kind in KINDS], indirect=True, ids="-to-".join
)
def test_a_copy_follows_its_source(two_places, rng, monkeypatch):
    """Removals, ids given again and new labels at the source arrive, if that is asked for."""
    monkeypatch.setattr(copying, "_BATCH", 10)
    source, target = (place.open(about=ABOUT) for place in two_places)
    X, labels, paths = points(rng, 45)
    source.add(X, labels, paths)
    assert copy_index(source, target) == 45 and len(remove_strangers(source, target)) == 0
    source.remove([3, *range(20, 35), 44])
    source.add(X[:2], labels[:2], ["again", "other"], ids=[44, 60])
    source.relabel([0], ["was changed"])
    with pytest.raises(
        InputError, match=r"16 points that .* \(ids 3, 20, .* and 6 more\) and 1 ot"
    ):
        copy_index(source, target)
    assert len(target) == 45
    assert remove_strangers(source, target).tolist() == [3, *range(20, 35), 44]
    assert len(target) == 28
    assert copy_index(source, target) == 3  # 44 and 60, and a label
    for ours, theirs in zip(source.records(), target.records(), strict=True):
        assert (checksums(ours) == checksums(theirs)).all()
    other = MemoryIndex(D, about={"encoder": "another"})
    with pytest.raises(InputError, match="encoder is 'resnet', not 'another'"):
        remove_strangers(other, target)
    assert len(target) == 30


def test_a_copy_that_went_wrong_is_found(rng):
    X, labels, paths = points(rng, 10)
    source, target = pair()
    source.add(X, labels, paths)

    def spoil():
        target._points.vectors[4, 0] += 1e-6

    target.flush = spoil
    with pytest.raises(IndexUnavailableError, match="points with ids 4 differ"):
        copy_index(source, target)
