"""Results in parts, one file for each: a run that is broken off is taken up by another one."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mahalad.distributed.listing import Part
from mahalad.errors import InputError, ModelFileError
from mahalad.files.container import write_atomically
from mahalad.images.remote import described, file_system, is_url, patiently

STYLES = ("parquet", "jsonl")
"""How the rows of a part are written."""
MOST_ERRORS = 1000
"""Images that cannot be read of which is kept why."""

_ABOUT = "mahalad.json"
_NAME = re.compile(r"part-(\d{6,})-([0-9a-f]{16})\.(parquet|jsonl)")


@dataclass
class Scored:
    """What was scored, in this run and in those that it took up.

    Attributes
    ----------
    folder : str
        The results: files ``part-000000-....parquet``, whose rows are in the order of the images.
    n_scored, n_flagged, n_in_fit, n_unreadable : int
        Images that were scored in this run; of these flagged, and of the fit; and those that could
        not be read.
    n_new, n_above_all : int
        Images that are not of the fit, and those of them above all good ones.
    n_parts, n_parts_before : int
        Parts of the results, and those of them that an earlier run had written.
    errors : list of str
        Why images could not be read, the first 1,000.
    """

    folder: str
    n_scored: int = 0
    n_flagged: int = 0
    n_in_fit: int = 0
    n_unreadable: int = 0
    n_new: int = 0
    n_above_all: int = 0
    n_parts: int = 0
    n_parts_before: int = 0
    errors: list[str] = field(default_factory=list)

    def count(self, counts: Mapping[str, int], errors: list[str]) -> None:
        """Add what was counted of a part."""
        for name, n in counts.items():
            setattr(self, name, getattr(self, name) + int(n))
        self.errors += errors[: MOST_ERRORS - len(self.errors)]
        self.n_parts += 1

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield all rows, of all runs, in the order of the images, as `score` writes them."""
        folder = Folder(self.folder)
        for name in folder.names():
            yield from _rows_of(folder.read(name), name)


class Folder:
    """A folder of results, here or by a URL."""

    def __init__(self, where: str | Path) -> None:
        self.where = str(where)

    def open(self, about: Mapping[str, Any]) -> dict[int, str]:
        """Make the folder, or take it up; give the parts that are there, place to name.

        Raises
        ------
        InputError
            It holds something else, or results of another model or other options.
        ModelFileError
            It cannot be made or written to.
        """
        found = self._listed()
        wanted = json.dumps(dict(about), sort_keys=True)
        if _ABOUT in found:
            before = json.loads(self.read(_ABOUT))
            differs = [name for name in about if before.get(name) != about[name]]
            if differs:
                said = "; ".join(f"{n} was {before.get(n)}, is {about[n]}" for n in differs)
                raise InputError(
                    f"{self.where}: has results of another run: {said}. Give the same, or "
                    "another folder"
                )
        elif found:
            raise InputError(
                f"{self.where}: has something else in it ({min(found)}): give an empty folder, or "
                "that of a run which was broken off"
            )
        else:
            self.write(_ABOUT, wanted.encode())
        return {int(known[1]): name for name in found if (known := _NAME.fullmatch(name))}

    def names(self) -> list[str]:
        """Names of the parts, in their order."""
        found = [name for name in self._listed() if _NAME.fullmatch(name)]
        return sorted(found, key=lambda name: int(name.split("-")[1]))

    def read(self, name: str) -> bytes:
        """Read a file of the folder."""
        if not is_url(self.where):
            return (Path(self.where) / name).read_bytes()
        system, path = file_system(self.where)
        content: bytes = patiently(lambda: system.cat_file(f"{path}/{name}"), name)
        return content

    def write(self, name: str, content: bytes) -> None:
        """Write a file of the folder, whole or not at all."""
        if not is_url(self.where):
            Path(self.where).mkdir(parents=True, exist_ok=True)
            write_atomically(Path(self.where) / name, content)
            return
        system, path = file_system(self.where)
        try:
            patiently(lambda: self._pipe(system, f"{path}/{name}", content), name)
        except Exception as error:  # each store has errors of its own
            raise ModelFileError(
                f"{self.where}/{name}: cannot be written: {described(error)}"
            ) from error

    @staticmethod
    def _pipe(system: Any, path: str, content: bytes) -> None:
        system.makedirs(path.rpartition("/")[0], exist_ok=True)
        system.pipe_file(path, content)

    def _listed(self) -> list[str]:
        if not is_url(self.where):
            return os.listdir(self.where) if os.path.isdir(self.where) else []
        system, path = file_system(self.where)
        system.invalidate_cache()
        if not patiently(lambda: system.isdir(path), self.where):
            return []
        found = patiently(lambda: system.ls(path, detail=False), self.where)
        return [name.rstrip("/").rpartition("/")[2] for name in found]


def file_of(part: Part, style: str) -> str:
    """Name the file of a part's results: it tells the images."""
    return f"part-{part.place:06}-{part.fingerprint}.{style}"


def _rows_of(content: bytes, name: str) -> Iterator[dict[str, Any]]:
    if name.endswith(".jsonl"):
        yield from map(json.loads, content.decode().splitlines())
        return
    import io

    from pyarrow import parquet

    yield from parquet.read_table(io.BytesIO(content)).to_pylist()
