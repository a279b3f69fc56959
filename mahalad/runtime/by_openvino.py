"""An exported graph by OpenVINO."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mahalad.files.openvino import PLACE
from mahalad.runtime.session import imported, opening

DEFAULTS = {"fraction": np.zeros((1, 1, 1, 1), np.float32), "threshold": np.array(0.0)}
"""What inputs are that need not be given."""


class OpenvinoRunner:
    """A `Runner` of OpenVINO on the CPU, in float32, compiled for the outputs that are asked for.

    Parameters
    ----------
    graph, weights : bytes
        As `mahalad.files.openvino.sealed_pair` gives them.
    name : str
        Of the file, for errors.
    threads : int, optional
        None for as many as there are cores.

    Raises
    ------
    MissingExtraError
        OpenVINO is not installed.
    ModelFileError
        It cannot open the file.
    """

    def __init__(self, graph: bytes, weights: bytes, name: str, threads: int | None = None) -> None:
        self._openvino = openvino()
        self._core, self._name = self._openvino.Core(), name
        with self._opening():
            self._model = self._core.read_model(graph, weights)
        self.record: str | None = None
        if self._model.has_rt_info(list(PLACE)):
            self.record = self._model.get_rt_info(list(PLACE)).astype(str)
        self.inputs = tuple(x.any_name for x in self._model.inputs)
        self.outputs = tuple(x.any_name for x in self._model.outputs)
        # By itself it computes in bfloat16 on CPUs that can.
        self._hints: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
        }
        if threads is not None:
            self._hints["INFERENCE_NUM_THREADS"] = threads
        self._requests: dict[tuple[str, ...], Any] = {}
        self._one_at_a_time = threading.Lock()

    def run(self, given: dict[str, NDArray[Any]], names: Sequence[str]) -> list[NDArray[Any]]:
        """Compute the outputs with these names; inputs with defaults need not be given."""
        wanted = tuple(names)
        with self._one_at_a_time:
            if wanted not in self._requests:
                with self._opening():
                    self._requests[wanted] = self._compiled(wanted)
            request = self._requests[wanted]
            values = DEFAULTS | given
            inputs = {name: values[name] for name in self.inputs}
            found = request.infer(inputs, share_inputs=True)
            return [np.array(found[i]) for i in range(len(wanted))]

    def _compiled(self, names: tuple[str, ...]) -> Any:
        """Maps take time: what nobody asks for is not computed."""
        results = [self._model.output(name) for name in names]
        part = self._openvino.Model(results, self._model.get_parameters(), "part")
        return self._core.compile_model(part, "CPU", self._hints).create_infer_request()

    def _opening(self) -> AbstractContextManager[None]:
        return opening(self._name, "OpenVINO", self._openvino, "2025.0")


def openvino() -> Any:
    """Import OpenVINO.

    Raises
    ------
    MissingExtraError
        It is not installed.
    """
    return imported("openvino", "a model exported for OpenVINO", "openvino")
