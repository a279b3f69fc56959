"""Lists of images: CSV or Parquet files with the columns path, and group, label and split."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mahalad.errors import InputError, MissingExtraError
from mahalad.images.remote import file_system, is_url
from mahalad.images.sources import ImageSource, source_of
from mahalad.images.words import GOOD, meaning_of

COLUMNS = ("path", "group", "label", "split")
"""Columns that a manifest may have; path is needed, and no other name is known."""

_EXTENSIONS = (".csv", ".parquet")


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of a manifest.

    Attributes
    ----------
    source : ImageSource
    row : int
        Number of the row, from 1; a header is none.
    group, label, split : str
        What the image shows, its label, and the part of the set that it is of; empty where the
        manifest does not say it.
    """

    source: ImageSource
    row: int
    group: str = ""
    label: str = ""
    split: str = ""


@dataclass(frozen=True)
class Manifest:
    """A manifest that was found to have the right columns.

    Attributes
    ----------
    path : str
        Path or URL of the file.
    columns : tuple of str
        Those of `COLUMNS` that it has.
    """

    path: str
    columns: tuple[str, ...]

    def entries(self, on_empty: Callable[[int], object] | None = None) -> Iterator[Entry]:
        """Yield the rows in their order, without having them all in memory.

        Parameters
        ----------
        on_empty : callable, optional
            Is given the number of each row without a path, which is left out. None: such a row is
            an error.

        Raises
        ------
        InputError
            The file cannot be read any further.
        """
        folder = _folder_of(self.path)
        for row, values in enumerate(_rows(self.path), start=1):
            path, *rest = (_text(values.get(name)) for name in COLUMNS)
            if path:
                yield Entry(_source(path, folder, f"{self.path}, row {row}"), row, *rest)
            elif on_empty is None:
                raise InputError(f"{self.path}, row {row}: has no path")
            else:
                on_empty(row)


def is_manifest(name: object) -> bool:
    """Whether a name is one of a manifest: it ends in .csv or .parquet."""
    return isinstance(name, (str, os.PathLike)) and str(name).lower().endswith(_EXTENSIONS)


def open_manifest(path: str | Path) -> Manifest:
    """Open a list of images.

    Parameters
    ----------
    path : str or Path
        A CSV or Parquet file, or the URL of one. Its column ``path`` has paths, which are absolute
        or start at the file's own folder, or URLs; ``group``, ``label`` and ``split`` need not be
        there.

    Raises
    ------
    InputError
        No such file, none that can be read, or other columns.
    MissingExtraError
        pyarrow is not installed, which reads Parquet.
    """
    name = str(path)
    columns = _columns(name)
    unknown = [column for column in columns if column not in COLUMNS]
    if "path" not in columns or unknown or len(set(columns)) < len(columns):
        raise InputError(
            f"{name}: its columns are {', '.join(columns) or 'none'}; a list of images has the "
            f"column path, and may have group, label and split"
            + (f": rename or remove {', '.join(unknown)}" if unknown else "")
        )
    return Manifest(name, tuple(column for column in COLUMNS if column in columns))


def to_fit(split: str | None = None) -> Callable[[Entry], bool]:
    """Make the rule of which rows of a manifest are fitted to.

    Those of the split, "train" unless another is named, or of none, whose label is empty or a word
    for good.
    """

    def keep(entry: Entry) -> bool:
        is_good = not entry.label or meaning_of(entry.label) == GOOD
        return is_good and entry.split in ("", split or "train")

    return keep


def of_split(split: str | None) -> Callable[[Entry], bool] | None:
    """Make the rule of which rows of a manifest are scored: those of a split, or None for all."""
    return None if split is None else lambda entry: entry.split == split


def kept_entries(
    path: str | Path, keep: Callable[[Entry], bool] | None, say: Callable[[str], object]
) -> Iterator[Entry]:
    """Yield the rows of a manifest that are wanted; say at the end which were left out.

    Raises
    ------
    InputError
        No row is left; what `open_manifest` refuses.
    """
    empty: list[int] = []
    n_other = n_kept = 0
    for entry in open_manifest(path).entries(empty.append):
        if keep is None or keep(entry):
            n_kept += 1
            yield entry
        else:
            n_other += 1
    if empty:
        shown = ", ".join(map(str, empty[:8])) + (", ..." if len(empty) > 8 else "")
        say(f"{path}: {len(empty)} rows have no path and are left out: {shown}")
    if n_other:
        say(f"{path}: {n_other:,} rows left out, of another split or label; {n_kept:,} taken")
    if not n_kept:
        raise InputError(f"{path}: no row is left")


def check_each_group(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Yield images that all have a group, or none of them.

    Raises
    ------
    InputError
        Some have one, and others have not.
    """
    grouped = None
    for entry in entries:
        grouped = bool(entry.group) if grouped is None else grouped
        if grouped != bool(entry.group):
            raise InputError(
                f"{entry.source.origin or entry.source.name}: has "
                f"{'no' if grouped else 'a'} group, and images before it have "
                f"{'one' if grouped else 'none'}: give each image one, or none"
            )
        yield entry


def _columns(name: str) -> list[str]:
    with _opened(name) as file:
        if _is_parquet(name):
            return list(_parquet_file(file).schema_arrow.names)
        with _as_text(file) as text:
            return list(next(csv.reader(text), []))


def _rows(name: str) -> Iterator[Mapping[str, Any]]:
    with _opened(name) as file:
        if _is_parquet(name):
            for batch in _parquet_file(file).iter_batches():
                yield from batch.to_pylist()
        else:
            with _as_text(file) as text:
                yield from csv.DictReader(text)


@contextmanager
def _opened(name: str) -> Iterator[Any]:
    """Open a manifest; what goes wrong with it is an `InputError`."""
    try:
        if is_url(name):
            system, path = file_system(name)
            with system.open(path, "rb") as file:
                yield file
        else:
            with open(name, "rb") as file:
                yield file
    except MissingExtraError:
        raise
    except ImportError as error:
        raise MissingExtraError(str(error)) from error
    except FileNotFoundError as error:
        raise InputError(f"{name}: no such list of images") from error
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name}: the list of images cannot be read ({error})") from error


def _parquet_file(file: Any) -> Any:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError(
            'Parquet files need pyarrow: pip install "mahalad[tables]"'
        ) from error
    return parquet.ParquetFile(file)


def _as_text(file: Any) -> io.TextIOWrapper:
    return io.TextIOWrapper(file, encoding="utf-8-sig", newline="")


def _is_parquet(name: str) -> bool:
    return name.lower().endswith(".parquet")


def _folder_of(name: str) -> str:
    return name.rpartition("/")[0] if is_url(name) else os.path.dirname(name)


def _source(path: str, folder: str, origin: str) -> ImageSource:
    if not is_url(path):
        path = f"{folder}/{path}" if is_url(folder) else os.path.join(folder, path)
    found = source_of(path)
    return ImageSource(found.name, found.path, found.value, found.page, origin)


def _text(value: Any) -> str:
    return "" if value is None else str(value)
