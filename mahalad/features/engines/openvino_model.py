"""A frozen network by OpenVINO."""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class OpenvinoModel:
    """A compiled model of OpenVINO on the CPU, with as many threads as torch has.

    Parameters
    ----------
    core : openvino.Core
    content : bytes
        As `export_onnx` writes it.
    levels : sequence of str
    """

    def __init__(self, core: Any, content: bytes, levels: Sequence[str]) -> None:
        hints = {
            # By itself it computes in bfloat16 on CPUs that can, which a model fitted in float32
            # does not survive.
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        compiled = core.compile_model(core.read_model(io.BytesIO(content)), "CPU", hints)
        self.levels = tuple(levels)
        self.precision: str = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        self._request = compiled.create_infer_request()
        self._one_at_a_time = threading.Lock()

    def __call__(self, x: Tensor) -> dict[str, Tensor]:
        """Compute levels (n, C, h, w) of normalised images (n, 3, S, S)."""
        with self._one_at_a_time:
            found = self._request.infer([x.contiguous().numpy()], share_inputs=True)
            maps = [found[i] for i in range(len(self.levels))]
        return {
            name: torch.from_numpy(array).permute(0, 3, 1, 2)
            for name, array in zip(self.levels, maps, strict=True)
        }
