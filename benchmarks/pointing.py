"""How much of what overlays colour lies on defects, and how many defects are pointed at.

    python benchmarks/pointing.py CATEGORY_FOLDER... [--backbone NAME --weights FILE] [--all]

Each folder has the layout of MVTec AD, with masks. A default detector is fitted to the good images
of ``train``. A row with what is coloured, without the halos of larger values, and one with all
that is above the maps' threshold: defective images with colour on the defect ("hit"), connected
parts of masks with colour on them ("regions"; of 9 pixels and more, at the map's size), the share
of the coloured pixels that are on defects, of all images together ("on defects") and as the mean
over images ("mean"), and the mean share of a defect that is coloured ("covered"). Images that are
not flagged have no colour; with `--all` they are taken as flagged.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label

from mahalad import MahalanobisDetector
from mahalad.bench.pixels import read_truth
from mahalad.evaluation.masks import read_mask_of
from mahalad.images.geometry import resample
from mahalad.images.mvtec import find_categories
from mahalad.report.maps import colour_begins
from mahalad.report.overlays import without_halo

_LEAST = 9  # pixels of a region
Region = NDArray[np.bool_]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("categories", nargs="+", type=Path)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--weights", default=None)
    parser.add_argument("--all", action="store_true", help="colour images not flagged, too")
    options = parser.parse_args()
    print(f"{'':<14}{'':<12}{'hit':>11}{'regions':>11}{'on defects':>12}{'mean':>7}{'covered':>9}")
    for category in find_categories(options.categories):
        truth = read_truth(category)
        if truth is None:
            print(f"{category.name:<14}has no masks")
            continue
        detector = MahalanobisDetector(options.backbone, weights=options.weights)
        threshold = detector.fit(list(category.train)).map_threshold_
        pairs = [(i, m) for i, m in zip(truth.images, truth.masks, strict=True) if m is not None]
        masks, coloured, above = [], [], []
        images = [image for image, _ in pairs]
        for (image, mask), result in zip(pairs, detector.inspect(images, maps=True), strict=True):
            assert result.anomaly_map is not None
            begins = threshold if options.all else colour_begins(result, threshold)
            marked, _ = read_mask_of(image, mask)
            masks.append(resample(marked.astype(np.float32), result.anomaly_map.shape) > 0.5)
            coloured.append(without_halo(result.anomaly_map, begins))
            above.append(result.anomaly_map > begins)
        report(category.name, "coloured", masks, coloured)
        report("", "above", masks, above)


def report(name: str, what: str, masks: list[Region], regions: list[Region]) -> None:
    hits = sum((mask & own).any() for mask, own in zip(masks, regions, strict=True))
    on = np.array([(mask & own).sum() for mask, own in zip(masks, regions, strict=True)])
    sizes = np.array([own.sum() for own in regions])
    has = sizes > 0
    covered = on / [max(mask.sum(), 1) for mask in masks]
    parts = [part for pair in zip(masks, regions, strict=True) for part in parts_of(*pair)]
    print(
        f"{name:<14}{what:<12}{f'{hits} of {len(masks)}':>11}{f'{sum(parts)} of {len(parts)}':>11}"
        f"{on.sum() / max(sizes.sum(), 1):>12.3f}{(on[has] / sizes[has]).mean():>7.3f}"
        f"{covered[has].mean():>9.3f}",
        flush=True,
    )


def parts_of(mask: Region, region: Region) -> list[bool]:
    """Whether each connected part of a mask has something of a region."""
    numbers, n = label(mask, np.ones((3, 3)))
    parts = [numbers == i for i in range(1, n + 1)]
    return [bool(region[part].any()) for part in parts if part.sum() >= _LEAST]


if __name__ == "__main__":
    main()
