"""How the stored examples of format 10 were made; not to be run again once it is released.

They are what is new in it: scores that count a finer grid. All others are as in format 9.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from make_format9 import answers_of, labelled_answers, maps, rows, squares

from mahalad import AnomalyDetector, MahalanobisDetector, load
from mahalad.files.container import FORMAT_VERSION
from mahalad.scorers.positions.scorer import PatchScorer

__all__ = ["answers_of", "labelled_answers", "maps", "rows", "squares"]


if __name__ == "__main__":
    if FORMAT_VERSION != 10:
        sys.exit(f"this would write examples of format {FORMAT_VERSION} over those of format 10")
    here = Path(__file__).parent
    network: dict[str, Any] = {"fpr": 0.1, "input_size": 32, "tolerate": ("noise", "shift")}
    levels = ["blocks.2", "blocks.4"]
    expected: dict[str, Any] = {}
    for name, detector, images, asked, whole in (
        ("nearest", AnomalyDetector(None, PatchScorer(), fpr=0.1), maps(0, 30), maps(2, 6), True),
        ("places_slim", MahalanobisDetector(levels=levels, **network), squares(1, 30),
         squares(2, 6), False),
    ):  # fmt: skip
        path = here / f"format10_{name}.mahalad"
        detector.fit(images).save(path, include_features=whole)
        expected[name] = answers_of(load(path), asked)
    (here / "format10.json").write_text(json.dumps(expected, indent=1) + "\n")
