"""Categories of labelled sets, and groups of images that belong together."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mahalad.errors import InputError
from mahalad.images.pages import split_page
from mahalad.images.searching import IMAGE_EXTENSIONS
from mahalad.images.set_layouts import UNDERSTOOD, FoundSet, find_sets
from mahalad.images.set_masks import masks_of


@dataclass(frozen=True)
class Category:
    """One category: its good training images, its test images and which of these are good.

    Attributes
    ----------
    name : str
    train : tuple of Path
        Images of ``train/good``, sorted, or what else a layout fits to.
    test : tuple of Path
        Images of ``test/<kind>``, sorted, or what else a layout tests on.
    kinds : tuple of str
        Kind of each test image; ``"good"`` for the normal ones.
    masks : tuple of (Path or None)
        Ground-truth mask of each test image (None for good ones, and where the folder has none).
        It may be a folder: of masks that make one.
    split : str
        Who split the images, where their folders do not say it.
    """

    name: str
    train: tuple[Path, ...]
    test: tuple[Path, ...]
    kinds: tuple[str, ...]
    masks: tuple[Path | None, ...] = ()
    split: str = ""

    @property
    def has_masks(self) -> bool:
        """Whether there are masks of the defective test images: of all of them, or of none."""
        return any(mask is not None for mask in self.masks)


def find_categories(
    roots: Sequence[str | Path], names: Sequence[str] = (), *, with_masks: bool = True
) -> list[Category]:
    """Read the categories below some folders.

    Parameters
    ----------
    roots : sequence of str or Path
        Folders of categories, or categories themselves, in one of the layouts of
        `mahalad.images.set_layouts`.
    names : sequence of str
        Only these; all that are there where empty.
    with_masks : bool
        Whether masks are wanted.

    Raises
    ------
    InputError
        No category is found, a named one is not there, or some defective test images of one
        have a mask (see `mahalad.images.set_masks.masks_of`) and others have not.
    """
    found: dict[str, FoundSet] = {}
    for root in map(Path, roots):
        for one in find_sets(root):
            other = found.setdefault(one.name, one)
            if other.folder.resolve() != one.folder.resolve():
                raise InputError(
                    f"two categories are called {one.name}: {other.folder} and {one.folder}; give "
                    "one"
                )
    missing = [name for name in names if name not in found]
    if missing or not found:
        raise InputError(
            f"no category {', '.join(missing) or 'at all'} in {', '.join(map(str, roots))}: there "
            f"{'are' if found else 'is'} {', '.join(found) or 'none'}; {UNDERSTOOD}"
        )
    return [_category(found[name], with_masks) for name in names or sorted(found)]


def _category(found: FoundSet, with_masks: bool) -> Category:
    one = found.read()
    masks = masks_of(one) if with_masks else (None,) * len(one.test)
    return Category(one.name, one.train, one.test, one.kinds, masks, one.split)


def mask_beside(path: str | Path) -> Path | None:
    """Find the ground-truth mask of one test image, ``test/<kind>/<stem>``; None if there is none.

    It is looked for as in `find_categories`, from the innermost folder named ``test``.
    """
    path = Path(path)
    tests = [folder for folder in path.parents if folder.name == "test"]
    if not tests or path.parent == tests[0]:
        return None
    key = (tests[0].parent / "ground_truth" / path.relative_to(tests[0])).with_suffix("")
    if not key.parent.is_dir():
        return None
    for stem in (f"{key.name}_mask", key.name):
        for extension in sorted(IMAGE_EXTENSIONS):
            mask = key.with_name(stem + extension)
            if mask.is_file():
                return mask
    return None


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
