"""Time, memory and size of mahalad and its peers: same network, weights, images and threads.

    python benchmarks/peers_speed.py --peers-python /path/to/python --weights FILE --root DIR
        [--category NAME] [--size 320] [--backbone NAME] [--rounds 5] [--threads 2]
        [--coreset 15000] [--json OUT]

The peers need an environment of their own:

    python -m venv /path/to/venv
    /path/to/venv/bin/pip install anomalib pyod openvino onnx

They are anomalib's PaDiM and PatchCore (`--coreset`: a share of the patches by its greedy
selection, or a number > 1 drawn at random), by torch and as its export is run, by OpenVINO; and
PyOD's `EmbeddingOD` over pooled features of the network, with its nearest neighbours and ECOD.
mahalad is `MahalanobisDetector()` with its defaults but network, weights, size and engine, and a
fit of it exported. Its fit has its calibration, which the peers have not.

Each is a process that fits once. Then all score the test images in turn, round by round, from files
to scores (and maps, where a model makes them anyway: the peers of anomalib do); times are medians
over the rounds. "ratio" is the median over rounds of the images a second to those of the first row.
Peak memory is that of the whole process, with its imports. "model" is what the fit learned, without
the network: of mahalad a file without the features for updates, and "with features" a default one.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from peers import peak_mib

from mahalad.bench.outputs import versions, write_json
from mahalad.evaluation.images import roc_auc
from mahalad.images.mvtec import Category, find_categories
from mahalad.report.tables import format_table, percent

PEERS = Path(__file__).with_name("peers_speed_worker.py")
LAYERS = ["blocks.2", "blocks.4"]
OURS = {
    "mahalad, torch": "torch",
    "mahalad, onnx": "onnx",
    "mahalad, openvino": "openvino",
    "mahalad, exported (onnxruntime)": "exported",
}


def rows_of(coreset: float) -> dict[str, dict[str, Any]]:
    """What is compared, by its name."""
    rows: dict[str, dict[str, Any]] = {
        name: {"method": "mahalad", "engine": engine} for name, engine in OURS.items()
    }
    for engine in ("torch", "openvino"):
        more = {"engine": engine, "layers": LAYERS}
        rows[f"PaDiM, {engine}"] = {"method": "padim", "n_features": None, **more}
        rows[f"PatchCore, {engine}"] = {"method": "patchcore", "coreset": coreset, **more}
    for detector in ("KNN", "ECOD"):
        rows[f"PyOD EmbeddingOD, {detector}"] = {"method": "pyod", "detector": detector}
    return rows


def answer(job: dict[str, Any]) -> None:
    """Fit in this process, say what that took, and score as often as standard input asks."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer

    def say(found: dict[str, Any]) -> None:
        print(json.dumps(found), file=answers, flush=True)

    import torch

    from mahalad import MahalanobisDetector

    torch.set_num_threads(job["threads"])
    exported = job["engine"] == "exported"
    started = time.perf_counter()
    detector = MahalanobisDetector(
        job["backbone"],
        weights=job["weights"],
        input_size=job["size"],
        engine="torch" if exported else job["engine"],
    ).fit(job["train"])
    took = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        sizes = {}
        for name, features in (("model_mib", False), ("with_features_mib", True)):
            file = Path(folder, name)
            detector.save(file, include_features=features, include_weights=False)
            sizes[name] = file.stat().st_size / 2**20
        score: Callable[[Any], Any] = detector.anomaly_score
        if exported:
            from mahalad.export.exporting import export
            from mahalad.runtime import load

            export(detector, Path(folder, "part.onnx"))
            score = load(Path(folder, "part.onnx")).anomaly_score
        say({"fit_seconds": took, "peak_mib": peak_mib(), **sizes})
        for _ in sys.stdin:
            started = time.perf_counter()
            scores = np.asarray(score(job["test"])).tolist()
            took = time.perf_counter() - started
            say({"seconds": took, "scores": scores, "peak_mib": peak_mib()})


