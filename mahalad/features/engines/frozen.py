"""What an engine is made from, and what it gives: values that all engines share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

PIXELS = "pixels"
"""Name of the input of an exported network."""
Run = Callable[[Tensor], dict[str, Tensor]]
"""From normalised images (n, 3, S, S), float32, to the maps (n, C, h, w) of each level."""


@dataclass(frozen=True, eq=False)
class Frozen:
    """A network as torch has it, in eval mode, whose weights change no more.

    Attributes
    ----------
    name : str
        Named in errors.
    network : torch.nn.Module
    run : callable
        Computes the network's levels by torch, on the device where the network is.
    levels : tuple of str
        What `run` gives, in this order.
    size : int
        Side S of the images.
    """

    name: str
    network: nn.Module
    run: Run
    levels: tuple[str, ...]
    size: int


@dataclass(frozen=True, eq=False)
class Engine:
    """An engine that is ready: its name, where it computes and takes tensors, and how."""

    name: str
    device: torch.device
    run: Run
