"""An exported graph by onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from mahalad.files.onnx import KEY
from mahalad.runtime.session import imported, opening


class OnnxRunner:
    """A `Runner` that is a session of onnxruntime on the CPU.

    Parameters
    ----------
    content : bytes
        As `mahalad.files.onnx.sealed` gives them.
    name : str
        Of the file, for errors.
    threads : int, optional
        None for as many as there are cores.

    Raises
    ------
    MissingExtraError
        onnxruntime is not installed.
    ModelFileError
        It cannot open the file.
    """

    def __init__(self, content: bytes, name: str, threads: int | None = None) -> None:
        ort = imported("onnxruntime", "an exported model", "runtime")
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3
        with opening(name, "onnxruntime", ort, "1.20"):
            self._session = ort.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
        self.record: str | None = self._session.get_modelmeta().custom_metadata_map.get(KEY)
        self.inputs = tuple(x.name for x in self._session.get_inputs())
        self.outputs = tuple(x.name for x in self._session.get_outputs())
        # Maps take time: what nobody asks for is not computed.
        self._run_options = ort.RunOptions()
        self._run_options.only_execute_path_to_fetches = True

    def run(self, given: dict[str, NDArray[Any]], names: Sequence[str]) -> list[NDArray[Any]]:
        """Compute the outputs with these names; inputs with defaults need not be given."""
        found: list[NDArray[Any]] = self._session.run(list(names), given, self._run_options)
        return found
