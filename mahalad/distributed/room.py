"""What a fit on many machines has room for, known to all of them while it goes on."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mahalad.detectors.reservoir import limit_of
from mahalad.detectors.state import Bounds, FitState

_PATIENCE = 30.0  # seconds that the answer may take


class Room:
    """Know the bounds of the images read so far, from the hashes of those that are kept.

    Bounds of parts alone are loose: each of k parts has room for all that the fit has room for.
    Those of their union are as tight as can be, and no image that stays in the end is beyond them,
    as each is counted once at most.

    Parameters
    ----------
    capacity : int or None
        Most images kept; None for all.
    """

    def __init__(self, capacity: int | None) -> None:
        self._capacity = capacity
        self._turn = 0
        self._known: set[int] = set()
        self._hashes = np.empty(0, np.uint64)
        self._bounds = Bounds()

    def start(self, turn: int, hashes: NDArray[np.uint64], bounds: Bounds) -> None:
        """Begin a turn of a fit that keeps images of some hashes (n,) already."""
        self._turn, self._known = turn, set()
        self._hashes, self._bounds = np.empty(0, np.uint64), bounds
        self._add(hashes)

    def tell(self, turn: int, number: int, hashes: NDArray[np.uint64], bounds: Bounds) -> None:
        """Add the images kept of some parts; those of a number that is known are not counted.

        Work that is done again has the same number, and images of an earlier turn are counted
        already.
        """
        self._bounds = self._bounds.lowered(bounds)
        if turn == self._turn and number not in self._known:
            self._known.add(number)
            self._add(hashes)

    def bounds(self) -> Bounds:
        """Those of all images so far."""
        return self._bounds

    def _add(self, hashes: NDArray[np.uint64]) -> None:
        if self._capacity is None:
            return
        both = np.concatenate([self._hashes, hashes])
        self._bounds = self._bounds.lowered(Bounds(limit_of(both, self._capacity)))
        limit = self._bounds.kept
        self._hashes = both if limit is None else both[both < limit]


class SharedRoom:
    """A `Room` in a process of its own, which all processes of a cluster ask.

    Where it is lost, or slow, nobody waits for it: parts are larger than they need be, and the
    result is the same.

    Parameters
    ----------
    ray : module
    capacity : int or None
        See `Room`.
    """

    def __init__(self, ray: Any, capacity: int | None) -> None:
        self._room = ray.remote(num_cpus=0)(Room).remote(capacity)
        self._turn = 0

    def start(self, state: FitState | None) -> None:
        """Begin a turn, of a fit that has a state already."""
        self._turn += 1
        known = (np.empty(0, np.uint64), Bounds())
        if state is not None:
            known = state.store.hashes, state.bounds
        self._room.start.remote(self._turn, *known)

    def tell(self, number: int, state: FitState) -> None:
        """Say what is kept of some parts, which have a number."""
        self._room.tell.remote(self._turn, number, state.store.hashes, state.bounds)

    def bounds(self) -> Bounds:
        """Ask for the bounds; none if there is no answer."""
        import ray

        try:
            found: Bounds = ray.get(self._room.bounds.remote(), timeout=_PATIENCE)
        except ray.exceptions.RayError:  # also where it did not answer in time
            return Bounds()
        return found
