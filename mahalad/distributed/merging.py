"""Parts of a fit, merged as a tree where they lie: the driver has references alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mahalad.detectors.fitting import FitReader
from mahalad.detectors.parts import open_reader
from mahalad.detectors.state import FitState
from mahalad.distributed.pool import MOST_RESTARTS
from mahalad.distributed.room import SharedRoom
from mahalad.distributed.working import joined_warnings, raise_failure

FAN_IN = 8
"""Parts that are merged together."""

_MOST_AT_ONCE = 4  # merges under way


@dataclass(frozen=True)
class PartRead:
    """What came of a part of the images, or of several.

    Attributes
    ----------
    n : int
        Images, read or not.
    state : bytes
        Of `FitReader.pack`; empty if there is a failure.
    warnings : dict of str to int
        What was warned of, and how often.
    failure : str
        See `mahalad.distributed.working.raise_failure`.
    """

    n: int
    state: bytes = b""
    warnings: Mapping[str, int] = field(default_factory=dict)
    failure: str = ""

    def as_table(self) -> Any:
        """Make a table with one row of it."""
        import pyarrow as pa

        columns = {
            "n": pa.array([self.n], pa.int64()),
            "state": pa.array([self.state], pa.large_binary()),
            "warnings": pa.array([json.dumps(dict(self.warnings))]),
            "failure": pa.array([self.failure]),
        }
        return pa.table(columns)


def parts_in(table: Any) -> Iterator[PartRead]:
    """Read the rows of a table, each from `PartRead.as_table`."""
    for row in table.to_pylist():
        yield PartRead(row["n"], row["state"], json.loads(row["warnings"]), row["failure"])


class Tree:
    """Merge parts in their order, FAN_IN at a time, as they come.

    Parameters
    ----------
    ray : module
    reader : FitReader
        Merges what is left in the end, here.
    sent : reference to bytes
        The reader as `pack_reader` gives it, for other processes.
    room : SharedRoom
        Is told what is kept of the parts.
    """

    def __init__(self, ray: Any, reader: FitReader, sent: Any, room: SharedRoom) -> None:
        self._ray, self._reader, self._sent, self._room = ray, reader, sent, room
        # Without a CPU of their own, merges never wait for the pool.
        self._merge = ray.remote(num_cpus=0, max_retries=MOST_RESTARTS)(merge_tables)
        self._levels: list[list[Any]] = []
        self._pending: list[Any] = []
        self._n_told = 0

    def add(self, table: Any, level: int = 0) -> None:
        """Add a reference to the next table of parts."""
        if level == len(self._levels):
            self._levels.append([])
        self._levels[level].append(table)
        if len(self._levels[level]) == FAN_IN:
            together, self._levels[level] = self._levels[level], []
            self.add(self._merged(together, of_parts=level == 0), level + 1)

    def result(self) -> tuple[FitState | None, PartRead]:
        """Merge what is left, the last FAN_IN of it here; None if nothing was added.

        Raises
        ------
        MahaladError
            What went wrong elsewhere.
        """
        left = [table for level in reversed(self._levels) for table in level]
        while len(left) > FAN_IN:
            together = [left[i : i + FAN_IN] for i in range(0, len(left), FAN_IN)]
            left = [
                self._merged(tables, of_parts=False) if len(tables) > 1 else tables[0]
                for tables in together
            ]
        self._levels, self._pending = [], []
        found = (part for table in left for part in parts_in(self._ray.get(table)))
        return merged_parts(found, self._reader)

    def _merged(self, tables: list[Any], *, of_parts: bool) -> Any:
        """A reference to the table of several; what is kept of single parts is told."""
        told = None
        if of_parts:
            told, self._n_told = (self._room, self._n_told), self._n_told + 1
        if len(self._pending) >= _MOST_AT_ONCE:
            self._pending = self._ray.wait(self._pending, num_returns=1)[1]
        found = self._merge.remote(self._sent, told, *tables)
        self._pending.append(found)
        return found


def merge_tables(sent: bytes, told: tuple[SharedRoom, int] | None, *tables: Any) -> Any:
    """Merge tables of parts, in another process, into one with a single row.

    Where a room is given, it is told what is kept of them, under a number.
    """
    reader = open_reader(sent, build=False)
    failures = [part for table in tables for part in parts_in(table) if part.failure]
    if failures:
        return failures[0].as_table()
    parts = (part for table in tables for part in parts_in(table))
    state, about = merged_parts(parts, reader)
    if state is not None and told is not None:
        room, number = told
        room.tell(number, state)
    packed = b"" if state is None else reader.pack(state)
    return PartRead(about.n, packed, about.warnings).as_table()


def merged_parts(parts: Iterable[PartRead], reader: FitReader) -> tuple[FitState | None, PartRead]:
    """Merge parts in their order; also give their number of images, and warnings.

    Raises
    ------
    MahaladError
        What went wrong with one of them.
    """
    state, n = None, 0
    warned: dict[str, int] = {}
    for part in parts:
        raise_failure(part.failure)
        n += part.n
        warned = joined_warnings([warned, part.warnings])
        if part.state:
            own = reader.unpack(part.state)
            state = own if state is None else state.merge(own)
    return state, PartRead(n, warnings=warned)
