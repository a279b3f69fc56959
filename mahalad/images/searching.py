"""Search a folder for images, and keep account of what is left out.

Files are known by their names: extensions of what Pillow reads, names of what systems make.
"""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

_NOT_PICTURES = frozenset(
    {
        "EPS",  # PostScript: a program, run by another one that may not be there
        "WMF",  # drawings that Windows alone draws
        "MPEG",  # recognised, but not decoded
        "BUFR", "GRIB", "HDF5",  # the same: data without a reader
        "IPTC",  # a container of news agencies
        "FITS",  # its scale and its further planes are not read
    }
)  # fmt: skip
"""Formats that Pillow names and that are no pictures, or that it does not really read."""
_OPENED_BY_ANOTHER = {".mpo": "JPEG"}
"""Extensions that are registered for a format whose files another one's reader opens."""

_SYSTEM_FOLDERS = frozenset(
    {
        "@eadir", "@recycle", "@recently-snapshot", "@tmp", "@sharebin", "@__thumb", "#recycle",
        "#snapshot", "$recycle.bin", "system volume information", "recycler", "lost+found",
        "__macosx", "__pycache__", "thumbnails", "~snapshot",
    }
)  # fmt: skip
"""Folders that storage servers and systems make among the user's, in lower case."""
_SYSTEM_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"})


def image_extensions() -> tuple[str, ...]:
    """List the extensions of the pictures that Pillow reads here, in lower case, sorted.

    All that Pillow, and plug-ins that are registered with it, name and can open are in it, but for
    vector drawings, videos and containers of data, which it knows by name only.
    """
    registered = Image.registered_extensions() | _OPENED_BY_ANOTHER
    return tuple(
        sorted(
            extension
            for extension, name in registered.items()
            if name in Image.OPEN and name not in _NOT_PICTURES
        )
    )


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or one that a system made for itself."""
    return name.startswith(".") or name.lower() in _SYSTEM_FOLDERS | _SYSTEM_FILES


IMAGE_EXTENSIONS = image_extensions()
"""Of Pillow itself, and of what was registered with it before this module was loaded."""


@dataclass(frozen=True)
class SearchedFolder:
    """What a folder and its subfolders hold.

    Attributes
    ----------
    folder : str
        As it was given; or a glob pattern, which leaves out nothing but what is hidden.
    images : tuple of Path
        Sorted by the parts of their paths.
    others : mapping of str to int
        Number of files that are left out as no images, by extension in lower case;
        ``"no extension"`` for those without.
    hidden_folders, hidden_files : tuple of Path
        Hidden, or made by a system or a storage server for itself: left out with all they hold.
    unlisted : mapping of Path to str
        Folders that cannot be listed, with the reason.
    """

    folder: str
    images: tuple[Path, ...] = ()
    others: Mapping[str, int] = field(default_factory=dict)
    hidden_folders: tuple[Path, ...] = ()
    hidden_files: tuple[Path, ...] = ()
    unlisted: Mapping[Path, str] = field(default_factory=dict)


def search_folder(folder: str) -> SearchedFolder:
    """Find the images of a folder and its subfolders, by their extensions in any case.

    Links to folders are followed, each folder is searched once.
    """
    extensions = frozenset(image_extensions())
    images: list[Path] = []
    others: Counter[str] = Counter()
    hidden_folders: list[Path] = []
    hidden_files: list[Path] = []
    unlisted: dict[Path, str] = {}

    def refused(error: OSError) -> None:
        unlisted[Path(error.filename)] = error.strerror or str(error)

    visited: set[str] = set()  # a link could lead back up
    for root, folders, files in os.walk(folder, onerror=refused, followlinks=True):
        resolved = os.path.realpath(root)
        if resolved in visited:
            folders.clear()
            continue
        visited.add(resolved)
        hidden_folders += [Path(root, name) for name in sorted(folders) if is_hidden(name)]
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        for name in files:
            extension = os.path.splitext(name)[1].lower()
            if is_hidden(name):
                hidden_files.append(Path(root, name))
            elif extension in extensions:
                images.append(Path(root, name))
            else:
                others[extension or "no extension"] += 1
    return SearchedFolder(
        folder,
        tuple(sorted(images, key=lambda path: path.parts)),
        most_first(others),
        tuple(hidden_folders),
        tuple(sorted(hidden_files)),
        unlisted,
    )


def most_first(counts: Mapping[str, int]) -> dict[str, int]:
    """Sort counts: the highest first, equal ones by name."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def search_pattern(pattern: str) -> SearchedFolder:
    """Find the files that match a glob pattern, in the order of the parts of their paths.

    What is hidden, or made by a system for itself, is left out unless the pattern spells its name.
    """
    spelled = set(Path(pattern).parts)
    found: list[Path] = []
    hidden: list[Path] = []
    for name in set(glob.glob(pattern, recursive=True)):
        if not os.path.isdir(name):
            parts = (part for part in Path(name).parts if part not in spelled)
            (hidden if any(map(is_hidden, parts)) else found).append(Path(name))
    found.sort(key=lambda path: path.parts)
    return SearchedFolder(pattern, tuple(found), hidden_files=tuple(sorted(hidden)))
