"""Pages of files that hold several pictures: TIFFs, animations. Page 2 of a file: ``scan.tif#2``.

Such a name stands wherever a path does: it is one picture of the file. A file that is itself called
so goes first. Pages are counted from 1, as the file has them.
"""

from __future__ import annotations

import os
import re

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

_NOT_PAGES = frozenset({"MPO", "PSD"})
"""Formats whose further pictures are the same once more (a preview, the other eye), or layers."""
_SUBFILE = 254  # tag of TIFF
_REDUCED, _TRANSPARENCY = 1, 4


def split_page(name: str) -> tuple[str, int | None]:
    """Split the name of a page into the file and the page's number, None for what is no such name.

    Examples
    --------
    >>> split_page("scan.tif")
    ('scan.tif', None)
    """
    found = re.fullmatch(r"(.+)#([1-9]\d*)", name, re.DOTALL)
    if found is None or os.path.lexists(name) or not os.path.isfile(found[1]):
        return name, None
    return found[1], int(found[2])


def pages_of(picture: Image.Image) -> list[int]:
    """List the numbers of an opened picture's pages: ``[1]`` where it is the only one.

    Smaller versions and transparency masks within a TIFF are no pages; nor are what follows in an
    MPO (a preview, a gain map, the other eye) and the layers of a PSD. The first one is always in
    it. Where a later page is damaged, the list ends before it.
    """
    if picture.format in _NOT_PAGES:
        return [1]
    was = picture.tell()
    numbers = [1]
    try:
        n_frames = int(getattr(picture, "n_frames", 1))
        if not isinstance(picture, TiffImageFile):
            return list(range(1, n_frames + 1))
        for number in range(2, n_frames + 1):
            picture.seek(number - 1)
            if not int(picture.tag_v2.get(_SUBFILE, 0)) & (_REDUCED | _TRANSPARENCY):
                numbers.append(number)
    except Exception:  # damaged files make Pillow raise almost any type
        pass
    if picture.tell() != was:
        picture.seek(was)
    return numbers


def turn_to(picture: Image.Image, page: int) -> None:
    """Turn an opened picture to one of its pages.

    Raises
    ------
    EOFError
        It has no such page.
    """
    if page > 1 and (picture.format in _NOT_PAGES or not hasattr(picture, "n_frames")):
        raise EOFError(f"no page {page}")
    picture.seek(page - 1)


def page_names(path: str) -> list[str]:
    """Name the pages of a file: the path itself where there is one only, or none can be read."""
    try:
        with Image.open(path) as picture:
            numbers = pages_of(picture)
    except Exception:  # damaged files make Pillow raise almost any type; decoding says so
        return [path]
    return [path] if numbers == [1] else [f"{path}#{number}" for number in numbers]
