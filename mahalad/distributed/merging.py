"""Parts of a fit, merged as a tree where they lie: the driver has references alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mahalad.detectors.fitting import FitReader
from mahalad.detectors.parts import open_reader
from mahalad.detectors.state import FitState
from mahalad.distributed.pool import MOST_RESTARTS
from mahalad.distributed.room import SharedRoom
from mahalad.distributed.working import Answer, answers_in, joined_warnings

FAN_IN = 8
"""Parts that are merged together."""

_MOST_AT_ONCE = 4  # merges under way


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

    def result(self) -> tuple[FitState | None, dict[str, int]]:
        """Merge what is left, the last FAN_IN of it here; also give counts of warnings.

        The state is None if nothing was added.

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
        return merged_parts(map(self._ray.get, left), self._reader)

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
    failures = [text for table in tables for text in table["failure"].to_pylist() if text]
    if failures:
        return Answer(failure=failures[0]).as_table()
    state, warned = merged_parts(tables, reader)
    if state is not None and told is not None:
        room, number = told
        room.tell(number, state)
    packed = b"" if state is None else reader.pack(state)
    return Answer(content=packed, warnings=warned).as_table()


def merged_parts(
    tables: Iterable[Any], reader: FitReader
) -> tuple[FitState | None, dict[str, int]]:
    """Merge parts of tables in their order; also give counts of their warnings.

    Raises
    ------
    MahaladError
        What went wrong with one of them.
    """
    state = None
    warned: dict[str, int] = {}
    for part in answers_in(row for table in tables for row in table.to_pylist()):
        warned = joined_warnings([warned, part.warnings])
        if part.content:
            own = reader.unpack(part.content)
            state = own if state is None else state.merge(own)
    return state, warned