class Worker:
    """A process that has fitted a model, and scores when it is asked to."""

    def __init__(self, name: str, job: dict[str, Any], python: str, folder: Path) -> None:
        file = folder / f"{name}.json".replace("/", "-")
        file.write_text(json.dumps(job))
        command = [python, str(PEERS), str(file)]
        if job["method"] == "mahalad":
            command = [sys.executable, __file__, "--one", str(file)]
        self.log = folder / f"{name}.log".replace("/", "-")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        self.about = self._read()

    def score(self) -> dict[str, Any]:
        """Score the test images once more."""
        assert self.process.stdin is not None
        self.process.stdin.write("again\n")
        self.process.stdin.flush()
        return self._read()

    def end(self) -> None:
        """Let it end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            said = self.log.read_text().strip().splitlines() or ["it said nothing"]
            raise RuntimeError(said[-1])
        found: dict[str, Any] = json.loads(line)
        return found


def measure(category: Category, options: Any) -> list[dict[str, Any]]:
    """Fit all, then score in turn; one row each."""
    common = {
        "backbone": options.backbone,
        "weights": str(options.weights),
        "size": options.size,
        "threads": options.threads,
        "train": [str(path) for path in category.train],
        "test": [str(path) for path in category.test],
    }
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        workers: dict[str, Worker] = {}
        for name, job in rows_of(options.coreset).items():
            if options.only and options.only not in name:
                continue
            row: dict[str, Any] = {"name": name}
            try:
                workers[name] = Worker(name, common | job, options.peers_python, Path(folder))
                row |= workers[name].about | {"seconds": []}
                print(f"{name}: fit {row['fit_seconds']:.1f} s", file=sys.stderr)
            except (RuntimeError, OSError) as error:
                row["failed"] = str(error)
                print(f"{name}: failed: {error}", file=sys.stderr)
            rows.append(row)
        for i in range(options.rounds + 1):  # the first one warms up
            for row in rows:
                if "failed" in row:
                    continue
                found = workers[row["name"]].score()
                row |= {"scores": found["scores"], "peak_mib": found["peak_mib"]}
                if i:
                    row["seconds"].append(found["seconds"])
        for worker in workers.values():
            worker.end()
    return rows


def table(category: Category, rows: list[dict[str, Any]]) -> str:
    is_anomaly = np.array([kind != "good" for kind in category.kinds])
    n, first = len(category.test), next(row for row in rows if "failed" not in row)
    header = ["", "AUROC", "fit s", "img/s", "ratio", "peak MiB", "model MiB", "with features"]
    lines, notes = [], []
    for row in rows:
        if "failed" in row:
            lines.append([row["name"], "failed", *[""] * 6])
            notes.append(f"failed: {row['name']}: {row['failed']}")
            continue
        ratios = [a / b for a, b in zip(first["seconds"], row["seconds"], strict=True)]
        sizes = [row.get(key, float("nan")) for key in ("model_mib", "with_features_mib")]
        lines.append(
            [
                row["name"],
                percent(roc_auc(np.array(row["scores"]), is_anomaly)),
                f"{row['fit_seconds']:.1f}",
                f"{n / statistics.median(row['seconds']):.1f}",
                f"{statistics.median(ratios):.2f}",
                f"{row['peak_mib']:.0f}",
                *("-" if np.isnan(size) else f"{size:.0f}" for size in sizes),
            ]
        )
    about = f"{category.name}: {len(category.train)} images to fit, {n} to score"
    return "\n".join([about, format_table(header, lines), *notes])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers-python", help="Python of the peers' environment")
    parser.add_argument("--weights", type=Path, help=".safetensors file with timm's keys")
    parser.add_argument("--backbone", default="tf_efficientnetv2_b0")
    parser.add_argument("--root", dest="roots", nargs="+", type=Path)
    parser.add_argument("--category", dest="categories", action="append", default=[])
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--coreset", type=float, default=15000)
    parser.add_argument("--only", default="", help="rows whose name has this text")
    parser.add_argument("--json", dest="json_file", type=Path)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        answer(json.loads(options.one.read_text()))
        return
    for name in ("weights", "roots", "peers_python"):
        if getattr(options, name) is None:
            parser.error(f"--{name.replace('_', '-').replace('roots', 'root')} is needed")
    print(
        f"{options.backbone} at {options.size} px, {options.weights.name}; CPU, "
        f"{options.threads} threads, {options.rounds} rounds"
    )
    report: dict[str, Any] = {
        "benchmark": "peers_speed",
        "parameters": {k: v for k, v in vars(options).items() if k not in ("one", "json_file")},
        "versions": versions(),
        "categories": {},
    }
    for category in find_categories(options.roots, options.categories):
        rows = measure(category, options)
        print(table(category, rows), end="\n\n", flush=True)
        report["categories"][category.name] = rows
        if options.json_file is not None:
            write_json(report, options.json_file)


if __name__ == "__main__":
    main()
