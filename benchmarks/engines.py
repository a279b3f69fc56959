"""What each engine takes for `score`, stage by stage, against what it cannot avoid, in one run.

    python benchmarks/engines.py [IMAGES...] [--scope positions --size 320] [--json FILE]

All that is compared alternates, round by round, and medians over the rounds are printed. Images
are decoded beforehand, but for the stages `decode` and `from files`. Without IMAGES, some are
generated. Stages of an engine:

* forward: prepared pixels to the network's levels;
* statistics: features to scores (and with maps, to maps in pixels);
* score, with maps: all of it;
* from files: files to scores, decoding in threads while the network computes. The last column is
  its time as a multiple of the larger one of decoding in threads and `score`, each alone.

Beside them stand the network as timm makes it, by torch as it comes (no channels last, nothing
folded), the bare session of onnxruntime, with its own defaults, over that same network, on tensors
that are ready, and Pillow's bare decoding.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image

from mahalad import MahalanobisDetector, load
from mahalad.commands.memory import keep_freed_memory
from mahalad.detectors.maps import in_pixels
from mahalad.detectors.scoring import score, score_with_maps
from mahalad.images.decoding import open_image
from mahalad.images.reading import ReadImage, read_batches
from mahalad.images.sources import ImageSource

Step = Callable[[], object]
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """Options of what is timed, without those of how much of it."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", nargs="*", type=Path)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--weights", default=None)
    parser.add_argument("--scope", default="positions", choices=("positions", "image"))
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--clock",
        default="wall",
        choices=tuple(CLOCKS),
        help="cpu, with --threads 1: for a machine that others use as well",
    )
    parser.add_argument("--malloc", action="store_true", help="as the command line sets it")
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--repeats", type=int, default=5)
    return parser


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--n", type=int, default=16, help="images that are scored")
    parser.add_argument("--engines", default="torch,onnx,openvino")
    parser.add_argument("--batches", default="1,8,16")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.malloc and not keep_freed_memory():
        parser.error("--malloc: not on this system")
    with tempfile.TemporaryDirectory() as folder:
        paths = options.images or generated(Path(folder), max(options.n, 12))
        steps = steps_of(options, paths, Path(folder) / "model")
        rounds = measured(steps, options.repeats, CLOCKS[options.clock])
    rows = [
        {"stage": stage, "by": by, "batch": batch, "images": options.n, "seconds": seconds,
         "images_per_second": options.n / statistics.median(seconds)}
        for (stage, by, batch), seconds in rounds.items()
    ]  # fmt: skip
    about = {name: str(value) for name, value in vars(options).items() if name != "images"}
    print(text_of(rows, about))
    if options.json is not None:
        options.json.write_text(json.dumps({"options": about, "rows": rows}, indent=2))


def generated(folder: Path, n: int) -> list[Path]:
    """Smooth pictures of 640 x 480 pixels, as PNG."""
    rng = np.random.default_rng(0)
    paths = []
    for i in range(n):
        coarse = Image.fromarray(rng.integers(60, 190, (12, 16, 3), dtype=np.uint8))
        paths.append(folder / f"{i:03}.png")
        coarse.resize((640, 480), Image.Resampling.BICUBIC).save(paths[-1])
    return paths


def steps_of(
    options: argparse.Namespace, paths: list[Path], file: Path
) -> dict[tuple[str, str, int], Step]:
    """Everything that is compared, by stage, who does it, and the batch."""
    MahalanobisDetector(
        options.backbone, weights=options.weights, scope=options.scope, input_size=options.size,
        device="cpu", tolerate=(), threshold="chi2",
    ).fit(paths[: max(12, options.n)]).save(file)  # fmt: skip
    paths = [paths[i % len(paths)] for i in range(options.n)]
    batches = [int(number) for number in options.batches.split(",")]
    network = timm.create_model(options.backbone, pretrained=False).eval()
    steps: dict[tuple[str, str, int], Step] = {}
    detectors = {name: load(file, engine=name) for name in options.engines.split(",")}
    extractor = next(iter(detectors.values())).features_
    images = [open_image(ImageSource(str(path), path, path)) for path in paths]
    prepared = [extractor.prepare(image) for image in images]
    pixels = torch.rand(options.n, 3, options.size, options.size)
    session = bare_session(network, options.size)
    steps["decode", "Pillow alone", 1] = lambda: [bare_decode(path) for path in paths]
    steps["decode", "mahalad", 1] = lambda: [
        extractor.prepare(open_image(ImageSource(str(path), path, path))) for path in paths
    ]
    for batch in batches:
        steps["decode", "mahalad in threads", batch] = decoding(extractor, paths, batch)
        parts = [slice(i, i + batch) for i in range(0, options.n, batch)]
        steps["bare network", "torch as it comes", batch] = bare_torch(network, pixels, parts)
        steps["bare network", "onnxruntime session", batch] = bare_onnx(session, pixels, parts)
        for name, detector in detectors.items():
            stages = Stages(detector, prepared, parts)
            steps["forward", name, batch] = stages.forward
            steps["statistics", name, batch] = stages.statistics
            steps["score", name, batch] = stages.score
            if options.scope == "positions":
                steps["with maps", name, batch] = stages.with_maps
            steps["from files", name, batch] = from_files(detector, paths, batch)
    return steps


