"""What many machines need that needs no Ray: parts, pools, versions, results, short memory."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from mahalad.detectors.reservoir import limit_of
from mahalad.detectors.state import Bounds
from mahalad.distributed.listing import entries_of, parts_of
from mahalad.distributed.pool import Pool
from mahalad.distributed.results import Folder
from mahalad.distributed.room import Room, SharedRoom
from mahalad.distributed.session import connect, differences
from mahalad.distributed.working import (
    failure_of,
    joined_warnings,
    naming_failures,
    raise_failure,
    warnings_as,
    with_less_memory,
)
from mahalad.errors import ClusterError, InputError, MahaladError, MissingExtraError, WeightsError
from mahalad.images.manifests import of_split, to_fit


@pytest.mark.parametrize(
    ("pool", "resources", "n_workers", "gpus"),
    [
        (Pool(), {"CPU": 8}, 7, 0),
        (Pool(cpus=2), {"CPU": 8}, 3, 0),
        (Pool(cpus=0.5), {"CPU": 2}, 3, 0),
        (Pool(3), {"CPU": 4}, 3, 0),
        (Pool(), {"CPU": 64, "GPU": 4}, 4, 1),
        (Pool(gpus=0.5), {"CPU": 64, "GPU": 4}, 8, 0.5),
        (Pool(), {"CPU": 3, "GPU": 4}, 2, 1),
        (Pool(gpus=0), {"CPU": 3, "GPU": 4}, 2, 0),
    ],
)
def test_a_pool_leaves_a_cpu_free(pool, resources, n_workers, gpus):
    found = pool.sized(resources)
    assert (found.n_workers, found.gpus) == (n_workers, gpus)


def test_a_network_on_the_cpu_takes_no_gpu():
    assert Pool().sized({"CPU": 4, "GPU": 2}, "cpu").gpus == 0


@pytest.mark.parametrize(
    ("pool", "resources", "device", "error", "message"),
    [
        (Pool(4), {"CPU": 4}, "auto", InputError, r"4 workers .* every one .* 4 CPUs.*44687.*3 at"),
        (Pool(), {"CPU": 1}, "auto", ClusterError, r"has 1 CPUs: a worker with 1 .*44687"),
        (Pool(cpus=4), {"CPU": 4}, "auto", ClusterError, "would take all"),
        (Pool(), {"CPU": 4}, "cuda", ClusterError, "device='cuda' is asked for.*no GPU"),
        (Pool(gpus=2), {"CPU": 4, "GPU": 1}, "auto", ClusterError, "2 GPUs, and the cluster has 1"),
        (Pool(2, gpus=1), {"CPU": 4, "GPU": 1}, "auto", InputError, "has 1; ask for 1 at most"),
        (Pool(0), {"CPU": 4}, "auto", InputError, "at least one worker"),
        (Pool(cpus=0), {"CPU": 4}, "auto", InputError, "more than 0 CPUs"),
    ],
)
def test_pools_that_cannot_be(pool, resources, device, error, message):
    with pytest.raises(error, match=message):
        pool.sized(resources, device)


def test_a_dataset_that_reads_needs_a_whole_cpu():
    assert Pool().sized({"CPU": 2}, reads=True).n_workers == 1
    with pytest.raises(InputError, match=r"0\.5 CPUs may leave no machine a whole one.*44687"):
        Pool(1, cpus=0.5).sized({"CPU": 8}, reads=True)


def test_versions_that_differ_are_named_with_their_node():
    mine = {"python": "3.12", "torch": "2.8"}
    assert differences(mine, {"a": mine}) == ""
    found = {"a": mine, "b": {"python": "3.12", "torch": "2.6"}}
    assert differences(mine, found) == "node b has torch 2.6, and here is 2.8"


def test_without_ray_the_line_that_installs_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r'pip install "mahalad\[ray\]"'):
        connect()


def test_an_address_where_nothing_listens():
    pytest.importorskip("ray", reason="ray is not installed")
    with pytest.raises(ClusterError, match=r"no Ray at 127\.0\.0\.1:9: .*ray start --head"):
        connect("127.0.0.1:9")
    with pytest.raises(ClusterError, match="does not work through a client"):
        connect("ray://127.0.0.1:10001")


@pytest.fixture
def manifest(tmp_path):
    rows = ["0.png,a,train,good", "1.png,a,train,scratch", "2.png,b,test,ok", ",b,train,good",
            "3.png,c,,"]  # fmt: skip
    path = tmp_path / "parts.csv"
    path.write_text("\n".join(["path,group,split,label", *rows]) + "\n")
    return path


def test_rows_of_a_manifest_by_split_and_label(manifest):
    said = []
    found = [entry.row for entry in entries_of(str(manifest), keep=to_fit(), say=said.append)]
    assert found == [1, 5]
    assert "1 rows have no path and are left out: 4" in said[0]
    assert "2 rows left out, of another split or label; 2 taken" in said[1]
    assert [e.row for e in entries_of(str(manifest), keep=of_split("test"))] == [3]
    assert [e.row for e in entries_of(str(manifest), keep=of_split(None))] == [1, 2, 3, 5]
    with pytest.raises(InputError, match=r"parts\.csv: no row is left"):
        list(entries_of(str(manifest), keep=of_split("validation")))


def test_parts_keep_the_order_and_tell_their_names(manifest):
    parts = list(parts_of(entries_of(str(manifest)), 3))
    assert [(part.place, len(part.names)) for part in parts] == [(0, 3), (1, 1)]
    assert parts[0].known_groups == ["a", "a", "b"]
    assert parts[0].sources("/elsewhere")[0].name.endswith("0.png")
    other = list(parts_of(entries_of(str(manifest)), 2))
    assert other[0].fingerprint != parts[0].fingerprint
    assert other[0].fingerprint == next(parts_of(entries_of(str(manifest)), 2)).fingerprint


def test_paths_start_where_the_driver_is(tmp_path, monkeypatch):
    from conftest import make_picture

    make_picture(0).save(tmp_path / "0.png")
    monkeypatch.chdir(tmp_path)
    (part,) = parts_of(entries_of(["0.png"]), 8)
    (source,) = part.sources(str(tmp_path))
    assert source.name == "0.png" and source.path == tmp_path / "0.png"


def test_some_images_with_a_group_and_others_without(tmp_path):
    path = tmp_path / "parts.csv"
    path.write_text("path,group\n0.png,a\n1.png,\n")
    with pytest.raises(InputError, match=r"parts\.csv, row 2: has no group.*before it have one"):
        list(parts_of(entries_of(str(path)), 8))


def test_room_is_that_of_all_parts_each_counted_once(rng):
    hashes = rng.integers(0, 2**63, 60).astype(np.uint64)
    hashes[30] = hashes[3]  # of one group, in two parts
    room = Room(20)
    for turn, numbers in ((0, (0, 1, 1)), (1, (0, 0, 1))):
        room.start(turn, hashes[:0] if turn == 0 else hashes[:20], room.bounds())
        for number in numbers:
            own = hashes[20 * turn :][10 * number : 10 * number + 10]
            room.tell(turn, number, own, Bounds(changed=7 - turn))
        room.tell(turn - 1, 2, hashes[:10], Bounds())  # of an earlier turn, and late
    assert room.bounds() == Bounds(limit_of(hashes[:40], 20), 6)
    everything = Room(None)
    everything.tell(0, 0, hashes, Bounds())
    assert everything.bounds() == Bounds()


@pytest.mark.parametrize("error", ["GetTimeoutError", "ActorDiedError"])
def test_a_room_that_does_not_answer_bounds_nothing(error, monkeypatch):
    ray = pytest.importorskip("ray", reason="ray is not installed")

    def get(reference, timeout):
        raise getattr(ray.exceptions, error)

    monkeypatch.setattr(ray, "get", get)
    actor = SimpleNamespace(bounds=SimpleNamespace(remote=lambda: None))
    made = SimpleNamespace(remote=lambda capacity: actor)
    room = SharedRoom(SimpleNamespace(remote=lambda num_cpus: lambda kind: made), 5)
    assert room.bounds() == Bounds()


def test_failures_travel_as_text():
    raise_failure("")
    with pytest.raises(WeightsError, match="other weights"):
        raise_failure(failure_of(WeightsError("other weights")))
    with pytest.raises(MahaladError, match="odd"):
        raise_failure('["NoSuchError", "odd"]')


def test_errors_that_nobody_expects_say_who_failed_at_what():
    with pytest.raises(ClusterError, match=r"a worker on .* failed on a to b: ZeroDivisionError: "):
        raise_failure(failure_of(ZeroDivisionError("by zero"), "on a to b"))


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("Traceback\n  File\nValueError: odd\n", "ValueError: odd"),
        ("died\n pid\nThe actor is dead because: 2.\nMore\n", "The actor is dead because: 2."),
        ("", "no reason is known"),
        ("x" * 500, "x" * 400 + " ..."),
    ],
)
def test_what_ray_says_of_a_worker_that_failed_is_said_in_a_few_words(said, reason):
    errors = pytest.importorskip("ray", reason="ray is not installed").exceptions
    with pytest.raises(ClusterError, match=r"for good .* 8 times\): ") as raised, naming_failures():
        raise errors.RayError(said)
    assert str(raised.value).endswith(f"times): {reason}")


def test_batches_are_halved_while_memory_is_short():
    tried = []

    def work(size):
        tried.append(size)
        if size > 3:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return size

    with pytest.warns(UserWarning, match="batches of 2"):
        assert with_less_memory(work, 8) == 2
    assert tried == [8, 4, 2]
    with pytest.raises(RuntimeError, match="another"):
        with_less_memory(_fails_otherwise, 8)


def _fails_otherwise(size):
    raise RuntimeError("another reason")


def test_warnings_elsewhere_are_counted_by_their_texts():
    import warnings

    texts = Counter()
    with warnings_as(texts):
        for _ in range(3):
            warnings.warn("dark", stacklevel=1)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    assert texts == {"dark": 3}
    assert joined_warnings([texts, {"dark": 1, "odd": 1}]) == {"dark": 4, "odd": 1}


@pytest.mark.parametrize("where", ["local", "memory"])
def test_a_folder_of_results(where, tmp_path):
    if where == "memory":
        pytest.importorskip("fsspec", reason="fsspec is not installed")
    path = f"memory://results{tmp_path}" if where == "memory" else str(tmp_path / "rows")
    folder = Folder(path)
    assert folder.open({"fpr": None}) == {}
    name = f"part-000000-{'0' * 16}.jsonl"
    folder.write(name, b'{"path": "a"}\n')
    assert Folder(path).open({"fpr": None}) == {0: name}
    assert folder.names() == [name] and folder.read(name).startswith(b'{"path"')
    with pytest.raises(InputError, match=r"another run: fpr was None, is 0\.1"):
        Folder(path).open({"fpr": 0.1})
