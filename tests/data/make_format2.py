"""How the stored examples of format 2 were made; not to be run again once it is released."""

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
        "fine": rng.normal(size=(n, 4, 4, 3)),
        "coarse": rng.normal(size=(n, 2, 2, 4)),
        "whole": rng.normal(size=(n, 5)),
    }
    found["fine"][0, 1, 2] += 5
    found["coarse"][0, 0, 1] += 5
    return found


if __name__ == "__main__":
    if FORMAT_VERSION != 2:
        sys.exit(f"this would write examples of format {FORMAT_VERSION} over those of format 2")
    here = Path(__file__).parent
    expected = {}
    for name, options in {"whole": {}, "reservoir": {"max_stored": 15}}.items():
        detector = AnomalyDetector(scorer=PatchScorer(top_fraction=0.5), fpr=0.1, **options)
        detector.fit(features(1, 40)).save(here / f"format2_{name}.mahalad")
        expected[name] = {
            "scores": detector.anomaly_score(features(2, 6)).tolist(),
            "maxima": detector.anomaly_map(features(2, 6)).max(axis=(1, 2)).tolist(),
            "threshold": detector.threshold_,
            "map_threshold": detector.map_threshold_,
        }
    detector.save(here / "format2_slim.mahalad", include_features=False)
    expected["slim"] = expected["reservoir"]
    (here / "format2.json").write_text(json.dumps(expected, indent=1) + "\n")
