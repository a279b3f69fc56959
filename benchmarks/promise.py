"""The promise: false-positive rates asked for and achieved, for every kind of data, simulated.

    python benchmarks/promise.py [--only TEXT] [--draws 100]

Each draw fits to good images and scores new ones of parts that the fit has not seen. Rates are in
%, means and standard errors over draws; "-" is a rate for which there are too few parts. `before`
has what version 0.1 gave at 5 and 10 % before parts were counted, where it was measured.
"""

from __future__ import annotations

import argparse
import contextlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mahalad import AnomalyDetector
from mahalad.errors import CalibrationError
from mahalad.protocols import Floats
from mahalad.report.tables import format_table

ASKED = (0.01, 0.05, 0.1)
D = 12
"""Features of the simulated images."""

Make = Callable[[np.random.Generator], AnomalyDetector]


@dataclass(frozen=True)
class Cell:
    """One kind of data.

    Attributes
    ----------
    make : callable
        Draws good images, and fits a detector to them.
    n_parts : int
        Independent parts among the calibration images.
    before : str
        Rates of the version before, at 5 and 10 %.
    """

    make: Make
    n_parts: int
    before: str = ""


def parts(rng: np.random.Generator, sizes: list[int], within: float = 0.3) -> tuple[Any, Any]:
    """Images of parts of these sizes: the part, and what varies between its images."""
    groups = np.repeat(np.arange(len(sizes)), sizes)
    between = rng.normal(size=(len(sizes), D))[groups] * np.sqrt(1 - within**2)
    return between + within * rng.normal(size=(len(groups), D)), groups


def held_out(rng: np.random.Generator) -> AnomalyDetector:
    """10 parts with 20 images each set the threshold."""
    X, groups = parts(rng, [20] * 10)
    detector = AnomalyDetector(threshold="holdout", fpr=0.1)
    return detector.fit(rng.normal(size=(200, D)), calibration=X, calibration_groups=groups)


def one_part_often(rng: np.random.Generator) -> AnomalyDetector:
    """One part 200 times, beside 30 others."""
    X, groups = parts(rng, [200, *[1] * 30])
    return AnomalyDetector().fit(X, groups=groups)


def one_picture_often(rng: np.random.Generator) -> AnomalyDetector:
    """50 pictures, one of them 101 times."""
    X = rng.normal(size=(50, D))
    return AnomalyDetector().fit(np.concatenate([X, *[X[:1]] * 100]))


def every_picture_five_times(rng: np.random.Generator) -> AnomalyDetector:
    """20 pictures, 5 times each."""
    return AnomalyDetector().fit(rng.normal(size=(20, D)).repeat(5, axis=0))


def near_copies(rng: np.random.Generator) -> AnomalyDetector:
    """50 pictures, each there twice, with 5 % noise."""
    X = rng.normal(size=(50, D))
    return AnomalyDetector().fit(np.concatenate([X, X + 0.05 * rng.normal(size=X.shape)]))


def pairs_in_a_reservoir(rng: np.random.Generator) -> AnomalyDetector:
    """500 pairs, of which 100 images are kept."""
    X, groups = parts(rng, [2] * 500)
    return AnomalyDetector(max_stored=100).fit(X, groups=groups)


PARTS = {
    "groups, held out": Cell(held_out, 10, "13.4, 17.0"),
    "groups, one part often": Cell(one_part_often, 31, "32, 66"),
    "copies of one picture": Cell(one_picture_often, 50, "13, 29"),
    "copies of all pictures": Cell(every_picture_five_times, 20),
    "near-copies of all pictures": Cell(near_copies, 50, "59, -"),
    "reservoir, pairs": Cell(pairs_in_a_reservoir, 50, "0.5, -"),
}


def rates(make: Make, n_draws: int, n_new: int = 1000) -> Floats:
    """Share of new good images flagged, (n_draws, 3) at 1, 5 and 10 %; NaN where parts are too few.

    Draws have the seeds 0, 1, ...
    """
    found = np.full((n_draws, len(ASKED)), np.nan)
    for seed in range(n_draws):
        rng = np.random.default_rng(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of copies, and of too few parts
            detector = make(rng)
        scores = detector.anomaly_score(rng.normal(size=(n_new, D)))
        for column, fpr in enumerate(ASKED):
            with contextlib.suppress(CalibrationError):
                found[seed, column] = np.mean(scores > detector.set_fpr(fpr).threshold_)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="cells whose name has this text")
    parser.add_argument("--draws", type=int, default=100)
    options = parser.parse_args()
    table = []
    for name, cell in PARTS.items():
        if options.only in name:
            found = 100 * rates(cell.make, options.draws)
            table.append([name, str(cell.n_parts), *map(shown, found.T), cell.before])
            print(*table[-1], sep="  ", flush=True)
    print(format_table(["cell", "parts", "1 %", "5 %", "10 %", "before (5, 10 %)"], table))


def shown(found: Floats) -> str:
    """Mean and standard error of rates (n_draws,)."""
    if np.isnan(found).any():
        return "-"
    return f"{found.mean():.1f} ± {found.std() / len(found) ** 0.5:.1f}"


if __name__ == "__main__":
    main()
