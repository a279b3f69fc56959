"""How the stored examples of format 5 were made; not to be run again once it is released.

Images, detectors and questions are those of format 4, and some more.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import make_format4 as older
import numpy as np
from make_format4 import answers_of, labelled_answers, labels, maps, rows, squares

from mahalad import (
    AnomalyDetector,
    MetricKNNClassifier,
    TripletProjection,
    load,
)
from mahalad.files.container import FORMAT_VERSION
from mahalad.scorers.positions.scorer import PatchScorer


def detectors() -> dict[str, tuple[AnomalyDetector, Any, Any, dict[str, Any]]]:
    """Unfitted detector, images of its fit, new ones, and how it is fitted."""
    further = {
        "parts": (
            AnomalyDetector(scorer=PatchScorer(), fpr=0.2, max_stored=20),
            maps(1, 40),
            maps(2, 6),
            {"groups": [f"part {i // 2}" for i in range(40)]},
        ),
        "copies": (
            AnomalyDetector(fpr=0.1),
            np.concatenate([rows(1, 30), rows(1, 10)]),
            rows(2, 6),
            {},
        ),
        "held_out_parts": (
            AnomalyDetector(threshold="tolerance", fpr=0.2),
            rows(1, 40),
            rows(2, 6),
            {"calibration": rows(3, 40), "calibration_groups": [i // 2 for i in range(40)]},
        ),
    }
    return {**older.detectors(), **further}


SLIM = (*older.SLIM, "parts")
"""Those stored without features as well, or alone."""


def made_classifier() -> MetricKNNClassifier:
    F = rows(4, 80)
    classifier = MetricKNNClassifier(
        projection=TripletProjection(n_components=3, max_epochs=20, random_state=0),
        positive="defect",
        class_weight="balanced",
        novelty_fpr=0.1,
    ).fit(F, labels(F))
    classifier.add(rows(5, 3), ["good"] * 3, ["a.png", "b.png", "c.png"])
    return classifier.set_operating_point(recall=0.9)


if __name__ == "__main__":
    if FORMAT_VERSION != 5:
        sys.exit(f"this would write examples of format {FORMAT_VERSION} over those of format 5")
    here = Path(__file__).parent
    expected: dict[str, Any] = {}
    made = detectors()
    for name, (detector, good, new, options) in made.items():
        detector.fit(good, **options)
        for suffix, whole in (("", True), ("_slim", False)):
            if (name in SLIM) if suffix else (name != "positions"):
                path = here / f"format5_{name}{suffix}.mahalad"
                detector.save(path, include_features=whole)
                expected[name + suffix] = answers_of(load(path), new)
    made_classifier().save(here / "format5_classifier.mahalad")
    classifier = load(here / "format5_classifier.mahalad")
    expected["classifier"] = labelled_answers(classifier, rows(6, 6))
    learned = made["autoencoder"][0].features.autoencoder
    learned.save(here / "format5_encoder.mahalad")
    expected["encoder"] = {"embeddings": learned.embed(squares(2, 6)).tolist()}
    (here / "format5.json").write_text(json.dumps(expected, indent=1) + "\n")
