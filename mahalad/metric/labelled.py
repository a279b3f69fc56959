"""Labelled images: from class folders or a CSV file, and a draw of a few of them."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mahalad.errors import InputError
from mahalad.images.listing import ImageListing, find_images
from mahalad.images.pages import split_page
from mahalad.images.searching import image_extensions, is_hidden
from mahalad.images.sources import iter_sources

_COLUMNS = ("path", "label")
_SHOWN = 5


def read_labelled(
    where: str | Path,
    *,
    pages: str = "first",
    on_listing: Callable[[ImageListing], object] | None = None,
) -> tuple[list[str], list[str]]:
    """Read paths and labels of images.

    Parameters
    ----------
    where : str or Path
        A folder whose subfolders are named by the labels and hold the images (also further
        down), or a CSV file with the columns ``path`` and ``label``, whose paths are absolute or
        start at the file's own folder.
    pages : {"first", "all"}
        Of files with several pages in a folder: see `find_images`.
    on_listing : callable, optional
        Is given what was found in a folder, and what was left out.

    Returns
    -------
    paths, labels : list of str
        Sorted by label and path for a folder, in the order of its lines for a file.

    Raises
    ------
    InputError
        Nothing there, images or lines without a label, missing files, a path that is listed
        twice, other columns, one label only, or a label with a single image.
    """
    where = Path(where)
    if where.is_dir():
        paths, labels, listing = _read_folders(where, pages)
        if on_listing is not None:
            on_listing(listing)
    elif where.is_file():
        paths, labels = _read_table(where)
    else:
        raise InputError(
            f"{where}: no such folder or file (tried {where.absolute()}); labelled images are a "
            "folder with one subfolder for each label, or a CSV file with the columns path, label"
        )
    check_labels(labels, str(where))
    return paths, labels


def check_labels(labels: Sequence[str], where: str) -> None:
    """Raise `InputError` unless there are two labels, with two images each."""
    counts = Counter(labels)
    listed = ", ".join(f"{name!r} ({n})" for name, n in sorted(counts.items()))
    if len(counts) < 2:
        raise InputError(f"{where}: one label only, {listed}: at least two are needed to tell")
    single = [repr(name) for name, n in sorted(counts.items()) if n < 2]
    if single:
        raise InputError(
            f"{where}: one image only for {', '.join(single)}; each label needs at least two, so "
            f"that one can be left out (there are {listed})"
        )


def draw(labels: Sequence[str], n: int, seed: int = 0) -> NDArray[np.intp]:
    """Draw n images at random, each label in proportion but with at least two.

    Parameters
    ----------
    labels : sequence of str
    n : int
    seed : int

    Returns
    -------
    ndarray of int, shape (n,)
        Places in `labels`, ascending; the same for the same seed.

    Raises
    ------
    InputError
        More asked for than there are, or too few for two of each label.
    """
    names, codes, counts = np.unique(
        np.asarray(labels, dtype=str), return_inverse=True, return_counts=True
    )
    if not 2 * len(names) <= n <= len(labels):
        raise InputError(
            f"{n} labelled images asked for; with {len(names)} labels and {len(labels)} images "
            f"it can be {2 * len(names)} to {len(labels)}"
        )
    quotas = _shares(counts, n)
    rng = np.random.default_rng(seed)
    drawn = [
        rng.choice(np.flatnonzero(codes == i), quota, replace=False)
        for i, quota in enumerate(quotas)
    ]
    return np.sort(np.concatenate(drawn))


def _shares(counts: NDArray[np.intp], n: int) -> NDArray[np.intp]:
    """Split n in proportion to counts, at least 2 each: one by one to whoever is due most."""
    quotas = np.full(len(counts), 2)
    for _ in range(n - quotas.sum()):
        due = counts / counts.sum() * n - quotas
        quotas[np.where(quotas < counts, due, -np.inf).argmax()] += 1
    return quotas


def _read_folders(folder: Path, pages: str) -> tuple[list[str], list[str], ImageListing]:
    entries = sorted(entry for entry in folder.iterdir() if not is_hidden(entry.name))
    loose = [e for e in entries if e.is_file() and e.suffix.lower() in image_extensions()]
    if loose:
        raise InputError(
            f"{folder}: {len(loose)} images without a label, such as {loose[0]}: put each image "
            "in a subfolder that is named by its label"
        )
    subfolders = [entry for entry in entries if entry.is_dir()]
    if not subfolders:
        raise InputError(
            f"{folder}: no subfolders; labelled images are a folder with one subfolder for each "
            "label, or a CSV file with the columns path, label"
        )
    listing = find_images([str(folder)], pages=pages)
    paths = listing.names
    labels = [Path(name).parts[len(folder.parts)] for name in paths]
    for entry in subfolders:
        if entry.name not in labels:
            list(iter_sources(entry))  # raises: no images
    return paths, labels, listing


def _read_table(file: Path) -> tuple[list[str], list[str]]:
    rows = _rows(file)
    _refuse(file, [n for n, path, label in rows if not (path and label)], "no path or no label")
    full = [(n, os.path.join(file.parent, path), label) for n, path, label in rows]
    _refuse(file, [n for n, path, _ in full if not _is_there(path)], "no such file", full)
    seen: dict[str, tuple[int, str]] = {}
    for n, path, label in full:
        line, other = seen.setdefault(os.path.realpath(path), (n, label))
        if line != n:
            what = f"as {other!r} and as {label!r}" if other != label else f"as {label!r} twice"
            raise InputError(f"{file}, lines {line} and {n}: {path} is listed {what}: keep one")
    if not full:
        raise InputError(f"{file}: no rows; needs the columns path and label")
    return [path for _, path, _ in full], [label for _, _, label in full]


def _is_there(path: str) -> bool:
    return os.path.isfile(split_page(path)[0])


def _rows(file: Path) -> list[tuple[int, str, str]]:
    """Line number, path and label of each row."""
    try:
        with open(file, newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream)
            header = [name.strip() for name in next(reader, [])]
            if sorted(header) != sorted(_COLUMNS):
                raise InputError(
                    f"{file}: its columns are {', '.join(header) or 'none'}; they must be "
                    f"{' and '.join(_COLUMNS)}"
                )
            at = [header.index(name) for name in _COLUMNS]
            rows = [(reader.line_num, row) for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file}: labels cannot be read ({error})") from error
    _refuse(file, [n for n, row in rows if len(row) > len(header)], "more than path and label")
    padded = [(n, [*row, ""]) for n, row in rows]
    return [(n, row[at[0]].strip(), row[at[1]].strip()) for n, row in padded]


def _refuse(
    file: Path, lines: list[int], what: str, rows: Sequence[tuple[int, str, str]] = ()
) -> None:
    """Raise `InputError` that names the first of the bad lines, if there are any."""
    if not lines:
        return
    named = ", ".join(map(str, lines[:_SHOWN])) + (", ..." if len(lines) > _SHOWN else "")
    example = next((f" ({path})" for n, path, _ in rows if n == lines[0]), "")
    raise InputError(
        f"{file}, line{'s' if len(lines) > 1 else ''} {named}: {what}{example}; "
        f"{len(lines)} of such"
    )
