"""Where networks run: the device, and the precision of what is computed on it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

from mahalad.errors import BackboneError, first_line

Network = TypeVar("Network", bound=nn.Module)

_LONGEST = 200  # letters of what torch says


def resolve_device(device: str) -> torch.device:
    """Turn ``"auto"`` into CUDA or CPU, and a name into a device.

    Raises
    ------
    BackboneError
        The device is not usable here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        target = torch.device(device)
        torch.empty(1, device=target)
    except Exception as error:
        reason = first_line(error)
        if len(reason) > _LONGEST:  # all backends that there are, say
            reason = f"{reason[:_LONGEST]} ..."
        raise BackboneError(
            f"device {device!r} is not usable here ({reason}); give 'auto' or 'cpu'"
        ) from error
    return target


def placed(network: Network, device: str) -> Network:
    """Give a network on a device: itself, or a copy of it where it is on another one.

    Raises
    ------
    BackboneError
        The device is not usable here.
    """
    target, here = resolve_device(device), next(network.parameters()).device
    if target.type == here.type and target.index in (None, here.index or 0):
        return network
    return copy.deepcopy(network).to(target)  # in place it would move for others that share it


@contextmanager
def no_tf32() -> Iterator[None]:
    """Compute full float32 products in cuDNN: TF32 keeps 10 bits of a factor."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
