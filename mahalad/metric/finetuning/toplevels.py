"""A network whose highest levels are trained; what lies below them runs once for each picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from mahalad.errors import InputError
from mahalad.features.backbones import Backbone
from mahalad.features.levels import keys_up_to
from mahalad.images.geometry import turn
from mahalad.images.spool import Pictures

MAX_CACHED = 2 * 2**30
"""Bytes of frozen levels' outputs that are kept (115 kB a picture below the last two levels of
tf_efficientnetv2_b0 at 256 pixels). Those of further pictures are computed each time."""

N_ORIENTATIONS = 8
_BATCH = 32  # pictures per pass where nothing is trained

View = tuple[int, int]
"""Number of a picture, and its orientation."""


class TopLevels:
    """Pooled levels of a network whose highest ones can be unfrozen.

    Batch normalisations use the statistics that they came with, always: those of a few dozen
    pictures are noise. Their weights are trained with the rest of the level.

    Parameters
    ----------
    backbone : Backbone
        Made with ``fold=False``; its weights are changed in place.
    pictures : Pictures
        Squashed to its input size.
    n_levels : int
        How many of the highest levels can be unfrozen.

    Attributes
    ----------
    level_names : tuple of str
        Those that can be unfrozen, the highest first.

    Raises
    ------
    InputError
        The network has fewer levels.
    """

    def __init__(self, backbone: Backbone, pictures: Pictures, n_levels: int) -> None:
        modules = backbone.modules
        if not 1 <= n_levels <= len(modules):
            raise InputError(
                f"stages={n_levels}: {backbone.name} has {len(modules)} levels up to the highest "
                f"one used; give 1 to {len(modules)}"
            )
        self._backbone, self._pictures = backbone, pictures
        # Where timm alone knows the way through the network, it runs as a whole.
        self._first = len(modules) - n_levels if backbone.stages else 0
        keys = [set(keys_up_to(backbone.network, module)) for module in modules]
        self._parameters: list[list[nn.Parameter]] = []
        for i in range(len(modules) - 1, len(modules) - 1 - n_levels, -1):
            own = keys[i] - (keys[i - 1] if i else set())
            self._parameters.append(
                [p for name, p in backbone.network.named_parameters() if name in own]
            )
        names = tuple(stage.name for stage in backbone.stages) or modules
        self.level_names = names[::-1][:n_levels]
        self.device = backbone.device
        self._cache: dict[View, tuple[Tensor, Tensor]] = {}
        self._room = MAX_CACHED

    def parameters(self, n: int | None = None) -> list[nn.Parameter]:
        """Give weights of the n highest levels, or of all that can be unfrozen."""
        return [parameter for level in self._parameters[:n] for parameter in level]

    def unfreeze(self, n: int) -> list[nn.Parameter]:
        """Let the n highest levels be trained, and give their weights."""
        found = self.parameters(n)
        for parameter in found:
            parameter.requires_grad_(True)
        return found

    def features(self, views: Sequence[View]) -> Tensor:
        """Compute pooled levels side by side, (n, n_features), of some pictures; gradients flow."""
        x, below = self._below(views)
        return torch.cat([below, *self._above(x)], dim=1)

    @torch.no_grad()
    def all_features(self) -> Tensor:
        """Compute pooled levels (n_pictures, n_features) of all pictures as they are."""
        views = [(i, 0) for i in range(len(self._pictures))]
        starts = range(0, len(views), _BATCH)
        return torch.cat([self.features(views[i : i + _BATCH]) for i in starts])

    @torch.no_grad()
    def _below(self, views: Sequence[View]) -> tuple[Tensor, Tensor]:
        """Output of the highest level that stays frozen, and pooled levels up to it."""
        found = {view: self._cache[view] for view in views if view in self._cache}
        missing = [view for view in dict.fromkeys(views) if view not in found]
        for start in range(0, len(missing), _BATCH):
            batch = missing[start : start + _BATCH]
            for view, x, pooled in zip(batch, *self._run_below(batch), strict=True):
                found[view] = x.clone(), pooled.clone()
                n_bytes = 4 * (x.numel() + pooled.numel())
                if n_bytes <= self._room:
                    self._room -= n_bytes
                    self._cache[view] = found[view]
        x = torch.stack([found[view][0] for view in views])
        pooled = torch.stack([found[view][1] for view in views])
        return x.contiguous(memory_format=torch.channels_last), pooled

    def _run_below(self, views: Sequence[View]) -> tuple[Tensor, Tensor]:
        backbone = self._backbone
        pictures = [turn(self._pictures[i], orientation) for i, orientation in views]
        if any(picture.dtype != np.uint8 for picture in pictures):
            pictures = [p / np.float32(255) if p.dtype == np.uint8 else p for p in pictures]
        x = backbone.normalised(np.stack(pictures))
        pooled = [x.new_empty(len(x), 0)]
        for stage in backbone.stages[: self._first]:
            x = stage.forward(x)
            if stage.name in backbone.level_names:
                pooled.append(x.mean(dim=(2, 3)))
        return x, torch.cat(pooled, dim=1)

    def _above(self, x: Tensor) -> list[Tensor]:
        """Pooled levels from what is unfrozen on."""
        backbone = self._backbone
        if not backbone.stages:
            found = backbone.run(x)
            return [found[name].mean(dim=(2, 3)) for name in backbone.level_names]
        pooled = []
        for stage in backbone.stages[self._first :]:
            x = stage.forward(x)
            if stage.name in backbone.level_names:
                pooled.append(x.mean(dim=(2, 3)))
        return pooled
