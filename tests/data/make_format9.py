"""How the stored examples of format 9 were made; not to be run again once it is released.

They are what is new in it: nearest neighbours that tolerate harmless changes. All others are as in
format 8.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from make_format8 import answers_of, labelled_answers, maps, rows, squares

from mahalad import KNNDetector, load
from mahalad.files.container import FORMAT_VERSION

__all__ = ["answers_of", "labelled_answers", "maps", "rows", "squares"]


if __name__ == "__main__":
    if FORMAT_VERSION != 9:
        sys.exit(f"this would write examples of format {FORMAT_VERSION} over those of format 9")
    here = Path(__file__).parent
    detector = KNNDetector(
        fpr=0.1, levels=["stem", "blocks.0"], input_size=32, tolerate=("noise", "shift")
    )
    path = here / "format9_neighbours.mahalad"
    detector.fit(squares(1, 30)).save(path)
    expected: dict[str, Any] = {"neighbours": answers_of(load(path), squares(2, 6))}
    (here / "format9.json").write_text(json.dumps(expected, indent=1) + "\n")