class Stages:
    """What a loaded detector does with prepared images, stage by stage."""

    def __init__(self, detector: Any, prepared: list[Any], parts: list[slice]) -> None:
        self.extractor, self.scorer = detector.features_, detector.scorer_
        self.batches = [prepared[part] for part in parts]
        self.features = [self.features_of(batch) for batch in self.batches]

    def features_of(self, batch: list[Any]) -> dict[str, Any]:
        return {name: x[:, None] for name, x in self.extractor.transform(batch).items()}

    def forward(self) -> None:
        backbone = self.extractor.backbone_
        with torch.inference_mode():
            for batch in self.batches:
                backbone.run(backbone.normalised(np.stack(batch)))

    def statistics(self) -> None:
        for features in self.features:
            score(self.scorer, features, tuple(features))

    def score(self) -> None:
        for batch in self.batches:
            features = self.features_of(batch)
            score(self.scorer, features, tuple(features))

    def with_maps(self) -> None:
        for batch in self.batches:
            features = self.features_of(batch)
            _, maps = score_with_maps(self.scorer, features, tuple(features))
            source = ImageSource("", None, None)
            in_pixels(self.extractor, maps, [ReadImage(source, one, 0, None) for one in batch])


def decoding(extractor: Any, paths: list[Path], batch: int) -> Step:
    def run() -> None:
        for _ in read_batches(paths, extractor.prepare, batch_size=batch):
            pass

    return run


def from_files(detector: Any, paths: list[Path], batch: int) -> Step:
    def run() -> None:
        for _ in detector.inspect(paths, batch_size=batch):
            pass

    return run


def bare_decode(path: Path) -> None:
    with Image.open(path) as image:
        image.convert("RGB").load()


def bare_torch(network: Any, pixels: torch.Tensor, parts: list[slice]) -> Step:
    def run() -> None:
        with torch.inference_mode():
            for part in parts:
                network.forward_features(pixels[part])

    return run


def bare_onnx(session: Any, pixels: torch.Tensor, parts: list[slice]) -> Step:
    arrays = pixels.numpy()
    return lambda: [session.run(None, {"pixels": arrays[part]}) for part in parts]


def bare_session(network: Any, size: int) -> Any:
    """A session of onnxruntime, with its defaults, over timm's network up to its last map."""
    import onnxruntime

    class Features(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.network.forward_features(x)
            return found

    content: Any = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Features().eval(), (torch.zeros(2, 3, size, size),), content, dynamo=False,
            opset_version=17, input_names=["pixels"], output_names=["features"],
            dynamic_axes={"pixels": {0: "n"}, "features": {0: "n"}},
        )  # fmt: skip
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(
        content.getvalue(), settings, providers=["CPUExecutionProvider"]
    )


def measured(
    steps: dict[tuple[str, str, int], Step], repeats: int, clock: Callable[[], float]
) -> dict[tuple[str, str, int], list[float]]:
    """Seconds of each step in each round, after a round that is not counted."""
    seconds: dict[tuple[str, str, int], list[float]] = {name: [] for name in steps}
    for counted in [False] + [True] * repeats:
        for name, step in steps.items():
            start = clock()
            step()
            if counted:
                seconds[name].append(clock() - start)
    return seconds


def text_of(rows: list[dict[str, Any]], about: dict[str, str]) -> str:
    """The table: images a second, and times of torch as it comes and of the bare session."""
    seconds = {(row["stage"], row["by"], row["batch"]): row["seconds"] for row in rows}
    bare = {
        (by, batch): own for (stage, by, batch), own in seconds.items() if stage.startswith("bare")
    }
    lines = [
        ", ".join(f"{name} {value}" for name, value in about.items()),
        f"{'stage':<14}{'by':<22}{'batch':>5}{'images/s':>10}{'x torch':>9}{'/ session':>11}"
        f"{'/ larger':>10}",
    ]
    for row in rows:
        line = (
            f"{row['stage']:<14}{row['by']:<22}{row['batch']:>5}{row['images_per_second']:>10.1f}"
        )
        if row["stage"] in ("bare network", "forward", "score", "with maps"):
            torch_, session = (
                bare[by, row["batch"]] for by in ("torch as it comes", "onnxruntime session")
            )
            line += f"{ratio(torch_, row['seconds']):>9.2f}{ratio(row['seconds'], session):>11.2f}"
        if row["stage"] == "from files":
            alone = (
                seconds["decode", "mahalad in threads", row["batch"]],
                seconds["score", row["by"], row["batch"]],
            )
            line += f"{ratio(row['seconds'], max(alone, key=statistics.median)):>30.2f}"
        lines.append(line)
    return "\n".join(lines)


def ratio(a: list[float], b: list[float]) -> float:
    """Median of the ratios, round by round."""
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


if __name__ == "__main__":
    main()
