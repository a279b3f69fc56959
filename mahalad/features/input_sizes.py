"""Sizes of images that a network takes: whole patches, position embeddings, or its own alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mahalad.errors import BackboneError, InputSizeWarning, first_line


def whole_patches(size: int, patch: int, backbone: str) -> int:
    """Round a size to a whole number of patches, and say so where that changes it."""
    whole = max(1, round(size / patch)) * patch
    if whole != size:
        warnings.warn(
            f"input_size={size}: {backbone} has patches of {patch} pixels, so {whole} is taken, "
            "the nearest multiple",
            InputSizeWarning,
            stacklevel=4,
        )
    return whole


def try_size(
    run: Callable[[Tensor], dict[str, Tensor]],
    size: int,
    native: int,
    backbone: str,
    device: torch.device,
) -> dict[str, int]:
    """Pass a black image through the network, and give the channels of each level.

    Raises
    ------
    BackboneError
        The network cannot take images of this size.
    """
    try:
        with torch.inference_mode():
            found = run(torch.zeros(1, 3, size, size, device=device))
    except Exception as error:  # whatever a network checks its input by
        raise BackboneError(
            f"{backbone} cannot take input_size={size} ({first_line(error)}): give its own, "
            f"{native}"
        ) from error
    return {name: maps.shape[1] for name, maps in found.items()}


def resize_input(network: nn.Module, size: int, backbone: str) -> None:
    """Set the input size of networks that depend on it (position embeddings, windows)."""
    set_input_size: Any = getattr(network, "set_input_size", None)
    if set_input_size is not None:
        try:
            set_input_size((size, size))
        except Exception as error:
            raise BackboneError(f"{backbone} cannot take input_size={size}: {error}") from error
