"""Whether exported models say what the detectors say, on real images.

    python benchmarks/parity.py CATEGORY_FOLDER... [--networks lite0,v2_b0=FILE] [--n 60]

Each folder has the layout of MVTec AD. A detector is fitted to (at most `--fit`) good images and
exported; `--n` of the test images (evenly drawn), and the golden inputs, are judged by both. A row
has the largest differences of scores (relative; of standardised ones below 1, absolute), of maps
and p-values, and how many verdicts differ; `mahalad.export.checking` says what is allowed.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from mahalad import KNNDetector, MahalanobisDetector
from mahalad.errors import MahaladError
from mahalad.export.checking import Parity, compare
from mahalad.export.exporting import export
from mahalad.images.mvtec import find_categories
from mahalad.runtime.loading import load

NAMES = {
    "lite0": "tf_efficientnet_lite0",
    "v2_b0": "tf_efficientnetv2_b0",
    "vit_tiny": "vit_tiny_patch16_224",
}
CASES: dict[str, dict[str, Any]] = {
    "positions": {"scope": "positions"},
    "image": {"scope": "image"},
    "pad": {"scope": "positions", "resize": "pad"},
    "tiles": {"scope": "positions", "tiles": 2},
    "region": {"scope": "positions", "roi": "middle"},
    "16 bits": {"scope": "image", "bits": 16},
    "knn": {},
}
"""What is fitted, by name. With "16 bits", images are given as arrays of 16."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--networks", default="lite0", help="NAME or NAME=WEIGHTS, with commas")
    parser.add_argument("--cases", default="positions,image", help=", ".join(CASES))
    parser.add_argument("--format", default="onnx", help="of the export: onnx or openvino")
    parser.add_argument("--fit", type=int, default=40)
    parser.add_argument("--n", type=int, default=60)
    parser.add_argument("--size", type=int, default=None)
    options = parser.parse_args()
    print(f"{'images':<14}{'network':<12}{'case':<11}{'n':>4}{'MB':>7}{'score':>9}{'map':>9}"
          f"{'p-value':>9}{'changed':>8}  holds")  # fmt: skip
    for category in find_categories(options.folders):
        good = drawn(list(category.train), options.fit)
        tests = drawn(list(category.test), options.n)
        for network in options.networks.split(","):
            for case in options.cases.split(","):
                print(row(category.name, network, case, good, tests, options), flush=True)


def row(
    name: str, network: str, case: str, good: list[Any], tests: list[Any],
    options: argparse.Namespace,
) -> str:  # fmt: skip
    """One line of the table."""
    short, _, weights = network.partition("=")
    start = f"{name:<14}{short:<12}{case:<11}"
    try:
        detector = fitted(NAMES.get(short, short), weights or None, case, good, options.size)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / ("part.xml" if options.format == "openvino" else "part.onnx")
            more = {} if options.format == "onnx" else {"format": options.format}
            done = export(detector, path, **more)
            images = sixteen_bits(tests) if case == "16 bits" else tests
            exported = load(path).set_params(bits=detector.get_params()["bits"])
            found = compare(detector, exported, images)
    except MahaladError as error:
        return f"{start} {error}"
    return start + figures(found, done.size)


def figures(found: Parity, size: int) -> str:
    return (
        f"{found.n:>4}{size / 1e6:>7.1f}{found.score:>9.1e}{found.map:>9.1e}{found.p_value:>9.1e}"
        f"{found.n_changed:>8}  {'yes' if found.holds else 'NO'}"
    )


def fitted(name: str, weights: str | None, case: str, good: list[Any], size: int | None) -> Any:
    params = dict(CASES[case])
    levels = {"levels": "layer3"} if name == "resnet18" else {}
    if name == "resnet18" and params.get("scope") == "positions":
        levels = {"levels": ["layer2", "layer3"]}
    common = {"weights": weights, "input_size": size, "device": "cpu", **levels}
    if case == "knn":
        return KNNDetector(name, **common).fit(good)
    if params.get("roi") == "middle":
        region = np.zeros((100, 100), bool)
        region[20:90, 10:80] = True
        params["roi"] = region
    images = sixteen_bits(good) if case == "16 bits" else good
    return MahalanobisDetector(name, **common, **params).fit(images)


def sixteen_bits(images: list[Any]) -> list[Any]:
    """Images as arrays of 16 bits, with a remainder beyond the first eight."""
    from mahalad.images.decoding import open_image
    from mahalad.images.sources import iter_sources

    opened = (np.asarray(open_image(source)) for source in iter_sources(images))
    return [image.astype(np.uint16) * 256 + 77 for image in opened]


def drawn(images: list[Any], n: int) -> list[Any]:
    """At most n of the images, evenly."""
    if len(images) <= n:
        return images
    return [images[i] for i in np.linspace(0, len(images) - 1, n).round().astype(int)]


if __name__ == "__main__":
    main()
