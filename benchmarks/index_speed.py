"""How long a query takes, and how long it takes to fill and to open an index, on one core.

    python benchmarks/index_speed.py [--points 20000] [--features 128] [-k 5] [--queries 2000]

Single queries, one after the other, of random vectors among random vectors with cosine distances:
what takes longest, since there is nothing to be near. Times in milliseconds; 50th and 99th
percentile. Embedded Qdrant needs the extra ``qdrant``.
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

from mahalad.index.contract import VectorIndex  # noqa: E402
from mahalad.index.edge import EdgeIndex  # noqa: E402
from mahalad.index.memory import MemoryIndex  # noqa: E402
from mahalad.modelfile import read_model, write_model  # noqa: E402


def milliseconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return 1000 * (time.perf_counter() - start)


def fill(index: VectorIndex, X: np.ndarray) -> None:
    labels = [f"class {i % 4}" for i in range(len(X))]
    paths = [f"images/{i:06}.png" for i in range(len(X))]
    index.add(X, labels, paths)
    index.flush()


def single_queries(index: VectorIndex, Q: np.ndarray, k: int) -> tuple[float, float]:
    for q in Q[:50]:
        index.query(q[None], k)
    times = [milliseconds(lambda q=q: index.query(q[None], k)) for q in Q]
    p50, p99 = np.percentile(times, [50, 99])
    return float(p50), float(p99)


def measure_memory(X: np.ndarray, Q: np.ndarray, k: int, folder: Path) -> list[float]:
    index = MemoryIndex(X.shape[1])
    filled = milliseconds(lambda: fill(index, X))
    about, arrays = index.state()
    write_model(folder / "model", {"index": about}, arrays)

    def load() -> MemoryIndex:
        header, stored = read_model(folder / "model")
        return MemoryIndex.restore(header["index"], stored)

    return [*single_queries(index, Q, k), filled, milliseconds(load)]


def measure_edge(X: np.ndarray, Q: np.ndarray, k: int, folder: Path) -> list[float]:
    index = EdgeIndex(folder / "index", n_features=X.shape[1])
    filled = milliseconds(lambda: fill(index, X))
    index.close()
    opened = milliseconds(lambda: EdgeIndex(folder / "index").close())
    with EdgeIndex(folder / "index") as index:
        return [*single_queries(index, Q, k), filled, opened]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=20_000)
    parser.add_argument("--features", type=int, default=128)
    parser.add_argument("-k", type=int, default=5)
    parser.add_argument("--queries", type=int, default=2000)
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    rng = np.random.default_rng(0)
    X = rng.normal(size=(options.points, options.features)).astype(np.float32)
    Q = rng.normal(size=(options.queries, options.features)).astype(np.float32)
    print(f"{options.points:,} x {options.features}, k = {options.k}, one core; ms")
    print(f"{'store':<16}{'p50':>8}{'p99':>8}{'fill':>10}{'open':>8}")
    for name, measure in (("memory", measure_memory), ("embedded Qdrant", measure_edge)):
        with tempfile.TemporaryDirectory() as folder:
            p50, p99, filled, opened = measure(X, Q, options.k, Path(folder))
        print(f"{name:<16}{p50:8.3f}{p99:8.3f}{filled:10.0f}{opened:8.0f}", flush=True)


if __name__ == "__main__":
    main()
