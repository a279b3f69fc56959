"""A projection of features trained by triplets, so that the neighbours of a sample are its like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import nn

from mahalad.checks import SEED, Limit, OneOf, Real, Whole, check_parameters
from mahalad.choices import EMBEDDING_DISTANCES, LOSSES
from mahalad.errors import DegenerateDataError, InputError
from mahalad.features.devices import placed, resolve_device
from mahalad.metric.triplets.batches import Indices, hold_out
from mahalad.metric.triplets.steps import checked_labels, seeded
from mahalad.metric.triplets.training import Recipe, TripletTraining, embed


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
    _limits: ClassVar[Mapping[str, Limit]] = {
        "n_components": Whole(1),
        "loss": OneOf(LOSSES),
        "distance": OneOf(EMBEDDING_DISTANCES),
        "margin": Real("(0, inf)"),
        "hidden": Whole(0),
        "n_per_class": Whole(2),
        "learning_rate": Real("(0, inf)"),
        "weight_decay": Real("[0, inf)"),
        "dropout": Real("[0, 1)"),
        "max_epochs": Whole(1),
        "patience": Whole(1),
        "validation_fraction": Real("[0, 1)"),
        "n_neighbors": Whole(1),
        "max_grad_norm": Real("(0, inf)"),
    }

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
        """Compute embeddings (n_samples, n_components), float32; of unit length for "cosine"."""
        check_is_fitted(self, "network_")
        F = torch.tensor(self._checked(X, reset=False))  # a copy: it may be read-only
        self.network_ = placed(self.network_, self.device)  # set_params may have changed it
        F = F.to(next(self.network_.parameters()).device)
        return embed(self.network_, F, self.distance).cpu().numpy()

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Describe all that was fitted, as JSON and named arrays."""
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
        self, F: NDArray[Any], codes: Indices, train: Indices, held: Indices, rng: Any, n: int
    ) -> None:
        """Run n epochs, and leave the network with the weights of the best one."""
        training = TripletTraining(self.network_, self._recipe(), F, codes, train, held, rng)
        self.history_ = training.history  # of a training that fails, too
        training.run(n)
        self.best_epoch_ = training.best_epoch

    def _recipe(self) -> Recipe:
        return Recipe(**{field.name: getattr(self, field.name) for field in fields(Recipe)})

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
        check_parameters(self._limits, self)
        if not isinstance(self.random_state, np.random.RandomState):
            check_parameters({"random_state": SEED}, self)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags
