"""Blocks of positions that share a metric, and the positions within reach of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

_STEPS = 4  # positions on a side of a block


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

    def reach(self, block: int, radius: int) -> tuple[range, range]:
        """Rows and columns of a block with those up to `radius` steps around it."""
        rows, columns = (
            range(max(0, along.start - radius), min(self.side, along.stop + radius))
            for along in self.ranges[block]
        )
        return rows, columns

    def around(self, block: int, radius: int) -> NDArray[np.intp]:
        """Positions of a block and those up to `radius` steps around it, row by row."""
        return self._within(*self.reach(block, radius))

    def _within(self, rows: range, columns: range) -> NDArray[np.intp]:
        return np.asarray((np.array(rows)[:, None] * self.side + np.array(columns)).ravel())
