"""The promise: false-positive rates asked for and achieved, for every kind of data, simulated.

    python benchmarks/promise.py [--only TEXT] [--draws 100]

Each draw fits to good images and scores new ones of parts that the fit has not seen. Rates are in
%, means and standard errors over draws; "-" is a rate for which there are too few parts. `before`
has what version 0.1 gave at 5 and 10 % before parts were counted, where it was measured.

For labelled images the rates are those of being called novel; a second table has recall and
precision of an operating point, as promised and on new images.
"""

from __future__ import annotations

import argparse
import contextlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import labelled_promise
import numpy as np
import small_fits
from numpy.typing import NDArray
from PIL import Image

from mahalad import AnomalyDetector, MahalanobisDetector
from mahalad.errors import CalibrationError
from mahalad.protocols import Floats
from mahalad.report.tables import format_table
from mahalad.thresholds.guarantee import conformal_rank

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


def picture(rng: np.random.Generator) -> NDArray[np.uint8]:
    """A part, 96 x 96 pixels: smooth light with grain."""
    coarse = rng.integers(90, 166, (8, 8, 3)).astype(np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((96, 96), Image.Resampling.BICUBIC))
    return np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)


def region_rates(scope: str, n_draws: int, n_new: int = 60) -> Floats:
    """Share of new good pictures flagged that have something else outside the region."""
    inside = np.zeros((96, 96), dtype=bool)
    inside[16:80, 16:80] = True
    found = np.full((n_draws, len(ASKED)), np.nan)
    for seed in range(n_draws):
        rng = np.random.default_rng(seed)
        detector = MahalanobisDetector(scope=scope, input_size=64, roi=inside)
        detector.fit([picture(rng) for _ in range(60)])
        new = [picture(rng) for _ in range(n_new)]
        for one in new:
            one[~inside] = rng.integers(0, 256, (int((~inside).sum()), 3))
        scores = detector.anomaly_score(new)
        for column, fpr in enumerate(ASKED):
            with contextlib.suppress(CalibrationError):
                found[seed, column] = np.mean(scores > detector.set_fpr(fpr).threshold_)
    return found


def small_fit_rates(name: str, kind: str, n: int, n_draws: int) -> Floats:
    """The same for one of the cells of `small_fits`."""
    scorer, draw, n_copies = small_fits.CELLS[name]
    return small_fits.rates(scorer, draw, kind, n, n_draws, n_copies, asked=ASKED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="cells whose name has this text")
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--n", type=int, nargs="+", default=[20, 30, 50, 100])
    options = parser.parse_args()
    table = []

    def add(name: str, n: int, make: Callable[[], Floats], before: str = "") -> None:
        if options.only not in name:
            return
        found = 100 * make()
        possible = [f"{100 * conformal_rank(n, fpr) / (n + 1):.1f}" for fpr in ASKED[1:]]
        table.append([name, str(n), ", ".join(possible), *map(shown, found.T), before])
        print(*table[-1], sep="  ", flush=True)

    for name, cell in PARTS.items():
        add(name, cell.n_parts, lambda cell=cell: rates(cell.make, options.draws), cell.before)
    points = []
    for name, labelled in labelled_promise.CELLS.items():
        if options.only in name:
            found, novel = labelled_promise.outcomes(labelled, options.draws, ASKED)
            add(name, labelled_promise.N_PARTS, lambda: novel, labelled.novel_before)  # noqa: B023
            points.append([name, *map(shown, 100 * found.T), labelled.before])
    for scope in ("image", "positions"):
        draws = max(options.draws // 10, 2)
        add(f"region, {scope}", 60, lambda: region_rates(scope, draws), "100, 100")  # noqa: B023
    for name in small_fits.CELLS:
        for kind in small_fits.KINDS:
            for n in options.n:
                make = lambda: small_fit_rates(name, kind, n, options.draws)  # noqa: B023, E731
                add(f"{name}, {kind}", n, make, BEFORE.get((name, kind, n), ""))
    print(format_table(HEADER, table))
    if points:
        print(f"\nrecall of {100 * labelled_promise.RECALL:g} % asked for\n")
        print(format_table(POINTS, points))


POINTS = ["cell", "recall", "on new", "precision", "on new", "before"]
HEADER = ["cell", "n", "possible", *(f"{100 * fpr:g} %" for fpr in ASKED), "before (5, 10 %)"]
BEFORE = {
    ("levels", "oddities", 30): "-, 15.4",
    ("levels", "oddities", 50): "-, 13.6",
    ("levels", "oddities", 100): "-, 11.9",
    ("positions", "oddities", 50): "-, 17.3",
    ("positions", "clean", 20): "2.6, 5.7",
    ("levels, npca", "clean", 30): "-, 12.8",
    ("levels, npca", "clean", 100): "3.4, 8.1",
}
"""Rates of small fits that were measured with the version before."""


def shown(found: Floats) -> str:
    """Mean and standard error of rates (n_draws,)."""
    if np.isnan(found).any():
        return "-"
    return f"{found.mean():.1f} ± {found.std() / len(found) ** 0.5:.1f}"


if __name__ == "__main__":
    main()
