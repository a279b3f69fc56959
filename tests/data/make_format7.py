"""How the stored examples of format 7 were made; not to be run again once it is released.

Images, detectors and questions are those of format 6. Nothing in them
is new: no detector compares patches with the nearest good one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from make_format6 import (
    SLIM,
    answers_of,
    detectors,
    labelled_answers,
    made_classifier,
    maps,
    rows,
    squares,
)

from mahalad import load
from mahalad.files.container import FORMAT_VERSION

__all__ = ["answers_of", "labelled_answers", "maps", "rows", "squares"]


if __name__ == "__main__":
    if FORMAT_VERSION != 7:
        sys.exit(f"this would write examples of format {FORMAT_VERSION} over those of format 7")
    here = Path(__file__).parent
    expected: dict[str, Any] = {}
    made = detectors()
    for name, (detector, good, new, options) in made.items():
        detector.fit(good, **options)
        for suffix, whole in (("", True), ("_slim", False)):
            if (name in SLIM) if suffix else (name != "positions"):
                path = here / f"format7_{name}{suffix}.mahalad"
                detector.save(path, include_features=whole)
                expected[name + suffix] = answers_of(load(path), new)
    made_classifier().save(here / "format7_classifier.mahalad")
    classifier = load(here / "format7_classifier.mahalad")
    expected["classifier"] = labelled_answers(classifier, rows(6, 6))
    learned = made["autoencoder"][0].features.autoencoder
    learned.save(here / "format7_encoder.mahalad")
    expected["encoder"] = {"embeddings": learned.embed(squares(2, 6)).tolist()}
    (here / "format7.json").write_text(json.dumps(expected, indent=1) + "\n")
