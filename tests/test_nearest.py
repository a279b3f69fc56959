"""Patches compared with the nearest good one: by slow loops, and on parts that move."""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from mahalad import AnomalyDetector, load
from mahalad.errors import DegenerateDataError, InputError, ModelFileError
from mahalad.files.container import read_model, write_model
from mahalad.images.geometry import BOX
from mahalad.scorers.moments import Moments
from mahalad.scorers.nuisance import Nuisance
from mahalad.scorers.positions.nearest import Nearest
from mahalad.scorers.positions.patches import N_IMAGES, Patches, hashes
from mahalad.scorers.positions.scorer import PatchScorer
from mahalad.scorers.sets import numbered

SIDE, D = 9, 5  # blocks of 4 and 5 positions along an axis
HALF = 2e-3
"""What single precision and rounding do to distances, relative to a typical one."""


def samples(n, seed=0, side=SIDE):
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(D, D)) if seed == 0 else np.random.default_rng(0).normal(size=(D, D))
    where = np.random.default_rng(1).normal(size=(side**2, D)) * 3
    return (where + rng.normal(size=(n, side**2, D)) @ mixing).astype(np.float32)


def blocks_of(side):
    edges = np.linspace(0, side, max(1, side // 4) + 1).round().astype(int)
    grid = np.arange(side**2).reshape(side, side)
    along = list(pairwise(edges))
    return [grid[a:b, c:d].ravel() for a, b in along for c, d in along]


def metrics(X, floor, differences=None, n_images=1):
    """M of each block, straight from its definition."""
    P = X.shape[1]
    S = np.stack([np.cov(X[:, p].astype(float), rowvar=False) for p in range(P)])
    T, found = S.mean(axis=0), []
    for at in blocks_of(round(P**0.5)):
        M = (S[at].mean(axis=0) + T) / 2
        eye = np.eye(D)
        M = 0.95 * M + (0.05 * np.trace(M) + floor * np.trace(T)) / D * eye
        if differences is not None:
            N = sum(np.outer(d, d) for p in at for d in differences[:, p].astype(float))
            N = N / (n_images * len(at))
            M = M + 0.3 * (0.95 * N + 0.05 * np.trace(N) / D * eye)
        found.append(M)
    return found


def slow_squares(Q, bank, Ms):
    """Squared distances (q, P, n_bank): the least over positions at most one step away."""
    side = round(Q.shape[1] ** 0.5)
    found = np.empty((len(Q), Q.shape[1], len(bank)))
    for at, M in zip(blocks_of(side), Ms, strict=True):
        inverse = np.linalg.inv(M)
        for p in at:
            y, x = divmod(int(p), side)
            around = [
                v * side + u
                for v in range(max(0, y - 1), min(side, y + 2))
                for u in range(max(0, x - 1), min(side, x + 2))
            ]
            d = Q[:, p, None, None].astype(float) - bank[:, around].astype(float)[None]
            found[:, p] = np.einsum("qbkd,de,qbke->qbk", d, inverse, d).min(axis=-1)
    return found


@pytest.fixture
def fitted():
    X = samples(30)
    differences = np.random.default_rng(5).normal(size=(8, SIDE**2, D)).astype(np.float16)
    nuisance = Nuisance(differences, 4)  # 4 images, 2 ways
    moments = Moments.from_samples(X.swapaxes(0, 1))
    patches = Patches.of(X, np.ones((30, SIDE**2), bool))
    return X, moments, patches, nuisance, Nearest.of(moments, patches, 0.01, nuisance)


def patches_of(X):
    return Patches.of(X, np.ones(X.shape[:2], bool))


def as_stored(X, patches, nearest):
    """Patches of images X as they are compared with."""
    return nearest.patches(patches.keys, len(X)).features[patches.places(X)]


def test_patches_are_rounded_to_steps_that_are_fine_near_the_mean(fitted):
    X, location = fitted[0].copy(), fitted[4].location
    X[3] = (X[3] - location) * 30 + location  # one odd image
    nearest = Nearest.of(Moments.from_samples(X.swapaxes(0, 1)), patches_of(X), 0.01, None)
    exact = np.abs(X - nearest.location)
    largest = exact.max(axis=(0, 1))
    off = np.abs(as_stored(X, patches_of(X), nearest) - X)
    # Half a step: sqrt(d) is rounded to multiples of sqrt(largest) / 127.
    half = np.sqrt(largest) / 254
    assert (off <= 2 * half * np.sqrt(exact) + half**2 + 1e-5).all()
    assert np.median(off) < 0.03 * np.median(exact)
    assert nearest.stored.dtype == np.int8


def test_distances_equal_the_slow_loops(fitted):
    X, _, patches, nuisance, nearest = fitted
    new = samples(7, seed=2)
    Ms = metrics(X, 0.01, nuisance.differences, 4)
    bank = as_stored(X, patches, nearest)
    wanted = np.sqrt(slow_squares(new, bank, Ms).min(axis=-1))
    found = nearest.distances(new)
    np.testing.assert_allclose(found, wanted, atol=HALF * wanted.mean())


@pytest.mark.parametrize("grouped", [False, True])
def test_images_of_the_fit_are_left_out_of_patches_and_metric(fitted, grouped):
    X, moments, patches, nuisance, nearest = fitted
    labels = np.arange(30) // 3 if grouped else np.arange(30)
    changed = np.full(30, -1)
    changed[[2, 9, 17, 28]] = range(4)
    out = nearest.left_out(X, labels, moments, patches, 0.01, nuisance, changed)
    stored = as_stored(X, patches, nearest)
    squares, further = np.empty((2, 30, SIDE**2, 30))
    for fold in range(5):
        own, two = labels % 5 == fold, np.isin(labels % 5, (fold, (fold + 1) % 5))
        kept = [i for i in range(4) if changed[own].max(initial=-1) < 0 or i not in changed[own]]
        d = nuisance.differences.reshape(4, 2, SIDE**2, D)[kept].reshape(-1, SIDE**2, D)
        squares[own] = slow_squares(X[own], stored, metrics(X[~own], 0.01, d, len(kept)))
        further[own] = slow_squares(X[own], stored, metrics(X[~two], 0.01, d, len(kept)))
    squares = np.where((labels[:, None] == labels)[:, None], np.inf, squares)
    further = np.where((labels[:, None] == labels)[:, None], np.inf, further)
    first = np.sqrt(squares.min(axis=-1))
    # The metric of 24 images is as far from that of 29 as errors of 1 / m are.
    ratio = np.sqrt(further.min(axis=-1)).mean(axis=0) / first.mean(axis=0)
    step = (1 / 24 - 1 / 29) / (1 / 18 - 1 / 24)
    squares *= (np.minimum(1 - step * (ratio - 1), 1) ** 2)[:, None]
    first = np.sqrt(squares.min(axis=-1))
    np.testing.assert_allclose(out.distances, first, atol=HALF / 5 * first.mean())
    for label in range(labels.max() + 1):
        others = labels != label
        without = np.sqrt(np.where(labels == label, np.inf, squares[others]).min(axis=-1))
        growth = without.mean(axis=0) / first[others].mean(axis=0)
        for row in np.flatnonzero(labels == label):
            np.testing.assert_allclose(out.growth[row], growth, atol=HALF)
    Ms = metrics(X, 0.01, nuisance.differences, 4)
    more = []
    for number, row in enumerate((2, 9, 17, 28)):
        copies = X[row] + nuisance.differences[2 * number : 2 * number + 2].astype(np.float32)
        bank = stored[labels != labels[row]]
        d = np.sqrt(slow_squares(np.concatenate([X[row : row + 1], copies]), bank, Ms).min(axis=-1))
        more.append((np.maximum(d[1:] - d[0], 0) ** 2).sum(axis=0))
    scale = np.mean(more)
    np.testing.assert_allclose(out.tolerated, np.mean(more, axis=0), atol=3 * HALF * scale)
    for row in range(30):
        others = [m for m, r in zip(more, (2, 9, 17, 28), strict=True) if labels[r] != labels[row]]
        wanted = np.mean(others, axis=0)
        np.testing.assert_allclose(out.tolerated_by_others[row], wanted, atol=3 * HALF * scale)


def test_patches_outside_pictures_are_nobodys_neighbours(fitted):
    X, moments, _, _, _ = fitted
    inside = np.ones((30, SIDE**2), bool)
    inside[:, :SIDE] = False  # the first row lies above every picture
    nearest = Nearest.of(moments, Patches.of(X, inside), 0.01, None)
    new = X[:3].copy()
    new[:, SIDE : 2 * SIDE] = X[3:6, :SIDE]  # what only the places outside have
    there = nearest.distances(new)[:, SIDE : 2 * SIDE]
    seen = Nearest.of(moments, Patches.of(X, np.ones_like(inside)), 0.01, None).distances(new)
    assert (seen[:, SIDE : 2 * SIDE] < 0.1).all()
    assert (there > 0.5).all()


def test_a_fold_that_leaves_too_little_is_refused(fitted):
    X, moments, patches, nuisance, nearest = fitted
    with pytest.raises(DegenerateDataError, match=r"leaving out 30 of 30 .* leaves 0"):
        nearest.left_out(X, np.zeros(30, int), moments, patches, 0.01, nuisance, None)


def test_patches_of_one_group_alone_are_refused(fitted):
    X, moments, _, nuisance, _ = fitted
    few = Patches.of(X[:5], np.ones((5, SIDE**2), bool))
    nearest = Nearest.of(moments, few, 0.01, nuisance)
    labels = np.where(np.arange(30) < 5, 0, np.arange(30) - 4)
    with pytest.raises(InputError, match="all 5 images whose patches are kept are of one group"):
        nearest.left_out(X, labels, moments, few, 0.01, nuisance, None)


def test_which_images_are_kept_does_not_depend_on_their_order():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N_IMAGES + 150, 4, 2)).astype(np.float32)
    inside = np.ones(X.shape[:2], bool)
    whole = Patches.of(X, inside)
    assert len(whole.keys) == N_IMAGES
    order = rng.permutation(len(X))
    parts = np.array_split(order, 7)
    merged = Patches.of(X[parts[0]], inside[: len(parts[0])])
    for part in parts[1:]:
        merged = merged.merged(Patches.of(X[part], inside[: len(part)]))
    for one in (merged, Patches.of(np.concatenate([X, X]), np.concatenate([inside, inside]))):
        np.testing.assert_array_equal(one.keys, whole.keys)
        np.testing.assert_array_equal(one.features, whole.features)
    assert (np.diff(whole.keys.astype(object)) > 0).all()
    places = whole.places(X)
    assert ((places >= 0) == np.isin(hashes(X), whole.keys)).all()
    np.testing.assert_array_equal(whole.features[places[places >= 0]], X[places >= 0])
    rest = whole.without(Patches.of(X[:50], inside[:50]))
    assert not np.isin(rest.keys, hashes(X[:50])).any()


