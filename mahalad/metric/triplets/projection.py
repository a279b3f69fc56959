"""A projection of features trained by triplets, so that the neighbours of a sample are its like."""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from mahalad.errors import CollapseError, DegenerateDataError, InputError
from mahalad.features.devices import placed, resolve_device
from mahalad.metric.triplets.batches import BalancedBatches, Indices, hold_out
from mahalad.metric.triplets.losses import DISTANCES, LOSSES
from mahalad.metric.triplets.training import (
    CHECKS,
    COLLAPSED,
    CollapseMonitor,
    checked_labels,
    neighbours_f1,
    seeded,
    take_step,
)

_BLOCK = 128  # validation samples per loss: some losses take the third power of them
_SMOOTHED = 10  # epochs whose mean F1 is compared: that of one is mostly luck


class TripletProjection(TransformerMixin, BaseEstimator):
    """Project features by a small network that is trained with a triplet loss.

    Features are taken as they are: standardise them first if their scales differ. Part of every
    class is held out to find the epoch after which its nearest neighbours among the rest classify
    it best; then all samples are trained on for as many epochs.

    Parameters
    ----------
    n_components : int, default=128
        Features of an embedding.
    loss : {"batch-hard-scaled", "batch-hard", "batch-all", "semi-hard"}
        See `mahalad.metric.triplets.losses`; the default is "batch-hard-scaled".
    distance : {"euclidean", "cosine"}, default="euclidean"
        What the loss measures. With "cosine", embeddings have unit length.
    margin : float, default=0.2
        By how much negatives are to be farther away than positives; for "batch-hard-scaled" as a
        share of the mean distance to the nearest negatives, else in units of the distance.
    hidden : int, default=0
        Width of a hidden layer with ReLU; 0 for none, a linear projection.
    n_per_class : int, default=16
        Samples per class in a batch; up to 8 classes.
    learning_rate, weight_decay : float, default=1e-3 and 1e-4
        Of AdamW.
    dropout : float in [0, 1), default=0.5
        Share of the inputs of the last layer that is left out, at random, during training.
    max_epochs : int, default=200
        At most that many; an epoch draws about as many samples as there are.
    patience : int, default=30
        Stop after that many epochs without a better one.
    validation_fraction : float in [0, 1), default=0.2
        Share of every class that is held out, at least 1 sample, where 2 are left to train
        with. 0: train on all samples for `max_epochs`, and keep the last weights.
    refit : bool, default=True
        Train anew on all samples, those held out too, for the number of epochs that was found
        best. False: keep the weights of that epoch.
    n_neighbors : int, default=5
        For the validation.
    max_grad_norm : float, default=1
        Longer gradients are cut to that length.
    device : str, default="cpu"
        ``"auto"`` (CUDA if there is one), or any torch device.
    random_state : int, RandomState or None, default=0
        One seed gives the same weights, on the CPU of one machine.

    Attributes
    ----------
    network_ : torch.nn.Sequential
    classes_ : ndarray of shape (n_classes,)
    history_ : list of dict
        Per epoch: "epoch" (from 1), "loss" (mean over batches), "spread" (mean squared distance
        between training embeddings, 1 = before training), "validation_f1" (macro F1, None
        without validation), "validation_loss", "grad_norm" (mean over batches, before cutting).
    best_epoch_ : int
        The one whose number of epochs or weights are kept: the highest mean "validation_f1" of
        10 epochs, and of those the lowest "validation_loss".

    Raises
    ------
    InputError
        Features that are not finite, one class only, or a class with a single sample.
    DegenerateDataError
        All samples have the same features.
    CollapseError
        For 3 epochs in a row the spread was below 1e-3 and the loss no less than 0.9 of the
        margin, which is what embeddings in one point have; or a loss that is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> from mahalad.metric.triplets.projection import TripletProjection
    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat(["good", "bad"], 20)
    >>> F = rng.normal(size=(40, 10)) + 2 * (y == "bad")[:, None] * np.eye(10)[0]
    >>> TripletProjection(n_components=4, max_epochs=5).fit(F, y).transform(F).shape
    (40, 4)
    """

    history_: list[dict[str, Any]]
    best_epoch_: int

    def __init__(
        self,
        n_components: int = 128,
        *,
        loss: str = "batch-hard-scaled",
        distance: str = "euclidean",
        margin: float = 0.2,
        hidden: int = 0,
        n_per_class: int = 16,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-4,
        dropout: float = 0.5,
        max_epochs: int = 200,
        patience: int = 30,
        validation_fraction: float = 0.2,
        refit: bool = True,
        n_neighbors: int = 5,
        max_grad_norm: float = 1.0,
        device: str = "cpu",
        random_state: Any = 0,
    ) -> None:
        self.n_components = n_components
        self.loss = loss
        self.distance = distance
        self.margin = margin
        self.hidden = hidden
        self.n_per_class = n_per_class
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.dropout = dropout
        self.max_epochs = max_epochs
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.refit = refit
        self.n_neighbors = n_neighbors
        self.max_grad_norm = max_grad_norm
        self.device = device
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> Self:
        """Train on features of shape (n_samples, n_features) and labels (n_samples,)."""
        self._check_parameters()
        self.__dict__.pop("network_", None)  # a failed fit leaves nothing half fitted
        F = self._checked(X, reset=True)
        self.classes_, codes = checked_labels(y, len(F))
        if not np.ptp(F, axis=0).any():
            raise DegenerateDataError(f"all {len(F)} samples have the same features")
        seed = check_random_state(self.random_state).randint(2**31 - 1)
        rng = np.random.default_rng(seed)
        train, held = hold_out(codes, self.validation_fraction, rng)
        if self.validation_fraction and not len(held):
            raise InputError(
                f"validation_fraction={self.validation_fraction} of {len(F)} samples holds out "
                "none: every class has only 2. Give more, or validation_fraction=0"
            )
        device = resolve_device(self.device)
        with seeded(seed, device):
            self.network_ = self._network(F.shape[1]).to(device)
            try:
                self._train(F, codes, train, held, rng, self.max_epochs)
                if len(held) and self.refit:
                    found = self.history_, self.best_epoch_
                    everything = np.arange(len(F))
                    torch.manual_seed(seed)
                    self.network_ = self._network(F.shape[1]).to(device)
                    self._train(F, codes, everything, everything[:0], rng, self.best_epoch_)
                    self.history_, self.best_epoch_ = found
            except BaseException:
                del self.network_  # half trained: not to be used
                raise
        return self

    def transform(self, X: Any) -> NDArray[np.float32]:
        """Embeddings, shape (n_samples, n_components), float32; of unit length for "cosine"."""
        check_is_fitted(self, "network_")
        F = torch.tensor(self._checked(X, reset=False))  # a copy: it may be read-only
        self.network_ = placed(self.network_, self.device)  # set_params may have changed it
        return self._embed(F.to(next(self.network_.parameters()).device)).cpu().numpy()

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """All that was fitted, as JSON and named arrays."""
        check_is_fitted(self, "network_")
        about = {
            "n_features": self.n_features_in_,
            **self._shape(),
            "classes": self.classes_.tolist(),
            "best_epoch": self.best_epoch_,
            "history": self.history_,
        }
        weights = self.network_.state_dict()
        return about, {name: value.cpu().numpy().copy() for name, value in weights.items()}

    def restore(self, about: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Self:
        """Become what `state` described, for an estimator with the same parameters."""
        for name, own in self._shape().items():
            if about[name] != own:
                raise InputError(
                    f"a projection fitted with {name}={about[name]!r} restored by one with "
                    f"{name}={own!r}"
                )
        self.n_features_in_ = int(about["n_features"])
        self.classes_ = np.array(about["classes"])
        self.best_epoch_, self.history_ = int(about["best_epoch"]), list(about["history"])
        device = resolve_device(self.device)
        with seeded(0, device):
            network = self._network(self.n_features_in_)
        network.load_state_dict({name: torch.tensor(value) for name, value in arrays.items()})
        self.network_ = network.to(device).eval()
        return self

    def _shape(self) -> dict[str, Any]:
        sizes = {name: int(getattr(self, name)) for name in ("n_components", "hidden")}
        return {**sizes, "distance": self.distance}

    def _network(self, n_features: int) -> nn.Sequential:
        """Layers from features to embeddings, not yet of unit length."""
        layers: list[nn.Module] = []
        if self.hidden:
            layers += [nn.Linear(n_features, self.hidden), nn.ReLU()]
        layers += [
            nn.Dropout(self.dropout),
            nn.Linear(self.hidden or n_features, self.n_components),
        ]
        return nn.Sequential(*layers)

    def _train(
        self,
        F: NDArray[Any],
        codes: Indices,
        train: Indices,
        held: Indices,
        rng: Any,
        n_epochs: int,
    ) -> None:
        """Run the epochs, and leave the network with the weights of the best one."""
        self.history_ = []
        device = next(self.network_.parameters()).device
        features, labels = torch.tensor(F, device=device), torch.tensor(codes, device=device)
        batches = BalancedBatches(codes[train], n_per_class=self.n_per_class, rng=rng)
        optimizer = torch.optim.AdamW(
            self.network_.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay
        )
        blocks = np.array_split(rng.permutation(held), -(-len(held) // _BLOCK)) if len(held) else []
        monitor = CollapseMonitor(self._embed(features[train]), self.margin)
        best: tuple[float, float] = (-math.inf, -math.inf)
        for epoch in range(1, n_epochs + 1):
            row: dict[str, Any] = {"epoch": epoch}
            row |= self._run_epoch(features, labels, train, batches, optimizer)
            embedded = self._embed(features)
            row["spread"] = monitor.spread(embedded[train])
            if not math.isfinite(row["spread"]):
                raise CollapseError(self._divergence(row["loss"], row["grad_norm"]))
            row |= self._validate(embedded, labels, train, held, blocks)
            self.history_.append(row)
            if monitor.collapsed(row["spread"], row["loss"]):
                raise CollapseError(self._collapse_message())
            if not len(held):
                self.best_epoch_ = epoch
                continue
            if epoch < min(_SMOOTHED, n_epochs):
                self.best_epoch_ = epoch
                continue
            recent = [past["validation_f1"] for past in self.history_[-_SMOOTHED:]]
            quality = (float(np.mean(recent)), -row["validation_loss"])
            if quality > best:
                best, self.best_epoch_ = quality, epoch
                kept = {name: w.clone() for name, w in self.network_.state_dict().items()}
            elif epoch - self.best_epoch_ >= self.patience:
                break
        if len(held):
            self.network_.load_state_dict(kept)

    def _run_epoch(
        self,
        features: Tensor,
        labels: Tensor,
        train: Indices,
        batches: BalancedBatches,
        optimizer: torch.optim.Optimizer,
    ) -> dict[str, float]:
        """One epoch of steps; mean loss and gradient norm."""
        losses, norms = [], []
        self.network_.train()
        for batch in batches:
            rows = torch.tensor(train[batch], device=features.device)
            loss = self._loss(self.network_(features[rows]), labels[rows])
            value, norm = take_step(loss, optimizer, self.max_grad_norm)
            losses.append(value)
            norms.append(norm)
            if not math.isfinite(value) or not math.isfinite(norm):
                raise CollapseError(self._divergence(value, norm))
        self.network_.eval()
        return {"loss": float(np.mean(losses)), "grad_norm": float(np.mean(norms))}

    def _validate(
        self,
        embedded: Tensor,
        labels: Tensor,
        train: Indices,
        held: Indices,
        blocks: list[Indices],
    ) -> dict[str, float | None]:
        """Macro F1 of the held-out samples' nearest training neighbours, and their loss."""
        if not len(held):
            return {"validation_f1": None, "validation_loss": None}
        E, codes = embedded.cpu().numpy(), labels.cpu().numpy()
        f1 = neighbours_f1(E, codes, train, held, self.n_neighbors)
        loss = sum(self._loss(embedded[b], labels[b]).item() * len(b) for b in blocks)
        return {"validation_f1": f1, "validation_loss": loss / len(held)}

    def _loss(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        return LOSSES[self.loss](embeddings, labels, margin=self.margin, distance=self.distance)

    @torch.no_grad()
    def _embed(self, features: Tensor) -> Tensor:
        """Embeddings as `transform` gives them."""
        self.network_.eval()
        embedded: Tensor = self.network_(features)
        return nn.functional.normalize(embedded) if self.distance == "cosine" else embedded

    def _collapse_message(self) -> str:
        row = self.history_[-1]
        other = "" if self.loss == "batch-hard-scaled" else "loss='batch-hard-scaled', or "
        return (
            f"the embeddings collapsed into one point: in epoch {row['epoch']} their spread is "
            f"{row['spread']:.1e} of that before training, for {CHECKS} epochs below "
            f"{COLLAPSED:g}, and the loss {row['loss']:.3g} (loss={self.loss!r}, margin "
            f"{self.margin:g}). Give {other}a smaller learning_rate than {self.learning_rate:g}"
        )

    def _divergence(self, loss: float, norm: float) -> str:
        return (
            f"training diverged in epoch {len(self.history_) + 1}: a loss of {loss:.3g}, a "
            f"gradient of norm {norm:.3g}, or embeddings too large for float32. Standardise the "
            "features (StandardScaler), or give a smaller learning_rate than "
            f"{self.learning_rate:g}"
        )

    def _checked(self, X: Any, *, reset: bool) -> NDArray[np.float32]:
        """Finite float32 features of the right shape."""
        try:
            with np.errstate(over="ignore"):  # too large for float32: infinite, refused below
                F = validate_data(self, X, dtype=np.float32, reset=reset, ensure_all_finite=False)
        except ValueError as error:
            raise InputError(f"features cannot be used: {error}") from error
        finite = np.isfinite(F).all(axis=1)
        if not finite.all():
            raise InputError(
                f"features of {np.sum(~finite)} of {len(F)} samples have NaN or infinity in "
                f"them, first those of sample {int(np.argmin(finite))}"
            )
        return np.ascontiguousarray(F)

    def _check_parameters(self) -> None:
        if self.loss not in LOSSES:
            raise InputError(f"loss must be one of {', '.join(LOSSES)}, got {self.loss!r}")
        if self.distance not in DISTANCES:
            raise InputError(
                f"distance must be one of {', '.join(DISTANCES)}, got {self.distance!r}"
            )
        whole = {"n_components": 1, "hidden": 0, "n_per_class": 2, "max_epochs": 1}
        for name, least in {**whole, "patience": 1, "n_neighbors": 1}.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
                raise InputError(f"{name} must be a whole number >= {least}, got {value!r}")
        for name in ("margin", "learning_rate", "max_grad_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} must be a number > 0, got {getattr(self, name)!r}")
        if not 0 <= self.weight_decay < math.inf:
            raise InputError(f"weight_decay must be a number >= 0, got {self.weight_decay!r}")
        for name in ("dropout", "validation_fraction"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} must lie in [0, 1), got {getattr(self, name)!r}")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags
