"""Fits and scores by Ray on two nodes of one machine: exactness, rates and memory.

    python benchmarks/distributed.py exact FOLDER_WITH_train_good_AND_test [--size 320]
    python benchmarks/distributed.py rates FOLDER_OF_IMAGES [--counts 256] [--size 320]
    python benchmarks/distributed.py memory --counts 2000 20000
    python benchmarks/distributed.py killed --counts 2000

`exact` compares a fit on two nodes with the local one. `rates` compares two workers with one
process on the same cores, by images a second, and times the stages of both, also in seconds of
cores, which other work on the machine changes little. `memory` fits and
scores a list of generated pictures of 64 pixels with a tiny network of random weights, and gives
the peaks of the driver and of the largest worker. `killed` kills the driver of such a fit and of
its scores at three random points, and compares the result with that of a run that is not killed.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import re
import signal
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
        started, before = time.perf_counter(), time.process_time()
        found = work()
        seconds, of_cores = time.perf_counter() - started, time.process_time() - before
        print(
            f"{what}: {n / seconds:8.1f} a second ({seconds:.1f} s for {n}; of cores, in this "
            f"process, {of_cores:.1f} s)",
            flush=True,
        )
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
    ticks: list[tuple[float, int]] = []

    def progress(n: int) -> None:
        ticks.append((time.perf_counter(), n))

    def say_steady(what: str) -> None:
        """Say how fast it was between the first parts and the last."""
        done = [(at, n) for at, n in ticks if n]
        first = 2  # parts, one of each worker, which waited for its network
        n = sum(n for _, n in done[first:])
        print(
            f"{what}: {n / (done[-1][0] - done[first - 1][0]):8.1f} a second, once they have begun"
        )
        ticks.clear()

    with two_nodes(), tempfile.TemporaryDirectory() as rows:
        options = {"pool": POOL, "part_size": 32, "progress": progress}
        timed("fit, two nodes, with the start of workers, images", count, lambda: fit(
            MahalanobisDetector(input_size=size), images, **options))  # fmt: skip
        say_steady("fit, two nodes, images")
        timed("score, two nodes, with the start of workers, images", count, lambda: score(
            detector, images, Path(rows) / "a", **options))  # fmt: skip
        say_steady("score, two nodes, images")
        size_of = sum(path.stat().st_size for path in (Path(rows) / "a").iterdir())
        print(f"bytes of a row in Parquet: {size_of / count:.0f}")


class Peaks(threading.Thread):
    """Watch this process and those of Ray that work, twice a second; highest memory of one, in MiB.

    `driver` and `worker` are memory of a process alone; `shared` is that of the object store which
    a worker has touched, and which counts among the memory of each that did.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.driver = self.worker = self.shared = 0.0

    def run(self) -> None:
        while True:
            self.driver = max(self.driver, self._memory("self")[0])
            for folder in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):
                    name = (folder / "cmdline").read_text()
                    if "MapWorker" in name or "merge_tables" in name:
                        own, shared = self._memory(folder.name)
                        self.worker, self.shared = max(self.worker, own), max(self.shared, shared)
            time.sleep(0.5)

    @staticmethod
    def _memory(process: str) -> tuple[float, float]:
        text = Path(f"/proc/{process}/status").read_text()
        found = re.findall(r"(Rss\w+):\s+(\d+)", text)
        sizes = {name: int(size) / 1024 for name, size in found}
        return sizes["RssAnon"] + sizes["RssFile"], sizes["RssShmem"]


def generated(folder: Path, count: int) -> Path:
    """Make pictures of noise, weights of a tiny network, and a list of the pictures; give that."""
    import timm
    from safetensors.torch import save_file

    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    save_file(timm.create_model("test_efficientnet").state_dict(), folder / "weights.safetensors")
    (folder / "images").mkdir()
    with open(folder / "images.csv", "w") as manifest:
        manifest.write("path\n")
        for i in range(count):
            pixels = rng.integers(90, 166, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / f"{i:07}.png", compress_level=1)
            manifest.write(f"images/{i:07}.png\n")
    return folder / "images.csv"