def moved(n, rng, side=8, defect=False):
    """A part of 3 x 3 places in one of four forms, somewhere on a ground; (n, side, side, D)."""
    ground, forms = np.zeros(D), np.random.default_rng(9).normal(size=(4, 3, 3, D)) * 4
    X = np.empty((n, side, side, D))
    for i in range(n):
        X[i] = ground + rng.normal(size=(side, side, D)) * 0.3
        y, x = rng.integers(1, 4, 2)
        form = np.rot90(forms[0], rng.integers(4))  # turned freely
        X[i, y : y + 3, x : x + 3] = form + rng.normal(size=(3, 3, D)) * 0.3
        if defect:
            v, u = rng.integers(0, 3, 2)
            X[i, y + v, x + u] = forms[1, v, u]  # of another part
    return X.astype(np.float32)


def test_defects_of_parts_that_move_and_turn_are_found():
    """Moved by 0 to 2 places in each direction, turned by quarters: the floor of what is found."""
    rng = np.random.default_rng(3)
    good, new, bad = moved(60, rng), moved(100, rng), moved(100, rng, defect=True)
    found = {}
    for neighbourhood in ("nearest", 0):
        detector = AnomalyDetector(
            None, PatchScorer(neighbourhood=neighbourhood, top_fraction=0.02), fpr=0.05
        ).fit({"m": good})
        s = [detector.anomaly_score({"m": X}) for X in (new, bad)]
        area = roc_auc_score(np.repeat([0, 1], 100), np.concatenate(s))
        flagged = [(detector.predict({"m": X}) == -1).mean() for X in (new, bad)]
        found[neighbourhood] = (area, *flagged)
    area, false, hit = found["nearest"]
    assert area > 0.95 and hit > 0.7 and false < 0.12
    assert found[0][0] < area - 0.2  # a Gaussian for each place knows no forms


