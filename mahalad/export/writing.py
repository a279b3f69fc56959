"""The graph of a fitted model as ONNX, with a record of all else that judging needs."""

from __future__ import annotations

import io
import warnings
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import torch

from mahalad.errors import InputError, first_line
from mahalad.export.embedding import EmbeddingGraph
from mahalad.export.formats import Written
from mahalad.export.graph import Graph, check_exportable, no_fraction
from mahalad.export.records import classifier_record, detector_record
from mahalad.files.spec import to_spec
from mahalad.thresholds.chi_square import NominalChiSquareThreshold
from mahalad.thresholds.conformal import ConformalThreshold


def write_detector(detector: Any, opset: int) -> Written:
    """Write a fitted detector as ONNX.

    Raises
    ------
    InputError
        It cannot be exported.
    CalibrationError
        It has no threshold at its `fpr`.
    """
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
    return Written(_traced(graph, opset), defaults, detector_record(detector, graph, opset))


def write_classifier(classifier: Any, opset: int) -> Written:
    """Write a fitted classifier by nearest neighbours as ONNX.

    Raises
    ------
    InputError
        It cannot be exported.
    """
    graph = EmbeddingGraph(classifier.embedding_).eval()
    defaults = {"fraction": no_fraction().numpy()}
    return Written(_traced(graph, opset), defaults, classifier_record(classifier, opset))


def _traced(graph: Graph | EmbeddingGraph, opset: int) -> bytes:
    side, n = graph.network.side, 2
    values = {
        "pixels": torch.zeros(n, 3, side, side, dtype=torch.uint8),
        "box": torch.tensor([[0.0, 0.25, 1.0, 0.75]] * n),
        "fraction": no_fraction(),
        "threshold": torch.tensor(0.0, dtype=torch.float64),
    }
    given = tuple(values[name] for name in graph.inputs)
    every = {k: f"fraction_{k}" for k in range(4)}
    axes: dict[str, Any] = {name: {0: "n"} for name in (*graph.inputs, *graph.outputs)}
    axes |= {"fraction": every}
    axes.pop("threshold", None)
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
        raise InputError(
            f"this model cannot be exported: torch cannot write its network as ONNX "
            f"({type(error).__name__}: {first_line(error)})"
        ) from error
    traced: bytes = content.getvalue()
    return traced
