"""Fit on good images, judge new ones, change the rate, save and load.

    python examples/quickstart.py [FOLDER OF GOOD IMAGES] [FOLDER OF NEW IMAGES]

Without folders it renders some parts first.
"""

import sys
import tempfile
from pathlib import Path

from mahalad import MahalanobisDetector, load
from mahalad.demo.rendered import write_dataset


def main(good: Path, new: Path, model: Path) -> None:
    # Nothing is trained: a fit is one pass through the network, and statistics.
    detector = MahalanobisDetector(fpr=0.05).fit(good)
    print(f"fitted to {detector.n_images_} images; flagged above {detector.threshold_:.1f}")

    # +1 good, -1 not; scores are up = abnormal, p-values small = abnormal.
    labels, p_values = detector.predict(new), detector.p_values(new)
    print(f"{(labels == -1).sum()} of {len(labels)} flagged, smallest p {p_values.min():.3f}")

    # Another false-positive rate needs no images.
    detector.set_fpr(0.1)
    print(f"at 10 %: flagged above {detector.threshold_:.1f}")

    # One file is all that the factory floor needs.
    detector.save(model)
    for result in load(model).inspect(new):  # a broken image is reported, the rest are scored
        if result.error or result.anomaly:
            print(result.error or f"{result.name}: {result.score:.1f} (p = {result.p_value:.3f})")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        if len(sys.argv) == 3:
            good, new = map(Path, sys.argv[1:])
        else:
            parts = write_dataset(
                Path(folder), n_train=40, n_test_good=5, n_test_per_defect=1, seed=0
            )
            good, new = parts / "train" / "good", parts / "test"
        main(good, new, Path(folder) / "part.mahalad")
