"""Find images in what users give: folders, globs, paths, arrays, pictures."""

from __future__ import annotations

import glob
import io
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from mahalad.errors import ImageReadError, InputError, MissingExtraError
from mahalad.images.hints import line_instead, looks_like_a_list
from mahalad.images.pages import split_page
from mahalad.images.remote import Remote, described, is_pattern, is_url, list_files
from mahalad.images.searching import (
    SearchedFolder,
    image_extensions,
    is_hidden,
    search_folder,
    search_pattern,
)

_ALLOWED = (
    "allowed are a file, a folder, a glob pattern, a PIL image, a list or iterator of these and"
    " of NumPy arrays (H, W, 3), or one array (n, H, W, 3)"
)


_COMMON = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")

OnSearch = Callable[[SearchedFolder], object] | None

# Iterable, but never a row of images; a set has no fixed order.
_NOT_A_LIST = (bytes, bytearray, memoryview, Mapping, Set, io.IOBase)


@dataclass(frozen=True, slots=True)
class ImageSource:
    """One image that has not been opened yet.

    Attributes
    ----------
    name : str
        The path as given or found, for a page of a file with ``#`` and its number
        (``scan.tif#2``); `X[3]` for an image in memory at position 3 of `X`.
    path : Path or None
        The file; None for an image in memory or elsewhere.
    value : Path, Remote, PIL.Image.Image or ndarray
        What `open_image` decodes.
    page : int or None
        Number of the page, from 1; None for the first one.
    origin : str
        Where a list names it (``parts.csv, row 3``), for errors; empty if it is of no list.
    """

    name: str
    path: Path | None
    value: Path | Remote | Image.Image | npt.NDArray[Any]
    page: int | None = None
    origin: str = ""


def source_of(name: str) -> ImageSource:
    """Give the source of a file by its path or URL, or of a page by its name (``scan.tif#2``)."""
    if is_url(name):
        return ImageSource(name, None, Remote(name))
    file, page = split_page(name)
    return ImageSource(name, Path(file), Path(file), page)


def fetched(remote: Remote) -> io.BytesIO:
    """Read a file that lies elsewhere.

    Raises
    ------
    ImageReadError
        There is no such file, or it cannot be read in several tries.
    MissingExtraError
        The package that reads such URLs is not installed.
    """
    try:
        return remote.read()
    except FileNotFoundError as error:
        raise ImageReadError(f"{remote.url}: no such file") from error
    except ImportError as error:
        raise MissingExtraError(str(error)) from error
    except Exception as error:  # each store has errors of its own
        raise ImageReadError(f"{remote.url}: cannot be read: {described(error)}") from error


def iter_sources(X: object, on_search: OnSearch = None) -> Iterator[ImageSource]:
    """Yield the images in `X` one by one, without opening them.

    Parameters
    ----------
    X : path, PIL image, iterable of these and of arrays, or ndarray of shape (n, H, W, 3 or 1)
        A folder, or the URL of one (`mahalad.images.remote`), is searched with all its subfolders
        for `image_extensions()` (in any case), sorted by the parts of the path; hidden files and
        folders, and those that systems and storage servers make for themselves, are skipped. A
        glob pattern (`* ? [ **`) and a file
        named in full are taken with any extension; a path that exists is never read as a
        pattern. An iterator is consumed one item at a time.
    on_search : callable, optional
        Is given what every folder holds, `SearchedFolder`, before its images are yielded.

    Yields
    ------
    ImageSource
        In the order of `X`. A missing file, or a pattern without a match, *inside a list*,
        and a folder within another one that cannot be listed, are yielded too and fail in
        `open_image`, so that they do not end the batch.

    Raises
    ------
    InputError
        At the first `next`: no images, no such path, or `X` (or an item) of a wrong type.

    Warns
    -----
    UserWarning
        Images of a list are one and the same in memory, as where a camera writes all frames into
        one buffer.

    Examples
    --------
    >>> [source.name for source in iter_sources(np.zeros((2, 8, 8, 3), np.uint8))]
    ['X[0]', 'X[1]']
    """
    if isinstance(X, (str, os.PathLike)):
        yield from _path_sources(X, "X", on_search, required=True)
    elif isinstance(X, Image.Image):
        yield ImageSource("X[0]", None, X)
    elif isinstance(X, np.ndarray) and X.ndim != 1:
        yield from _batch_sources(X, "X")
    elif isinstance(X, Iterable) and not (isinstance(X, _NOT_A_LIST) or looks_like_a_list(X)):
        if isinstance(X, (list, tuple)):
            _warn_of_one_buffer(X)
        found = False
        for index, item in enumerate(X):
            for source in _item_sources(item, f"X[{index}]", on_search):
                found = True
                yield source
        if not found:
            raise InputError(f"no images: X is an empty {type(X).__name__}; {_ALLOWED}")
    else:
        raise InputError(f"X is of type {type(X).__name__}; {_ALLOWED}{line_instead(X)}")


def _warn_of_one_buffer(X: Sequence[object]) -> None:
    """Warn of images in a list that are one and the same in memory."""
    positions: dict[object, list[int]] = {}
    for index, item in enumerate(X):
        if isinstance(item, np.ndarray) and item.ndim in (2, 3):
            place = (item.__array_interface__["data"][0], item.shape, item.strides)
            positions.setdefault(place, []).append(index)
        elif isinstance(item, Image.Image):
            positions.setdefault(id(item), []).append(index)
    same = max(positions.values(), key=len, default=[])
    if len(same) > 1:
        warnings.warn(
            f"{len(same)} images of the list are one and the same in memory (X[{same[0]}], "
            f"X[{same[1]}]{', ...' if len(same) > 2 else ''}): where a camera or a file gives all "
            "frames in one buffer, give its iterator itself, without list(), or copies",
            stacklevel=2,
        )


