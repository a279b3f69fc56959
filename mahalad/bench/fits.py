"""Which good images of a category are fitted to: all, folds, or a few drawn at random."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import KFold

from mahalad.bench.features import Rows
from mahalad.errors import InputError
from mahalad.images.mvtec import Category


@dataclass(frozen=True)
class Fits:
    """Which images of a category are fitted to, one array of rows for each fit."""

    protocol: str
    draws: int
    seed: int

    def rows(self, category: Category, shots: int | None) -> list[Rows]:
        """Draw so many images, or follow the protocol."""
        n_train = len(category.train)
        if shots is not None:
            return draw_images(category, shots, self.draws, self.seed)
        if self.protocol == "official":
            return [np.arange(n_train)]
        folds = KFold(5, shuffle=True, random_state=0)
        return [fitted for fitted, _ in folds.split(np.arange(n_train))]


def draw_images(category: Category, n_images: int, n_draws: int, seed: int) -> list[Rows]:
    """Draw training images, without repeats within a draw; the rows of each draw.

    A draw's images are the first of an order of its own, so that more images are those of fewer
    and others; and each category has its own orders, whatever other categories there are.
    """
    name = zlib.crc32(category.name.encode())
    orders = [
        np.random.default_rng([seed, name, draw]).permutation(len(category.train))
        for draw in range(n_draws)
    ]
    return [np.sort(order[:n_images]) for order in orders]


def check_shots(categories: Sequence[Category], shots: Sequence[int]) -> None:
    """Refuse more images than a category has, before the work.

    Raises
    ------
    InputError
    """
    for category in categories:
        if shots and max(shots) > len(category.train):
            raise InputError(
                f"shots={max(shots)}: category {category.name} has {len(category.train)} training "
                "images"
            )


def why_not(needed: int, n_images: int, error: Exception) -> str:
    """Say why a fit to so many images is not possible, from the error that it gave."""
    return f"needs {needed}" if n_images < needed else str(error)
