"""A fitted detector as the pair of files that OpenVINO reads."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Any

from mahalad.errors import InputError
from mahalad.export.writing import OPSETS, check_installed, write
from mahalad.files.openvino import PLACE, sealed_pair
from mahalad.runtime.by_openvino import openvino


def openvino_of(detector: Any, opset: int = OPSETS[0]) -> tuple[bytes, bytes]:
    """Write a fitted detector as a graph in XML and its weights, sealed by checksums.

    Weights stay as exact as they are: nothing is compressed to float16.

    Raises
    ------
    InputError
        It cannot be exported, or OpenVINO cannot read what torch wrote.
    MissingExtraError
        The packages onnx and openvino are not installed.
    CalibrationError
        It has no threshold at its `fpr`.
    """
    check_installed("openvino")
    ov = openvino()
    written = write(detector, opset)
    try:
        model = ov.Core().read_model(io.BytesIO(written.graph))
    except Exception as error:  # it has kinds of its own
        first_line = (str(error).splitlines() or ["?"])[0]
        raise InputError(
            f"this model cannot be exported for OpenVINO {ov.__version__} ({first_line}): export "
            "it as ONNX"
        ) from error
    model.set_rt_info(written.record, list(PLACE))
    with tempfile.TemporaryDirectory() as folder:
        graph, weights = Path(folder) / "part.xml", Path(folder) / "part.bin"
        ov.serialize(model, str(graph), str(weights))
        return sealed_pair(graph.read_bytes(), weights.read_bytes())
