"""mahalad against models of anomalib: same network, same weights, same images.

    python benchmarks/peers.py --anomalib-python /path/to/python --weights FILE --root DIR ...
        [--category NAME] [--size 320] [--coreset 0.01] [--padim-layers blocks.2,blocks.4]
        [--patchcore-layers blocks.2,blocks.4] [--method mahalad] [--changes] [--json OUT]

anomalib needs an environment of its own, as it brings its own versions of many packages:

    python -m venv /path/to/venv
    /path/to/venv/bin/pip install anomalib        # then --anomalib-python /path/to/venv/bin/python

mahalad is `MahalanobisDetector()` with its defaults but network, weights and input size. The
peers are anomalib's model classes with the settings of their papers (PatchCore: 9 neighbours):
PaDiM, PatchCore, MH-PatchCore, and RAD, which is for ViTs alone (`--backbone vit_...`), as
PaDiM and both PatchCores are for networks with maps. `--padim-layers` and the like may be given
several times, and each is a row, since timm's ``features_only`` reaches other levels than mahalad
does. Greedy selection of PatchCore's
coreset is very slow on a CPU for many images: `--coreset NAME=RATIO` gives a category its own, and
a number above 1 draws that many patches at random, without their selection.

With `--changes` the test images are scored changed as well, in ways no inspector would call a
defect (those of `mahalad bench robust`, saved as PNG, the same files for all). The peers have no
threshold for a rate. So all are judged by the same: flagged is what scores above the highest good
test image as it is, which flags none of these; mahalad's own threshold has a line of its own.

Every run is a process of its own, one after the other. Times have the making of the network, all
decoding (as many threads on both sides) and, where images are scored, their maps; imports are not
counted. mahalad's fit has its calibration (a threshold with a known false-positive rate), which
the peers have not. "at start" is the memory of a process that has only imported what it needs.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mahalad.bench.changes import GradedChange
from mahalad.bench.outputs import versions, write_json
from mahalad.bench.pixels import FPR_LIMIT, PixelTruth, enlarge_to_truth, read_truth
from mahalad.evaluation.images import roc_auc
from mahalad.evaluation.pixels import pixel_figures
from mahalad.images.decoding import open_image
from mahalad.images.mvtec import Category, find_categories
from mahalad.images.sources import source_of
from mahalad.report.tables import format_table, percent

TITLES = {
    "padim": "PaDiM",
    "patchcore": "PatchCore",
    "mh_patchcore": "MH-PatchCore",
    "rad": "RAD",
}
LAYERS = dict.fromkeys(TITLES, "blocks.2,blocks.4") | {
    "rad": "blocks.3,blocks.6,blocks.9,blocks.11"
}
CHANGES = (
    GradedChange("brightness", -5),
    GradedChange("brightness", 5),
    GradedChange("noise", 2),
    GradedChange("JPEG quality", 85),
    GradedChange("shift", 3),
    GradedChange("rotation", 1),
)
PEER = Path(__file__).with_name("peers_anomalib.py")


def run_mahalad(job: dict[str, Any]) -> dict[str, Any]:
    """Fit and score in this process, which does nothing else."""
    import torch

    from mahalad import MahalanobisDetector

    for lazy in (
        "mahalad.features.backbones",
        "mahalad.scorers.positions.scorer",
        "mahalad.detectors.attribution",
    ):
        importlib.import_module(lazy)
    started, at_start = time.perf_counter(), peak_mib()
    detector = MahalanobisDetector(
        job["backbone"], weights=job["weights"], input_size=job["size"]
    ).fit(job["train"])
    fitted = time.perf_counter()
    scores = []
    with Path(job["maps"]).open("wb") as file:
        for result in detector.inspect(job["test"], maps=True):
            scores.append(result.score)
            file.write(np.asarray(result.anomaly_map, np.float32).tobytes())
    scored, peak = time.perf_counter(), peak_mib()
    model = Path(job["maps"]).with_suffix(".mahalad")
    detector.save(model, include_features=False, include_weights=False)
    return {
        "scores": scores,
        "threshold": detector.threshold_,
        "changed": {n: detector.anomaly_score(x).tolist() for n, x in job["changed"].items()},
        "fit_seconds": fitted - started,
        "score_seconds": scored - fitted,
        "start_mib": at_start,
        "peak_mib": peak,
        "model_mib": model.stat().st_size / 2**20,
        "threads": torch.get_num_threads(),
        "versions": {n: importlib.metadata.version(n) for n in ("mahalad", "torch", "timm")},
    }


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(
    method: dict[str, Any],
    category: Category,
    truth: PixelTruth | None,
    changed: dict[str, list[str]],
    options: Any,
) -> dict[str, Any]:
    """Run one method on one category; what it says, or why it failed."""
    with tempfile.TemporaryDirectory() as folder:
        result, maps = Path(folder, "result.json"), Path(folder, "maps.float32")
        job = {
            **method,
            "backbone": options.backbone,
            "weights": str(options.weights),
            "size": options.size,
            "train": [str(path) for path in category.train],
            "test": [str(path) for path in category.test],
            "changed": changed,
            "maps": str(maps),
            "result": str(result),
        }
        file = Path(folder, "job.json")
        file.write_text(json.dumps(job))
        command = [options.anomalib_python, str(PEER), str(file)]
        if method["method"] == "mahalad":
            command = [sys.executable, __file__, "--one", str(file)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:  # no such Python
            return {"failed": str(error)}
        if done.returncode:
            said = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
            killed = f"killed by signal {-done.returncode}"  # 9: mostly for want of memory
            return {"failed": killed if done.returncode < 0 else said[-1]}
        found: dict[str, Any] = json.loads(result.read_text())
        return found | figures(found["scores"], maps, category, truth, options.size)


def figures(
    scores: Sequence[float], maps: Path, category: Category, truth: PixelTruth | None, size: int
) -> dict[str, float | None]:
    is_anomaly = np.array([kind != "good" for kind in category.kinds])
    found: dict[str, float | None] = {
        "roc_auc": roc_auc(np.array(scores), is_anomaly),
        "pixel_roc_auc": None,
        "pixel_aupro": None,
    }
    if truth is not None and truth.n_masks:
        of_pixels = pixel_figures(
            (enlarged for enlarged, _ in pairs(truth, maps, size)),
            (mask for _, mask in pairs(truth, maps, size)),
            fpr_limit=FPR_LIMIT,
        )
        found |= {"pixel_roc_auc": of_pixels.roc_auc, "pixel_aupro": of_pixels.aupro}
    return found


def pairs(truth: PixelTruth, file: Path, size: int) -> Iterator[tuple[Any, Any]]:
    maps = np.memmap(file, np.float32, "r").reshape(-1, size, size)
    for row, image, mask in zip(truth.rows, truth.images, truth.masks, strict=True):
        yield enlarge_to_truth(maps[row], image, mask)


def write_changed(category: Category, folder: Path) -> dict[str, list[str]]:
    """Write the test images in all changes, as PNG files; their paths by the changes' names."""
    found: dict[str, list[str]] = {change.name: [] for change in CHANGES}
    for number, path in enumerate(category.test):
        image = open_image(source_of(str(path)))
        for i, change in enumerate(CHANGES):
            file = folder / f"{number}-{i}.png"
            Image.fromarray(change.of(image, number)).save(file, compress_level=1)
            found[change.name].append(str(file))
    return found


