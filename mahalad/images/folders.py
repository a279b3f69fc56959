"""Names for files made from images, and kinds of parts, from the folders that images lie in."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from mahalad.errors import InputError
from mahalad.images.pages import split_page
from mahalad.images.words import DEFECT, GOOD, MASK, meaning_of


def common_folder(given: Sequence[str], names: Sequence[str]) -> Path | None:
    """Find the folder that holds everything that was given, absolute; None if there is none.

    Parameters
    ----------
    given : sequence of str
        Folders, files and patterns as the user gave them.
    names : sequence of str
        Paths of the images found there.

    Examples
    --------
    >>> common_folder([], ["/parts/test/good/1.png", "/parts/test/cut/2.png"]).as_posix()
    '/parts/test'
    """
    folders = {os.path.abspath(path) for path in given if os.path.isdir(path)}
    folders |= {os.path.dirname(os.path.abspath(name)) for name in names}
    try:
        return Path(os.path.commonpath(sorted(folders)))
    except ValueError:  # two drives on Windows
        return None


def stems_below(base: Path | None, names: Sequence[str]) -> dict[str, str]:
    """Name files made from each image: its path below `base`, without the extension.

    Two images of one folder whose names differ in the extension only would share a stem; the
    later one gets a number (``part-2``). A page keeps its number (``scan#2``).

    Examples
    --------
    >>> stems_below(Path("/test"), ["/test/good/1.png", "/test/cut/1.png", "/test/cut/1.jpg"])
    {'/test/good/1.png': 'good/1', '/test/cut/1.png': 'cut/1', '/test/cut/1.jpg': 'cut/1-2'}
    """
    stems: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        if name in stems:
            continue
        file, page = split_page(name)
        path = Path(os.path.abspath(file))
        below = Path(path.name) if base is None else path.relative_to(base)
        end = "" if page is None else f"#{page}"
        stem = first = below.with_name(below.stem + end).as_posix()
        number = 1
        while stem.casefold() in taken:  # some file systems do not tell cases apart
            number += 1
            stem = f"{first}-{number}"
        taken.add(stem.casefold())
        stems[name] = stem
    return stems


def check_apart(folder: Path, given: Sequence[str], names: Sequence[str]) -> None:
    """Refuse a folder for new pictures that would be taken for images the next time.

    Raises
    ------
    InputError
        It holds one of the images, or is or lies below a folder that was searched for them.
    """
    real = Path(os.path.realpath(folder))
    searched = {Path(os.path.realpath(path)) for path in given if os.path.isdir(path)}
    holding = {Path(os.path.realpath(os.path.dirname(name) or ".")) for name in names}
    found = min((searched & {real, *real.parents}) | (holding & {real}), default=None)
    if found is not None:
        raise InputError(
            f"{folder}: what is written there would be taken for images of {found} next time; "
            "give another folder"
        )


def kinds_of(base: Path | None, names: Sequence[str]) -> dict[str, str | None]:
    """Read each image's kind from its folders: ``"good"``, a defect's name, or None = not known.

    Images below a folder called good (or ok, normal, ...) are good; those below a folder that lies
    beside such a folder, or is called like defects (bad, NG, anomaly, ...), are defects of that
    kind. Nothing is known of what is below a folder called like masks. Only folders from `base`
    downwards count, and the case of their names does not.

    Examples
    --------
    >>> names = ["/parts/test/good/1.png", "/parts/test/cut/2.png", "/parts/3.png"]
    >>> list(kinds_of(Path("/parts"), names).values())
    ['good', 'cut', None]
    """
    parents = {name: os.path.dirname(os.path.abspath(name)) for name in names}
    chains = {parent: list(_folders(parent, base)) for parent in set(parents.values())}
    named = {folder: meaning_of(folder.name) for chain in chains.values() for folder in chain}
    beside_good = {folder.parent for folder, kind in named.items() if kind == GOOD}
    kinds: dict[str, str | None] = {}
    for parent, chain in chains.items():
        said = {named[folder] for folder in chain}
        beside = [folder.name for folder in chain if folder.parent in beside_good]
        called = [folder.name for folder in chain if named[folder] == DEFECT]
        defects = beside or called
        if MASK in said:
            kinds[parent] = None
        else:
            kinds[parent] = GOOD if GOOD in said else defects[0] if defects else None
    return {name: kinds[parent] for name, parent in parents.items()}


def labels_of(
    base: Path | None, names: Sequence[str], classes: Sequence[str]
) -> dict[str, str | None]:
    """Read each image's label from its folders: the innermost one that is named by a label.

    Only folders from `base` downwards count. None = not known.

    Examples
    --------
    >>> names = ["/beans/test/good/1.png", "/beans/test/bad/day 2/2.png", "/beans/3.png"]
    >>> list(labels_of(Path("/beans"), names, ["bad", "good"]).values())
    ['good', 'bad', None]
    """
    parents = {name: os.path.dirname(os.path.abspath(name)) for name in names}
    labels: dict[str, str | None] = {}
    for parent in set(parents.values()):
        named = [folder.name for folder in _folders(parent, base) if folder.name in classes]
        labels[parent] = named[-1] if named else None
    return {name: labels[parent] for name, parent in parents.items()}


def without_masks(base: Path | None, names: Sequence[str]) -> list[str]:
    """Leave the masks out of the images of a set whose folders tell good ones from defects.

    Masks are what lies in a folder called like them (``ground_truth``, ``masks``) from `base`
    downwards, `base` itself left out: where it is given, its pictures are meant. Where no folder is
    called like one of good images, such a folder may hold anything, and stays.
    """
    chains = {name: list(_folders(os.path.dirname(os.path.abspath(name)), base)) for name in names}
    is_set = any(meaning_of(folder.name) == GOOD for chain in chains.values() for folder in chain)
    if not is_set:
        return list(names)
    return [
        name
        for name, chain in chains.items()
        if not any(folder != base and meaning_of(folder.name) == MASK for folder in chain)
    ]


def _folders(folder: str, base: Path | None) -> Iterator[Path]:
    """Yield the folders from `base` down to `folder`, both included."""
    path = Path(folder)
    for one in (*reversed(path.parents), path):
        if base is None or one == base or base in one.parents:
            yield one
