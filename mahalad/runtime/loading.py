"""Read an exported model."""

from __future__ import annotations

from pathlib import Path

from mahalad.files.onnx import check_sealed, read_sealed
from mahalad.runtime.detector import OnnxDetector
from mahalad.runtime.session import Session


def load(path: str | Path, *, threads: int | None = None) -> OnnxDetector:
    """Read a model that `mahalad export` wrote, and check that it still says what it said.

    Neither torch nor scikit-learn is needed: NumPy, Pillow and onnxruntime are.

    Parameters
    ----------
    path : str or Path
    threads : int, optional
        Threads that compute; None for as many as there are cores.

    Returns
    -------
    OnnxDetector

    Raises
    ------
    ModelFileError
        No such file, not a model of `mahalad export`, edited, cut short, of a newer version; or its
        golden inputs score otherwise here.
    MissingExtraError
        onnxruntime is not installed.
    """
    return loaded(read_sealed(path), str(path), threads=threads)


def loaded(content: bytes, name: str, *, threads: int | None = None) -> OnnxDetector:
    """Do what `load` does with the content of a file."""
    check_sealed(content, name)
    return OnnxDetector(Session(content, name, threads), name).check_golden()
