"""What is exported as the files of a format: one of ONNX, or the two of OpenVINO."""

from __future__ import annotations

import importlib.metadata
import io
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from mahalad.errors import InputError, MissingExtraError, first_line
from mahalad.files.onnx import KEY, sealed
from mahalad.files.openvino import PLACE, sealed_pair
from mahalad.runtime.by_openvino import openvino

OPSETS = range(17, 21)
"""Versions of ONNX's operators that can be written: 17 is the first with all that is needed."""


@dataclass(frozen=True)
class Written:
    """A model as a graph of ONNX, before a file is made of it.

    Attributes
    ----------
    graph : bytes
        All inputs must be given.
    defaults : dict of str to ndarray
        Of those that need not be.
    record : str
        JSON: what judging needs beside the graph.
    """

    graph: bytes
    defaults: dict[str, NDArray[Any]]
    record: str


def check_installed(format: str = "onnx") -> Any:
    """Import what an export needs: the package onnx, and see that the engine is there.

    Raises
    ------
    MissingExtraError
        One is not.
    """
    if format == "openvino":
        openvino()
    try:
        import onnx

        if format == "onnx":
            import onnxruntime  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            f"export needs the package {error.name}, which is not installed: "
            f'pip install "mahalad[{format}]"'
        ) from error
    return onnx


def check_opset(opset: int) -> None:
    """Refuse a version of ONNX's operators that cannot be written.

    Raises
    ------
    InputError
    """
    if opset not in OPSETS:
        why = "too old: it lacks operators of networks" if opset < OPSETS[0] else "too new"
        raise InputError(f"opset {opset} is {why}; give {OPSETS[0]} to {OPSETS[-1]}")


def onnx_of(written: Written) -> bytes:
    """Make a file of ONNX, sealed by a checksum.

    Raises
    ------
    MissingExtraError
        The package onnx is not installed.
    """
    onnx = check_installed()
    stored = onnx.load_from_string(written.graph)
    for name, value in written.defaults.items():
        stored.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    stored.producer_name = "mahalad"
    stored.producer_version = importlib.metadata.version("mahalad")
    entry = stored.metadata_props.add()
    entry.key, entry.value = KEY, written.record
    content: bytes = sealed(stored.SerializeToString())
    return content


def openvino_of(written: Written) -> tuple[bytes, bytes]:
    """Make a graph in XML and its weights, sealed by checksums.

    Weights stay as exact as they are: nothing is compressed to float16.

    Raises
    ------
    InputError
        OpenVINO cannot read what torch wrote.
    MissingExtraError
        OpenVINO is not installed.
    """
    ov = openvino()
    try:
        model = ov.Core().read_model(io.BytesIO(written.graph))
    except Exception as error:  # it has kinds of its own
        raise InputError(
            f"this model cannot be exported for OpenVINO {ov.__version__} ({first_line(error)}): "
            "export it as ONNX"
        ) from error
    model.set_rt_info(written.record, list(PLACE))
    with tempfile.TemporaryDirectory() as folder:
        graph, weights = Path(folder) / "part.xml", Path(folder) / "part.bin"
        ov.serialize(model, str(graph), str(weights))
        return sealed_pair(graph.read_bytes(), weights.read_bytes())
