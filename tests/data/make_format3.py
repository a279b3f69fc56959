"""How the stored examples of format 3 were made; not to be run again once it is released."""

import json
import sys
from pathlib import Path

import numpy as np

from mahalad import AnomalyDetector
from mahalad.files.container import FORMAT_VERSION
from mahalad.scorers.positions.scorer import PatchScorer


def features(seed: int, n: int) -> dict[str, np.ndarray]:
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


if __name__ == "__main__":
    if FORMAT_VERSION != 3:
        sys.exit(f"this would write examples of format {FORMAT_VERSION} over those of format 3")
    here = Path(__file__).parent
    expected = {}
    for name, options in {"whole": {}, "reservoir": {"max_stored": 15}}.items():
        detector = AnomalyDetector(scorer=PatchScorer(), fpr=0.1, **options).fit(features(1, 40))
        detector.save(here / f"format3_{name}.mahalad")
        expected[name] = {
            "scores": detector.anomaly_score(features(2, 6)).tolist(),
            "maxima": detector.anomaly_map(features(2, 6)).max(axis=(1, 2)).tolist(),
            "threshold": detector.threshold_,
            "map_threshold": float(np.median(detector.scorer_.map_maxima_)),
        }
    detector.save(here / "format3_slim.mahalad", include_features=False)
    expected["slim"] = expected["reservoir"]
    (here / "format3.json").write_text(json.dumps(expected, indent=1) + "\n")
