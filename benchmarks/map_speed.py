"""What Gaussians per position cost beside the network, side by side in one process.

    python benchmarks/map_speed.py CATEGORY_FOLDER [--size 320] [--backbone NAME --weights FILE]

Two ratios, each the median over pairs of runs that alternate:

* fit: a whole fit (decode, extract, sums, factorisation, calibration) against decoding and
  extracting the same features alone;
* score: scores and maps in image coordinates of decoded images against timm's own forward pass
  (same threads, batch size and memory format) over tensors that are ready.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
from speed import bare_forward, bare_network, timed

from mahalad import MahalanobisDetector
from mahalad.detectors.calibrating import calibrate
from mahalad.detectors.fitting import read
from mahalad.detectors.scoring import score_with_maps
from mahalad.detectors.state import FitRecipe
from mahalad.features.extraction import extract
from mahalad.images.decoding import open_image
from mahalad.images.mvtec import find_categories
from mahalad.images.sources import ImageSource


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("category", type=Path)
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--weights", default=None)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    [category] = find_categories([options.category])
    train = list(category.train)
    detector = MahalanobisDetector(
        options.backbone, weights=options.weights, input_size=options.size
    )

    def make_scorer() -> Any:
        return detector.unfitted_parts()[1]

    recipe = FitRecipe(capacity=detector.most_stored())

    def fit() -> None:  # what the detector's does, without making the network again
        calibrate(read(train, detector.features_, make_scorer, recipe), recipe, make_scorer)

    def extract_only() -> None:
        for _ in extract(train, detector.features_, 0):
            pass

    detector.fit(train)
    extractor = detector.features_
    prepared = [
        extractor.prepare(open_image(ImageSource(str(path), path, path))) for path in category.test
    ]
    size = detector.batch_size
    batches = [prepared[i : i + size] for i in range(0, len(prepared), size)]

    def score() -> None:
        for batch in batches:
            features = {name: x[:, None] for name, x in extractor.transform(batch).items()}
            score_with_maps(detector.scorer_, features, tuple(features))

    network = bare_network(options.backbone)
    tensors = [
        torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2).float().div_(255)
        .to(memory_format=torch.channels_last)
        for batch in batches
    ]  # fmt: skip
    for warm_up in (fit, extract_only, score):
        warm_up()
    bare_forward(network, tensors)
    ratios: dict[str, list[float]] = {"fit": [], "score": []}
    for _ in range(options.repeats):
        a, b = timed(fit), timed(extract_only)
        c, d = timed(score), timed(bare_forward, network, tensors)
        ratios["fit"].append(a / b)
        ratios["score"].append(c / d)
        print(
            f"fit {a:.2f} s, features alone {b:.2f} s, ratio {a / b:.3f}; "
            f"score with maps {c:.2f} s, bare network {d:.2f} s, ratio {c / d:.3f}",
            flush=True,
        )
    print(
        f"{category.name}, {len(train)} + {len(prepared)} images, {options.backbone} at "
        f"{options.size} px, {torch.get_num_threads()} threads: "
        + ", ".join(
            f"{name} {statistics.median(r):.3f} ({min(r):.3f}-{max(r):.3f})"
            for name, r in ratios.items()
        )
    )


if __name__ == "__main__":
    main()
