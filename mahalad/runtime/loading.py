"""Read an exported model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mahalad.checks import Either, IsNone, Whole, check_parameters
from mahalad.errors import ModelFileError
from mahalad.files.onnx import read_sealed
from mahalad.files.openvino import SUFFIX, WEIGHTS_SUFFIX, is_pair, read_pair
from mahalad.files.recognition import is_model
from mahalad.runtime.by_onnxruntime import OnnxRunner
from mahalad.runtime.by_openvino import OpenvinoRunner
from mahalad.runtime.classifier import KIND, OnnxClassifier
from mahalad.runtime.detector import OnnxDetector
from mahalad.runtime.session import Runner, Session

_THREADS = Either((IsNone(), Whole(1, 1024)))


def load(path: str | Path, *, threads: int | None = None) -> Any:
    """Read a model that `mahalad export` wrote, and check that it still says what it said.

    Neither torch nor scikit-learn is needed: NumPy, Pillow and onnxruntime are, or OpenVINO for a
    model of its format.

    Parameters
    ----------
    path : str or Path
        ``part.onnx``; or ``part.xml`` for OpenVINO, with ``part.bin`` beside it.
    threads : int, optional
        Threads that compute, 1 to 1024; None for as many as there are cores.

    Returns
    -------
    OnnxDetector or OnnxClassifier

    Raises
    ------
    InputError
        Another number of threads.
    ModelFileError
        No such file, a folder, not a model of `mahalad export`, edited, cut short, of a newer
        version; or its golden inputs score otherwise here.
    MissingExtraError
        The engine, onnxruntime or OpenVINO, is not installed.
    """
    check_parameters({"threads": _THREADS}, {"threads": threads})
    if is_model(path):
        raise ModelFileError(
            f"{path}: a model of `mahalad fit` or `tune`, not an exported one: mahalad.load reads "
            "it, and `mahalad export` makes one of it that runs here"
        )
    if is_pair(path):
        return loaded_pair(*read_pair(path), str(path), threads=threads)
    if Path(path).suffix.lower() == WEIGHTS_SUFFIX:
        raise ModelFileError(
            f"{path}: weights of an OpenVINO model: give {Path(path).with_suffix(SUFFIX)}"
        )
    return loaded(read_sealed(path), str(path), threads=threads)


def loaded(content: bytes, name: str, *, threads: int | None = None) -> Any:
    """Do what `load` does with the content of a file, whose checksum is not looked at again."""
    return _model_of(OnnxRunner(content, name, threads), name)


def loaded_pair(graph: bytes, weights: bytes, name: str, *, threads: int | None = None) -> Any:
    """Do the same with the content of both files of OpenVINO."""
    return _model_of(OpenvinoRunner(graph, weights, name, threads), name)


def _model_of(runner: Runner, name: str) -> Any:
    session = Session(runner, name)
    make = OnnxClassifier if session.record.get("kind") == KIND else OnnxDetector
    return make(session, name).check_golden()
