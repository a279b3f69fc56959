"""How long one frame takes a loaded model: a camera gives one after the other.

    python benchmarks/latency.py [IMAGES...] [--scope positions --size 320] [--json FILE]

Frames are arrays in memory, as a camera gives them, one in each call. A model is fitted, saved and
loaded, by each of the engines, and as an exported file ("exported", by onnxruntime). Asked are

* score: `anomaly_score`;
* result: `inspect`, that is p-value and verdict as well;
* with map: `inspect(maps=True)`, the map in pixels as well.

Models alternate, round by round; milliseconds are medians over rounds of each round's percentiles.
"/ score" is the ratio of the medians (p50) to that of `score` of the same model, round by round.
Without IMAGES, some are generated.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from engines import CLOCKS, generated, parser_of, ratio
from numpy.typing import NDArray

from mahalad import MahalanobisDetector, load
from mahalad.commands.memory import keep_freed_memory
from mahalad.images.decoding import open_image
from mahalad.images.sources import ImageSource

Ask = Callable[[NDArray[Any]], object]
PERCENTILES = (50, 95, 99)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--n", type=int, default=40, help="frames of a round")
    parser.add_argument("--by", default="torch,onnx,openvino,exported")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.malloc and not keep_freed_memory():
        parser.error("--malloc: not on this system")
    with tempfile.TemporaryDirectory() as folder:
        paths = options.images or generated(Path(folder), 30)
        asked = models(options, paths, Path(folder))
        sources = [ImageSource(str(path), path, path) for path in paths]
        frames = [np.asarray(open_image(source)) for source in sources]
        rounds = measured(asked, [frames[i % len(frames)] for i in range(options.n)], options)
    rows = [
        {"by": by, "asked": what, "ms": percentiles_of(seconds),
         "to_score": ratio(medians(seconds), medians(rounds[by, "score"]))}
        for (by, what), seconds in rounds.items()
    ]  # fmt: skip
    about = {name: str(value) for name, value in vars(options).items() if name != "images"}
    print(text_of(rows, about))
    if options.json is not None:
        options.json.write_text(json.dumps({"options": about, "rows": rows}, indent=2))


def models(options: argparse.Namespace, paths: list[Path], folder: Path) -> dict[str, Any]:
    """The same fit, loaded in each of the ways."""
    detector = MahalanobisDetector(
        options.backbone, weights=options.weights, scope=options.scope, input_size=options.size,
        device="cpu", tolerate=(),
    ).fit(paths)  # fmt: skip
    detector.save(folder / "part.mahalad")
    found = {}
    for by in options.by.split(","):
        if by == "exported":
            from mahalad.export import export
            from mahalad.runtime import load as load_exported

            export(detector, folder / "part.onnx")
            found[by] = load_exported(folder / "part.onnx", threads=options.threads)
        else:
            found[by] = load(folder / "part.mahalad", engine=by)
    return found


def questions(model: Any) -> dict[str, Ask]:
    return {
        "score": lambda frame: model.anomaly_score([frame]),
        "result": lambda frame: list(model.inspect([frame])),
        "with map": lambda frame: list(model.inspect([frame], maps=True)),
    }


def measured(
    asked: dict[str, Any], frames: list[NDArray[Any]], options: argparse.Namespace
) -> dict[tuple[str, str], list[list[float]]]:
    """Seconds of each frame in each round, after a round of few frames that is not counted."""
    steps = {
        (by, what): ask for by, model in asked.items() for what, ask in questions(model).items()
    }
    seconds: dict[tuple[str, str], list[list[float]]] = {name: [] for name in steps}
    for number in range(options.repeats + 1):
        for name, ask in steps.items():
            clock = CLOCKS[options.clock]
            found = [timed(ask, frame, clock) for frame in (frames if number else frames[:3])]
            if number:
                seconds[name].append(found)
    return seconds


def timed(ask: Ask, frame: NDArray[Any], clock: Callable[[], float]) -> float:
    start = clock()
    ask(frame)
    return clock() - start


def medians(rounds: list[list[float]]) -> list[float]:
    return [statistics.median(seconds) for seconds in rounds]


def percentiles_of(rounds: list[list[float]]) -> dict[str, float]:
    """Median over rounds of each percentile, in milliseconds."""
    return {
        f"p{q}": 1e3 * statistics.median(float(np.percentile(seconds, q)) for seconds in rounds)
        for q in PERCENTILES
    }


def text_of(rows: list[dict[str, Any]], about: dict[str, str]) -> str:
    lines = [
        ", ".join(f"{name} {value}" for name, value in about.items()),
        f"{'by':<10}{'asked':<10}" + "".join(f"{f'p{q} ms':>10}" for q in PERCENTILES)
        + f"{'/ score':>10}",
    ]  # fmt: skip
    for row in rows:
        figures = "".join(f"{row['ms'][f'p{q}']:>10.1f}" for q in PERCENTILES)
        lines.append(f"{row['by']:<10}{row['asked']:<10}{figures}{row['to_score']:>10.2f}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
