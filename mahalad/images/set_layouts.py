"""Layouts of labelled sets: which images are to be fitted to, which are tests, and of what kind.

Understood are those of MVTec AD, MVTec LOCO and BTAD (``train/good``, ``test/KIND``), of VisA (by
its table ``split_csv/1cls.csv``, or ``Data/Images/Normal`` and ``Anomaly``), and a folder of good
images beside others. Names are read as `mahalad.images.words` has them, in any case.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mahalad.errors import InputError
from mahalad.images.searching import is_hidden, search_folder
from mahalad.images.words import DEFECT, GOOD, MASK, TEST, meaning_of

UNDERSTOOD = (
    "understood are train/good and test/KIND (MVTec AD, MVTec LOCO; BTAD: train/ok, test/ko), "
    "split_csv/1cls.csv with the columns object, split, label, image, mask (VisA), "
    "Data/Images/Normal and Data/Images/Anomaly (VisA without its table), and a folder good (ok, "
    "normal, ...) beside bad (nok, anomaly, or a folder for each kind)"
)
EVERY = 5
"""Where a set has no split, every fifth good image is tested on."""
_TABLES = ("split_csv/1cls.csv", "1cls.csv")
_COLUMNS = ("object", "split", "label", "image", "mask")
_TRAIN = ("train", "training")
_Row = tuple[str, str, Path, Path | None]  # split, kind, image, mask


@dataclass(frozen=True)
class LabelledSet:
    """One set as its layout has it.

    Attributes
    ----------
    name : str
    folder : Path
        Of the set.
    train, test : tuple of Path
    kinds : tuple of str
        Of each test image; ``"good"`` for the normal ones, whatever their folder is called.
    tested_in : Path
        Folder that the test images lie in, and that masks mirror.
    mask_folders : tuple of Path
        Folders of masks.
    masks : tuple of (Path or None), or None
        Where a table names them.
    split : str
        Who split the images, if their folders do not.
    """

    name: str
    folder: Path
    train: tuple[Path, ...]
    test: tuple[Path, ...]
    kinds: tuple[str, ...]
    tested_in: Path
    mask_folders: tuple[Path, ...] = ()
    masks: tuple[Path | None, ...] | None = None
    split: str = ""


@dataclass(frozen=True)
class FoundSet:
    """A set that was found, and how it is read.

    Attributes
    ----------
    name : str
    folder : Path
    read : callable
        Gives the `LabelledSet`.
    """

    name: str
    folder: Path
    read: Callable[[], LabelledSet]


def find_sets(root: Path) -> list[FoundSet]:
    """Find the sets of a folder: itself, if it is one, or those among its subfolders.

    Raises
    ------
    InputError
        A folder cannot be listed, or a table does not fit its images.
    """
    tables = [root / name for name in _TABLES if (root / name).is_file()]
    if tables:
        return _by_table(tables[0], None)
    # The table of the folder above, for a category of VisA only.
    tables = [root.parent / name for name in _TABLES if (root.parent / name).is_file()]
    if tables and _below(root, "data", "images") is not None:
        return _by_table(tables[0], root.resolve().name)
    readers = {root: _reader(root)}
    if readers[root] is None:
        readers = {child: _reader(child, is_root=False) for child in _children(root)}
    return [
        FoundSet(folder.resolve().name, folder, read)
        for folder, read in readers.items()
        if read is not None
    ]


def _reader(folder: Path, *, is_root: bool = True) -> Callable[[], LabelledSet] | None:
    """Give what reads a folder's set, by the names of its subfolders; None if it is none."""
    children = _children(folder)
    tests = [child for child in children if meaning_of(child.name) == TEST]
    train = [part for child in children if child.name.lower() in _TRAIN for part in _good(child)]
    train = train or _good(folder)
    if train and tests:
        return lambda: _with_tests(folder, train, tests[0])
    images = _below(folder, "data", "images") or _below(folder, "images") or folder
    is_part = folder.name.lower() in _TRAIN or meaning_of(folder.name) is not None
    if _good(images) and _bad(images) and (is_root or not is_part):
        return lambda: _side_by_side(folder, images)
    return None


def _with_tests(folder: Path, train: list[Path], tests: Path) -> LabelledSet:
    """Read a set with a folder of tests, and good images in a folder train, or beside it."""
    loose = [path for path in _images(tests) if path.parent == tests]
    if loose:
        raise InputError(
            f"{loose[0]}: lies in no folder that says of what kind it is ({len(loose)} such in "
            f"{tests}); {UNDERSTOOD}"
        )
    test, kinds = _of_kinds(_children(tests))
    fitted = tuple(path for part in train for path in _images(part))
    if not fitted or not test:
        raise InputError(f"{tests if fitted else train[0]}: no images in this folder")
    name, masks = folder.resolve().name, _masks([*_children(folder), *_children(tests)])
    return LabelledSet(name, folder, fitted, test, kinds, tests, masks)


