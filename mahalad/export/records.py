"""What an exported file says of its model, as JSON: all that judging needs beside the graph."""

from __future__ import annotations

import importlib.metadata
import json
from dataclasses import asdict
from typing import Any

import numpy as np

from mahalad.detectors.file import golden_scores
from mahalad.errors import CalibrationError
from mahalad.export.graph import Graph
from mahalad.features.golden import GOLDEN_SEED
from mahalad.files.onnx import FORMAT_VERSION, encode
from mahalad.files.spec import to_spec
from mahalad.index.memory import MemoryIndex
from mahalad.metric.file import golden
from mahalad.runtime.classifier import KIND
from mahalad.scorers.capabilities import capabilities_of, degrees_of_freedom, score_names

GOLDEN_RTOL = 1e-4


def detector_record(detector: Any, graph: Graph, opset: int) -> str:
    """Say of a detector, as JSON, what judging needs beside the graph, and where it comes from."""
    fitted, calibrated = detector.parts_to_ask()
    positions = capabilities_of(fitted.scorer).has_maps
    maps = None
    if "map" in graph.outputs:
        maps = {
            "kind": "positions" if positions else "shares",
            "threshold": detector.map_threshold_ if positions else None,
        }
    about = {
        **_common(detector, detector.features_, opset),
        "scope": getattr(detector, "scope", None),
        "fpr": float(detector.fpr),
        "threshold": to_spec(detector.threshold),
        "threshold_value": float(detector.threshold_),
        "levels": list(score_names(fitted.scorer, fitted.levels)),
        "degrees_of_freedom": degrees_of_freedom(fitted.scorer),
        "maps": maps,
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
            "scores": golden_scores(detector.features_, fitted, fitted.scorer).tolist(),
            "rtol": GOLDEN_RTOL,
            # Scores in standard deviations of good images pass through 0; distances do not.
            "atol": GOLDEN_RTOL if positions else 0.0,
        },
    }
    return json.dumps(about, allow_nan=True)


def _suspects(detector: Any) -> list[list[Any]]:
    try:
        return [[result.name, result.score] for result in detector.suspects_]
    except CalibrationError:
        return []


def classifier_record(classifier: Any, opset: int) -> str:
    """Say the same of a classifier by nearest neighbours; its index is within, wherever it is."""
    rule, held_out = classifier.parts_to_ask()
    embedding, point = classifier.embedding_, classifier.operating_point_
    about = {
        **_common(classifier, embedding.encoder, opset),
        "kind": KIND,
        "classes": classifier.classes_.tolist(),
        "voting": {
            "n_neighbors": rule.voting.k,
            "weights": rule.voting.weights,
            "class_weight": rule.voting.class_weight,
        },
        "positive": classifier.positive,
        "operating_point": None if point is None else asdict(point),
        "novelty_fpr": float(classifier.novelty_fpr),
        "index": _index(classifier),
        "calibration": {
            "method": classifier.calibration_method_,
            "held_out": None if held_out is None else {
                name: encode(np.asarray(values))
                for name, values in asdict(held_out).items() if values is not None
            },
            "labels": [] if held_out is None else [str(x) for x in classifier.held_out()[1]],
        },
        "fit": {"date": classifier.fit_date_, "depths": sorted(embedding.depths or ())},
        "golden": {
            "seed": GOLDEN_SEED,
            "embeddings": encode(golden(embedding)),
            "rtol": GOLDEN_RTOL,
        },
    }  # fmt: skip
    return json.dumps(about, allow_nan=True)


def _index(classifier: Any) -> dict[str, Any]:
    stored = classifier.index_
    index = MemoryIndex(stored.n_features, stored.distance)
    for records in stored.records():
        index.add(records.vectors, records.labels.tolist(), records.paths.tolist(), records.ids)
    about, arrays = index.state()
    return {"about": about, "arrays": {name: encode(values) for name, values in arrays.items()}}


def _common(model: Any, features: Any, opset: int) -> dict[str, Any]:
    """What is said of any model: its origin, and how its images become pixels."""
    preparation = features.preparation()
    region = preparation.region
    return {
        "format_version": FORMAT_VERSION,
        "mahalad_version": importlib.metadata.version("mahalad"),
        "class": type(model).__name__,
        "opset": opset,
        "images": {
            "side": preparation.side,
            "resize": preparation.resize,
            "interpolation": preparation.interpolation,
            "region": None if region is None else encode(np.packbits(region)),
            "colour": preparation.colour,
            "bits": preparation.pixels.bits,
            "channels": preparation.pixels.channels,
        },
        "features": features.record(),
    }
