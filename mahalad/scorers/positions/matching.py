"""Squared distances of patches to the good ones about their positions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mahalad.protocols import Floats, Value
from mahalad.scorers.positions.blocks import Blocks
from mahalad.scorers.positions.chunks import for_each_chunk

ROUNDING = 1e-6
"""Squared distances below this are of rounding alone: places that never vary have distances of 0,
by every metric."""

_AT_ONCE = 64  # images
_WHOLE = 2**21  # of `for_each_chunk`: one at a time

Keep = Callable[[NDArray[np.intp], slice, Tensor], None]


@dataclass(frozen=True, eq=False)
class Matching(Value):
    """Good patches, and the metric of each block of positions.

    A patch x of position p meets the good ones of the positions q that are at most `RADIUS` steps
    away. Both come less the mean of their own position, z and b. With s what the mean of p is more
    than that of q, and M^-1 the metric of p,

    (z + s - b)' M^-1 (z + s - b) = z' M^-1 z + 2 z' M^-1 s - 2 z' M^-1 b + (s - b)' M^-1 (s - b),

    which has no large numbers whose difference is small. Arrays of steps, (n_positions, n_steps,
    ...), are those of q: see `Blocks.sources`.

    Attributes
    ----------
    blocks : Blocks
    precisions : float32 Tensor of shape (n_blocks, D, D)
        M^-1.
    location : ndarray of shape (n_positions, D)
        Means of positions.
    values : float32 Tensor of shape (n_positions, n_patches, D)
        Good patches less these.
    outside : bool Tensor of shape (n_positions, n_patches)
        Good patches that are nobody's neighbours.
    """

    blocks: Blocks
    precisions: Tensor
    location: Floats
    values: Tensor
    outside: Tensor

    @cached_property
    def moves(self) -> Tensor:
        """M^-1 s, (n_positions, n_steps, D)."""
        return self._moved[0]

    @cached_property
    def constants(self) -> Tensor:
        """(s - b)' M^-1 (s - b), (n_positions, n_steps, n_patches); infinite where none meet."""
        blocks, (moves, lengths) = self.blocks, self._moved
        P, n_steps, _ = moves.shape
        found = torch.full((P, n_steps, self.values.shape[1]), torch.inf)
        of_sources = np.where(blocks.exists, blocks.block_of[blocks.sources], -1)

        def measure(chosen: slice) -> None:
            for block in range(chosen.start, chosen.stop):
                at = blocks.around(block)
                rows, steps = np.nonzero(of_sources[at] == block)
                b = self.values[torch.from_numpy(at)]
                norms = ((b @ self.precisions[block]) * b).sum(dim=-1)
                found[at[rows], steps] = norms[rows]

        for_each_chunk(measure, len(blocks.positions), _WHOLE)
        found += lengths[..., None] - 2 * moves @ self.values.mT
        return found.masked_fill_(self.outside[:, None], torch.inf)

    @cached_property
    def _moved(self) -> tuple[Tensor, Tensor]:
        """M^-1 s and s' M^-1 s."""
        blocks = self.blocks
        s = torch.from_numpy(self.location[blocks.sources] - self.location[:, None])
        of_sources, moves = blocks.block_of[blocks.sources], torch.empty_like(s)
        for block, precision in enumerate(self.precisions):
            own = torch.from_numpy(of_sources == block)
            moves[own] = s[own] @ precision.double()
        return moves.float(), (s * moves).sum(dim=-1).float()

    def nearest(self, X: NDArray[Any]) -> Floats:
        """Squared distances (n, n_positions) of features (n, n_positions, D) to the nearest patch.

        Infinite where there is none.
        """
        found = np.empty(X.shape[:2])
        for images in _parts(len(X)):
            found[images] = self._nearest(*self._metric(X[images])).T.numpy()
        return found

    def _nearest(self, z: Tensor, y: Tensor) -> Tensor:
        """Not the many patches are moved to their neighbours' places, but the few features."""
        P, n, D = z.shape
        sources = torch.from_numpy(self.blocks.sources)
        n_steps, n_patches = self.constants.shape[1:]
        least = torch.empty(P, n_steps, n)

        def meet(at: slice) -> None:
            there = (y[sources[at]] * -2).reshape(-1, n_steps * n, D) @ self.values[at].mT
            found = there.reshape(-1, n_steps, n, n_patches)
            found += self.constants[at, :, None]
            across = (z[sources[at]] * self.moves[at, :, None]).sum(dim=-1)
            torch.add(found.amin(dim=-1), across, alpha=2, out=least[at])

        for_each_chunk(meet, P, n_steps * n * n_patches)
        met = least.reshape(P * n_steps, n)[torch.from_numpy(self.blocks.targets)]
        squares = met.amin(dim=1) + (z * y).sum(dim=-1)
        return squares.masked_fill_(squares < ROUNDING, 0)

    def each(self, X: NDArray[Any], keep: Keep) -> None:
        """Call `keep` with positions, images, and their squared distances to each good patch.

        These have the shape (positions, images, n_patches), and are infinite where patches do not
        count.
        """
        side, n_patches = self.blocks.side, self.values.shape[1]
        _ = self.constants, self.moves  # once, before threads ask for them
        for images in _parts(len(X)):
            z, y = self._metric(X[images])
            lengths, y = (z * y).sum(dim=-1, keepdim=True), y * -2

            def compare(
                rows: slice, images: slice = images, z: Tensor = z, y: Tensor = y,
                lengths: Tensor = lengths,
            ) -> None:  # fmt: skip
                for row in range(rows.start, rows.stop):
                    best = torch.full((side, z.shape[1], n_patches), torch.inf)
                    for step, (own, there) in self.blocks.meetings(row):
                        found = torch.baddbmm(
                            self.constants[there, step, None], y[own], self.values[there].mT
                        )
                        across = (z[own] * self.moves[there, step, None]).sum(-1, keepdim=True)
                        found.add_(across, alpha=2)
                        at = slice(own.start - row * side, own.stop - row * side)
                        torch.minimum(best[at], found, out=best[at])
                    at = slice(row * side, (row + 1) * side)
                    best += lengths[at]
                    keep(
                        np.arange(at.start, at.stop), images, best.masked_fill_(best < ROUNDING, 0)
                    )

            for_each_chunk(compare, side, _WHOLE)

    def _metric(self, X: NDArray[Any]) -> tuple[Tensor, Tensor]:
        """Features less the means of their positions, z, and M^-1 z: (n_positions, n, D)."""
        z = torch.from_numpy((X - self.location).astype(np.float32).swapaxes(0, 1)).contiguous()
        members, place = self.blocks.members
        together = z[torch.from_numpy(members)].reshape(len(self.precisions), -1, z.shape[2])
        y = (together @ self.precisions).reshape(len(members), *z.shape[1:])
        return z, y[torch.from_numpy(place)]

    def ready(self) -> None:
        """Compute now what questions need: they change nothing that is kept."""
        _ = self.constants, self.moves, self.blocks.members, self.blocks.targets


def _parts(n: int) -> list[slice]:
    return [slice(i, min(i + _AT_ONCE, n)) for i in range(0, n, _AT_ONCE)]
