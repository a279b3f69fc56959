"""How the stored examples of format 6 were made; not to be run again once it is released.

Images, detectors and questions are those of format 5, and some more: detectors of pictures tolerate
harmless changes of them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import make_format5 as older
from make_format5 import answers_of, labelled_answers, made_classifier, maps, rows, squares

from mahalad import AnomalyDetector, MahalanobisDetector, load
from mahalad.files.container import FORMAT_VERSION

__all__ = ["answers_of", "labelled_answers", "maps", "rows", "squares"]


def detectors() -> dict[str, tuple[AnomalyDetector, Any, Any, dict[str, Any]]]:
    """Unfitted detector, images of its fit, new ones, and how it is fitted."""
    network = {"scope": "image", "levels": ["stem", "blocks.0"], "input_size": 32}
    further = {
        "tolerant": (
            MahalanobisDetector(tolerate=("noise", "shift"), fpr=0.1, max_stored=15, **network),
            squares(1, 30),
            squares(2, 6),
            {},
        ),
    }
    return {**older.detectors(), **further}


SLIM = (*older.SLIM, "tolerant")
"""Those stored without features as well, or alone."""


if __name__ == "__main__":
    if FORMAT_VERSION != 6:
        sys.exit(f"this would write examples of format {FORMAT_VERSION} over those of format 6")
    here = Path(__file__).parent
    expected: dict[str, Any] = {}
    made = detectors()
    for name, (detector, good, new, options) in made.items():
        detector.fit(good, **options)
        for suffix, whole in (("", True), ("_slim", False)):
            if (name in SLIM) if suffix else (name != "positions"):
                path = here / f"format6_{name}{suffix}.mahalad"
                detector.save(path, include_features=whole)
                expected[name + suffix] = answers_of(load(path), new)
    made_classifier().save(here / "format6_classifier.mahalad")
    classifier = load(here / "format6_classifier.mahalad")
    expected["classifier"] = labelled_answers(classifier, rows(6, 6))
    learned = made["autoencoder"][0].features.autoencoder
    learned.save(here / "format6_encoder.mahalad")
    expected["encoder"] = {"embeddings": learned.embed(squares(2, 6)).tolist()}
    (here / "format6.json").write_text(json.dumps(expected, indent=1) + "\n")