def test_padded_pictures_have_boxes():
    X = samples(24).reshape(24, SIDE, SIDE, D)  # not one of them is a copy
    box = np.tile([0.0, 0.25, 1.0, 0.75], (24, 1))
    scorer = PatchScorer(neighbourhood="nearest").fit({"m": X, BOX: box})
    assert 0 < scorer.patches_["m"].inside.mean() < 1
    new = samples(3, seed=4).reshape(3, SIDE, SIDE, D)
    before = scorer.score_samples({"m": new, BOX: box[:3]})
    inside = scorer.patches_["m"].inside[0].reshape(SIDE, SIDE)
    new[:, ~inside] = 1e3
    np.testing.assert_array_equal(scorer.score_samples({"m": new, BOX: box[:3]}), before)


@pytest.mark.parametrize("n", [30, 90, 850])
def test_scores_count_gaussians_the_more_the_more_images_there_are(n):
    good, new = {"m": levels_of(n, 0)["m"]}, {"m": levels_of(6, 2)["m"]}
    scorer, k = PatchScorer(top_fraction=0.05).fit(good), round(0.05 * SIDE**2)
    flat, gaussian = good["m"].reshape(n, -1, D), scorer.patch_gaussians_["m"]
    moments, patches = gaussian.moments_, scorer.patches_["m"]
    nearest = Nearest.of(moments, patches, 0.01, None)
    out = nearest.left_out(flat, np.arange(n), moments, patches, 0.01, None, None)
    left_out = out.distances, gaussian.leave_one_out(flat)[0]
    s, t = (np.sqrt(d.var(axis=0).mean()) for d in left_out)
    assert scorer.standards_.blend == pytest.approx(min(n / 400, 2) * s / t, rel=1e-3)
    flat = new["m"].reshape(6, -1, D)
    d = nearest.distances(flat) + scorer.standards_.blend * gaussian.distances(flat)
    mean, deviation = scorer.standard_
    top = np.sort((d - mean) / deviation, axis=1)[:, -k:].mean(axis=1)
    np.testing.assert_allclose(-scorer.score_samples(new), top / scorer.scale_[0], rtol=1e-6)


