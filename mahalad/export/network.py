"""From pixels to features, as one torch module."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mahalad.errors import InputError
from mahalad.export.distances import tensor
from mahalad.export.geometry import pictures
from mahalad.features.backbones import MAP_PREFIX
from mahalad.features.pooling import averaging
from mahalad.images.region import region_on_grid

WHITE = 255.0


class Network(nn.Module):
    """The features of a built `BackboneFeatures`, computed by torch on the CPU.

    Raises
    ------
    InputError
        Orientations of padded pictures: their margins differ by a pixel with the orientation.
    """

    def __init__(self, features: Any) -> None:
        super().__init__()
        if features.orientations > 1 and features.resize == "pad":
            raise InputError(
                "a model of several orientations of padded pictures cannot be exported: fit it "
                "with resize='squash', or with orientations=1"
            )
        backbone = features.backbone_
        backbone.place("cpu", "torch")
        self.network = backbone.network
        self.backbone = backbone
        self.orientations = features.orientations
        self.side = features.side()
        self.has_boxes = features.resize == "pad"
        region = features.region_
        with torch.no_grad():
            found = backbone.levels_of(torch.zeros(1, 3, self.side, self.side))
        self.shapes = {name: (int(x.shape[2]), int(x.shape[3])) for name, x in found.items()}
        self.inside: Tensor | None = None if region is None else tensor(region, torch.float32)
        self.on_grids: dict[str, Tensor] = {}
        for name in backbone.map_names if region is not None else ():
            side = backbone.map_of(name, found[name]).shape[1]
            mask = region_on_grid(region, side)[:, :, None]
            self.on_grids[name] = tensor(mask.astype(np.float32), torch.float32)

    def levels(self, pixels: Tensor) -> dict[str, Tensor]:
        """Compute maps (n, C, h, w) of pixels (n, 3, S, S) of 0 to 255, float32."""
        found: dict[str, Tensor] = self.backbone.levels_of(self.backbone.normalise(pixels, WHITE))
        return found

    def weights(self, name: str, boxes: Tensor | None) -> Tensor:
        """Compute the weight of each position of a level in its mean, (1 or n, h, w)."""
        h, w = self.shapes[name]
        if boxes is None and self.inside is None:
            return torch.full((1, h, w), 1 / (h * w))
        inside = self.inside
        if boxes is not None:
            own = pictures(boxes, self.side)
            inside = own if inside is None else own * inside
        assert inside is not None
        rows, columns = (torch.from_numpy(averaging(self.side, k)) for k in (h, w))
        shares = (rows @ inside @ columns.transpose(-1, -2)).reshape(-1, h, w)
        return shares / shares.sum(dim=(1, 2), keepdim=True)

    def forward(
        self, pixels: Tensor, boxes: Tensor | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Give features by level, as `BackboneFeatures.transform` does, and what was pooled."""
        levels = self.levels(pixels)
        found = self._features(levels, boxes)
        for k in range(1, self.orientations):
            turned = self._features(self.levels(_turned(pixels, k)), boxes)
            found = {name: values + turned[name] for name, values in found.items()}
        if self.orientations > 1:
            found = {name: values / self.orientations for name, values in found.items()}
        return found, levels

    def _features(self, levels: dict[str, Tensor], boxes: Tensor | None) -> dict[str, Tensor]:
        found = {}
        for name in self.backbone.level_names:
            x = levels[name]
            if boxes is None and self.inside is None:
                found[name] = x.mean(dim=(2, 3))
            else:
                found[name] = (x * self.weights(name, boxes)[:, None]).sum(dim=(2, 3))
        for name in self.backbone.map_names:
            values = self.backbone.map_of(name, levels[name])
            mask = self.on_grids.get(name)
            found[MAP_PREFIX + name] = values if mask is None else values * mask
        return found


def _turned(pixels: Tensor, k: int) -> Tensor:
    """One of the 8 orientations of squares (n, 3, S, S), as `mahalad.images.geometry.turn`."""
    quarters = k % 4
    if quarters % 2:
        pixels = pixels.transpose(2, 3)
    flips = {0: [], 1: [2], 2: [2, 3], 3: [3]}[quarters]
    pixels = pixels.flip(flips) if flips else pixels
    return pixels.flip([3]) if k >= 4 else pixels
