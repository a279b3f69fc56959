"""How the stored examples of format 9 were made; not to be run again once it is released.

They are what is new in it: nearest neighbours that tolerate harmless changes, and positions that
leave out what these do everywhere. All others are as in format 8.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from make_format8 import answers_of, labelled_answers, maps, rows, squares

from mahalad import KNNDetector, MahalanobisDetector, load
from mahalad.files.container import FORMAT_VERSION

__all__ = ["answers_of", "labelled_answers", "maps", "rows", "squares"]


if __name__ == "__main__":
    if FORMAT_VERSION != 9:
        sys.exit(f"this would write examples of format {FORMAT_VERSION} over those of format 9")
    here = Path(__file__).parent
    network = {"fpr": 0.1, "input_size": 32, "tolerate": ("noise", "shift")}
    expected: dict[str, Any] = {}
    for name, detector, whole in (
        ("neighbours", KNNDetector(levels=["stem", "blocks.0"], **network), True),
        ("places_slim", MahalanobisDetector(levels=["blocks.0"], **network), False),
    ):
        path = here / f"format9_{name}.mahalad"
        detector.fit(squares(1, 30)).save(path, include_features=whole)
        expected[name] = answers_of(load(path), squares(2, 6))
    (here / "format9.json").write_text(json.dumps(expected, indent=1) + "\n")
