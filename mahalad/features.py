"""Images to features: a frozen backbone behind scikit-learn's way of holding parameters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.base import BaseEstimator

from mahalad.errors import InputError
from mahalad.images import resize_square

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mahalad.backbones import Backbone, Levels
    from mahalad.protocols import Features


class BackboneFeatures(BaseEstimator):
    """Pooled features of a frozen ImageNet network, at every level.

    Parameters
    ----------
    backbone : str, default="tf_efficientnet_lite0"
        Name of a timm network, with a tag if wanted.
    weights : str, Path or None, default=None
        None: from the package that belongs to the backbone, or else from timm's hub.
        ``"hub"``: from timm's hub. A path: a .safetensors or .pth file with timm's keys.
    levels : str, int, sequence of these, or None, default=None
        Names or indices of levels; None or ``"all"`` for all of them.
    input_size : int or None, default=None
        Images are squashed to this square (no crop); None for the network's native size.
    batch_size : int, default=32
        Images per pass through the network; does not change the features.
    device : str, default="auto"
        ``"auto"`` for CUDA where there is one and else the CPU, or a torch device.

    Attributes
    ----------
    backbone_ : Backbone
        The network, after `build`.
    """

    def __init__(
        self,
        backbone: str = "tf_efficientnet_lite0",
        *,
        weights: str | Path | None = None,
        levels: Levels = None,
        input_size: int | None = None,
        batch_size: int = 32,
        device: str = "auto",
    ) -> None:
        self.backbone = backbone
        self.weights = weights
        self.levels = levels
        self.input_size = input_size
        self.batch_size = batch_size
        self.device = device

    def build(self, state: dict[str, Any] | None = None) -> Self:
        """Make the network; `state` is a state dict to use instead of `weights`."""
        from mahalad.backbones import build_backbone

        if not isinstance(self.batch_size, int) or self.batch_size < 1:
            raise InputError(f"batch_size must be a whole number >= 1, got {self.batch_size!r}")
        self.backbone_: Backbone = build_backbone(
            self.backbone,
            weights=self.weights if state is None else state,
            levels=self.levels,
            input_size=self.input_size,
            device=self.device,
        )
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Pickle by inputs: the weights, not the network; it is built again on the other side."""
        state: dict[str, Any] = dict(super().__getstate__())
        if "backbone_" in state:
            state["backbone_"] = (self.backbone_.state(), self.backbone_.weights)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        built = state.pop("backbone_", None)
        super().__setstate__(state)
        if built is not None:
            import torch

            arrays, record = built
            self.build({name: torch.from_numpy(array) for name, array in arrays.items()})
            self.backbone_.weights = record

    def prepare(self, image: Any) -> NDArray[Any]:
        """Squash a decoded image to the input size: (S, S, 3), uint8 or float32 in [0, 1]."""
        backbone = self.backbone_
        return resize_square(image, backbone.input_size, backbone.interpolation)

    def transform(self, prepared: Sequence[NDArray[Any]]) -> Features:
        """Pooled features of prepared images: level name to (n, n_channels), float32."""
        if any(image.dtype != np.uint8 for image in prepared):
            prepared = [_as_float(image) for image in prepared]
        return self.backbone_.pooled(np.stack(prepared))

    @property
    def read_ahead(self) -> int:
        """Batches to decode while the network works on one.

        None on the CPU: decoding threads would take cores from the network's own, whose slowest
        thread sets the pace.
        """
        return 0 if self.backbone_.device.type == "cpu" else 2

    def record(self) -> dict[str, Any]:
        """What identifies these features: two records that differ must not be mixed."""
        b = self.backbone_
        return {
            "backbone": b.name,
            "levels": list(b.level_names),
            "input_size": b.input_size,
            "mean": list(b.mean),
            "std": list(b.std),
            "interpolation": b.interpolation,
            "resize": "squash to a square, no crop",
            "precision": "float32",
            "licence": b.licence,
            "weights_source": b.weights.source,
            "weights_origin": b.weights.origin,
            "weights_sha256": b.weights.sha256,
            "weights_dtype": b.weights.dtype,
        }


def _as_float(image: NDArray[Any]) -> NDArray[np.float32]:
    return image.astype(np.float32) / np.float32(255) if image.dtype == np.uint8 else image
