"""Processes that are killed while they make or fill an index on disk lose nothing they stored."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from mahalad.index.checks import unit_rows
from mahalad.index.edge import EdgeIndex

pytest.importorskip("qdrant_edge", reason="qdrant-edge-py is not installed")
pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no hard kill here")

D, N, BATCH = 32, 1000, 10
WRITER = """
import sys
import numpy as np
from mahalad.index.edge import EdgeIndex

D, N, BATCH = 32, 1000, 10
X = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)
print("begin", flush=True)
index = EdgeIndex(sys.argv[1], n_features=D)
for start in range(0, N, BATCH):
    rows = range(start, start + BATCH)
    labels, paths = [f"class {i % 7}" for i in rows], [f"{i}.png" for i in rows]
    for number in index.add(X[start : start + BATCH], labels, paths):
        print(number, flush=True)
print("end", flush=True)
"""


def start_writer(folder):
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "begin\n"
    return process


def kill(process):
    """Kill, and give the ids that were acknowledged since."""
    process.send_signal(signal.SIGKILL)
    lines = process.stdout.read().split("\n")
    process.wait()
    process.stdout.close()
    return [int(line) for line in lines[:-1] if line != "end"]


def check(folder, acknowledged):
    X = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)
    with EdgeIndex(folder, create=False) as index:
        stored = list(index.records())
        ids = np.concatenate([page.ids for page in stored]) if stored else np.empty(0, np.int64)
        assert set(acknowledged) <= set(ids.tolist())
        # Those that no answer came for may be there as well, then as they were given.
        for page in stored:
            np.testing.assert_array_equal(page.vectors, unit_rows(X[page.ids]))
            assert page.labels.tolist() == [f"class {i % 7}" for i in page.ids]
            assert page.paths.tolist() == [f"{i}.png" for i in page.ids]
        assert sum(index.counts().values()) == len(index) == len(ids)
        if len(ids):
            found = index.query(X[ids[:20]], k=1)
            np.testing.assert_array_equal(found.ids[:, 0], ids[:20])
        new = index.add(X[:1], ["new"], ["new.png"])
        assert index.get(new).labels.tolist() == ["new"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_points_survive_a_hard_kill(tmp_path, seed):
    chance = random.Random(seed)
    process = start_writer(tmp_path / "index")
    acknowledged = []
    for _ in range(chance.randrange(1, N - 50)):
        acknowledged.append(int(process.stdout.readline()))
    time.sleep(chance.uniform(0, 0.01))  # into the middle of some write
    acknowledged += kill(process)
    assert acknowledged == list(range(len(acknowledged))) and len(acknowledged) < N
    check(tmp_path / "index", acknowledged)


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0, 0.01, 0.03, 0.06])
def test_an_index_survives_a_hard_kill_while_it_is_made(tmp_path, delay):
    process = start_writer(tmp_path / "index")
    time.sleep(delay)
    acknowledged = kill(process)
    EdgeIndex(tmp_path / "index", n_features=D).close()
    check(tmp_path / "index", acknowledged)
    assert [path.name for path in (tmp_path / "index").iterdir()] == ["store"]