def test_models_of_format_7_stay_without_gaussians(tmp_path):
    detector = load(Path(__file__).parent / "data" / "format7_nearest_reservoir.mahalad")
    assert detector.scorer_.standards_.blend == 0
    rng = np.random.default_rng(8)
    shapes = {"fine": (3, 10, 10, 2), "coarse": (3, 8, 8, 2), "whole": (3, 5)}
    detector.partial_fit({name: rng.normal(size=shape) for name, shape in shapes.items()})
    detector.save(tmp_path / "m")
    for again in (detector, load(tmp_path / "m")):
        assert not again.scorer_.blends_ and again.scorer_.standards_.blend == 0


def test_gaussians_without_weight_stay_in_a_file():
    good, new = levels_of(30, 0), levels_of(3, 2)
    scorer = PatchScorer().fit(good)
    scorer = scorer.standardized_by(replace(scorer.standards_, blend=0.0))
    about, arrays = scorer.state()
    again = PatchScorer().restore(about, arrays)
    assert again.blends_ and "levels/m/whitening" in arrays and about["blend"] == 0
    np.testing.assert_allclose(again.score_samples(new), scorer.score_samples(new), rtol=1e-6)


def detector_of_patches(**options):
    return AnomalyDetector(None, PatchScorer(neighbourhood="nearest"), fpr=0.1, **options)


