"""Export a fitted detector to one file that needs neither torch nor this library's statistics."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mahalad.export.checking import Parity, check, compare
from mahalad.export.writing import OPSETS, onnx_of
from mahalad.files.container import write_atomically
from mahalad.runtime.loading import loaded


@dataclass(frozen=True)
class Exported:
    """What was exported.

    Attributes
    ----------
    path : str
    size : int
        Bytes.
    golden : Parity
        How the file differs from the detector on the golden inputs.
    images : Parity or None
        The same on the images that were given.
    """

    path: str
    size: int
    golden: Parity
    images: Parity | None


def export(
    detector: Any, path: str | Path, *, check_on: Any = None, opset: int = OPSETS[0]
) -> Exported:
    """Write a fitted detector as one ONNX file, and check that it says the same.

    Parameters
    ----------
    detector : AnomalyDetector, fitted
        With features of a network, and Gaussians or nearest patches.
    path : str or Path
        The file; it is written whole or not at all, after it was run by onnxruntime.
    check_on : images, optional
        Further images on which both must agree, beside generated ones.
    opset : int, default=17
        Version of ONNX's operators, 17 to 20.

    Returns
    -------
    Exported

    Raises
    ------
    InputError
        The detector cannot be exported, or an opset that cannot be written.
    CalibrationError
        It has too few calibration scores for its `fpr`.
    MissingExtraError
        The packages onnx and onnxruntime are not installed.
    ModelFileError
        The exported model says something else than the detector: scores differ by more than 1e-4
        of themselves, maps by more than 1e-3, or a verdict. Or the file cannot be written.

    Notes
    -----
    The graph takes ``pixels`` (n, 3, S, S), uint8, as the model's images are prepared (``box`` (n,
    4) as well, where they are padded) and gives ``score`` (n,), ``level_scores``, ``p_value``
    (conformal thresholds), ``anomaly`` and ``map`` (n, S, S). `mahalad.runtime` prepares images.
    """
    content = onnx_of(detector, opset)
    exported = loaded(content, str(path))
    golden = compare(detector, exported)
    check(golden, "golden inputs")
    images = None
    if check_on is not None:
        images = compare(detector, exported, check_on)
        check(images, "the images given")
    write_atomically(path, content)
    return Exported(str(path), len(content), golden, images)
