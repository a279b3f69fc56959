"""The false-positive rate of conformal thresholds in fits to few images, on simulated features.

    python benchmarks/small_fits.py [--only TEXT] [--draws 100] [--n 20 30 50 100 500]

Each draw fits to `n` images and scores fresh ones of the same kind. Asked are 5 and 10 %, of which
n images can give floor(a (n + 1)) / (n + 1): that is the column "possible". Rates are in %, means
and standard errors over draws.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mahalad.arrays import as_input_of, rows
from mahalad.protocols import Features, Floats
from mahalad.report.tables import format_table
from mahalad.scorers.capabilities import capabilities_of
from mahalad.scorers.level_sum import make_scorer
from mahalad.scorers.positions.scorer import PatchScorer
from mahalad.thresholds.calibration import cross_fit_scores, leave_one_out_scores
from mahalad.thresholds.guarantee import conformal_rank
from mahalad.thresholds.rules import ConformalThreshold

ASKED = (0.05, 0.1)
KINDS = ("clean", "tails", "oddities", "contaminated")
LEVELS, FEATURES = 9, 200
SIDE, DEPTH = 8, 96
FINER_DEPTH = 24  # of a grid of twice as many positions a side


def amplitudes(rng: np.random.Generator, kind: str, shape: tuple[int, ...], share: float) -> Floats:
    """Factors of feature vectors (n, ...): 1; Student's t3, by image; or 4 for a `share`."""
    if kind == "tails":
        return np.sqrt(3 / rng.chisquare(3, (shape[0], *[1] * (len(shape) - 1)))) * np.ones(shape)
    return np.where(rng.random(shape) < share, 4.0, 1.0) if kind == "oddities" else np.ones(shape)


def vectors(
    rng: np.random.Generator, kind: str, shape: tuple[int, ...], depth: int, share: float
) -> Floats:
    """Features (*shape, depth) whose i-th variance is 1 / i."""
    spread = 1 / np.sqrt(np.arange(1, depth + 1))
    x = rng.standard_normal((*shape, depth)) * spread
    return np.asarray(x * amplitudes(rng, kind, shape, share)[..., None])


def pooled(rng: np.random.Generator, kind: str, n: int, features: int = FEATURES) -> Features:
    """Levels of n images; with "oddities" 3 % of the level vectors are 4 times as long."""
    x = vectors(rng, kind, (n, LEVELS), features, 0.03)
    return {f"level {i}": x[:, i] for i in range(LEVELS)}


def maps(rng: np.random.Generator, kind: str, n: int, side: int = SIDE) -> Features:
    """Maps of n images; with "oddities" 1 % of the places have vectors 4 times as long."""
    return {"map": vectors(rng, kind, (n, side, side), DEPTH, 0.01)}


def two_maps(rng: np.random.Generator, kind: str, n: int) -> Features:
    """`maps` with a finer grid beside them, which scores count, too."""
    finer = vectors(rng, kind, (n, 2 * SIDE, 2 * SIDE), FINER_DEPTH, 0.01)
    return {"finer": finer, **maps(rng, kind, n)}


def contaminated(images: Mapping[str, NDArray[Any]]) -> Features:
    """Make 3 % of the images bad ones, at least one: all of their features 3 times as large."""
    n = len(next(iter(images.values())))
    factor = np.where(np.arange(n) < max(1, round(0.03 * n)), 3.0, 1.0)
    return {k: x * factor.reshape(-1, *[1] * (x.ndim - 1)) for k, x in images.items()}


def with_copies(rng: np.random.Generator, images: Features, n_copies: int) -> Features:
    """Images (n, ...) with augmented copies of themselves, (n, n_copies, ...).

    How much copies differ must not depend on the images at hand: those that stay in a fit would
    tell of one that is left out.
    """
    found = {}
    for name, x in images.items():
        spread = 0.3 / np.sqrt(np.arange(1, x.shape[-1] + 1))
        noise = rng.standard_normal((len(x), n_copies, *x.shape[1:])) * spread
        noise[:, 0] = 0
        found[name] = x[:, None] + noise
    return found


def calibrated(scorer: Any, features: Features) -> tuple[Any, Floats]:
    """Fit as a detector does: the scorer, and calibration scores (n,)."""
    n = len(next(iter(features.values())))
    scorer.fit(as_input_of(scorer, rows(features)))
    if capabilities_of(scorer).leaves_one_out:
        scores, standards = leave_one_out_scores(scorer, features)
        return (scorer if standards is None else scorer.standardized_by(standards)), scores
    keys = np.random.default_rng(n).permutation(n).astype(np.uint64)
    return scorer, cross_fit_scores(scorer, features, keys, np.arange(n), 20)


def rates(
    scorer: Callable[[], Any],
    draw: Callable[[np.random.Generator, str, int], Features],
    kind: str,
    n: int,
    n_draws: int,
    n_copies: int = 1,
    asked: Sequence[float] = ASKED,
    n_fresh: int = 300,
    seed: int = 0,
) -> Floats:
    """Share of fresh good images flagged, (n_draws, len(asked)); nan where n is too few."""
    rng = np.random.default_rng(seed)
    found = np.full((n_draws, len(asked)), np.nan)
    clean = "clean" if kind == "contaminated" else kind
    for row in found:
        images = draw(rng, clean, n)
        images = contaminated(images) if kind == "contaminated" else images
        fitted, scores = calibrated(scorer(), with_copies(rng, images, n_copies))
        fresh = -fitted.score_samples(draw(rng, clean, n_fresh))
        threshold = ConformalThreshold().fit(scores)
        for i, fpr in enumerate(asked):
            if conformal_rank(n, fpr):
                row[i] = (fresh > threshold.critical_value(fpr)).mean()
    return found


CELLS: dict[str, tuple[Callable[[], Any], Callable[..., Features], int]] = {
    "levels": (lambda: make_scorer("gaussian"), pooled, 1),
    "levels, npca": (
        lambda: make_scorer("gaussian", "npca"),
        lambda rng, kind, n: pooled(rng, kind, n, 100),
        1,
    ),
    "levels, 3 copies": (lambda: make_scorer("gaussian"), pooled, 4),
    "positions": (PatchScorer, maps, 1),
    "positions, two grids": (PatchScorer, two_maps, 1),
    "positions, neighbourhood=1": (lambda: PatchScorer(neighbourhood=1), maps, 1),
    "positions, neighbourhood=all": (lambda: PatchScorer(neighbourhood="all"), maps, 1),
    "positions, 3 copies": (PatchScorer, maps, 4),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="cells whose name has this text")
    parser.add_argument("--cell", help="this one cell")
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--n", type=int, nargs="+", default=[20, 30, 50, 100, 500])
    options = parser.parse_args()
    header = ["cell", "kind", "n", "possible", "got", "possible", "got"]
    table = []
    for name, (scorer, draw, n_copies) in CELLS.items():
        if options.only not in name or options.cell not in (None, name):
            continue
        for kind in options.kinds:
            for n in options.n:
                found = 100 * rates(scorer, draw, kind, n, options.draws, n_copies)
                possible = [f"{100 * conformal_rank(n, fpr) / (n + 1):.1f}" for fpr in ASKED]
                means, errors = found.mean(axis=0), found.std(axis=0) / len(found) ** 0.5
                got = [f"{m:.1f} ± {e:.1f}" for m, e in zip(means, errors, strict=True)]
                table.append([name, kind, str(n), possible[0], got[0], possible[1], got[1]])
                print(*table[-1], sep="  ", flush=True)
    print(format_table(header, table))


if __name__ == "__main__":
    main()