def tiny(folder: Path) -> MahalanobisDetector:
    network = {"weights": folder / "weights.safetensors", "input_size": 64}
    return MahalanobisDetector("test_efficientnet", **network, max_stored=500, scope="image")


def memory(count: int) -> None:
    peaks = Peaks()
    peaks.start()
    with tempfile.TemporaryDirectory() as name, two_nodes():
        folder = Path(name)
        manifest, detector = generated(folder, count), tiny(folder)
        options = {"pool": POOL, "part_size": 256}
        started = time.perf_counter()
        fit(detector, manifest, **options)
        fitted = time.perf_counter() - started
        score(detector, manifest, folder / "rows", **options)
        scored = time.perf_counter() - started - fitted
        print(
            f"{count:7} images: driver {peaks.driver:6.0f} MiB, largest worker "
            f"{peaks.worker:6.0f} MiB, and {peaks.shared:6.0f} MiB of the object store; "
            f"fit {fitted:.0f} s, score {scored:.0f} s",
            flush=True,
        )


def killed(count: int) -> None:
    """Kill a driver in its fit, after its first checkpoint, and in its scores."""
    every = count // 4
    with tempfile.TemporaryDirectory() as name, two_nodes() as ray:
        folder = Path(name)
        generated(folder, count)
        rng = np.random.default_rng(0)
        points = [int(rng.integers(low, low + count // 2)) for low in (1, every, count)]
        address = ray.get_runtime_context().gcs_address
        for run, after in (("whole", 0), *(("broken", after) for after in (*points, 0))):
            command = [sys.executable, __file__, "killed", str(folder / run), "--one"]
            command += ["--counts", str(every), str(after), "--address", address]
            code = subprocess.run(command).returncode
            print(f"{run}: killed after {after} images" if code else f"{run}: finished", flush=True)
            assert code == (-signal.SIGKILL if after else 0)
        whole, broken = (np.load(folder / f"{run}.npz") for run in ("whole", "broken"))
        for what in ("calibration", "threshold", "scores", "p_values"):
            a, b = whole[what], broken[what]
            print(f"{what}: largest difference, relative {np.abs(a / b - 1).max():.1e}")
        assert (whole["p_values"] == broken["p_values"]).all() and len(whole["scores"]) == count


def one_driver(run: Path, every: int, after: int, address: str) -> None:
    done = 0

    def progress(n: int) -> None:
        nonlocal done
        done += n
        if after and done >= after:
            os.kill(os.getpid(), signal.SIGKILL)

    manifest, detector = run.parent / "images.csv", tiny(run.parent)
    options = {"pool": POOL, "part_size": 64, "address": address, "progress": progress}
    fit(detector, manifest, checkpoint=f"{run}.state", checkpoint_every=every, **options)
    scored = score(detector, manifest, f"{run}.rows", **options)
    rows = list(scored.rows())
    np.savez(
        f"{run}.npz",
        calibration=detector.calibration_scores_,
        threshold=detector.threshold_,
        scores=[row["score"] for row in rows],
        p_values=[row["p_value"] for row in rows],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["exact", "rates", "memory", "killed"])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--counts", type=int, nargs="+", default=[256])
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.what == "exact":
        exact(options.folder, options.size)
    elif options.what == "rates":
        rates(options.folder, options.size, options.counts[0])
    elif options.what == "killed" and options.one:
        one_driver(options.folder, *options.counts, options.address)
    elif options.what == "killed":
        killed(options.counts[0])
    elif options.one:
        memory(options.counts[0])
    else:
        for count in options.counts:  # in processes of their own: peaks only rise
            command = [sys.executable, __file__, "memory", "--one", "--counts", str(count)]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
