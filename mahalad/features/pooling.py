"""Put maps of tiles together, and average maps over positions or over a region."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from numpy.typing import NDArray


def put_together(maps: Tensor, k: int) -> Tensor:
    """Put maps of tiles, (n * k * k, C, h, w), row by row, together: (n, C, k * h, k * w)."""
    _, C, h, w = maps.shape
    grid = maps.reshape(-1, k, k, C, h, w).permute(0, 3, 1, 4, 2, 5)  # (n, C, k, h, k, w)
    return grid.reshape(-1, C, k * h, k * w)


def averaging(n: int, k: int) -> NDArray[np.float32]:
    """Make the matrix (k, n) of means over k parts of n positions, which may overlap by one.

    The parts are those of ``torch.nn.functional.adaptive_avg_pool2d``.
    """
    starts, stops = np.arange(k) * n // k, -(-np.arange(1, k + 1) * n // k)
    inside = (np.arange(n) >= starts[:, None]) & (np.arange(n) < stops[:, None])
    return np.asarray(inside / (stops - starts)[:, None], dtype=np.float32)


def averaged(x: Tensor, k: int) -> Tensor:
    """Average maps (n, C, h, h) over parts of positions: (n, C, k, k)."""
    n = int(x.shape[-1])
    if n % k == 0:
        return functional.avg_pool2d(x, n // k)
    along = torch.from_numpy(averaging(n, k)).to(x.device)
    return along @ x @ along.transpose(-1, -2)


def pool(x: Tensor, roi: NDArray[np.bool_] | None) -> Tensor:
    """Average (n, C, h, w) over positions, weighted by each one's share of the region: (n, C)."""
    if roi is None:
        return x.mean(dim=(2, 3))
    weights = pooling_weights(x, roi)
    return (x * weights.view(-1, 1, *weights.shape[-2:])).sum(dim=(2, 3))


def pooling_weights(x: Tensor, roi: NDArray[np.bool_] | None) -> Tensor:
    """Compute the weight of each position of (n, C, h, w) in the mean, (h, w); they sum to 1.

    Weights are (n, h, w) if each image has its own region.
    """
    h, w = x.shape[2], x.shape[3]
    if roi is None:
        return torch.full((h, w), 1 / (h * w), device=x.device)
    regions = torch.from_numpy(roi.astype(np.float32)).to(x.device)
    if roi.ndim == 2:
        weights = functional.adaptive_avg_pool2d(regions[None, None], (h, w))[0, 0]
        return weights / weights.sum()
    weights = functional.adaptive_avg_pool2d(regions[:, None], (h, w))[:, 0]
    return weights / weights.sum(dim=(1, 2), keepdim=True)
