"""How long a query takes, and how long it takes to fill and to open an index, on one core.

    python benchmarks/index_speed.py [--points 20000] [--features 128] [-k 5] [--queries 2000]
                                     [--rounds 5]

Single queries, one after the other, with cosine distances, in rounds. Times in milliseconds: 50th
and 99th percentile of the fastest round, and the 50th of the middle one. Random vectors, which have
nothing near; and vectors in 8 groups near 12 dimensions, as embeddings are; that matters to search
by the graph (HNSW, ``exact=False``) alone: recall is the share of the k nearest that it finds.
Embedded Qdrant needs the extra ``qdrant``. Other work on the machine, also that of other virtual
machines, makes all figures larger: an exact search reads all vectors from memory.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"  # read when NumPy is imported

import numpy as np  # noqa: E402

from mahalad.files.container import read_model, write_model  # noqa: E402
from mahalad.index.contract import VectorIndex  # noqa: E402
from mahalad.index.edge import EdgeIndex  # noqa: E402
from mahalad.index.memory import MemoryIndex  # noqa: E402


def milliseconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return 1000 * (time.perf_counter() - start)


def fill(index: VectorIndex, X: np.ndarray) -> None:
    labels = [f"class {i % 4}" for i in range(len(X))]
    paths = [f"images/{i:06}.png" for i in range(len(X))]
    index.add(X, labels, paths)
    index.flush()


def single_queries(index: VectorIndex, Q: np.ndarray, k: int, n_rounds: int) -> list[float]:
    for q in Q[:50]:
        index.query(q[None], k)
    rounds = []
    for _ in range(n_rounds):
        times = [milliseconds(lambda q=q: index.query(q[None], k)) for q in Q]
        rounds.append(np.percentile(times, [50, 99]).tolist())
    rounds.sort()
    return [*rounds[0], rounds[n_rounds // 2][0]]


def random_vectors(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    return rng.normal(size=(n, d)).astype(np.float32)


def like_embeddings(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    centres, axes = rng.normal(size=(8, 12)), rng.normal(size=(12, d))
    near = (rng.normal(size=(n, 12)) + 3 * centres[rng.integers(0, 8, n)]) @ axes
    return (near + 0.05 * rng.normal(size=near.shape)).astype(np.float32)


def measure_memory(X: np.ndarray, Q: np.ndarray, folder: Path, k: int, n: int) -> list[float]:
    index = MemoryIndex(X.shape[1])
    filled = milliseconds(lambda: fill(index, X))
    about, arrays = index.state()
    write_model(folder / "model", {"kind": "index", "index": about}, arrays)

    def load() -> MemoryIndex:
        header, stored = read_model(folder / "model")
        return MemoryIndex.restore(header["index"], stored)

    return [*single_queries(index, Q, k, n), 1.0, filled, milliseconds(load)]


def measure_edge(X: np.ndarray, Q: np.ndarray, folder: Path, k: int, n: int) -> list[float]:
    index = EdgeIndex(folder / "index", n_features=X.shape[1])
    filled = milliseconds(lambda: fill(index, X))
    index.close()
    opened = milliseconds(lambda: EdgeIndex(folder / "index").close())
    with EdgeIndex(folder / "index") as index:
        return [*single_queries(index, Q, k, n), recall(index, X, Q, k), filled, opened]


def measure_graph(X: np.ndarray, Q: np.ndarray, folder: Path, k: int, n: int) -> list[float]:
    """Filling includes building the graph."""
    with EdgeIndex(folder / "index", n_features=X.shape[1]) as index:
        filled = milliseconds(lambda: (fill(index, X), index.optimize()))
    opened = milliseconds(lambda: EdgeIndex(folder / "index").close())
    with EdgeIndex(folder / "index", exact=False) as index:
        return [*single_queries(index, Q, k, n), recall(index, X, Q, k), filled, opened]


def recall(index: VectorIndex, X: np.ndarray, Q: np.ndarray, k: int) -> float:
    exact = MemoryIndex(X.shape[1])
    fill(exact, X)
    pairs = zip(index.query(Q, k).ids, exact.query(Q, k).ids, strict=True)
    return float(np.mean([len(np.intersect1d(*pair)) / k for pair in pairs]))


STORES = {
    "memory": measure_memory,
    "embedded Qdrant": measure_edge,
    "its graph": measure_graph,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=20_000)
    parser.add_argument("--features", type=int, default=128)
    parser.add_argument("-k", type=int, default=5)
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print(f"{options.points:,} x {options.features}, k = {options.k}, one core; ms")
    for draw in (random_vectors, like_embeddings):
        vectors = draw(np.random.default_rng(0), options.points + options.queries, options.features)
        X, Q = vectors[: options.points], vectors[options.points :]
        title = draw.__name__.replace("_", " ")
        print(f"{title:<18}{'p50':>8}{'p99':>8}{'middle':>8}{'recall':>8}{'fill':>10}{'open':>8}")
        for name, measure in STORES.items():
            with tempfile.TemporaryDirectory() as folder:
                *times, filled, opened = measure(X, Q, Path(folder), options.k, options.rounds)
            columns = "".join(f"{value:8.3f}" for value in times)
            print(f"{name:<18}{columns}{filled:10.0f}{opened:8.0f}", flush=True)


if __name__ == "__main__":
    main()
