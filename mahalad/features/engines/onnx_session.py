"""A frozen network by onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnxruntime as ort
import torch
from torch import Tensor

from mahalad.features.engines.frozen import PIXELS

CUDA_PROVIDER = "CUDAExecutionProvider"


class OnnxSession:
    """A session of onnxruntime in float32, with as many threads as torch has.

    Parameters
    ----------
    content : bytes
        As `export_onnx` writes it.
    levels : sequence of str
    device : torch.device
        The CPU, or CUDA where onnxruntime has it.
    """

    def __init__(self, content: bytes, levels: Sequence[str], device: torch.device) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Threads that wait actively for the next batch take the cores that pooling and statistics
        # need: by that, a batch took 1.25 times what the bare session takes, without it 1.1.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self.levels = tuple(levels)
        self._device = device
        self._session = ort.InferenceSession(content, options, providers=_providers(device))

    def __call__(self, x: Tensor) -> dict[str, Tensor]:
        """Compute levels (n, C, h, w) of normalised images (n, 3, S, S)."""
        pixels = x.cpu().contiguous().numpy()
        maps = self._session.run(list(self.levels), {PIXELS: pixels})
        return {
            name: torch.from_numpy(found).permute(0, 3, 1, 2).to(self._device)
            for name, found in zip(self.levels, maps, strict=True)
        }


def has_cuda() -> bool:
    """Whether this build of onnxruntime computes on CUDA."""
    return CUDA_PROVIDER in ort.get_available_providers()


def _providers(device: torch.device) -> list[Any]:
    if device.type == "cpu":
        return ["CPUExecutionProvider"]
    # TF32 keeps 10 bits of a factor.
    return [(CUDA_PROVIDER, {"device_id": device.index or 0, "use_tf32": "0"})]