def levels_of(n, seed):
    X = samples(n, seed).reshape(n, SIDE, SIDE, D)
    return {"m": X, "p": X.mean(axis=(1, 2))}


@pytest.mark.parametrize("max_stored", [1000, 20])
def test_files_score_the_same_and_can_be_added_to(max_stored, tmp_path):
    good, new, more = levels_of(40, 0), levels_of(6, 2), levels_of(10, 3)
    detector = detector_of_patches(max_stored=max_stored).fit(good)
    detector.save(tmp_path / "m")
    detector.save(tmp_path / "slim", include_features=False)
    for name in ("m", "slim"):
        again = load(tmp_path / name)
        np.testing.assert_allclose(again.anomaly_score(new), detector.anomaly_score(new), rtol=1e-5)
        np.testing.assert_allclose(again.anomaly_map(new), detector.anomaly_map(new), rtol=1e-4)
    again.save(tmp_path / "again", include_features=False)
    np.testing.assert_array_equal(
        load(tmp_path / "again").anomaly_score(new), again.anomaly_score(new)
    )
    wanted = detector.partial_fit(more).anomaly_score(new)
    found = load(tmp_path / "m").partial_fit(more).anomaly_score(new)
    np.testing.assert_allclose(found, wanted, rtol=1e-7)


def test_parts_of_a_fit_merge_into_it_and_come_out_of_it():
    good, new = levels_of(40, 0), levels_of(6, 2)
    some, rest = ({k: v[rows] for k, v in good.items()} for rows in (slice(25), slice(25, None)))
    whole = detector_of_patches().fit(good)
    merged = detector_of_patches().fit(rest).merge(detector_of_patches().fit(some))
    np.testing.assert_allclose(merged.anomaly_score(new), whole.anomaly_score(new), rtol=1e-6)
    alone = detector_of_patches().fit(some).anomaly_score(new)
    np.testing.assert_allclose(whole.remove(rest).anomaly_score(new), alone, rtol=1e-6)


def test_damaged_patches_are_refused(tmp_path):
    detector_of_patches().fit(levels_of(40, 0)).save(tmp_path / "m")
    header, arrays = read_model(tmp_path / "m")
    for name in [name for name in arrays if name.startswith("scorer/nearest/m/")]:
        damaged = {key: values for key, values in arrays.items() if key != name}
        write_model(tmp_path / "x", header, damaged)
        with pytest.raises(ModelFileError, match=name):
            load(tmp_path / "x")
        write_model(tmp_path / "x", header, {**arrays, name: arrays[name][:-1]})
        with pytest.raises(ModelFileError, match="shape"):
            load(tmp_path / "x")


def two_grids(n, seed):
    """Maps of 18 x 18 and 9 x 9 positions, and what is pooled."""
    X = levels_of(n, seed)
    fine = samples(n, seed + 50, side=2 * SIDE).reshape(n, 2 * SIDE, 2 * SIDE, D)
    return {"fine": fine, **X}


