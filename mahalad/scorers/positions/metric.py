"""The metric in which patches are compared: one covariance for each block of positions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mahalad.errors import DegenerateDataError, InputError
from mahalad.possible import GAUSSIAN, POSITIONS, more_images
from mahalad.protocols import Floats
from mahalad.scorers.moments import Moments
from mahalad.scorers.nuisance import Nuisance
from mahalad.scorers.positions.blocks import Blocks
from mahalad.scorers.positions.chunks import for_each_chunk

_SHARED = 0.5  # of the covariance over all positions, in that of a block
_SHRINKAGE = 0.05  # of both towards their mean variance
_TOLERATED = 0.3  # of the covariance of harmless changes


@dataclass(frozen=True)
class Metric:
    """Inverse covariances of blocks of positions.

    M = (1 - s) (S + T) / 2 + (s m + floor m_T) I + 0.3 N, of a block's mean S of the covariances
    at its positions, their mean T over all positions, the mean variance m of both and m_T of T, s
    = 0.05, and N what harmless changes do at the block's positions.

    Attributes
    ----------
    blocks : Blocks
    precisions : ndarray of shape (n_blocks, D, D)
        M^-1 of each block.
    """

    blocks: Blocks
    precisions: Floats

    @classmethod
    def of(cls, scatter: Scatter, floor: float, nuisance: Nuisance | None) -> Metric:
        """Make the metric of all samples of a scatter.

        Raises
        ------
        DegenerateDataError
            All samples are identical.
        """
        return cls(scatter.blocks, _precisions(scatter, scatter.sums, scatter.n, floor, nuisance))


@dataclass(frozen=True)
class Scatter:
    """Sums of squares about the means of positions, block by block.

    Attributes
    ----------
    blocks : Blocks
    weights : ndarray of shape (n_positions,)
        Share of the images that have a position within their picture.
    n : int
        Number of samples.
    location : ndarray of shape (n_positions, D)
    sums : ndarray of shape (n_blocks, D, D)
        Weighted sums over positions of the sum of z z' over samples.
    """

    blocks: Blocks
    weights: Floats
    n: int
    location: Floats
    sums: Floats

    @classmethod
    def of(cls, moments: Moments, weights: Floats) -> Scatter:
        """Take it from the sums at every position.

        Raises
        ------
        InputError
            Fewer than 5 samples.
        """
        if moments.n_samples < POSITIONS:
            raise InputError(
                f"the metric of patches needs at least {POSITIONS} good images, and has "
                f"{moments.n_samples}: {more_images(moments.n_samples)}"
            )
        P, D = moments.s1.shape
        blocks = Blocks(round(P**0.5))
        sums = np.zeros((len(blocks.positions), D, D))

        def add_up(chosen: slice) -> None:
            for block in range(chosen.start, chosen.stop):
                for p in blocks.positions[block]:
                    C = moments.at(slice(p, p + 1)).covariance()[0]
                    sums[block] += weights[p] * moments.n_samples * C

        for_each_chunk(add_up, len(sums), 2**21)
        return cls(blocks, weights, moments.n_samples, moments.mean(), sums)

    def without(
        self,
        X: NDArray[np.floating],
        left_out: list[NDArray[np.bool_]],
        floor: float,
        nuisances: list[Nuisance | None],
    ) -> Iterator[Metric]:
        """Make the metrics of all samples but some, for one choice of these after the other.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_positions, D)
            Samples that are in the sums.
        left_out : list of ndarrays of bool, shape (n_samples,)
        floor : float
        nuisances : list
            What is tolerated without these.
        """
        for chosen_samples, nuisance in zip(left_out, nuisances, strict=True):
            own = X[chosen_samples]
            rest = self.n - len(own)
            if rest < GAUSSIAN:
                raise DegenerateDataError(
                    f"leaving out {len(own)} of {self.n} samples (those of a part, or a "
                    f"fifth of all) leaves {rest}: the metric of patches needs {GAUSSIAN}; give "
                    "images of more parts"
                )
            sums = self.sums.copy()

            def leave_out(
                chosen: slice,
                own: NDArray[np.floating] = own,
                rest: int = rest,
                sums: Floats = sums,
            ) -> None:
                for block in range(chosen.start, chosen.stop):
                    sums[block] -= self._scatter_of(own, block, rest)

            for_each_chunk(leave_out, len(sums), 2**21)
            yield Metric(self.blocks, _precisions(self, sums, rest, floor, nuisance))

    def _scatter_of(self, X: NDArray[np.floating], block: int, rest: int) -> Floats:
        """By what a block's sums are less without some samples, which leaves `rest`."""
        at = self.blocks.positions[block]
        z = X[:, at].astype(np.float64) - self.location[at]
        t = z.sum(axis=0) / np.sqrt(rest)  # of the shift of the mean
        both = np.concatenate([z, t[None]]) * np.sqrt(self.weights[at])[:, None]
        flat = both.reshape(-1, both.shape[-1])
        return np.asarray(flat.T @ flat)


def _precisions(
    scatter: Scatter, sums: Floats, n: int, floor: float, nuisance: Nuisance | None
) -> Floats:
    """M^-1 of every block, (n_blocks, D, D)."""
    D = sums.shape[-1]
    weights = np.array([scatter.weights[at].sum() for at in scatter.blocks.positions])
    T = sums.sum(axis=0) / (max(n - 1, 1) * weights.sum())
    overall = float(np.trace(T)) / D
    rounding = 8 * np.finfo(float).eps * float(np.abs(scatter.location).max(initial=0))
    if overall <= rounding**2:
        raise DegenerateDataError(f"all {n} samples are identical: there is no spread to measure")
    precisions = np.empty_like(sums)

    def invert(chosen: slice) -> None:
        for block in range(chosen.start, chosen.stop):
            own = sums[block] / (max(n - 1, 1) * weights[block]) if weights[block] else T
            M = (1 - _SHARED) * own + _SHARED * T
            diagonal = np.einsum("ii->i", M)  # a view
            mean_variance = diagonal.mean()
            M *= 1 - _SHRINKAGE
            diagonal += _SHRINKAGE * mean_variance + floor * overall
            if nuisance is not None:
                M += _TOLERATED * nuisance.over(scatter.blocks.positions[block]).covariance()
            inverse = np.linalg.inv(M)
            precisions[block] = (inverse + inverse.T) / 2

    for_each_chunk(invert, len(sums), 2**21)
    return precisions
