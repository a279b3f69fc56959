"""Squares and grids in torch operations that any engine has: boxes, enlarging, edges.

The functions of `mahalad.images.geometry`, for tensors of any number of images.
"""

from __future__ import annotations

import torch
from torch import Tensor


def positions_inside(boxes: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Find the rows and columns of a grid, (n, side) each, that have their centre in a picture."""
    columns, rows = (_inside(boxes[:, axis], boxes[:, axis + 2], side) for axis in (0, 1))
    return rows, columns


def _inside(start: Tensor, stop: Tensor, side: int) -> Tensor:
    centres = (torch.arange(side, dtype=torch.float64) + 0.5) / side
    inside = (centres >= start[:, None].double()) & (centres < stop[:, None].double())
    middle = ((start + stop) / 2 * side).clamp(0, side - 1).to(torch.int64)
    none = inside.to(torch.int64).sum(dim=1, keepdim=True) == 0
    return inside | (none & (torch.arange(side) == middle[:, None]))


def pictures(boxes: Tensor, side: int) -> Tensor:
    """Mark pictures on their squares, (n, side, side), by 1."""
    edges = (boxes * side).round()
    at = torch.arange(side, dtype=boxes.dtype)
    x, y = ((at >= edges[:, k, None]) & (at < edges[:, k + 2, None]) for k in (0, 1))
    return y[:, :, None].float() * x[:, None, :].float()


def repeat_edges(grid: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Give positions outside a picture, (n, side, side), the value of the nearest one inside."""
    side = int(grid.shape[-1])
    up, along = _nearest_inside(rows, side), _nearest_inside(columns, side)
    grid = grid.gather(1, up[:, :, None].expand(-1, side, side))
    return grid.gather(2, along[:, None, :].expand(-1, side, side))


def _nearest_inside(inside: Tensor, side: int) -> Tensor:
    at = torch.arange(side)
    first = torch.where(inside, at, side).amin(dim=1, keepdim=True)
    last = torch.where(inside, at, -1).amax(dim=1, keepdim=True)
    return torch.minimum(torch.maximum(at, first), last)


def enlarge(maps: Tensor, side: int, boxes: Tensor | None = None) -> Tensor:
    """Enlarge the part of maps (n, h, w) that is the picture, bilinearly: (n, side, side)."""
    h, w = int(maps.shape[1]), int(maps.shape[2])
    if boxes is None:
        zero, one = torch.zeros(1), torch.ones(1)
        return _mixing(h, side, zero, one) @ maps @ _mixing(w, side, zero, one).transpose(-1, -2)
    boxes = boxes.double()
    rows = _mixing(h, side, boxes[:, 1], boxes[:, 3])
    return rows @ maps @ _mixing(w, side, boxes[:, 0], boxes[:, 2]).transpose(-1, -2)


def _mixing(n: int, side: int, start: Tensor, stop: Tensor) -> Tensor:
    """Matrices (m, side, n) that sample n values between shares of their length, half-pixel."""
    start, stop = start.double()[:, None], stop.double()[:, None]
    step = n * (stop - start) / side
    at = start * n + (torch.arange(side, dtype=torch.float64) + 0.5) * step - 0.5
    at = at.clamp(0, n - 1)[:, :, None]
    return (1 - (at - torch.arange(n, dtype=torch.float64)).abs()).clamp(min=0)


def enlarge_keeping_sum(maps: Tensor, side: int, boxes: Tensor | None = None) -> Tensor:
    """Enlarge maps (n, h, w): each sums to the same over pixels as over positions."""
    large = enlarge(maps, side, boxes)
    positions: Tensor | int = int(maps.shape[1]) * int(maps.shape[2])  # that a picture covers
    if boxes is not None:
        b = boxes.double()
        positions = (positions * (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]))[:, None, None]
    scaled = large * (positions / side**2)
    missing = maps.sum(dim=(1, 2)) - scaled.sum(dim=(1, 2))
    return scaled + missing[:, None, None] / side**2
