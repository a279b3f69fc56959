"""Which masks belong to which defective test images of a labelled set."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from mahalad.errors import InputError
from mahalad.images.searching import search_folder
from mahalad.images.set_layouts import LabelledSet
from mahalad.images.words import GOOD

_ENDS = ("_mask", "", "-mask", "_gt")
"""What the name of a mask has behind that of its image."""


def masks_of(found: LabelledSet) -> tuple[Path | None, ...]:
    """Give the mask of each test image; None for good ones, and where a set has no masks.

    A mask mirrors the path of its image in a folder called ``ground_truth`` or ``masks``, with
    another extension and ``_mask`` at its end if you like. It may be a folder: of several masks
    that make one, as in MVTec LOCO. The case of names does not count.

    Raises
    ------
    InputError
        There are masks, and some defective images, or all, have none.
    """
    if found.masks is not None:
        masks = found.masks
    else:
        files = _mask_files(found)
        n_kinds = len({*found.kinds} - {GOOD})
        own = [_mask_of(path, found, files, n_kinds) for path in found.test]
        masks = tuple(
            None if kind == GOOD else mask for mask, kind in zip(own, found.kinds, strict=True)
        )
        of_good = {m for m, kind in zip(own, found.kinds, strict=True) if kind == GOOD}
        strange = [path for path in files.values() if path not in of_good and path.is_file()]
        if strange and not any(masks):
            raise InputError(
                f"{strange[0]}: belongs to no test image, like all masks of {found.folder}; "
                f"{_such_as(found)}"
            )
    bad = [
        (p, m) for p, m, kind in zip(found.test, masks, found.kinds, strict=True) if kind != GOOD
    ]
    without = [path for path, mask in bad if mask is None]
    if 0 < len(without) < len(bad):
        raise InputError(
            f"{without[0]}: no mask of this defect; of the {len(bad)} defective test images of "
            f"{found.folder}, {len(without)} have none: add them, or remove all masks; "
            f"{_such_as(found, without[0])}"
        )
    return masks


def _such_as(found: LabelledSet, path: Path | None = None) -> str:
    """Say what names masks have, for one image."""
    if path is None:
        path = next(p for p, k in zip(found.test, found.kinds, strict=True) if k != GOOD)
    if found.masks is not None:
        return "the column mask of the table names them"
    below = path.relative_to(found.tested_in).with_suffix("")
    truth = found.mask_folders[0] / below
    return (
        f"understood are {truth}_mask.png and {truth}.png (of any format), and images in a folder "
        f"{truth}, which make one mask"
    )


def _mask_files(found: LabelledSet) -> dict[str, Path]:
    """Masks, and folders of masks, by their path without extension, in lower case."""
    files: dict[str, Path] = {}
    for folder in found.mask_folders:
        for path in search_folder(os.fspath(folder)).images:
            below = path.relative_to(folder)
            files.setdefault(_key(below.with_suffix("")), path)
            if len(below.parts) > 1:
                files.setdefault(_key(below.parent) + "/", path.parent)
    return files


def _mask_of(path: Path, found: LabelledSet, files: dict[str, Path], n_kinds: int) -> Path | None:
    for key in _keys(path.relative_to(found.tested_in).with_suffix(""), n_kinds):
        if key in files:
            return files[key]
    return None


def _keys(below: Path, n_kinds: int) -> Iterator[str]:
    """Yield the names that a mask may have, the likeliest first."""
    key = _key(below)
    yield from (key + end for end in _ENDS)
    yield key + "/"
    if n_kinds == 1 and len(below.parts) > 1:  # masks without a folder for the kind
        key = _key(Path(*below.parts[1:]))
        yield from (key + end for end in _ENDS)


def _key(path: Path) -> str:
    return path.as_posix().casefold()
