"""The training behind `FineTuner`: a projection alone, then with it one level after another."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mahalad.errors import CollapseError
from mahalad.metric.finetuning.toplevels import N_ORIENTATIONS, TopLevels
from mahalad.metric.triplets.batches import BalancedBatches, Indices
from mahalad.metric.triplets.losses import LOSSES
from mahalad.metric.triplets.projection import TripletProjection
from mahalad.metric.triplets.steps import (
    CHECKS,
    COLLAPSED,
    CollapseMonitor,
    neighbours_f1,
    take_step,
)
from mahalad.progress import Progress

_log = logging.getLogger(__name__)

HEAD_EPOCHS = 30  # of the projection alone
HEAD_RATE = 1e-3


@dataclass(frozen=True)
class Recipe:
    """How the training goes: parameters of `FineTuner`, which describes them."""

    stages: int
    epochs: int
    learning_rate: float
    weight_decay: float
    any_orientation: bool
    loss: str
    margin: float
    n_per_class: int
    n_neighbors: int
    max_grad_norm: float
    random_state: int


class Unfreezing:
    """One training.

    Parameters
    ----------
    recipe : Recipe
    top : TopLevels
        Of the pictures to train on; its network is changed.
    codes : ndarray of int, shape (n,)
        Class of each picture.
    train, held : ndarray of int
        Pictures that are trained on, and those that choose the stage.
    rng : Generator
        Draws batches and orientations.

    Attributes
    ----------
    history, stages : list of dict
    best_stage : int
        As of `FineTuner`.
    """

    def __init__(
        self,
        recipe: Recipe,
        top: TopLevels,
        codes: Indices,
        train: Indices,
        held: Indices,
        rng: np.random.Generator,
    ) -> None:
        self._recipe, self._top, self._codes = recipe, top, codes
        self._train, self._held, self._rng = train, held, rng
        self._labels = torch.tensor(codes, device=top.device)
        self._batches = BalancedBatches(codes[train], n_per_class=recipe.n_per_class, rng=rng)
        # One for all stages: a new one for each of them unlearned what was learnt (measured).
        self._head = self._make_head()
        self.history: list[dict[str, Any]] = []
        self.stages: list[dict[str, Any]] = []
        self.best_stage = 0
        self._kept: list[Tensor] = []

    def run(self, progress: Progress) -> None:
        """Train, and leave the network with the weights of the best stage."""
        recipe = self._recipe
        total = recipe.stages * recipe.epochs
        ticks = iter(progress(range(total), total))
        for n_unfrozen in range(recipe.stages + 1):
            if n_unfrozen:
                self._run_stage(n_unfrozen, ticks)
            self._judge(n_unfrozen)
        next(ticks, None)  # a progress bar ends when it is asked for more
        for parameter, value in zip(self._top.parameters(), self._kept, strict=True):
            parameter.data.copy_(value)

    def _run_stage(self, n_unfrozen: int, ticks: Iterator[Any]) -> None:
        recipe, names = self._recipe, list(self._top.level_names[:n_unfrozen])
        monitor = CollapseMonitor(self._embed(self._head)[self._train], recipe.margin)
        groups = [
            {"params": self._top.unfreeze(n_unfrozen), "lr": recipe.learning_rate},
            {"params": list(self._head.parameters()), "lr": HEAD_RATE},
        ]
        optimizer = torch.optim.AdamW(groups, weight_decay=recipe.weight_decay)
        for _ in range(recipe.epochs):
            row: dict[str, Any] = {"epoch": len(self.history) + 1, "unfrozen": names}
            row |= self._run_epoch(optimizer)
            row["spread"] = monitor.spread(self._embed(self._head)[self._train])
            if not math.isfinite(row["spread"]):
                raise CollapseError(self._divergence(row["loss"], row["grad_norm"]))
            self.history.append(row)
            if monitor.collapsed(row["spread"], row["loss"]):
                raise CollapseError(self._collapse())
            next(ticks, None)

    def _make_head(self) -> nn.Sequential:
        """Standardisation and trained projection of the network's features as they are."""
        recipe = self._recipe
        F = self._top.all_features().cpu().numpy()[self._train]
        mean, scale = F.mean(axis=0), F.std(axis=0)
        scale[scale <= 10 * np.finfo(np.float32).eps * np.abs(mean)] = 1.0  # as in `Embedding`
        projection = TripletProjection(
            loss=recipe.loss,
            margin=recipe.margin,
            n_per_class=recipe.n_per_class,
            learning_rate=HEAD_RATE,
            max_epochs=HEAD_EPOCHS,
            validation_fraction=0,
            max_grad_norm=recipe.max_grad_norm,
            random_state=recipe.random_state,
        ).fit((F - mean) / scale, self._codes[self._train])
        return nn.Sequential(_Standardize(mean, scale), projection.network_).to(self._top.device)

    def _run_epoch(self, optimizer: torch.optim.Optimizer) -> dict[str, float]:
        """One epoch of steps; mean loss and gradient norm."""
        losses, norms = [], []
        self._head.train()
        for batch in self._batches:
            rows = self._train[batch]
            orientations = np.zeros(len(rows), np.int64)
            if self._recipe.any_orientation:
                orientations = self._rng.integers(N_ORIENTATIONS, size=len(rows))
            views = list(zip(rows.tolist(), orientations.tolist(), strict=True))
            E = self._head(self._top.features(views))
            value, norm = take_step(
                self._loss(E, self._labels[rows]), optimizer, self._recipe.max_grad_norm
            )
            losses.append(value)
            norms.append(norm)
            if not math.isfinite(value) or not math.isfinite(norm):
                raise CollapseError(self._divergence(value, norm))
        self._head.eval()
        return {"loss": float(np.mean(losses)), "grad_norm": float(np.mean(norms))}

    def _judge(self, n_unfrozen: int) -> None:
        """Note how well held-out pictures are told, and the weights if they are the best so far."""
        f1 = None
        if len(self._held):
            # A new projection, as later users train: the own one lags behind the features.
            E, k = self._embed(self._make_head()).cpu().numpy(), self._recipe.n_neighbors
            f1 = neighbours_f1(E, self._codes, self._train, self._held, k)
        names = list(self._top.level_names[:n_unfrozen])
        self.stages.append({"unfrozen": names, "validation_f1": f1})
        _log.info("unfrozen: %s; macro F1 of held-out images: %s", names, f1)
        best = self.stages[self.best_stage]["validation_f1"]
        if not self._kept or f1 is None or f1 > best:
            self.best_stage = n_unfrozen
            self._kept = [parameter.detach().clone() for parameter in self._top.parameters()]

    @torch.no_grad()
    def _embed(self, head: nn.Module) -> Tensor:
        """Embeddings (n, n_components) of all pictures as they are."""
        embedded: Tensor = head.eval()(self._top.all_features())
        return embedded

    def _loss(self, E: Tensor, labels: Tensor) -> Tensor:
        return LOSSES[self._recipe.loss](
            E, labels, margin=self._recipe.margin, distance="euclidean"
        )

    def _collapse(self) -> str:
        row = self.history[-1]
        return (
            f"the embeddings collapsed into one point: in epoch {row['epoch']} their spread is "
            f"{row['spread']:.1e} of that before the stage, for {CHECKS} epochs below "
            f"{COLLAPSED:g}, and the loss {row['loss']:.3g} (loss={self._recipe.loss!r}, margin "
            f"{self._recipe.margin:g}). Give a smaller learning_rate than "
            f"{self._recipe.learning_rate:g}"
        )

    def _divergence(self, loss: float, norm: float) -> str:
        return (
            f"fine-tuning diverged in epoch {len(self.history) + 1}: a loss of {loss:.3g}, a "
            f"gradient of norm {norm:.3g}, or embeddings too large for float32. Give a smaller "
            f"learning_rate than {self._recipe.learning_rate:g}"
        )


class _Standardize(nn.Module):
    """Features with the mean subtracted, in standard deviations."""

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: NDArray[np.float32], scale: NDArray[np.float32]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("scale", torch.tensor(scale))

    def forward(self, x: Tensor) -> Tensor:
        """Standardise features (n, n_features)."""
        return (x - self.mean) / self.scale