def is_stream(X: object) -> bool:
    """Whether images come one after the other, nobody knows how many: an iterator, a camera."""
    if not isinstance(X, Iterable) or isinstance(X, (str, os.PathLike)):
        return False
    try:
        len(X)  # type: ignore[arg-type]
    except TypeError:  # also of a progress bar around an iterator
        return True
    return False


def _item_sources(item: object, position: str, on_search: OnSearch) -> Iterator[ImageSource]:
    if isinstance(item, (str, os.PathLike)):
        yield from _path_sources(item, position, on_search, required=False)
    elif isinstance(item, ImageSource):
        yield item
    elif isinstance(item, np.ndarray) and item.ndim == 4:
        yield from _batch_sources(item, position)
    elif isinstance(item, (Image.Image, np.ndarray)):
        yield ImageSource(position, None, item)
    else:
        hint = line_instead(item, is_item=True)
        raise InputError(f"{position} is of type {type(item).__name__}; {_ALLOWED}{hint}")


def _batch_sources(batch: npt.NDArray[Any], position: str) -> Iterator[ImageSource]:
    if batch.ndim in (2, 3):
        raise InputError(
            f"{position} is one array of shape {batch.shape}, which could be one image or several;"
            " give [array] for one image, or an array of shape (n, H, W, 3) for n"
        )
    if batch.ndim != 4 or batch.shape[3] not in (1, 3):
        hint = (
            "; it looks channel-first: give array.transpose(0, 2, 3, 1)"
            if batch.ndim == 4 and batch.shape[1] in (1, 3)
            else ""
        )
        raise InputError(
            f"{position} is an array of shape {batch.shape}; allowed are (n, H, W, 3) and"
            f" (n, H, W, 1){hint}"
        )
    if len(batch) == 0:
        raise InputError(f"no images: {position} is an array of shape {batch.shape}")
    for index, image in enumerate(batch):
        yield ImageSource(f"{position}[{index}]", None, image)


def _path_sources(
    given: str | os.PathLike[Any],
    position: str,
    on_search: OnSearch,
    *,
    required: bool,
) -> Iterator[ImageSource]:
    name = os.fspath(given)
    if not isinstance(name, str) or not name:
        raise InputError(f"{position} is {name!r}, which is not a path; {_ALLOWED}")
    if is_url(name):
        yield from map(source_of, _remote_names(name))
        return
    if os.path.isdir(name):
        yield from _folder_sources(name, on_search, required=required)
        return
    names = [name]
    if not os.path.exists(name) and _is_pattern(name):
        found = search_pattern(name)
        names = [str(path) for path in found.images] or names
        if on_search is not None and found.images:
            on_search(found)
    if required and not os.path.lexists(split_page(names[0])[0]):
        raise InputError(describe_missing(name))
    for one in names:
        yield source_of(one)


def _folder_sources(folder: str, on_search: OnSearch, *, required: bool) -> Iterator[ImageSource]:
    found = search_folder(folder)
    itself = found.unlisted.get(Path(folder))
    if itself is not None and required:
        raise InputError(f"{folder}: folder cannot be listed: {itself}")
    if not found.images and itself is None:
        seen = ", ".join(f"{count} x {name}" for name, count in found.others.items())
        locked = ", ".join(f"{path} ({reason})" for path, reason in found.unlisted.items())
        raise InputError(
            f"{folder}: no images in this folder (looked in {os.path.abspath(folder)} and its"
            f" subfolders, hidden ones left out); files with other extensions:"
            f" {sum(found.others.values())}{f' ({seen})' if seen else ''};"
            f"{f' folders that cannot be listed: {locked};' if locked else ''}"
            f" looked for {', '.join(_COMMON)} and {len(image_extensions()) - len(_COMMON)} more"
            " that Pillow reads"
        )
    if on_search is not None:
        on_search(found)
    paths = sorted([*found.images, *found.unlisted], key=lambda path: path.parts)
    for path in paths:
        yield ImageSource(str(path), path, path)


def _remote_names(url: str) -> list[str]:
    """URLs of the images below the URL of a folder, or that match it; that of a file itself."""
    extensions = image_extensions()
    if not is_pattern(url) and os.path.splitext(url)[1].lower() in extensions:
        return [url]  # reading says whether it is there
    try:
        found = list_files(url)
    except ImportError as error:
        raise MissingExtraError(str(error)) from error
    except Exception as error:  # each store has errors of its own
        raise InputError(f"{url}: cannot be listed: {described(error)}") from error
    if found is None:
        return [url]
    folder, names = found
    if folder:
        names = [
            name
            for name in names
            if os.path.splitext(name)[1].lower() in extensions
            and not any(map(is_hidden, name.removeprefix(folder).strip("/").split("/")))
        ]
    if not names:
        raise InputError(f"{url}: no images there")
    return names


def _is_pattern(name: str) -> bool:
    return any(character in name for character in "*?[")


def is_missing(name: str) -> bool:
    """Whether a path is that of nothing, and no file matches it as a pattern.

    URLs are not asked for.
    """
    if is_url(name) or os.path.lexists(split_page(name)[0]):
        return False
    matches = glob.iglob(name, recursive=True) if _is_pattern(name) else iter(())
    return all(os.path.isdir(match) for match in matches)


def describe_missing(name: str) -> str:
    """Say that there is no such file, and where it was looked for."""
    tried = os.path.abspath(name)
    if _is_pattern(name):
        return f"{name}: no file matches this pattern, and none has this name (tried {tried})"
    return f"{name}: no such file or folder (tried {tried})"
