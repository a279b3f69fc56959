"""Blocks of positions that share a metric, and which positions are within reach of which."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

RADIUS = 1
"""Steps from a position to those whose good patches count, in each direction."""

_STEPS = 4  # positions on a side of a block
_MOVES = tuple((dy, dx) for dy in range(-RADIUS, RADIUS + 1) for dx in range(-RADIUS, RADIUS + 1))


@dataclass(frozen=True)
class Blocks:
    """A square grid in blocks of some 4 x 4 positions.

    Attributes
    ----------
    side : int
        Positions on a side of the grid.
    """

    side: int

    @cached_property
    def ranges(self) -> tuple[tuple[range, range], ...]:
        """Rows and columns of each block."""
        n = max(1, self.side // _STEPS)
        edges = np.linspace(0, self.side, n + 1).round().astype(int).tolist()
        along = [range(*ends) for ends in pairwise(edges)]
        return tuple((rows, columns) for rows in along for columns in along)

    @cached_property
    def positions(self) -> tuple[NDArray[np.intp], ...]:
        """Positions of each block, row by row."""
        return tuple(self._within(*block) for block in self.ranges)

    @cached_property
    def block_of(self) -> NDArray[np.intp]:
        """Number of the block of each position."""
        found = np.empty(self.side**2, dtype=np.intp)
        for block, at in enumerate(self.positions):
            found[at] = block
        return found

    @cached_property
    def members(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Positions block by block, and where among these each position is.

        All blocks have the same number: smaller ones have one of theirs several times.
        """
        most = max(map(len, self.positions))
        members = np.concatenate([np.resize(at, most) for at in self.positions])
        place = np.empty(self.side**2, dtype=np.intp)
        place[members] = np.arange(len(members))
        return members, place

    def around(self, block: int) -> NDArray[np.intp]:
        """Positions of a block and those up to `RADIUS` steps around it, row by row."""
        rows, columns = (
            range(max(0, along.start - RADIUS), min(self.side, along.stop + RADIUS))
            for along in self.ranges[block]
        )
        return self._within(rows, columns)

    @cached_property
    def sources(self) -> NDArray[np.intp]:
        """Position p from which each step leads to q, (q, steps); where there is none, 0."""
        return np.where(self.exists, self._moved(-1)[0], 0)

    @cached_property
    def exists(self) -> NDArray[np.bool_]:
        """Whether there is such a position, (q, steps)."""
        return self._moved(-1)[1]

    @cached_property
    def targets(self) -> NDArray[np.intp]:
        """Where among all (q, steps), flat, each step from p leads: (p, steps).

        Beyond the edge there is nothing: the step to its own place is there once more.
        """
        q, there = self._moved(1)
        own = np.arange(self.side**2)[:, None] * len(_MOVES) + len(_MOVES) // 2
        return np.where(there, q * len(_MOVES) + np.arange(len(_MOVES)), own)

    def meetings(self, row: int) -> Iterator[tuple[int, tuple[slice, slice]]]:
        """Steps from a row of positions: the number of each, those it leads from, and to."""
        for step, (dy, dx) in enumerate(_MOVES):
            start, stop = max(0, -dx), min(self.side, self.side - dx)
            if 0 <= row + dy < self.side and start < stop:
                own, there = row * self.side, (row + dy) * self.side + dx
                yield step, (slice(own + start, own + stop), slice(there + start, there + stop))

    def _moved(self, sign: int) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """Where each step leads from each position, or, by the sign -1, from where it leads there;
        and whether that is on the grid: both (positions, steps)."""
        steps = sign * np.array(_MOVES)
        row, column = np.divmod(np.arange(self.side**2)[:, None], self.side)
        row, column = row + steps[:, 0], column + steps[:, 1]
        there = (row >= 0) & (row < self.side) & (column >= 0) & (column < self.side)
        return row * self.side + column, there

    def _within(self, rows: range, columns: range) -> NDArray[np.intp]:
        return np.asarray((np.array(rows)[:, None] * self.side + np.array(columns)).ravel())