def test_scores_count_the_next_finer_grid():
    good, new = two_grids(30, 0), two_grids(6, 2)
    apart = PatchScorer(top_fraction=0.06).partial_fit(good)
    left_out, standards = apart.leave_one_out(good)
    scorer, finer = apart.standardized_by(standards), standards.finer
    assert (finer.grid, finer.n_largest) == ("fine", round(0.02 * (2 * SIDE) ** 2))
    flat = good["fine"].reshape(30, -1, D)
    moments, patches = scorer.patch_gaussians_["fine"].moments_, scorer.patches_["fine"]
    nearest = Nearest.of(moments, patches, 0.01, None)
    order = numbered(good["m"].reshape(30, -1, D).sum(axis=2).sum(axis=1), None)  # folds
    out = nearest.left_out(flat, order, moments, patches, 0.01, None, None)
    mean, variance = out.distances.mean(axis=0), out.distances.var(axis=0)
    deviation = np.sqrt((30 * variance + 10 * variance.mean()) / 40)
    np.testing.assert_allclose(finer.standard, (mean, deviation), rtol=HALF)

    def top_of(values, standard, k):
        z = (values - standard[0]) / standard[1]
        return np.sort(z, axis=1)[:, -k:].mean(axis=1)

    d = nearest.distances(new["fine"].reshape(6, -1, D))
    more = finer.weight * top_of(d, finer.standard, finer.n_largest)
    coarse = {name: levels for name, levels in new.items() if name != "fine"}
    alone = PatchScorer(top_fraction=0.06).fit({n: v for n, v in good.items() if n != "fine"})
    np.testing.assert_allclose(
        -scorer.level_score_samples(new)[:, 0] * standards.scale[0],
        -alone.level_score_samples(coarse)[:, 0] * alone.scale_[0] + more,
        rtol=1e-5,
        atol=1e-5,
    )
    np.testing.assert_allclose(left_out[:, 0].std(), 1, rtol=1e-9)
    rest = -left_out[:, 0] * standards.scale[0]
    rest = rest + alone.leave_one_out_level_scores(
        {n: v for n, v in good.items() if n != "fine"}
    )[:, 0] * alone.scale_[0]  # fmt: skip
    assert rest.std() == pytest.approx(0.7 / (1 + 30 / 400) * alone.scale_[0], rel=1e-6)


def test_a_defect_of_a_finer_grid_alone_is_found():
    good, new = two_grids(40, 0), two_grids(20, 2)
    new["fine"][10:, 7, 11] += 40
    scorer = PatchScorer().fit(good)
    found = -scorer.score_samples(new)
    assert found[10:].min() > found[:10].max()


@pytest.mark.parametrize("neighbourhood", [0, "all"])
def test_gaussians_alone_score_by_the_coarsest_grid(neighbourhood):
    scorer = PatchScorer(neighbourhood=neighbourhood).fit(two_grids(30, 0))
    assert scorer.standards_.finer is None


def test_files_have_the_finer_grid_and_merges_too(tmp_path):
    good, new = two_grids(40, 0), two_grids(6, 2)
    some, rest = ({k: v[rows] for k, v in good.items()} for rows in (slice(25), slice(25, None)))
    whole = detector_of_patches().fit(good)
    wanted = whole.anomaly_score(new)
    whole.save(tmp_path / "m", include_features=False)
    np.testing.assert_allclose(load(tmp_path / "m").anomaly_score(new), wanted, rtol=1e-5)
    merged = detector_of_patches().fit(rest).merge(detector_of_patches().fit(some))
    np.testing.assert_allclose(merged.anomaly_score(new), wanted, rtol=1e-6)
    scores, maps = whole.scorer_.scores_and_maps(new)
    np.testing.assert_array_equal(scores, whole.scorer_.level_score_samples(new))
    np.testing.assert_array_equal(maps, whole.scorer_.anomaly_maps(new))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grid": "m"}, "scorer.finer.grid is 'm', expected a finer one"),
        ({"grid": "other"}, "scorer.finer.grid is 'other'"),
        ({"weight": -1.0}, "expected n_largest of 1 to 324, and a weight >= 0"),
        ({"n_largest": 0}, "expected n_largest of 1 to 324"),
        ({"n_largest": 325}, "expected n_largest of 1 to 324"),
    ],
)
def test_a_damaged_finer_grid_is_refused(change, message, tmp_path):
    detector_of_patches().fit(two_grids(30, 0)).save(tmp_path / "m")
    header, arrays = read_model(tmp_path / "m")
    header["scorer"]["finer"] |= change
    write_model(tmp_path / "x", header, arrays)
    with pytest.raises(ModelFileError, match=message):
        load(tmp_path / "x")


