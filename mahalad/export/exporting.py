"""Export a fitted detector to one file that needs neither torch nor this library's statistics."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mahalad.checks import Either, IsNone, OneOf, check_parameters
from mahalad.choices import EXPORT_FORMATS
from mahalad.errors import InputError
from mahalad.export.checking import Parity, check, compare, compare_labels
from mahalad.export.formats import OPSETS, check_installed, check_opset, onnx_of, openvino_of
from mahalad.export.writing import write_classifier, write_detector
from mahalad.files.container import write_atomically
from mahalad.files.openvino import SUFFIX, WEIGHTS_SUFFIX, is_pair, weights_beside
from mahalad.metric.classifier import MetricKNNClassifier
from mahalad.runtime.loading import loaded, loaded_pair


@dataclass(frozen=True)
class Exported:
    """What was exported.

    Attributes
    ----------
    path : str
    size : int
        Bytes, of all files together.
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
    detector: Any,
    path: str | Path,
    *,
    format: str | None = None,
    check_on: Any = None,
    opset: int = OPSETS[0],
) -> Exported:
    """Write a fitted detector as a file of ONNX or OpenVINO, and check that it says the same.

    Parameters
    ----------
    detector : AnomalyDetector or MetricKNNClassifier, fitted
        With features of a network; a detector with Gaussians, nearest patches or neighbours.
    path : str or Path
        The file; it is written whole or not at all, after the engine ran it.
    format : {"onnx", "openvino"}, optional
        ``"openvino"``: `path` ends in ``.xml``, and the weights are in a file beside it that ends
        in ``.bin``. None: by the end of `path`.
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
        The detector cannot be exported, an opset that cannot be written, or a path of another
        format.
    CalibrationError
        It has too few calibration scores for its `fpr`.
    MissingExtraError
        The packages onnx and onnxruntime (or openvino) are not installed.
    ModelFileError
        The exported model says something else than the detector: scores differ by more than 1e-4
        of themselves, maps by more than 1e-3, or a verdict. Or the file cannot be written.

    Notes
    -----
    The graph takes ``pixels`` (n, 3, S, S), uint8, as the model's images are prepared (``box`` (n,
    4) as well, where they are padded) and gives ``score`` (n,), ``level_scores``, ``p_value``
    (conformal thresholds), ``anomaly`` and ``map`` (n, S, S). `mahalad.runtime` prepares images.
    That of a classifier gives ``embedding`` (n, n_components); its index is in the record of the
    file, and `mahalad.runtime` counts the votes.
    """
    name, format = str(path), format_of(path, format)
    check_installed(format)
    check_opset(opset)
    is_classifier = isinstance(detector, MetricKNNClassifier)
    written = (write_classifier if is_classifier else write_detector)(detector, opset)
    if format == "openvino":
        graph, weights = openvino_of(written)
        files = {weights_beside(path): weights, Path(path): graph}
        exported = loaded_pair(graph, weights, name)
    else:
        content = onnx_of(written)
        files = {Path(path): content}
        exported = loaded(content, name)
    compared = compare_labels if is_classifier else compare
    golden = compared(detector, exported)
    check(golden, "golden inputs")
    images = None
    if check_on is not None:
        images = compared(detector, exported, check_on)
        check(images, "the images given")
    for file, content in files.items():
        write_atomically(file, content)
    return Exported(name, sum(map(len, files.values())), golden, images)


def format_of(path: str | Path, format: str | None) -> str:
    """Tell the format of an export by what is asked for and by the name of the file.

    Raises
    ------
    InputError
        They contradict each other, or the name is that of an OpenVINO model's weights.
    """
    check_parameters({"format": Either((IsNone(), OneOf(EXPORT_FORMATS)))}, {"format": format})
    if Path(path).suffix.lower() == WEIGHTS_SUFFIX:
        raise InputError(
            f"{path}: ends as the weights of an OpenVINO model, which are written beside its "
            f"graph: give {Path(path).with_suffix('.onnx')}, or {Path(path).with_suffix(SUFFIX)}"
        )
    by_name = "openvino" if is_pair(path) else "onnx"
    if format == "openvino" and by_name != format:
        raise InputError(
            f"{path}: the graph of an OpenVINO model ends in {SUFFIX}, and its weights are beside "
            f"it: give {Path(path).with_suffix(SUFFIX)}"
        )
    if format == "onnx" and by_name != format:
        raise InputError(f"{path}: ends as a model of OpenVINO: give format='openvino', or .onnx")
    return by_name
