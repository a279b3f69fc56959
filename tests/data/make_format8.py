"""How the stored examples of format 8 were made; not to be run again once it is released.

They are what is new in it: detectors that compare patches of every grid; and nearest neighbours of
pictures, which learned something in the next one. All others are as in format 7.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from make_format7 import answers_of, labelled_answers, maps, rows, squares

from mahalad import AnomalyDetector, KNNDetector, load
from mahalad.files.container import FORMAT_VERSION
from mahalad.scorers.positions.scorer import PatchScorer

__all__ = ["answers_of", "labelled_answers", "maps", "rows", "squares"]


if __name__ == "__main__":
    if FORMAT_VERSION != 8:
        sys.exit(f"this would write examples of format {FORMAT_VERSION} over those of format 8")
    here = Path(__file__).parent
    expected: dict[str, Any] = {}
    for name, stored, whole in (
        ("nearest", 1000, True),
        ("nearest_slim", 1000, False),
        ("nearest_reservoir", 15, True),
    ):
        detector = AnomalyDetector(None, PatchScorer(), fpr=0.1, max_stored=stored)
        path = here / f"format8_{name}.mahalad"
        detector.fit(maps(0, 30)).save(path, include_features=whole)
        expected[name] = answers_of(load(path), maps(2, 6))
    neighbours = KNNDetector(fpr=0.1, levels=["stem", "blocks.0"], input_size=32)
    path = here / "format8_neighbours.mahalad"
    neighbours.fit(squares(1, 30)).save(path)
    expected["neighbours"] = answers_of(load(path), squares(2, 6))
    (here / "format8.json").write_text(json.dumps(expected, indent=1) + "\n")