def test_patches_of_a_grid_that_is_not_there_are_refused(tmp_path):
    detector_of_patches().fit(two_grids(30, 0)).save(tmp_path / "m")
    header, arrays = read_model(tmp_path / "m")
    header["scorer"]["nearest"] += ["other"]
    write_model(tmp_path / "x", header, arrays)
    with pytest.raises(ModelFileError, match=r"scorer.nearest is .*'other'.*, expected some of"):
        load(tmp_path / "x")


def test_older_models_score_by_the_coarsest_grid_when_they_are_saved_again(tmp_path):
    detector = load(Path(__file__).parent / "data" / "format8_nearest_slim.mahalad")
    rng = np.random.default_rng(8)
    shapes = {"fine": (3, 10, 10, 2), "coarse": (3, 8, 8, 2), "whole": (3, 5)}
    new = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    assert detector.scorer_.standards_.finer is None
    detector.save(tmp_path / "m", include_features=False)
    again = load(tmp_path / "m")
    assert again.scorer_.standards_.finer is None
    np.testing.assert_allclose(again.anomaly_score(new), detector.anomaly_score(new), rtol=1e-12)


def test_which_finer_level_counts_does_not_depend_on_their_order():
    good, new = two_grids(30, 0), two_grids(6, 2)
    good["deeper"] = np.concatenate([good["fine"], good["fine"][..., ::-1] ** 2], axis=-1)
    new["deeper"] = np.concatenate([new["fine"], new["fine"][..., ::-1] ** 2], axis=-1)
    one, other = (
        PatchScorer().fit({name: good[name] for name in order})
        for order in (["fine", "deeper", "m", "p"], ["deeper", "m", "p", "fine"])
    )
    assert one.standards_.finer.grid == other.standards_.finer.grid == "deeper"
    np.testing.assert_allclose(one.score_samples(new), other.score_samples(new), rtol=1e-9)


def test_images_taken_out_of_sums_alone_leave_patches_behind_or_say_so():
    few = detector_of_patches(max_stored=50).fit(two_grids(90, 0))
    gone = {name: values[:9] for name, values in two_grids(90, 0).items()}
    many = detector_of_patches(max_stored=150).fit(two_grids(160, 0))
    out = PatchScorer().partial_fit(gone)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copy.deepcopy(few.scorer_).unmerge(out)  # all patches were there
    with pytest.warns(UserWarning, match=r"patches of \d+ of 100 images \(fine\): a fit without"):
        copy.deepcopy(many.scorer_).unmerge(out)


def test_boxes_on_two_grids():
    good, new = two_grids(30, 0), two_grids(6, 2)
    box = np.tile([0.0, 0.25, 1.0, 0.75], (30, 1))
    scorer = PatchScorer().fit({**good, BOX: box})
    assert scorer.standards_.finer is not None
    before = scorer.score_samples({**new, BOX: box[:6]})
    for name in ("fine", "m"):
        outside = ~scorer.patches_[name].inside[0]
        side = round(len(outside) ** 0.5)
        new[name][:, outside.reshape(side, side)] = 1e3
    np.testing.assert_array_equal(scorer.score_samples({**new, BOX: box[:6]}), before)


def test_groups_are_left_out_of_both_grids():
    good = {name: np.repeat(values, 2, axis=0) for name, values in two_grids(24, 0).items()}
    rng = np.random.default_rng(3)
    for name in ("fine", "m"):
        good[name][1::2] += 0.01 * rng.normal(size=good[name][1::2].shape).astype(np.float32)
    fitted = PatchScorer().partial_fit(good)
    alone, together = (
        fitted.leave_one_out(good, groups)[1].finer.standard[0].mean()
        for groups in (None, np.arange(48) // 2)
    )
    assert together > 1.5 * alone  # the other copy is no neighbour
