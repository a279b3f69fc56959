"""Time and memory of `fit` + `score` against what they cannot avoid, side by side in one run.

    python benchmarks/speed.py CATEGORY_FOLDER [--size 224] [--repeats 5]

The other side decodes the same files with Pillow alone, one after the other, and runs the same
network (same threads, same memory format, same batch size) over tensors that are ready. Imports,
loading of the network and a warm-up of both sides are not counted. The two sides alternate, and
the ratio is taken pair by pair.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image

from mahalad import MahalanobisDetector
from mahalad.detectors.calibrating import calibrate
from mahalad.detectors.fitting import read
from mahalad.detectors.state import FitRecipe
from mahalad.images.mvtec import find_categories


def bare_decode(paths: list[Path]) -> None:
    for path in paths:
        with Image.open(path) as image:
            image.convert("RGB").load()


def bare_network(backbone: str) -> torch.nn.Module:
    """The network as timm makes it (its weights do not change its speed), channels last."""
    network = timm.create_model(backbone, pretrained=False).eval()
    return network.to(memory_format=torch.channels_last)


def bare_forward(network: torch.nn.Module, batches: list[torch.Tensor]) -> None:
    with torch.inference_mode():
        for batch in batches:
            network.forward_features(batch)  # type: ignore[operator]


def timed(function: object, *arguments: object) -> float:
    start = time.perf_counter()
    function(*arguments)  # type: ignore[operator]
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("category", type=Path)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--weights", default=None)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    [category] = find_categories([options.category])
    train, test = list(category.train), list(category.test)
    detector = MahalanobisDetector(
        options.backbone, weights=options.weights, input_size=options.size
    )

    recipe = FitRecipe(capacity=detector.most_stored(), n_augment=detector.n_augment)

    def product() -> None:  # the fit is the detector's, without making the network again
        make = detector.unfitted_scorer
        calibrate(read(train, detector.features_, make, recipe), recipe, make)
        scored.append(sum(result.score or 0.0 for result in detector.inspect(test)))

    scored: list[float] = []
    detector.fit(train)
    network = bare_network(options.backbone)
    rng = np.random.default_rng(0)
    batches = []
    for images in (train, test):
        for start in range(0, len(images), detector.batch_size):
            n = len(images[start : start + detector.batch_size])
            x = torch.from_numpy(rng.normal(size=(n, 3, options.size, options.size)))
            batches.append(x.float().to(memory_format=torch.channels_last))
    bare_forward(network, batches)
    product()
    rows = []
    for _ in range(options.repeats):
        ours = timed(product)
        decode = timed(bare_decode, train + test)
        forward = timed(bare_forward, network, batches)
        rows.append((ours, decode, forward, ours / (decode + forward)))
        print(
            "fit + score {:.2f} s; decode {:.2f} s, forward {:.2f} s; ratio {:.3f}".format(
                *rows[-1]
            )
        )
    median = statistics.median(row[3] for row in rows)
    print(
        f"{category.name}, {len(train)} + {len(test)} images, {options.size} px, "
        f"{torch.get_num_threads()} threads: median ratio {median:.3f} "
        f"(min {min(r[3] for r in rows):.3f}, max {max(r[3] for r in rows):.3f})"
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory of the process {peak:.0f} MiB")


if __name__ == "__main__":
    main()
