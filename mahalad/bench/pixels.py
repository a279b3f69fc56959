"""Measure how well anomaly maps mark the defects of a category, against masks."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import tee
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mahalad.errors import EmptyMaskError
from mahalad.evaluation.images import Booleans
from mahalad.evaluation.masks import read_mask_of, shapes_of
from mahalad.evaluation.pixels import FloatMap, PixelFigures, pixel_figures, resize_map
from mahalad.images.geometry import BOX, WHOLE
from mahalad.images.mvtec import Category
from mahalad.protocols import Features

FPR_LIMIT = 0.3
"""False-positive rate of the pixels up to which AUPRO goes, as in the literature."""
_BATCH = 32  # images whose maps are made at once


@dataclass(frozen=True)
class PixelTruth:
    """Masks of a category's test images, by their files.

    Attributes
    ----------
    rows : ndarray of int, shape (n,)
        Test images that are compared: all but those left out.
    images : tuple of Path
        Files of these.
    masks : tuple of (Path or None)
        Their masks; None for good images.
    left_out : tuple of Path
        Defective images whose mask marks nothing.
    """

    rows: NDArray[np.intp]
    images: tuple[Path, ...]
    masks: tuple[Path | None, ...]
    left_out: tuple[Path, ...]

    @property
    def n_masks(self) -> int:
        """Number of masks that mark something."""
        return sum(mask is not None for mask in self.masks)


def read_truth(category: Category) -> PixelTruth | None:
    """Read the masks of a category once, so that errors come before the work.

    Returns
    -------
    PixelTruth or None
        None where the category has no masks.

    Raises
    ------
    InputError
        A mask cannot be read, or has not the shape of its image. An empty one is no error: its
        image is left out.

    Warns
    -----
    UserWarning
        A mask fits its image as it is stored and as its EXIF orientation shows it.
    """
    if not category.has_masks:
        return None
    kept, left_out, uncertain = [], [], []
    for row, (path, mask) in enumerate(zip(category.test, category.masks, strict=True)):
        try:
            if mask is not None and not read_mask_of(path, mask)[1]:
                uncertain.append(mask)
        except EmptyMaskError:
            left_out.append(path)
        else:
            kept.append(row)
    if uncertain:
        warnings.warn(
            f"{uncertain[0]}: its image is turned by its EXIF orientation, and the mask does not "
            "say whether it was drawn on the picture as stored or as seen"
            f"{f' (of {category.name}: {len(uncertain)} such masks)' if uncertain[1:] else ''}; "
            "taken as drawn on what is seen",
            stacklevel=2,
        )
    return PixelTruth(
        rows=np.array(kept, dtype=np.intp),
        images=tuple(category.test[row] for row in kept),
        masks=tuple(category.masks[row] for row in kept),
        left_out=tuple(left_out),
    )


def compare_maps(
    truth: PixelTruth, scorer: Any, features: Features, tested: NDArray[np.intp]
) -> PixelFigures | None:
    """Compare a fitted scorer's maps, enlarged to the size of the masks, with the masks.

    Parameters
    ----------
    truth : PixelTruth
    scorer : fitted scorer with `anomaly_maps`
    features : mapping of str to ndarray
    tested : ndarray of int
        Rows of `features` that hold the category's test images, in order.

    Returns
    -------
    PixelFigures or None
        None where no mask marks anything.

    Notes
    -----
    Maps are made for 32 images at a time, and enlarged one at a time, to the size of the mask
    (of a good image: to its own size). What is kept are 4 bytes per good pixel, and some 90 per
    defect pixel: see `pixel_figures`.
    """
    if not truth.n_masks:
        return None
    for_maps, for_masks = tee(_pairs(truth, scorer, features, tested))
    return pixel_figures(
        (enlarged for enlarged, _ in for_maps),
        (mask for _, mask in for_masks),
        fpr_limit=FPR_LIMIT,
    )


def enlarge_to_truth(
    values: NDArray[Any], image: Path, mask: Path | None, box: Sequence[float] = WHOLE
) -> tuple[FloatMap, Booleans | None]:
    """Enlarge one image's map to the size of its mask, and read the mask.

    A good image has no mask (None); its map gets the size of the image.

    `box` is the part of the map that is the image, as of `resize_map`.
    """
    if mask is not None:
        marked, _ = read_mask_of(image, mask)
        return resize_map(values, marked.shape, box), marked
    _, upright, _ = shapes_of(image)
    return resize_map(values, upright, box), None


def _pairs(
    truth: PixelTruth, scorer: Any, features: Features, tested: NDArray[np.intp]
) -> Iterator[tuple[FloatMap, Booleans | None]]:
    for start in range(0, len(truth.rows), _BATCH):
        rows = tested[truth.rows[start : start + _BATCH]]
        maps = scorer.anomaly_maps({name: values[rows] for name, values in features.items()})
        boxes = features[BOX][rows] if BOX in features else [WHOLE] * len(rows)
        for i, (values, box) in enumerate(zip(maps, boxes, strict=True), start=start):
            yield enlarge_to_truth(values, truth.images[i], truth.masks[i], box)
