"""From results to what a page shows of them: thumbnails, overlays, neighbours, the largest one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
from PIL import Image

from mahalad.errors import ImageReadError, ImageValueError, InputError
from mahalad.evaluation.images import Booleans
from mahalad.evaluation.masks import read_mask
from mahalad.images.mvtec import mask_beside
from mahalad.images.pages import split_page
from mahalad.images.pixels import AS_STORED, Pixels
from mahalad.images.words import GOOD
from mahalad.protocols import Floats
from mahalad.report.choosing import MOST, N_GROUPS, without_pictures
from mahalad.report.maps import reopen
from mahalad.report.overlays import outlined, overlay, thumbnail
from mahalad.report.pictures import ReportImage, Spotlight, encode
from mahalad.result import LabelledResult, Result

THUMBNAIL_SIDE = 320
NEIGHBOUR_SIDE = 96
SPOTLIGHT_SIDE = 640
_LINE = 2  # pixels of an outline at that side
_NEAR = 0.03  # of the larger side: a map's grid is coarser than a mask


@dataclass(frozen=True)
class Pictured:
    """Judged images with pictures, and those that could not be read.

    Attributes
    ----------
    images : list of ReportImage
    errors : list of Result
    spotlight : Spotlight or None
        Of the flagged images that have an overlay the most abnormal one; those that are known to
        have a defect first, with a mask before without.
    """

    images: list[ReportImage]
    errors: list[Result]
    spotlight: Spotlight | None = None


@dataclass(frozen=True)
class _Candidate:
    """The image for the spotlight so far, with its map and mask."""

    image: ReportImage
    values: Floats
    mask: Booleans | None

    @property
    def rank(self) -> tuple[bool, bool, float]:
        return self.mask is not None, self.image.kind not in (None, GOOD), self.image.score


def picture_results(
    results: Iterable[Result],
    kinds: Mapping[str, str | None],
    map_threshold: float | None,
    most: int = MOST,
    pixels: Pixels = AS_STORED,
) -> Pictured:
    """Make pictures of judged images for a page, and set unreadable ones apart.

    Parameters
    ----------
    results : iterable of Result
        Results of image files, with maps if overlays are wanted. Only thumbnails are kept, and of
        those a few times `most`.
    kinds : mapping of str to (str or None)
        Kind of each image by its name; the true label, for results of a classifier.
    map_threshold : float or None
        None for pictures without overlays.
    most : int
        Images that the page will show.
    pixels : Pixels, optional
        How the detector reads images.
    """
    images: list[ReportImage] = []
    errors: list[Result] = []
    best: _Candidate | None = None
    n_pictures = 0
    neighbour = lru_cache(maxsize=1024)(partial(_neighbour, pixels=pixels))
    for result in results:
        if result.error is not None:
            errors.append(result)
            continue
        try:
            picture = thumbnail(reopen(result.name, pixels), THUMBNAIL_SIDE)
        except (ImageReadError, ImageValueError) as error:  # it has gone since it was scored
            errors.append(Result(result.name, error=str(error)))
            continue
        values, kind = result.anomaly_map, kinds.get(result.name)
        bare = replace(result, anomaly_map=None, level_scores=None)
        image = ReportImage(bare, encode(picture), kind=kind)
        if map_threshold is not None and values is not None and result.anomaly:
            mask = None if kind in (None, GOOD) else _mask_of(result.name)
            image = replace(
                image,
                overlay=encode(overlay(picture, values, map_threshold)),
                hit=None if mask is None else hits(values, mask),
            )
            candidate = _Candidate(image, values, mask)
            best = candidate if best is None else max(best, candidate, key=lambda one: one.rank)
        if isinstance(result, LabelledResult):
            image = replace(image, neighbours=tuple(neighbour(n.path) for n in result.neighbours))
        images.append(image)
        n_pictures += 1
        if n_pictures > 2 * N_GROUPS * most:
            images = without_pictures(images, most)
            n_pictures = sum(one.picture is not None for one in images)
    spotlight = None
    if best is not None and map_threshold is not None:
        spotlight = _spotlight(best, map_threshold, pixels)
    return Pictured(images, errors, spotlight)


def hits(anomaly_map: Floats, mask: Booleans) -> bool:
    """Say whether the highest point of a map (h, w) lies on a defect, or next to it.

    Next to it is within 3 % of the image's larger side: the grid of a map is coarser than a mask
    (H, W).
    """
    row, column = np.unravel_index(int(np.argmax(anomaly_map)), anomaly_map.shape)
    height, width = mask.shape
    y = (row + 0.5) / anomaly_map.shape[0] * height
    x = (column + 0.5) / anomaly_map.shape[1] * width
    rows, columns = np.nonzero(mask)
    distance = np.hypot(rows + 0.5 - y, columns + 0.5 - x)
    return bool(len(distance)) and float(distance.min()) <= _NEAR * max(height, width)


def _mask_of(name: str) -> Booleans | None:
    """The mask of a defect; None where there is none that can be used."""
    path = mask_beside(name)
    if path is None:
        return None
    try:
        return read_mask(path)
    except InputError:  # `bench` refuses such a folder; a page goes without
        return None


def _neighbour(path: str, pixels: Pixels) -> bytes | None:
    """The thumbnail of a stored image; None where it is no file any more."""
    if not os.path.isfile(split_page(path)[0]):  # a pipe would be waited for
        return None
    try:
        return encode(thumbnail(reopen(path, pixels), NEIGHBOUR_SIDE))
    except (ImageReadError, ImageValueError):
        return None


def _spotlight(best: _Candidate, map_threshold: float, pixels: Pixels) -> Spotlight | None:
    name = best.image.result.name
    try:
        picture = _large(thumbnail(reopen(name, pixels), SPOTLIGHT_SIDE))
    except (ImageReadError, ImageValueError):  # it has just been read
        return None
    drawn = overlay(picture, best.values, map_threshold, line=_LINE)
    truth = None if best.mask is None else encode(outlined(picture, best.mask, line=_LINE))
    return Spotlight(best.image, encode(picture), encode(drawn), truth)


def _large(picture: Image.Image) -> Image.Image:
    """Enlarge a small picture, so that lines over it are thin."""
    scale = SPOTLIGHT_SIDE / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    return picture if scale <= 1 else picture.resize((width, height), Image.Resampling.BICUBIC)
