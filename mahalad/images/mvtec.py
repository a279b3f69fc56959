"""Image folders in the layout of MVTec AD, and groups of images that belong together."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mahalad.errors import InputError
from mahalad.images.pages import split_page
from mahalad.images.searching import image_extensions
from mahalad.images.sources import iter_sources


@dataclass(frozen=True)
class Category:
    """One category: its good training images, its test images and which of these are good.

    Attributes
    ----------
    name : str
    train : tuple of Path
        Images of ``train/good``, sorted.
    test : tuple of Path
        Images of ``test/<kind>``, sorted.
    kinds : tuple of str
        Kind of each test image; ``"good"`` for the normal ones.
    masks : tuple of (Path or None)
        Ground-truth mask of each test image (None for good ones, and where the folder has none).
    """

    name: str
    train: tuple[Path, ...]
    test: tuple[Path, ...]
    kinds: tuple[str, ...]
    masks: tuple[Path | None, ...] = ()

    @property
    def has_masks(self) -> bool:
        """Whether there are masks of the defective test images: of all of them, or of none."""
        return any(mask is not None for mask in self.masks)


def find_categories(roots: Sequence[str | Path], names: Sequence[str] = ()) -> list[Category]:
    """Read the categories below some folders.

    Parameters
    ----------
    roots : sequence of str or Path
        Folders of categories, or categories themselves (a folder with ``train/good``).
    names : sequence of str
        Only these; all that are there where empty.

    Raises
    ------
    InputError
        No category is found, a named one is not there, or some defective test images of one
        have a mask (``ground_truth/<kind>/<stem>_mask.*`` or ``<stem>.*``) and others have not.
    """
    folders: dict[str, Path] = {}
    for root in map(Path, roots):
        for folder in [root, *sorted(p for p in root.iterdir() if p.is_dir())]:
            if (folder / "train" / "good").is_dir() and (folder / "test").is_dir():
                name = folder.resolve().name
                if folders.setdefault(name, folder).resolve() != folder.resolve():
                    raise InputError(
                        f"two categories are called {name}: {folders[name]} and {folder}; give one"
                    )
    missing = [name for name in names if name not in folders]
    if missing or not folders:
        raise InputError(
            f"no category {', '.join(missing) or 'at all'} in {', '.join(map(str, roots))}: a "
            "category is a folder with train/good and test/<kind>, as in MVTec AD; there "
            f"{'are' if folders else 'is'} {', '.join(folders) or 'none'}"
        )
    return [_read_category(name, folders[name]) for name in names or sorted(folders)]


def _read_category(name: str, folder: Path) -> Category:
    test = _images(folder / "test")
    kinds = tuple(path.relative_to(folder / "test").parts[0] for path in test)
    masks = _find_masks(folder, test, kinds)
    return Category(name, _images(folder / "train" / "good"), test, kinds, masks)


def _find_masks(
    folder: Path, test: tuple[Path, ...], kinds: tuple[str, ...]
) -> tuple[Path | None, ...]:
    truth = folder / "ground_truth"
    files: dict[Path, Path] = {}  # by the path below `truth`, without extension
    if truth.is_dir() and any(
        path.suffix.lower() in image_extensions() for path in truth.rglob("*")
    ):
        for path in _images(truth):
            files.setdefault(path.relative_to(truth).with_suffix(""), path)
    masks: list[Path | None] = []
    for path, kind in zip(test, kinds, strict=True):
        key = path.relative_to(folder / "test").with_suffix("")
        mask = files.get(key.with_name(f"{key.name}_mask"), files.get(key))
        masks.append(None if kind == "good" else mask)
    bad = [
        (path, mask) for path, mask, kind in zip(test, masks, kinds, strict=True) if kind != "good"
    ]
    without = [path for path, mask in bad if mask is None]
    if 0 < len(without) < len(bad):
        key = without[0].relative_to(folder / "test").with_suffix("")
        raise InputError(
            f"{without[0]}: no mask of this defect, such as {truth / key}_mask.png; of the "
            f"{len(bad)} defective test images of {folder}, {len(without)} have none: add them, or "
            "remove all masks"
        )
    return tuple(masks)


def _images(folder: Path) -> tuple[Path, ...]:
    return tuple(source.path for source in iter_sources(folder) if source.path is not None)


def grouping(rule: str) -> Callable[[str], str]:
    """Make a function from an image's path to its group: what it shows.

    Parameters
    ----------
    rule : str
        A regular expression (see `group_of`), or a CSV file (its name ends in .csv) with the
        columns ``path`` and ``group``; a path there stands for every image path that ends with
        it, and for the pages of such a file (``scan.tif#2``) that have no row of their own.

    Raises
    ------
    InputError
        A file that cannot be read or has other columns, a row without path or group, two groups
        for one path; from the function: an image that has no group.
    """
    if not rule.lower().endswith(".csv"):
        return lambda path: group_of(path, rule)
    table = _read_groups(rule)
    depths = sorted({len(parts) for parts in table}, reverse=True)

    def group(path: str) -> str:
        for parts in (Path(name).parts for name in dict.fromkeys((path, split_page(path)[0]))):
            for depth in depths:
                found = table.get(parts[-depth:]) if depth <= len(parts) else None
                if found is not None:
                    return found
        raise InputError(f"{rule}: has no row for {path}: it must name every image")

    return group


def _read_groups(file: str) -> dict[tuple[str, ...], str]:
    try:
        with open(file, newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file}: groups cannot be read ({error})") from error
    table: dict[tuple[str, ...], str] = {}
    for line, row in enumerate(rows, start=2):
        path, group = row.get("path"), row.get("group")
        if not path or not group:
            raise InputError(
                f"{file}, line {line}: needs a path and a group (columns: path, group), and has "
                f"{ {key: value for key, value in row.items() if key} }"
            )
        parts = Path(path).parts
        if table.setdefault(parts, group) != group:
            raise InputError(
                f"{file}, line {line}: {path} is in two groups: {table[parts]}, {group}"
            )
    if not table:
        raise InputError(f"{file}: no rows; needs the columns path and group")
    return table


def group_of(path: str, pattern: str) -> str:
    """Give an image's group: the first group of a regular expression's match in its path.

    Raises
    ------
    InputError
        The expression is not valid or does not match.
    """
    try:
        match = re.search(pattern, path)
    except re.error as error:
        raise InputError(f"--group {pattern!r} is not a regular expression: {error}") from error
    if match is None:
        raise InputError(f"--group {pattern!r} does not match {path}: it must match every image")
    return str(match.group(1) or match.group(0) if match.re.groups else match.group(0))
