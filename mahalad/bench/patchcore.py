"""PatchCore, as published, over the maps that `BackboneFeatures` gives: a baseline."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from mahalad.bench.stacking import maps_of, stack
from mahalad.protocols import Features, Floats

_BATCH = 8  # images at a time


class PatchCore(BaseEstimator):
    """Distance of patches to the nearest of a coreset of those of good images.

    Parameters
    ----------
    coreset : float, default=0.01
        Share of all patches that are kept, by greedy selection.
    n_neighbors : int, default=9
        Patches of the coreset that re-weight the score.
    n_projected : int, default=128
        Dimensions of the random projection in which the selection measures distances.
    random_state : int, default=0
        Draws the projection, and the first patch.

    Attributes
    ----------
    bank_ : ndarray of shape (n_kept, D)

    Notes
    -----
    A patch is the mean of 3 x 3 positions, as the maps have it; coarser maps are enlarged
    bilinearly to the finest grid. With s the largest distance of an image's patches x to the bank,
    m the patch of the bank that is nearest to that x, and N the `n_neighbors` patches of the bank
    nearest to m (m is one of them), the score is

        (1 - exp |x - m| / sum over N of exp |x - m'|) s

    References
    ----------
    K. Roth et al., "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022, equations
    6 and 7 and algorithm 1.
    """

    accepts_levels: ClassVar[bool] = True
    fewest: ClassVar[int] = 1

    def __init__(
        self,
        coreset: float = 0.01,
        *,
        n_neighbors: int = 9,
        n_projected: int = 128,
        random_state: int = 0,
    ) -> None:
        self.coreset = coreset
        self.n_neighbors = n_neighbors
        self.n_projected = n_projected
        self.random_state = random_state

    def fit(self, X: Features, y: Any = None) -> Self:
        """Keep a coreset of the patches of good images."""
        F = _patches(X)
        patches = F.reshape(-1, F.shape[-1])
        n_kept = max(1, round(self.coreset * len(patches)))
        rng = np.random.default_rng(self.random_state)
        projected = patches
        if patches.shape[1] > self.n_projected:
            basis = rng.normal(size=(patches.shape[1], self.n_projected)) / self.n_projected**0.5
            projected = patches @ basis.astype(np.float32)
        first = int(rng.integers(len(patches)))
        self.bank_ = patches[select_greedily(projected, n_kept, first)]
        return self

    def anomaly_maps(self, X: Features) -> Floats:
        """Distance of every patch to the nearest of the bank, (n, side, side), up = abnormal."""
        distances = self._nearest(X)[0]
        side = round(distances.shape[1] ** 0.5)
        return distances.reshape(-1, side, side)

    def score_samples(self, X: Features) -> Floats:
        """Minus the re-weighted largest distance of each image, (n,), up = normal."""
        distances, nearest, F = self._nearest(X)
        scores = np.empty(len(F))
        b = min(self.n_neighbors, len(self.bank_))
        for i, patches in enumerate(F):
            farthest = int(distances[i].argmax())
            s, own = distances[i, farthest], self.bank_[nearest[i, farthest]]
            around = np.argsort(((self.bank_ - own) ** 2).sum(axis=1), kind="stable")[:b]
            to_around = np.linalg.norm(self.bank_[around] - patches[farthest], axis=1)
            weight = 1 - 1 / np.exp(to_around.astype(float) - s).sum() if b > 1 else 1.0
            scores[i] = weight * s
        return -scores

    def _nearest(self, X: Features) -> tuple[Floats, NDArray[np.intp], NDArray[np.float32]]:
        """Distance to the nearest patch of the bank, its row, and the patches themselves."""
        check_is_fitted(self)
        F = _patches(X)
        norms = (self.bank_.astype(np.float64) ** 2).sum(axis=1)
        nearest = np.empty(F.shape[:2], np.intp)
        for i in range(0, len(F), _BATCH):
            product = F[i : i + _BATCH] @ self.bank_.T
            nearest[i : i + _BATCH] = (norms.astype(np.float32) - 2 * product).argmin(axis=-1)
        # The difference itself: |x|^2 - 2 x'm + |m|^2 would leave rounding where they are alike.
        distances = np.empty(F.shape[:2])
        for i, patches in enumerate(F):
            distances[i] = np.linalg.norm(patches - self.bank_[nearest[i]], axis=-1)
        return distances, nearest, F


def _patches(X: Features) -> NDArray[np.float32]:
    maps = maps_of(X)
    return stack(maps, "bilinear", max(values.shape[1] for values in maps))


def select_greedily(X: NDArray[np.float32], n_kept: int, first: int) -> NDArray[np.intp]:
    """Choose rows one by one, each the farthest from those before: their indices.

    Parameters
    ----------
    X : ndarray of shape (n, d)
    n_kept : int
    first : int
        The row to start with.
    """
    squared = np.einsum("nd,nd->n", X, X)
    chosen = np.empty(n_kept, np.intp)
    chosen[0] = first
    to_chosen = np.full(len(X), np.inf, np.float32)
    for i in range(1, n_kept):
        last = chosen[i - 1]
        to_last = squared - 2 * (X @ X[last]) + squared[last]
        np.minimum(to_chosen, to_last, out=to_chosen)
        to_chosen[last] = -np.inf  # never again, whatever rounding leaves
        chosen[i] = to_chosen.argmax()
    return chosen
