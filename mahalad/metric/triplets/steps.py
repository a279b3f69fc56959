"""What trainings with triplets share: labels, seeds, steps, validation, a watch for collapse."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import f1_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d
from torch import Tensor, nn

from mahalad.errors import InputError

Indices = NDArray[np.int64]

COLLAPSED = 1e-3  # spread, as a share of that before training
CHECKS = 3  # epochs in a row that must show it
_TINY = 1e-30


def checked_labels(y: Any, n_samples: int) -> tuple[NDArray[Any], Indices]:
    """Give the classes, and the class of every sample by number.

    Raises
    ------
    InputError
        Labels of another number or kind, one class only, or a class with a single sample.
    """
    try:
        y = column_or_1d(y, warn=True)
        check_classification_targets(y)
        classes, codes = np.unique(y, return_inverse=True)
    except (TypeError, ValueError) as error:  # of several kinds, such as None among strings
        raise InputError(f"labels cannot be used: {error}") from error
    if len(y) != n_samples:
        raise InputError(f"{len(y)} labels given for {n_samples} samples")
    if len(classes) < 2:
        raise InputError(f"all samples are of one class ({classes[0]}): a triplet needs two")
    counts = np.bincount(codes)
    if counts.min() < 2:
        alone = ", ".join(str(name) for name in classes[counts < 2])
        raise InputError(
            f"only one sample of class {alone}: a triplet needs two of a class. Give more, or "
            "leave the class out"
        )
    return classes, codes


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Take torch's random numbers from a seed, and leave them afterwards as they were."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield


def take_step(
    loss: Tensor, optimizer: torch.optim.Optimizer, max_grad_norm: float
) -> tuple[float, float]:
    """Take one step with gradients cut to a length; return the loss and their length before.

    If one of these is not finite, the weights stay as they are.
    """
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = nn.utils.clip_grad_norm_(parameters, max_grad_norm).item()
    if math.isfinite(loss.item()) and math.isfinite(norm):
        optimizer.step()
    return loss.item(), norm


def neighbours_f1(
    E: NDArray[Any],
    codes: Indices,
    train: Indices,
    held: Indices,
    n_neighbors: int,
) -> float:
    """Compute macro F1 of held-out embeddings by the majority of nearest training neighbours.

    Parameters
    ----------
    E : ndarray of shape (n, n_components)
        Embeddings for the cosine have unit length: their Euclidean neighbours are the same.
    codes : ndarray of int, shape (n,)
    train, held : ndarray of int
        Rows of `E`.
    n_neighbors : int
        Fewer if there are fewer rows in `train`.
    """
    knn = KNeighborsClassifier(min(n_neighbors, len(train)), algorithm="brute")
    predicted = knn.fit(E[train], codes[train]).predict(E[held])
    there = np.unique(codes[held])
    return float(f1_score(codes[held], predicted, labels=there, average="macro", zero_division=0))


class CollapseMonitor:
    """Watch whether all embeddings fall into one point.

    Parameters
    ----------
    before : Tensor of shape (n, n_components)
        Training embeddings before the training.
    margin : float
        The loss that embeddings in one point have.
    """

    def __init__(self, before: Tensor, margin: float) -> None:
        self._before = max(_spread(before), _TINY)
        self._margin = margin
        self._in_a_row = 0

    def spread(self, embedded: Tensor) -> float:
        """Measure the mean squared distance between two embeddings, 1 = before the training."""
        return _spread(embedded) / self._before

    def collapsed(self, spread: float, loss: float) -> bool:
        """Tell whether this is the third epoch in a row that shows a collapse.

        That is a spread below 1e-3 and a loss no less than 0.9 of the margin.
        """
        flat = spread < COLLAPSED and loss >= 0.9 * self._margin
        self._in_a_row = self._in_a_row + 1 if flat else 0
        return self._in_a_row == CHECKS


def _spread(embedded: Tensor) -> float:
    """Mean squared distance between two samples; for unit length 4 times the mean cosine's."""
    x = embedded.double()
    deviations = (x - x.mean(dim=0)).square().sum()
    return 2 * deviations.item() / (len(x) - 1)
