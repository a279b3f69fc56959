"""Lists of images: CSV or Parquet files with the columns path, and group, label and split."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mahalad.errors import InputError, MissingExtraError
from mahalad.images.remote import file_system, is_url
from mahalad.images.sources import ImageSource, source_of

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


def _columns(name: str) -> list[str]:
    with _opened(name) as file:
        if _is_parquet(name):
            return list(_parquet_file(file).schema_arrow.names)
        return list(next(csv.reader(_as_text(file)), []))


def _rows(name: str) -> Iterator[Mapping[str, Any]]:
    with _opened(name) as file:
        if _is_parquet(name):
            for batch in _parquet_file(file).iter_batches():
                yield from batch.to_pylist()
        else:
            yield from csv.DictReader(_as_text(file))


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
