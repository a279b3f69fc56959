"""Balanced batches: P classes with K samples of each, so that every anchor has its triplets."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mahalad.checks import Whole, check_parameters
from mahalad.errors import InputError

Indices = NDArray[np.int64]
_MOST_CLASSES = 8  # in one batch, unless asked for


class BalancedBatches:
    """Draw batches of P classes x K samples.

    Iterating gives the batches of one epoch, ``ceil(n / (P * K))`` of them; iterating again
    gives the next epoch's. A class is gone through in random order, and again in a new order
    when fewer than K of it are left, so no sample is twice in a batch; of a class with fewer
    than K samples, K are drawn with replacement.

    Parameters
    ----------
    labels : array-like of shape (n,)
        At least 2 different ones.
    n_classes : int or None, default=None
        P, drawn anew for every batch if there are more; None for all, or 8 if there are more.
    n_per_class : int, default=16
        K.
    rng : int, Generator or None, default=0
        One seed gives the same batches in the same order.

    Raises
    ------
    InputError
        Fewer than 2 labels or than `n_classes`, or numbers that are too small.

    References
    ----------
    Hermans et al., "In Defense of the Triplet Loss for Person Re-Identification", 2017,
    section 2 ("PK batches").

    Examples
    --------
    >>> batches = BalancedBatches(["a"] * 6 + ["b"] * 3, n_per_class=2)
    >>> [np.bincount(batch // 6).tolist() for batch in batches]  # how many of "a" and of "b"
    [[2, 2], [2, 2], [2, 2]]
    """

    def __init__(
        self,
        labels: ArrayLike,
        n_classes: int | None = None,
        n_per_class: int = 16,
        rng: int | np.random.Generator | None = 0,
    ) -> None:
        names, codes = np.unique(np.asarray(labels), return_inverse=True)
        if len(names) < 2:
            raise InputError(f"balanced batches need at least 2 classes, got {len(names)}")
        if n_classes is None:
            n_classes = min(len(names), _MOST_CLASSES)
        limits = {"n_classes": Whole(2, len(names)), "n_per_class": Whole(2)}
        check_parameters(limits, {"n_classes": n_classes, "n_per_class": n_per_class})
        self._members = [np.flatnonzero(codes == code) for code in range(len(names))]
        self._n_classes, self._n_per_class = int(n_classes), int(n_per_class)
        self._n_batches = math.ceil(codes.size / (self._n_classes * self._n_per_class))
        self._rng = np.random.default_rng(rng)

    def __len__(self) -> int:
        """Number of batches of one epoch."""
        return self._n_batches

    def __iter__(self) -> Iterator[Indices]:
        """Indices of each batch, shape (P * K,), the classes one after another."""
        left: list[NDArray[Any]] = [members[:0] for members in self._members]
        for _ in range(self._n_batches):
            batch = []
            for code in self._rng.choice(len(self._members), self._n_classes, replace=False):
                members, K = self._members[code], self._n_per_class
                if len(members) < K:
                    batch.append(self._rng.choice(members, K))
                    continue
                if len(left[code]) < K:
                    left[code] = self._rng.permutation(members)
                batch.append(left[code][:K])
                left[code] = left[code][K:]
            yield np.concatenate(batch)


def hold_out(codes: Indices, fraction: float, rng: np.random.Generator) -> tuple[Indices, Indices]:
    """Split samples by class: indices to train with, and indices held out, both ascending.

    A share `fraction` of every class is held out, rounded, and at least 1 sample. Two samples of a
    class always stay to train with, so a class of 2 gives none. If `fraction` is 0, none is held
    out at all.
    """
    held = []
    for code in np.unique(codes) if fraction else []:
        members = rng.permutation(np.flatnonzero(codes == code))
        held.append(members[: min(max(round(fraction * len(members)), 1), len(members) - 2)])
    out = np.sort(np.concatenate(held)) if held else np.empty(0, np.int64)
    return np.setdiff1d(np.arange(len(codes)), out), out
