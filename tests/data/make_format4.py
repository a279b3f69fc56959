"""How the stored examples of format 4 were made; not to be run again once it is released."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from mahalad import (
    AnomalyDetector,
    Autoencoder,
    MahalanobisDetector,
    MetricKNNClassifier,
    TripletProjection,
    load,
)
from mahalad.files.container import FORMAT_VERSION
from mahalad.metric.autoencoder.reconstruction import AsIs, ReconstructionError
from mahalad.scorers.level_sum import make_scorer
from mahalad.scorers.positions.scorer import PatchScorer


def maps(seed: int, n: int) -> dict[str, np.ndarray]:
    """Two grids and a pooled level; the first of the images with an odd place."""
    rng = np.random.default_rng(seed)
    found = {
        "fine": rng.normal(size=(n, 10, 10, 2)).astype(np.float32),
        "coarse": rng.normal(size=(n, 8, 8, 2)).astype(np.float32),
        "whole": rng.normal(size=(n, 5)).astype(np.float32),
    }
    found["fine"][0, 1, 2] += 5
    found["coarse"][0, 1, 2] += 5
    return found


def rows(seed: int, n: int) -> np.ndarray:
    """Features with a few strong directions."""
    return np.random.default_rng(seed).normal(size=(n, 6)) * np.array([5, 3, 2, 1, 0.5, 0.2])


def squares(seed: int, n: int) -> list[np.ndarray]:
    """Pictures of smooth light, 64 x 64; the first of them with a bright spot."""
    rng = np.random.default_rng(seed)
    found = [np.kron(rng.integers(90, 166, (8, 8, 3)), np.ones((8, 8, 1))) for _ in range(n)]
    found[0][16:32, 16:32] = 255
    return [picture.astype(np.uint8) for picture in found]


def middle() -> np.ndarray:
    """A region of interest: three of ten pixels."""
    region = np.zeros((64, 64), bool)
    region[12:48, 12:46] = True
    return region


def labels(F: np.ndarray) -> list[str]:
    return ["defect" if row[0] > 2 else "good" for row in F]


def answers_of(model: Any, X: Any) -> dict[str, Any]:
    """What a detector says of images: what a later version must say of them, too."""
    found = {
        "scores": model.anomaly_score(X).tolist(),
        "p_values": model.p_values(X).tolist(),
        "threshold": model.threshold_,
        "calibration": model.calibration_scores_.tolist(),
        "method": model.calibration_method_,
    }
    if hasattr(model.scorer_, "map_maxima_") or isinstance(model, MahalanobisDetector):
        found["maps"] = model.anomaly_map(X).mean(axis=(1, 2)).tolist()
        found["maxima"] = model.anomaly_map(X).max(axis=(1, 2)).tolist()
    return found


def labelled_answers(model: MetricKNNClassifier, X: np.ndarray) -> dict[str, Any]:
    return {
        "labels": model.predict(X).tolist(),
        "probabilities": model.predict_proba(X).tolist(),
        "embeddings": model.embed(X).tolist(),
        "distances": model.kneighbors(X).distances.tolist(),
        "ids": model.kneighbors(X).ids.tolist(),
        "novelty": model.novelty_threshold_,
        "point": model.operating_point_.threshold,
        "held_out": model.held_out()[0].probabilities.tolist(),
    }


def detectors() -> dict[str, tuple[AnomalyDetector, Any, Any, dict[str, Any]]]:
    """Unfitted detector, images of its fit, new ones, and how it is fitted."""
    parts = [f"part {i // 2}" for i in range(40)]
    learned = Autoencoder(bottleneck=4, width=2, input_size=32, epochs=2, batch_size=8)
    learned.fit(squares(9, 12))
    positions = {"scope": "positions", "levels": ["blocks.0"], "input_size": 32}
    return {
        "whole": (AnomalyDetector(scorer=PatchScorer(), fpr=0.1), maps(1, 40), maps(2, 6), {}),
        "reservoir": (
            AnomalyDetector(scorer=PatchScorer(), fpr=0.1, max_stored=15),
            maps(1, 40),
            maps(2, 6),
            {},
        ),
        "shared": (
            AnomalyDetector(scorer=PatchScorer(neighbourhood=1, smoothing=0.5), fpr=0.1),
            maps(1, 40),
            maps(2, 6),
            {"groups": parts},
        ),
        "arrays": (AnomalyDetector(fpr=0.1), rows(1, 40), rows(2, 6), {"groups": parts}),
        "npca": (
            AnomalyDetector(scorer=make_scorer("gaussian", "npca"), fpr=0.1, n_folds=5),
            rows(1, 40),
            rows(2, 6),
            {},
        ),
        "knn": (AnomalyDetector(scorer=make_scorer("knn"), fpr=0.1), rows(1, 40), rows(2, 6), {}),
        "holdout": (
            AnomalyDetector(threshold="holdout", fpr=0.1),
            rows(1, 40),
            rows(2, 6),
            {"calibration": rows(3, 15)},
        ),
        "image": (
            MahalanobisDetector(scope="image", levels=["stem", "blocks.0"], input_size=64, fpr=0.1),
            squares(1, 40),
            squares(2, 6),
            {},
        ),
        "region": (
            MahalanobisDetector(
                scope="image", levels=["stem", "blocks.0"], input_size=64, roi=middle(), fpr=0.1
            ),
            squares(1, 40),
            squares(2, 6),
            {},
        ),
        "positions": (
            MahalanobisDetector(resize="pad", top_fraction=0.1, fpr=0.1, **positions),
            squares(1, 40),
            squares(2, 6),
            {},
        ),
        "autoencoder": (
            AnomalyDetector(ReconstructionError(learned), AsIs(), fpr=0.1),
            squares(1, 40),
            squares(2, 6),
            {},
        ),
    }


SLIM = ("reservoir", "arrays", "positions")
"""Those stored without features as well, or alone."""


if __name__ == "__main__":
    if FORMAT_VERSION != 4:
        sys.exit(f"this would write examples of format {FORMAT_VERSION} over those of format 4")
    here = Path(__file__).parent
    expected: dict[str, Any] = {}
    for name, (detector, good, new, options) in detectors().items():
        detector.fit(good, **options)
        for suffix, whole in (("", True), ("_slim", False)):
            if (name in SLIM) if suffix else (name != "positions"):
                path = here / f"format4_{name}{suffix}.mahalad"
                detector.save(path, include_features=whole)
                expected[name + suffix] = answers_of(load(path), new)
    F = rows(4, 80)
    classifier = MetricKNNClassifier(
        projection=TripletProjection(n_components=3, max_epochs=20, random_state=0),
        positive="defect",
        class_weight="balanced",
        novelty_fpr=0.1,
    ).fit(F, labels(F))
    classifier.add(rows(5, 3), ["good"] * 3, ["a.png", "b.png", "c.png"])
    classifier.set_operating_point(recall=0.9)
    classifier.save(here / "format4_classifier.mahalad")
    classifier = load(here / "format4_classifier.mahalad")
    expected["classifier"] = labelled_answers(classifier, rows(6, 6))
    learned = detectors()["autoencoder"][0].features.autoencoder
    learned.save(here / "format4_encoder.mahalad")
    expected["encoder"] = {"embeddings": learned.embed(squares(2, 6)).tolist()}
    (here / "format4.json").write_text(json.dumps(expected, indent=1) + "\n")
