"""Fits and scores by Ray on two nodes of one machine: exactness, rates and memory.

    python benchmarks/distributed.py exact FOLDER_WITH_train_good_AND_test [--size 320]
    python benchmarks/distributed.py rates FOLDER_OF_IMAGES [--counts 256] [--size 320]
    python benchmarks/distributed.py memory --counts 2000 20000

`exact` compares a fit on two nodes with the local one. `rates` compares two workers with one
process on the same cores, by images a second, and times the stages of both. `memory` scores and
fits generated pictures of 64 pixels with a tiny network of random weights, and gives the peaks of
the driver and of the largest worker.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from mahalad import MahalanobisDetector
from mahalad.distributed import Pool, fit, score
from mahalad.images.sources import iter_sources

POOL = Pool(2, cpus=0.9)
"""A worker on each of two nodes of a CPU: paths need no CPU to be read."""


@contextmanager
def two_nodes() -> Iterator[Any]:
    import ray
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 2 * 2**30}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    cluster.add_node(**node)
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield ray
    finally:
        ray.shutdown()
        cluster.shutdown()


def exact(folder: Path, size: int) -> None:
    torch.set_num_threads(1)  # as a worker's
    good, new = folder / "train" / "good", folder / "test"
    with two_nodes():
        whole = MahalanobisDetector(input_size=size).fit(good)
        found = fit(MahalanobisDetector(input_size=size), good, pool=POOL, part_size=64)
    a, b = found.calibration_scores_, whole.calibration_scores_
    print(f"{folder.name}: {found.n_images_} images")
    print(f"largest difference of calibration scores, relative: {np.abs(a / b - 1).max():.1e}")
    print(f"thresholds {found.threshold_!r} and {whole.threshold_!r}")
    p, q = (
        np.array([r.p_value for r in d.inspect(new) if r.error is None]) for d in (found, whole)
    )
    print(f"p-values of {len(p)} test images identical: {bool((p == q).all())}")


def rates(folder: Path, size: int, count: int) -> None:
    paths = [str(source.path) for source in iter_sources(folder)]
    images = list(islice(cycle(paths), count))

    def timed(what: str, n: int, work: Any) -> Any:
        started = time.perf_counter()
        found = work()
        seconds = time.perf_counter() - started
        print(f"{what}: {n / seconds:8.1f} a second ({seconds:.1f} s for {n})", flush=True)
        return found

    detector = MahalanobisDetector(input_size=size)
    reader = detector.reader()
    part = timed("fit, one process, all cores, images", count, lambda: reader.read(images))
    content = timed("parts packed", 1, lambda: reader.pack(part))
    print(f"bytes of a part: {len(content):,}, of a part's sums and patches as sent")
    other = timed("parts unpacked", 1, lambda: reader.unpack(content))
    timed("parts merged", 1, lambda: part.merge(other))
    timed("calibrations", 1, lambda: detector.fit_state(reader, part))
    timed("score, one process, all cores, images", count, lambda: list(detector.inspect(images)))
    with two_nodes(), tempfile.TemporaryDirectory() as rows:
        options = {"pool": POOL, "part_size": 32}
        timed("score, two nodes, with the start of workers, images", count, lambda: score(
            detector, images, Path(rows) / "a", **options))  # fmt: skip
        size_of = sum(path.stat().st_size for path in (Path(rows) / "a").iterdir())
        print(f"bytes of a row in Parquet: {size_of / count:.0f}")


class Peaks(threading.Thread):
    """Watch the workers of Ray below this process, and keep the highest memory of one."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.highest = 0.0

    def run(self) -> None:
        while True:
            for status in Path("/proc").glob("[0-9]*/status"):
                with contextlib.suppress(OSError):
                    text = status.read_text()
                    if "MapWorker" in (status.parent / "cmdline").read_text():
                        peak = re.search(r"VmHWM:\s+(\d+)", text)
                        self.highest = max(self.highest, int(peak[1]) / 1024 if peak else 0.0)
            time.sleep(0.5)


def memory(count: int) -> None:
    import timm
    from safetensors.torch import save_file

    peaks = Peaks()
    peaks.start()
    with tempfile.TemporaryDirectory() as name, two_nodes():
        folder, rng = Path(name), np.random.default_rng(0)
        weights = folder / "weights.safetensors"
        torch.manual_seed(0)
        save_file(timm.create_model("test_efficientnet").state_dict(), weights)
        (folder / "images").mkdir()
        for i in range(count):
            pixels = rng.integers(90, 166, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / f"{i:07}.png", compress_level=1)
        network = {"weights": weights, "input_size": 64, "max_stored": 500, "scope": "image"}
        detector = MahalanobisDetector("test_efficientnet", **network)
        started = time.perf_counter()
        fit(detector, folder / "images", pool=POOL, part_size=256)
        fitted = time.perf_counter() - started
        score(detector, folder / "images", folder / "rows", pool=POOL, part_size=256)
        scored = time.perf_counter() - started - fitted
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"{count:7} images: driver {peak:6.0f} MiB, largest worker {peaks.highest:6.0f} MiB; "
            f"fit {fitted:.0f} s, score {scored:.0f} s",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["exact", "rates", "memory"])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--counts", type=int, nargs="+", default=[256])
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.what == "exact":
        exact(options.folder, options.size)
    elif options.what == "rates":
        rates(options.folder, options.size, options.counts[0])
    elif options.one:
        memory(options.counts[0])
    else:
        for count in options.counts:  # in processes of their own: peaks only rise
            command = [sys.executable, __file__, "memory", "--one", "--counts", str(count)]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