def _side_by_side(folder: Path, images: Path) -> LabelledSet:
    """Read a set of good images beside others, without a split."""
    normal = [path for part in _good(images) for path in _images(part)]
    bad, kinds = _of_kinds(_bad(images))
    if len(normal) < EVERY or not bad:
        raise InputError(
            f"{images}: {len(normal)} good images and {len(bad)} others; a set without train and "
            f"test needs {EVERY} good ones or more (every {EVERY}th is tested on), and others"
        )
    held = tuple(normal[EVERY - 1 :: EVERY])
    return LabelledSet(
        folder.resolve().name,
        folder,
        tuple(path for i, path in enumerate(normal, start=1) if i % EVERY),
        (*bad, *held),
        (*kinds, *[GOOD] * len(held)),
        images,
        _masks([*_children(folder), *_children(images.parent if images != folder else folder)]),
        split=f"the set has none: every {EVERY}th good image, by name, is tested on",
    )


def _of_kinds(folders: list[Path]) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """Give the images of folders, with the kinds that the folders' names say."""
    pairs = [
        (path, GOOD if meaning_of(folder.name) == GOOD else folder.name)
        for folder in folders
        if meaning_of(folder.name) != MASK
        for path in _images(folder)
    ]
    return tuple(path for path, _ in pairs), tuple(kind for _, kind in pairs)


def _masks(folders: list[Path]) -> tuple[Path, ...]:
    return tuple(dict.fromkeys(one for one in folders if meaning_of(one.name) == MASK))


def _by_table(table: Path, only: str | None) -> list[FoundSet]:
    """Read the sets of VisA's table; paths there are below the folder that has `split_csv`."""
    base = table.parent.parent if table.parent.name.lower() == "split_csv" else table.parent
    rows: dict[str, list[_Row]] = {}
    for line, row in _rows(table):
        image, mask = (base / Path(row[key].replace("\\", "/")) for key in ("image", "mask"))
        split, label = row["split"].strip().lower(), meaning_of(row["label"]) or row["label"]
        if split not in (*_TRAIN, TEST) or not label or not image.is_file():
            raise InputError(
                f"{table}, line {line}: split is {row['split']!r} (allowed are train and test), "
                f"label {row['label']!r} (normal or another), image {image} "
                f"{'is there' if image.is_file() else 'is not there'}"
            )
        kind = GOOD if label == GOOD else row["label"].strip()
        has_mask = bool(row["mask"].strip()) and kind != GOOD
        rows.setdefault(row["object"].strip(), []).append(
            (split, kind, image, mask if has_mask else None)
        )
    return [
        FoundSet(name, base / name, partial(_listed, table, name, own))
        for name, own in rows.items()
        if only is None or name == only
    ]


def _listed(table: Path, name: str, rows: list[_Row]) -> LabelledSet:
    """Make one set of its rows in a table."""
    bad = [image for split, kind, image, _ in rows if split in _TRAIN and kind != GOOD]
    if bad:
        raise InputError(
            f"{table}: {len(bad)} images of {name} are bad and to be fitted to, such as "
            f"{bad[0]}; a fit is to good images: give the table 1cls.csv"
        )
    tested = [row for row in rows if row[0] == TEST]
    return LabelledSet(
        name,
        table.parent,
        tuple(image for split, _, image, _ in rows if split in _TRAIN),
        tuple(image for _, _, image, _ in tested),
        tuple(kind for _, kind, _, _ in tested),
        table.parent,
        masks=tuple(mask for _, _, _, mask in tested),
        split=f"by {table}",
    )


def _rows(table: Path) -> list[tuple[int, dict[str, str]]]:
    """Line number and columns of each row."""
    try:
        with open(table, newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            names = [(name or "").strip().lower() for name in reader.fieldnames or []]
            reader.fieldnames = names
            if not {*_COLUMNS} <= {*names}:
                raise InputError(
                    f"{table}: its columns are {', '.join(names) or 'none'}; they must be "
                    f"{', '.join(_COLUMNS)}"
                )
            return [(reader.line_num, {k: row[k] or "" for k in _COLUMNS}) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{table}: cannot be read ({error})") from error


def _below(folder: Path, *names: str) -> Path | None:
    """Follow the names of subfolders, in any case."""
    for name in names:
        inside = [child for child in _children(folder) if child.name.lower() == name]
        if not inside:
            return None
        folder = inside[0]
    return folder


def _good(folder: Path) -> list[Path]:
    return [child for child in _children(folder) if meaning_of(child.name) == GOOD]


def _bad(folder: Path) -> list[Path]:
    """Subfolders that are of neither good images nor masks, nor parts of another layout."""
    return [
        child
        for child in _children(folder)
        if meaning_of(child.name) in (DEFECT, None) and child.name.lower() not in _TRAIN
    ]


def _children(folder: Path) -> list[Path]:
    try:
        entries = sorted(folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise InputError(f"{folder}: folder cannot be listed: {error.strerror}") from error
    return [entry for entry in entries if entry.is_dir() and not is_hidden(entry.name)]


def _images(folder: Path) -> tuple[Path, ...]:
    found = search_folder(os.fspath(folder))
    for path, reason in found.unlisted.items():
        raise InputError(f"{path}: folder cannot be listed: {reason}")
    return found.images
