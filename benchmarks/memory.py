"""Peak memory of `fit`, or of scoring, against the number of images, each in its own process.

    python benchmarks/memory.py FOLDER_OF_GOOD_IMAGES [--size 224] [--counts 100 400 1600] [--score]

The folder's images are taken again and again, each time a little brighter, until there are enough:
what is measured is memory, not accuracy. What may grow in a fit is what a model keeps: the float32
features of each image, stated beside the peak. With `--score`, a fit to the folder's first 60
images scores as many, and nothing may grow.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

from PIL import Image

from mahalad import MahalanobisDetector
from mahalad.images.sources import iter_sources


def many(folder: Path, count: int) -> Iterator[Image.Image]:
    paths = [source.path for source in iter_sources(folder)]
    for i, path in enumerate(islice(cycle(paths), count)):
        with Image.open(path) as image:
            brighter = i // len(paths)
            yield image.convert("RGB").point(lambda value, by=brighter: min(255, value + by))


def measure(folder: Path, size: int, count: int) -> None:
    detector = MahalanobisDetector(input_size=size).fit(many(folder, count))
    kept = sum(values.nbytes for values in detector._state.store.features.values())
    print(
        f"{count:6} images: peak {peak():7.0f} MiB, of these features kept {kept / 2**20:6.1f} MiB"
    )


def measure_scoring(folder: Path, size: int, count: int) -> None:
    detector = MahalanobisDetector(input_size=size).fit(many(folder, 60))
    fitted = peak()
    n = sum(result.error is None for result in detector.inspect(many(folder, count), batch_size=32))
    print(f"{n:6} images scored: peak {peak():7.0f} MiB, {fitted:7.0f} MiB after the fit")


def peak() -> float:
    """Largest memory so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--counts", type=int, nargs="+", default=[100, 400, 1600])
    parser.add_argument("--score", action="store_true")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        what = measure_scoring if options.score else measure
        what(options.folder, options.size, options.counts[0])
        return
    for count in options.counts:
        command = [sys.executable, __file__, str(options.folder), "--one"]
        command += ["--score"] if options.score else []
        subprocess.run([*command, "--size", str(options.size), "--counts", str(count)], check=True)


if __name__ == "__main__":
    main()