def changed_table(category: Category, rows: Sequence[dict[str, Any]]) -> str:
    """Flagged, found and AUROC of each method, in each change."""
    is_anomaly = np.array([kind != "good" for kind in category.kinds])
    lines = []

    def add(name: str, row: dict[str, Any], level: float) -> None:
        cells = []
        for change in (None, *row["changed"]):
            scores = np.array(row["scores"] if change is None else row["changed"][change])
            flagged = scores > level
            rates = [flagged[~is_anomaly].mean(), flagged[is_anomaly].mean()]
            auroc = percent(roc_auc(scores, is_anomaly))
            cells.append(" / ".join([*(f"{100 * rate:.0f}" for rate in rates), auroc]))
        lines.append([name, *cells])

    for row in rows:
        if not row.get("changed"):
            continue
        add(row["name"], row, np.array(row["scores"])[~is_anomaly].max())
        if "threshold" in row:
            add(f"{row['name']}, its own threshold", row, row["threshold"])
    header = ["flagged / found / AUROC", "unchanged", *(change.name for change in CHANGES)]
    return format_table(header, lines)


def methods_for(name: str, options: Any) -> list[dict[str, Any]]:
    """What is run on a category."""
    ratios = dict(text.rpartition("=")[::2] for text in options.coreset or ["0.01"])
    found: list[dict[str, Any]] = []
    if "mahalad" in options.methods:
        found.append({"method": "mahalad", "name": "mahalad"})
    for method in TITLES:
        for layers in getattr(options, f"{method}_layers") or [LAYERS[method]]:
            if method not in options.methods:
                continue
            row: dict[str, Any] = {"method": method, "layers": layers.split(",")}
            row["name"] = f"{TITLES[method]} {short(row['layers'])}"
            if method == "padim":
                row["n_features"] = options.n_features
            elif method == "patchcore":
                kept = row["coreset"] = float(ratios.get(name, ratios.get("", "0.01")))
                row["name"] += f" ({100 * kept:g} %)" if kept <= 1 else f" ({kept:g} random)"
            found.append(row)
    return found


