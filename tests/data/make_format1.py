"""How the stored examples of format 1 were made; not to be run again for format 1.

Everything is behind the guard: `pytest --doctest-modules` imports this file.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from mahalad import AnomalyDetector, MahalanobisDetector
from mahalad.files.container import FORMAT_VERSION

if __name__ == "__main__":
    if FORMAT_VERSION != 1:
        sys.exit(f"this would write examples of format {FORMAT_VERSION} over those of format 1")
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from conftest import make_picture

    here = Path(__file__).parent
    X = np.random.default_rng(1).normal(size=(40, 4))
    arrays = AnomalyDetector(fpr=0.1).fit(X)
    arrays.save(here / "format1_arrays.mahalad")
    images = MahalanobisDetector(levels=["stem", "blocks.0"], input_size=64, fpr=0.1)
    images.fit([make_picture(seed) for seed in range(40)])
    images.save(here / "format1_images.mahalad")
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(200, 208):
            make_picture(seed, spot=True).save(Path(folder) / f"{seed}.png")
        spots = images.anomaly_score(folder).tolist()
    expected = {
        "arrays": {
            "scores": arrays.anomaly_score(np.eye(4)).tolist(),
            "threshold": arrays.threshold_,
        },
        "images": {"scores": spots, "threshold": images.threshold_},
    }
    (here / "format1.json").write_text(json.dumps(expected, indent=1) + "\n")
