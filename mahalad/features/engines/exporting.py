"""A frozen torch network as ONNX, in memory: the one form that all other engines read."""

from __future__ import annotations

import io
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from mahalad.errors import BackboneError, first_line
from mahalad.features.engines.frozen import PIXELS, Frozen

OPSET = 17
"""Version of ONNX's operators that is written: the first one with a layer normalisation, read by
onnxruntime since 1.12."""


class _Levels(nn.Module):
    """A network's levels as a tuple, channels last: how pooling and statistics read them."""

    def __init__(self, frozen: Frozen) -> None:
        super().__init__()
        self.network = frozen.network  # so that its weights are found, and exported
        self._frozen = frozen

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        found = self._frozen.run(x)
        return tuple(found[name].permute(0, 2, 3, 1) for name in self._frozen.levels)


def export_onnx(frozen: Frozen) -> bytes:
    """Write a network from float32 pixels (n, 3, S, S) to levels (n, h, w, C), for any n.

    It is traced (torch's exporter without dynamo: a second, where dynamo takes a minute). What a
    trace may get wrong, a number of images that is taken for a constant, say, is found by whoever
    opens the engine and compares.

    Parameters
    ----------
    frozen : Frozen
        On the CPU.

    Raises
    ------
    BackboneError
        torch cannot export this network.
    """
    content: Any = io.BytesIO()
    pixels = torch.zeros(2, 3, frozen.size, frozen.size)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the tracer, and that it is the older exporter
            torch.onnx.export(
                _Levels(frozen).eval(),
                (pixels,),
                content,
                dynamo=False,
                opset_version=OPSET,
                input_names=[PIXELS],
                output_names=list(frozen.levels),
                dynamic_axes={name: {0: "n"} for name in (PIXELS, *frozen.levels)},
            )
    except Exception as error:  # torch raises many kinds, for every operator that it cannot write
        raise BackboneError(
            f"{frozen.name} cannot be exported for another engine than torch "
            f"({type(error).__name__}: {first_line(error)}): give engine='torch'"
        ) from error
    exported: bytes = content.getvalue()
    return exported
