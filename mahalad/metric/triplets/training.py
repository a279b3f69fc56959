"""The training behind `TripletProjection`: its epochs, and which of them is the best."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mahalad.errors import CollapseError
from mahalad.metric.triplets.batches import BalancedBatches, Indices
from mahalad.metric.triplets.losses import LOSSES
from mahalad.metric.triplets.steps import (
    CHECKS,
    COLLAPSED,
    CollapseMonitor,
    neighbours_f1,
    take_step,
)

_log = logging.getLogger(__name__)

_BLOCK = 128  # validation samples per loss: some losses take the third power of them
_SMOOTHED = 10  # epochs whose mean F1 is compared: that of one is mostly luck


@dataclass(frozen=True)
class Recipe:
    """How the training goes: parameters of `TripletProjection`, which describes them."""

    loss: str
    distance: str
    margin: float
    n_per_class: int
    learning_rate: float
    weight_decay: float
    patience: int
    n_neighbors: int
    max_grad_norm: float


class TripletTraining:
    """One training.

    Parameters
    ----------
    network : nn.Sequential
        From features to embeddings; trained in place.
    recipe : Recipe
    F : ndarray of shape (n, n_features), float32
    codes : ndarray of int, shape (n,)
        Class of each sample.
    train, held : ndarray of int
        Samples to train on, and those that choose the epoch; perhaps none.
    rng : Generator
        Draws batches.

    Attributes
    ----------
    history : list of dict
    best_epoch : int
        As of `TripletProjection`.
    """

    def __init__(
        self,
        network: nn.Sequential,
        recipe: Recipe,
        F: NDArray[Any],
        codes: Indices,
        train: Indices,
        held: Indices,
        rng: np.random.Generator,
    ) -> None:
        self.history: list[dict[str, Any]] = []
        self.best_epoch = 0
        self._network, self._recipe = network, recipe
        self._codes, self._train, self._held = codes, train, held
        device = next(network.parameters()).device
        self._features = torch.tensor(F, device=device)
        self._labels = torch.tensor(codes, device=device)
        self._batches = BalancedBatches(codes[train], n_per_class=recipe.n_per_class, rng=rng)
        self._optimizer = torch.optim.AdamW(
            network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        n_blocks = -(-len(held) // _BLOCK)
        self._blocks = np.array_split(rng.permutation(held), n_blocks) if len(held) else []

    def run(self, n_epochs: int) -> None:
        """Run the epochs, and leave the network with the weights of the best one.

        Raises
        ------
        CollapseError
            The embeddings fell into one point, or something is not finite.
        """
        monitor = CollapseMonitor(self._embed()[self._train], self._recipe.margin)
        best: tuple[float, float] = (-math.inf, -math.inf)
        kept: dict[str, Tensor] = {}
        for epoch in range(1, n_epochs + 1):
            row = self._run_one(epoch, monitor)
            if not len(self._held) or epoch < min(_SMOOTHED, n_epochs):
                self.best_epoch = epoch
                continue
            recent = [past["validation_f1"] for past in self.history[-_SMOOTHED:]]
            quality = (float(np.mean(recent)), -row["validation_loss"])
            if quality > best:
                best, self.best_epoch = quality, epoch
                kept = {name: w.clone() for name, w in self._network.state_dict().items()}
            elif epoch - self.best_epoch >= self._recipe.patience:
                break
        if len(self._held):
            self._network.load_state_dict(kept)

    def _run_one(self, epoch: int, monitor: CollapseMonitor) -> dict[str, Any]:
        """One epoch, and its row of the history."""
        row: dict[str, Any] = {"epoch": epoch, **self._take_steps()}
        embedded = self._embed()
        row["spread"] = monitor.spread(embedded[self._train])
        if not math.isfinite(row["spread"]):
            raise CollapseError(self._divergence(row["loss"], row["grad_norm"]))
        row |= self._validate(embedded)
        self.history.append(row)
        _log.debug("epoch %d: %s", epoch, row)
        if monitor.collapsed(row["spread"], row["loss"]):
            raise CollapseError(self._collapse())
        return row

    def _take_steps(self) -> dict[str, float]:
        """The steps of an epoch; mean loss and gradient norm."""
        losses, norms = [], []
        self._network.train()
        for batch in self._batches:
            rows = torch.tensor(self._train[batch], device=self._features.device)
            loss = self._loss(self._network(self._features[rows]), self._labels[rows])
            value, norm = take_step(loss, self._optimizer, self._recipe.max_grad_norm)
            losses.append(value)
            norms.append(norm)
            if not math.isfinite(value) or not math.isfinite(norm):
                raise CollapseError(self._divergence(value, norm))
        self._network.eval()
        return {"loss": float(np.mean(losses)), "grad_norm": float(np.mean(norms))}

    def _validate(self, embedded: Tensor) -> dict[str, float | None]:
        """Macro F1 of the held-out samples' nearest training neighbours, and their loss."""
        if not len(self._held):
            return {"validation_f1": None, "validation_loss": None}
        E = embedded.cpu().numpy()
        f1 = neighbours_f1(E, self._codes, self._train, self._held, self._recipe.n_neighbors)
        loss = sum(
            self._loss(embedded[block], self._labels[block]).item() * len(block)
            for block in self._blocks
        )
        return {"validation_f1": f1, "validation_loss": loss / len(self._held)}

    def _loss(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        recipe = self._recipe
        return LOSSES[recipe.loss](
            embeddings, labels, margin=recipe.margin, distance=recipe.distance
        )

    def _embed(self) -> Tensor:
        return embed(self._network, self._features, self._recipe.distance)

    def _collapse(self) -> str:
        row, recipe = self.history[-1], self._recipe
        other = "" if recipe.loss == "batch-hard-scaled" else "loss='batch-hard-scaled', or "
        return (
            f"the embeddings collapsed into one point: in epoch {row['epoch']} their spread is "
            f"{row['spread']:.1e} of that before training, for {CHECKS} epochs below "
            f"{COLLAPSED:g}, and the loss {row['loss']:.3g} (loss={recipe.loss!r}, margin "
            f"{recipe.margin:g}). Give {other}a smaller learning_rate than {recipe.learning_rate:g}"
        )

    def _divergence(self, loss: float, norm: float) -> str:
        return (
            f"training diverged in epoch {len(self.history) + 1}: a loss of {loss:.3g}, a "
            f"gradient of norm {norm:.3g}, or embeddings too large for float32. Standardise the "
            "features (StandardScaler), or give a smaller learning_rate than "
            f"{self._recipe.learning_rate:g}"
        )


@torch.no_grad()
def embed(network: nn.Module, features: Tensor, distance: str) -> Tensor:
    """Compute embeddings (n, n_components) of features (n, d); of unit length for "cosine"."""
    network.eval()
    embedded: Tensor = network(features)
    return nn.functional.normalize(embedded) if distance == "cosine" else embedded
