"""The graph of a detector as ONNX, with a record of all else that judging needs."""

from __future__ import annotations

import importlib.metadata
import io
import json
import warnings
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mahalad.detectors.file import golden_scores
from mahalad.errors import CalibrationError, InputError, MissingExtraError
from mahalad.export.graph import Graph, check_exportable, no_fraction
from mahalad.features.golden import GOLDEN_SEED
from mahalad.files.onnx import FORMAT_VERSION, KEY, encode, sealed
from mahalad.files.spec import to_spec
from mahalad.runtime.by_openvino import openvino
from mahalad.scorers.capabilities import capabilities_of, degrees_of_freedom, score_names
from mahalad.thresholds.chi_square import NominalChiSquareThreshold
from mahalad.thresholds.conformal import ConformalThreshold

OPSETS = range(17, 21)
"""Versions of ONNX's operators that can be written: 17 is the first with all that is needed."""
GOLDEN_RTOL = 1e-4


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


@dataclass(frozen=True)
class Written:
    """A detector as ONNX, before a file is made of it.

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


def onnx_of(detector: Any, opset: int = OPSETS[0]) -> bytes:
    """Write a fitted detector as ONNX, sealed by a checksum.

    Raises
    ------
    InputError, MissingExtraError, CalibrationError
        As `write`.
    """
    onnx = check_installed()
    written = write(detector, opset)
    model = onnx.load_from_string(written.graph)
    for name, value in written.defaults.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    model.producer_name, model.producer_version = "mahalad", importlib.metadata.version("mahalad")
    entry = model.metadata_props.add()
    entry.key, entry.value = KEY, written.record
    content: bytes = sealed(model.SerializeToString())
    return content


def write(detector: Any, opset: int = OPSETS[0]) -> Written:
    """Write a fitted detector as ONNX.

    Raises
    ------
    InputError
        It cannot be exported.
    CalibrationError
        It has no threshold at its `fpr`.
    """
    check_opset(opset)
    check_exportable(detector)
    threshold = detector.threshold_
    _, calibrated = detector.parts_to_ask()
    rule = to_spec(detector.threshold)
    if isinstance(rule, dict) and "custom" in rule:
        raise InputError(
            f"a model whose threshold is {detector.threshold!r}, which is not part of mahalad, "
            "cannot be exported: set_params(threshold='conformal') before"
        )
    if detector.threshold in ("conformal", "holdout") or isinstance(
        detector.threshold, ConformalThreshold
    ):
        ranking = calibrated.scores, calibrated.weights
    else:
        ranking = None
    nominal = detector.threshold == "chi2-nominal" or isinstance(
        detector.threshold, NominalChiSquareThreshold
    )
    graph = Graph(detector, ranking, nominal=nominal).eval()
    defaults = {"fraction": no_fraction().numpy(), "threshold": np.array(threshold)}
    record = json.dumps(record_of(detector, graph, opset), allow_nan=True)
    return Written(_traced(graph, opset), defaults, record)


def _traced(graph: Graph, opset: int) -> bytes:
    side, n = graph.network.side, 2
    boxes = [torch.tensor([[0.0, 0.25, 1.0, 0.75]] * n)] if graph.network.has_boxes else []
    given = (
        torch.zeros(n, 3, side, side, dtype=torch.uint8),
        *boxes,
        no_fraction(),
        torch.tensor(0.0, dtype=torch.float64),
    )
    every = {k: f"fraction_{k}" for k in range(4)}
    axes: dict[str, Any] = {name: {0: "n"} for name in (*graph.inputs, *graph.outputs)}
    axes |= {"fraction": every}
    del axes["threshold"]
    content: Any = io.BytesIO()
    try:
        with torch.no_grad(), warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # of the tracer, and that it is the older exporter
            torch.onnx.export(
                graph,
                given,
                content,
                dynamo=False,
                opset_version=opset,
                do_constant_folding=False,  # it would unpack what is packed
                input_names=list(graph.inputs),
                output_names=list(graph.outputs),
                dynamic_axes=axes,
            )
    except Exception as error:  # torch raises many kinds, for every operator that it cannot write
        first_line = (str(error).splitlines() or ["?"])[0]
        raise InputError(
            f"this model cannot be exported: torch cannot write its network as ONNX "
            f"({type(error).__name__}: {first_line})"
        ) from error
    traced: bytes = content.getvalue()
    return traced


def record_of(detector: Any, graph: Graph, opset: int) -> dict[str, Any]:
    """Say, as JSON, what judging needs beside the graph, and where it comes from."""
    fitted, calibrated = detector.parts_to_ask()
    state_scores = golden_scores_of(detector)
    positions = capabilities_of(fitted.scorer).has_maps
    maps = None
    if "map" in graph.outputs:
        maps = {
            "kind": "positions" if positions else "shares",
            "threshold": detector.map_threshold_ if positions else None,
        }
    preparation = detector.features_.preparation()
    region = preparation.region
    return {
        "format_version": FORMAT_VERSION,
        "mahalad_version": importlib.metadata.version("mahalad"),
        "class": type(detector).__name__,
        "scope": getattr(detector, "scope", None),
        "opset": opset,
        "fpr": float(detector.fpr),
        "threshold": to_spec(detector.threshold),
        "threshold_value": float(detector.threshold_),
        "levels": list(score_names(fitted.scorer, fitted.levels)),
        "degrees_of_freedom": degrees_of_freedom(fitted.scorer),
        "maps": maps,
        "images": {
            "side": preparation.side,
            "resize": preparation.resize,
            "interpolation": preparation.interpolation,
            "region": None if region is None else encode(np.packbits(region)),
            "colour": preparation.colour,
            "bits": preparation.pixels.bits,
            "channels": preparation.pixels.channels,
        },
        "features": detector.features_.record(),
        "calibration": {
            "method": calibrated.method,
            "scores": encode(calibrated.scores),
            "weights": encode(calibrated.weights),
            "counts_parts": calibrated.counts_parts,
        },
        "fit": {
            "n_images": detector.n_images_,
            "date": detector.fit_date_,
            "salt": fitted.salt,
            "depths": sorted(fitted.depths),
            "keys": encode(fitted.keys),
            "left_out": encode(fitted.left_out),
            "suspects": _suspects(detector),
        },
        "golden": {
            "seed": GOLDEN_SEED,
            "scores": state_scores.tolist(),
            "rtol": GOLDEN_RTOL,
            # Scores in standard deviations of good images pass through 0; distances do not.
            "atol": GOLDEN_RTOL if positions else 0.0,
        },
    }


def golden_scores_of(detector: Any) -> Any:
    """Scores of the golden inputs by the detector."""
    fitted, _ = detector.parts_to_ask()
    return golden_scores(detector.features_, fitted, fitted.scorer)


def _suspects(detector: Any) -> list[list[Any]]:
    try:
        return [[result.name, result.score] for result in detector.suspects_]
    except CalibrationError:
        return []