def short(layers: Sequence[str]) -> str:
    """`blocks.2,4` for `blocks.2` and `blocks.4`."""
    stem = layers[0].rpartition(".")[0]
    same = stem and all(layer.startswith(f"{stem}.") for layer in layers)
    return ",".join([layers[0], *(x.rpartition(".")[2] if same else x for x in layers[1:])])


def table(category: Category, truth: PixelTruth | None, rows: Sequence[dict[str, Any]]) -> str:
    n_good = category.kinds.count("good")
    n_test = len(category.test)
    about = f"{category.name}: {len(category.train)} train, {n_good} good + {n_test - n_good} bad"
    if truth is not None:
        about += f", {truth.n_masks} masks"
        if truth.left_out:
            about += f" ({len(truth.left_out)} more mark nothing: not in the pixel figures)"
    header = [
        "method",
        "AUROC",
        "pixel",
        "AUPRO",
        "fit s",
        "img/s",
        "peak MiB",
        "at start",
        "model",
    ]
    lines, notes = [], []
    for row in rows:
        if "failed" in row:
            kind = row["failed"].partition(":")[0].rpartition(".")[2]
            lines.append([row["name"], f"failed: {kind[:20]}", *[""] * 7])
            notes.append(f"failed: {row['name']}: {row['failed']}")
            continue
        lines.append(
            [
                row["name"],
                *(percent(row[key]) for key in ("roc_auc", "pixel_roc_auc", "pixel_aupro")),
                f"{row['fit_seconds']:.1f}",
                f"{n_test / row['score_seconds']:.1f}",
                *(f"{row[key]:.0f}" for key in ("peak_mib", "start_mib")),
                f"{row['model_mib']:.1f}",
            ]
        )
    return "\n".join([about, format_table(header, lines), *notes])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--anomalib-python", help="Python of anomalib's environment")
    parser.add_argument("--weights", type=Path, help=".safetensors file with timm's keys")
    parser.add_argument("--backbone", default="tf_efficientnetv2_b0")
    parser.add_argument("--root", dest="roots", nargs="+", type=Path)
    parser.add_argument("--category", dest="categories", action="append", default=[])
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--method", dest="methods", action="append",
                        choices=["mahalad", *TITLES], help="only these; repeatable")  # fmt: skip
    parser.add_argument("--coreset", action="append", metavar="[NAME=]RATIO",
                        help="share of PatchCore's patches that its greedy selection keeps, or a "
                             "number (> 1) of patches drawn at random; default 0.01")  # fmt: skip
    for method, title in TITLES.items():
        parser.add_argument(f"--{method}-layers", action="append", metavar="NAME,...",
                            help=f"layers of {title}; default {LAYERS[method]}")  # fmt: skip
    parser.add_argument("--n-features", type=int, help="of PaDiM; default: all channels")
    parser.add_argument("--changes", action="store_true", help="score changed images as well")
    parser.add_argument("--json", dest="json_file", type=Path)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.methods:
        is_vit = options.backbone.startswith("vit_")
        options.methods = ["mahalad", *(name for name in TITLES if (name == "rad") == is_vit)]
    if options.one is None:
        peers = set(options.methods) - {"mahalad"}
        needed = ["weights", "roots", *(["anomalib_python"] if peers else [])]
        for name in needed:
            if getattr(options, name) is None:
                parser.error(f"--{name.replace('_', '-').replace('roots', 'root')} is needed")
    return options


def main() -> None:
    options = parse()
    if options.one is not None:
        job = json.loads(options.one.read_text())
        Path(job["result"]).write_text(json.dumps(run_mahalad(job)))
        return
    print(
        f"{options.backbone} at {options.size} px, {options.weights.name}; CPU, {os.cpu_count()} "
        f"cores\nfigures in %; pixel: AUROC of the pixels; AUPRO up to {100 * FPR_LIMIT:g} %; "
        "model: learned part, MiB\n"
    )
    report: dict[str, Any] = {
        "benchmark": "peers",
        "parameters": {k: v for k, v in vars(options).items() if k not in ("one", "json_file")},
        "versions": versions(),
        "categories": {},
    }
    for category in find_categories(options.roots, options.categories):
        truth = read_truth(category)
        rows = []
        with tempfile.TemporaryDirectory() as folder:
            changed = write_changed(category, Path(folder)) if options.changes else {}
            for method in methods_for(category.name, options):
                rows.append(method | measure(method, category, truth, changed, options))
                said = rows[-1].get("failed") or f"fit {rows[-1]['fit_seconds']:.1f} s"
                print(f"{category.name}: {method['name']}: {said}", file=sys.stderr)
        print(table(category, truth, rows), end="\n\n", flush=True)
        if options.changes:
            print(changed_table(category, rows), end="\n\n", flush=True)
        report["categories"][category.name] = rows
        if options.json_file is not None:
            write_json(report, options.json_file)


if __name__ == "__main__":
    main()
