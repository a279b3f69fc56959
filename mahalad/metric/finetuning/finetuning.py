"""Fine-tuning of a backbone on labelled images, unfreezing it level by level from the top."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch import nn

from mahalad.checks import PIXELS, SEED_NUMBER, Limit, OneOf, Real, Whole, check_parameters
from mahalad.choices import LOSSES
from mahalad.errors import InputError
from mahalad.features.backbones import build_backbone
from mahalad.features.levels import Levels
from mahalad.files.container import write_atomically
from mahalad.images.pixels import Pixels
from mahalad.images.reading import left_out
from mahalad.metric.finetuning.toplevels import TopLevels
from mahalad.metric.finetuning.unfreezing import Recipe, Unfreezing
from mahalad.metric.pictures import read_pictures
from mahalad.metric.triplets.batches import hold_out
from mahalad.metric.triplets.steps import checked_labels, seeded
from mahalad.progress import Progress, no_progress
from mahalad.result import Result

SUFFIX = ".safetensors"
_METADATA = "mahalad_finetuned"


class FineTuner(BaseEstimator):
    """Train a backbone's highest levels so that images of one label have similar features.

    A linear projection of the pooled levels is trained with a triplet loss, first alone, then with
    the highest level of the network, then with the two highest, and so on. `save_weights` writes
    the network's weights to a file for ``weights=`` of `BackboneFeatures` and of all detectors;
    the projection is not kept.

    Images that trained the network have embeddings that are nearer to each other than those of
    new images. **What a classifier measures on the same images is then too optimistic**: its
    operating point, precision-recall curve and novelty threshold (`MetricKNNClassifier`), and the
    false-positive rate of a detector fitted to them. Train the network on one part of the
    labelled images, and fit the classifier or detector to others.

    Parameters
    ----------
    backbone, weights, levels, input_size, device
        As of `BackboneFeatures`. The features used later should be of the same levels and size.
    stages : int, default=3
        How many of the highest levels are unfrozen, one after another.
    epochs : int, default=8
        Passes over the images for each of them.
    learning_rate : float, default=5e-4
        Of AdamW for the network's weights; the projection's is 1e-3.
    weight_decay : float, default=1e-4
    any_orientation : bool, default=False
        Whether the parts may lie in any orientation: each image is then turned by a multiple of
        90 degrees and mirrored, at random. Not for parts of which a mirror image is a defect.
    loss, margin, n_per_class, n_neighbors, max_grad_norm
        As of `TripletProjection`, with the Euclidean distance.
    validation_fraction : float in [0, 1), default=0
        Share of every class that is held out from the training to choose the stage whose weights
        are kept, none at all included. 0: those of the last stage. (Of 200 images 40 would be
        held out, too few to see a difference of some points.)
    random_state : int, default=0
        One seed gives the same weights, on the CPU of one machine.
    bits, channels
        How images are read; as of `BackboneFeatures`.

    Attributes
    ----------
    network_ : torch.nn.Module
        The tuned network, in eval mode.
    classes_ : ndarray of shape (n_classes,)
    history_ : list of dict
        Per epoch: "epoch" (from 1), "unfrozen" (levels), "loss" and "grad_norm" (means over
        batches, before cutting), "spread" (mean squared distance between training embeddings, 1 =
        at the beginning of the stage).
    stages_ : list of dict
        What held-out images say before the training and after each stage: "unfrozen" (levels),
        "validation_f1" (macro F1 of their nearest neighbours in a projection trained anew; None
        without validation).
    best_stage_ : int
        The place in `stages_` of the weights that are kept: the first with the highest
        "validation_f1", or the last.
    unreadable_ : list of Result
        Images that could not be read.

    Notes
    -----
    Statistics of batch normalisations are never trained; their weights are.

    References
    ----------
    J. Howard, S. Ruder, "Universal Language Model Fine-tuning for Text Classification", 2018,
    section 3.3 (gradual unfreezing).
    """

    network_: nn.Module
    classes_: NDArray[Any]
    history_: list[dict[str, Any]]
    stages_: list[dict[str, Any]]
    best_stage_: int
    unreadable_: list[Result]
    _limits: ClassVar[Mapping[str, Limit]] = {
        "stages": Whole(1),
        "epochs": Whole(1),
        "learning_rate": Real("(0, inf)"),
        "weight_decay": Real("[0, inf)"),
        "loss": OneOf(LOSSES),
        "margin": Real("(0, inf)"),
        "n_per_class": Whole(2),
        "n_neighbors": Whole(1),
        "validation_fraction": Real("[0, 1)"),
        "max_grad_norm": Real("(0, inf)"),
        "random_state": SEED_NUMBER,
        **PIXELS,
    }

    def __init__(
        self,
        backbone: str = "tf_efficientnet_lite0",
        *,
        weights: str | Path | None = None,
        levels: Levels = None,
        input_size: int | None = None,
        stages: int = 3,
        epochs: int = 8,
        learning_rate: float = 5e-4,
        weight_decay: float = 1e-4,
        any_orientation: bool = False,
        loss: str = "batch-hard-scaled",
        margin: float = 0.2,
        n_per_class: int = 16,
        n_neighbors: int = 5,
        validation_fraction: float = 0.0,
        max_grad_norm: float = 1.0,
        device: str = "auto",
        random_state: int = 0,
        bits: int | None = None,
        channels: str = "rgb",
    ) -> None:
        self.backbone = backbone
        self.weights = weights
        self.levels = levels
        self.input_size = input_size
        self.stages = stages
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.any_orientation = any_orientation
        self.loss = loss
        self.margin = margin
        self.n_per_class = n_per_class
        self.n_neighbors = n_neighbors
        self.validation_fraction = validation_fraction
        self.max_grad_norm = max_grad_norm
        self.device = device
        self.random_state = random_state
        self.bits = bits
        self.channels = channels

    def fit(self, X: Any, y: Any, *, progress: Progress | None = None) -> Self:
        """Train on labelled images, from the weights given.

        Parameters
        ----------
        X : images
            As everywhere (see `mahalad.images.iter_sources`).
        y : sequence of str or int, shape (n_images,)
        progress : callable, optional
            ``progress(items, total)`` wraps an iterable with one item for every epoch.

        Returns
        -------
        self

        Warns
        -----
        UnreadableImageWarning
            For each image that could not be read; it is left out, and so is its label.

        Raises
        ------
        InputError
            One label only, a label with a single image, or parameters out of range.
        BackboneError, WeightsError, MissingExtraError
            As of `BackboneFeatures`.
        CollapseError
            The embeddings fell into one point, or the loss is not finite.
        """
        self._check_parameters()
        self.__dict__.pop("network_", None)  # a failed fit leaves nothing half fitted
        y = np.asarray(y)
        backbone = build_backbone(
            self.backbone,
            weights=self.weights,
            levels=self.levels,
            input_size=self.input_size,
            device=self.device,
            fold=False,
        )
        pictures, readable, failed = read_pictures(
            X,
            backbone.input_size,
            backbone.interpolation,
            batch_size=32,
            pixels=Pixels(self.bits, self.channels),
        )
        self.unreadable_ = left_out(failed)
        if not len(pictures):
            raise InputError("none of the images could be read")
        if len(readable) != len(y):
            raise InputError(f"{len(y)} labels given for {len(readable)} images")
        self.classes_, codes = checked_labels(y[readable], len(pictures))
        top = TopLevels(backbone, pictures, self.stages)
        rng = np.random.default_rng(self.random_state)
        train, held = hold_out(codes, self.validation_fraction, rng)
        if self.validation_fraction and not len(held):
            raise InputError(
                f"validation_fraction={self.validation_fraction} of {len(codes)} images holds out "
                "none: every label has only 2. Give more, or validation_fraction=0"
            )
        recipe = Recipe(**{field.name: getattr(self, field.name) for field in fields(Recipe)})
        with seeded(self.random_state, backbone.device):
            training = Unfreezing(recipe, top, codes, train, held, rng)
            training.run(progress or no_progress)
        self.history_, self.stages_ = training.history, training.stages
        self.best_stage_ = training.best_stage
        self._weights = {
            name: value.cpu().numpy().copy()
            for name, value in backbone.network.state_dict().items()
            if name in backbone.state()
        }
        self._about = {
            "backbone": self.backbone,
            "input_size": backbone.input_size,
            "started_from": backbone.weights.origin,
            "n_images": len(codes),
            "classes": [str(name) for name in self.classes_],
        }
        self.network_ = backbone.network.requires_grad_(False)
        return self

    def save_weights(self, path: str | Path) -> None:
        """Write the tuned network's weights to a .safetensors file of timm's names, atomically.

        What lies above the highest of the levels, and the classifier, is not in it.

        Raises
        ------
        InputError
            Another suffix.
        ModelFileError
            The file cannot be written; an older file of that name is then intact.
        """
        check_is_fitted(self, "network_")
        check_suffix(path)
        metadata = {_METADATA: json.dumps(self._about)}  # one entry: several have no fixed order
        contiguous = {name: np.asarray(a, order="C") for name, a in self._weights.items()}
        write_atomically(path, save(contiguous, metadata=metadata))

    def _check_parameters(self) -> None:
        check_parameters(self._limits, self)


def check_suffix(path: str | Path) -> None:
    """Raise `InputError` unless weights can be read from a file of that name."""
    if Path(path).suffix.lower() != SUFFIX:
        raise InputError(f"{path}: weights are written to a {SUFFIX} file; give such a name")
