"""Harmless changes of pictures: how they are made, and what Gaussians make of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import make_picture, write_text
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone

from mahalad import LedoitWolfGaussian, MahalanobisDetector, PatchGaussian, load
from mahalad.choices import CHANGES as KINDS
from mahalad.cli import main
from mahalad.detectors.changes import N_CHANGED, Changes, Pictures, ranks
from mahalad.errors import InputError, ModelFileError
from mahalad.files import layouts
from mahalad.files.container import read_model
from mahalad.images.changes import CHANGES, changed_copies, ways_of
from mahalad.scorers.level_sum import make_scorer
from mahalad.scorers.nuisance import Nuisance
from mahalad.scorers.positions.scorer import PatchScorer


@pytest.fixture
def picture() -> np.ndarray:
    return np.asarray(make_picture(3).resize((48, 40)))


# -- changes -------------------------------------------------------------------------------


def test_the_kinds_are_those_that_can_be_asked_for():
    assert layouts.N_CHANGED == N_CHANGED
    assert tuple(CHANGES) == KINDS
    ways = [way.__name__ for _, way in ways_of(KINDS)]
    assert len(set(ways)) == len(ways) == 8
    assert [kind for kind, _ in ways_of(("shift", "noise"))] == ["noise", "shift", "shift"]


@pytest.mark.parametrize("kind", KINDS)
def test_copies_depend_on_image_and_kind_alone(picture, kind):
    copies = changed_copies(picture, [kind], 7)
    for copy, again in zip(copies, changed_copies(picture, [kind], 7), strict=True):
        assert (copy.shape, copy.dtype) == (picture.shape, np.uint8)
        assert_array_equal(copy, again)
        assert (copy != picture).any()
    among_others = changed_copies(picture, KINDS, 7)
    assert all(any((copy == other).all() for other in among_others) for copy in copies)
    others = changed_copies(picture, [kind], 8)
    assert any((copy != other).any() for copy, other in zip(copies, others, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_float_pictures_are_changed_alike(picture, kind):
    in_floats = changed_copies((picture / 255).astype(np.float32), [kind], 7)
    for copy, other in zip(changed_copies(picture, [kind], 7), in_floats, strict=True):
        assert other.dtype == np.float32 and other.min() >= 0 and other.max() <= 1
        assert_allclose(255 * other, copy, atol=0.51)


def test_changes_are_no_stronger_than_they_are_said_to_be():
    grey = np.full((40, 40, 3), 128, np.uint8)
    for key in range(40):
        names = [way.__name__ for _, way in ways_of(KINDS)]
        copies = dict(zip(names, changed_copies(grey, KINDS, key), strict=True))
        assert copies["_brightness"].min() >= 120 and copies["_brightness"].max() <= 136
        assert (copies["_contrast"] == 128).all()
        red, _, blue = copies["_colour"][0, 0].astype(int)
        assert abs(red - 128) <= 4 and abs(red + blue - 256) <= 1
        assert 0.8 < copies["_noise"].astype(float).std() < 4.2
        for name in ("_shift", "_turn", "_focus"):  # nothing to be seen of these
            assert (copies[name] == 128).all()


def test_a_shift_moves_what_is_there(picture):
    spot = np.zeros((41, 41, 3), np.uint8)
    spot[19:22, 19:22] = 255
    for key in range(20):
        shifted, turned = changed_copies(spot, ["shift"], key)
        y, x = (np.average(np.arange(41), weights=shifted[..., 0].sum(axis=a)) for a in (1, 0))
        assert abs(y - 20) <= 4.01 and abs(x - 20) <= 4.01
        y, x = (np.average(np.arange(41), weights=turned[..., 0].sum(axis=a)) for a in (1, 0))
        assert abs(y - 20) < 0.1 and abs(x - 20) < 0.1  # about the centre


# -- Gaussians -----------------------------------------------------------------------------


def samples(n: int, D: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, D)) @ rng.normal(size=(D, D)) * np.linspace(1, 0.1, D) + 5


def nuisance(D: int, *positions: int) -> Nuisance:
    d = np.random.default_rng(9).normal(size=(24, *positions, D)) * np.linspace(0.1, 1, D)
    return Nuisance(d.astype(np.float16), 6)


def summed(given: Nuisance) -> np.ndarray:
    """N, written out."""
    d = given.differences.astype(np.float64)
    N, D = d.T @ d / given.n_images, d.shape[1]
    return 0.95 * N + 0.05 * np.trace(N) / D * np.eye(D)


@pytest.mark.parametrize(("n", "D"), [(40, 8), (30, 20), (30, 50), (12, 200)])
def test_the_covariance_is_added(n, D):
    X, N = samples(n, D), nuisance(D)
    plain, gaussian = LedoitWolfGaussian().fit(X), LedoitWolfGaussian().fit(X).tolerate(N)
    sigma = plain.covariance_ + summed(N)
    assert_allclose(gaussian.covariance_, sigma, rtol=1e-10, atol=1e-12)
    new = samples(5, D, seed=1) + 3
    z = new - X.mean(axis=0)
    wanted = np.sqrt(np.einsum("ij,ij->i", z, np.linalg.solve(sigma, z.T).T))
    assert_allclose(gaussian.distances(new), wanted, rtol=1e-9)
    assert_allclose(gaussian.apply_precision(z), np.linalg.solve(sigma, z.T).T, rtol=1e-6)
    assert (gaussian.distances(new) < plain.distances(new)).all()
    assert gaussian.shrinkage_ == plain.shrinkage_
    other = LedoitWolfGaussian().restore_scoring(gaussian.scoring_state())
    assert_allclose(other.distances(new), wanted, rtol=1e-9)
    assert_array_equal(gaussian.tolerate(None).distances(new), plain.distances(new))


def test_positions_are_gaussians_that_tolerate_each_their_own():
    X, N = np.stack([samples(30, 12, seed) for seed in range(4)], axis=1), nuisance(12, 4)
    gaussian = PatchGaussian(floor=0.0).fit(X).tolerate(N)
    new = X[:5] + 2
    for p in range(4):
        own = Nuisance(N.differences[:, p], N.n_images)
        one = LedoitWolfGaussian().fit(X[:, p]).tolerate(own)
        assert_allclose(gaussian.distances(new)[:, p], one.distances(new[:, p]), rtol=1e-9)
        assert_allclose(
            gaussian.leave_one_out_distances(X)[:, p],
            one.leave_one_out_distances(X[:, p]),
            rtol=1e-7,
        )


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize(("n", "D"), [(40, 10), (30, 50), (12, 100)])
def test_left_out_is_refitted(n, D, size):
    """But for what a sample does to the ridge, which counts to first order, on the diagonal."""
    X, N = samples(n, D), nuisance(D)
    labels = np.arange(n) // size
    found = LedoitWolfGaussian().fit(X).tolerate(N).leave_one_out_distances(X, labels)
    for label in np.unique(labels):
        own = labels == label
        wanted = LedoitWolfGaussian().fit(X[~own]).tolerate(N).distances(X[own])
        assert_allclose(found[own], wanted, rtol=0.01)


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize(("n", "D"), [(40, 10), (30, 50), (12, 100)])
def test_the_changes_of_an_image_are_left_out_with_it(n, D, size):
    X, N = samples(n, D), nuisance(D)
    labels, changed = np.arange(n) // size, np.full(n, -1)
    changed[[2, 5, 7, 8, 11, 10]] = range(6)  # in groups of three: one, one, two, two of them
    gaussian = LedoitWolfGaussian().fit(X).tolerate(N)
    influences = gaussian.calibration_distances(X, labels)
    influences -= gaussian.leave_one_out_distances(X, labels)
    one = gaussian.calibration_distances(X, labels, changed) - influences
    positions = (
        PatchGaussian(floor=0.0)
        .fit(X[:, None])
        .tolerate(Nuisance(N.differences[:, None], N.n_images))
    )
    found = positions.leave_one_out(X[:, None], labels, 10, changed)[0][:, 0]
    for label in np.unique(labels):
        own = labels == label
        images = changed[own][changed[own] >= 0]
        others = np.delete(N.differences.reshape(6, 4, D), images, axis=0).reshape(-1, D)
        rest = Nuisance(others, 6 - len(images))
        wanted = LedoitWolfGaussian().fit(X[~own]).tolerate(rest).distances(X[own])
        exact = {"rtol": 1e-9} if len(images) else {"rtol": 0.01}
        assert_allclose(one[own], wanted, **exact)
        assert_allclose(found[own], wanted, **exact)


def test_where_all_changed_images_are_left_out_the_changes_stay():
    N = nuisance(5)
    assert N.without(np.arange(6)) is N
    assert N.without(np.array([1])).n_images == 5
    assert_array_equal(N.without(np.arange(5)).differences, N.differences[-4:])


@pytest.mark.parametrize("neighbourhood", [0, 1, "all"])
def test_a_scorer_of_positions_leaves_changes_out(neighbourhood):
    """The changed images score higher then, and no other."""
    X, D = maps(20), {name: 2 * values for name, values in maps(8, seed=1).items()}
    changed = np.full(20, -1)
    changed[[3, 11]] = (0, 1)
    D = {name: np.concatenate([X[name][[3] * 4], X[name][[11] * 4]]) + D[name] / 9 for name in D}
    scorer = PatchScorer(neighbourhood=neighbourhood, image_weight=0.0).tolerating(D, 2).fit(X)
    before = -scorer.leave_one_out(X)[0][:, 0] * scorer.standards_.scale[0]
    scores, standards = scorer.leave_one_out(X, None, changed)
    after = -scores[:, 0] * standards.scale[0]
    assert (after[[3, 11]] > before[[3, 11]] + 0.1).all()


def test_places_of_images_among_those_that_are_changed():
    both = changes([4, 9, 2])
    keys = np.array([9, 1, 2, 9], np.uint64)
    wanted = [both.keys.tolist().index(key) if key != 1 else -1 for key in keys.tolist()]
    assert both.places(keys).tolist() == wanted


def test_fits_merge_and_take_changes_anew():
    X, N = samples(40, 10), nuisance(10)
    whole = LedoitWolfGaussian().fit(X).tolerate(N)
    halves = LedoitWolfGaussian().fit(X[:20]).merge(LedoitWolfGaussian().fit(X[20:]).tolerate(N))
    assert_allclose(halves.tolerate(N).distances(X), whole.distances(X), rtol=1e-10)
    assert_allclose(whole.partial_fit(X[:5]).distances(X[:1]) > 0, True)
    again = LedoitWolfGaussian().fit(np.concatenate([X, X[:5]])).tolerate(N)
    assert_allclose(whole.distances(X), again.distances(X), rtol=1e-10)


def maps(n: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "whole": rng.normal(size=(n, 6)),
        "fine": rng.normal(size=(n, 16, 16, 3)),
        "coarse": rng.normal(size=(n, 8, 8, 5)),
    }


@pytest.mark.parametrize("neighbourhood", [0, 1, "all"])
def test_a_scorer_of_positions_is_told_before_or_after_its_fit(neighbourhood):
    X, D, new = maps(30), maps(8, seed=1), maps(4, seed=2)
    plain = PatchScorer(neighbourhood=neighbourhood).fit(X)
    before = plain.score_samples(new)
    told = plain.tolerating(D, 2)
    told = told.standardized_by(told.leave_one_out(X)[1])
    first = PatchScorer(neighbourhood=neighbourhood).tolerating(D, 2).fit(X)
    assert_allclose(first.score_samples(new), told.score_samples(new), rtol=1e-9)
    assert_array_equal(plain.score_samples(new), before)  # the one that was asked stays
    assert (first.score_samples(new) != before).all()


def test_a_sum_over_levels_is_told_before_or_after_its_fit():
    X, D, new = ({"a": samples(30, 6, s), "b": samples(30, 9, s + 7)} for s in (0, 1, 2))
    plain = make_scorer("gaussian").fit(X)
    before = plain.score_samples(new)
    first = make_scorer("gaussian").tolerating(D, 5).fit(X)
    assert_allclose(plain.tolerating(D, 5).score_samples(new), first.score_samples(new), rtol=1e-10)
    assert_array_equal(plain.score_samples(new), before)
    assert not hasattr(make_scorer("gaussian", "npca"), "tolerating")
    assert not hasattr(make_scorer("l2"), "tolerating")


# -- which images --------------------------------------------------------------------------


def changes(keys: list[int]) -> Changes:
    """In the order of their ranks, as they always are; differences say the key."""
    keys = sorted(keys, key=lambda key: ranks(np.array(key, np.uint64)))
    values = np.array(keys, np.float16)[:, None, None] + np.zeros((1, 2, 3), np.float16)
    return Changes(np.array(keys, np.uint64), {"a": values})


def test_images_of_the_lowest_ranks_are_changed():
    evens, odds = changes(list(range(0, 16, 2))), changes(list(range(1, 17, 2)))
    both, wanted = evens.merged(odds), changes(list(range(16))).keys[:N_CHANGED]
    assert_array_equal(both.keys, wanted)
    assert_array_equal(both.differences["a"][:, 0, 0], wanted)
    assert_array_equal(odds.merged(evens).keys, wanted)
    assert_array_equal(both.merged(evens).keys, wanted)  # the same picture counts once
    assert both.limit == ranks(wanted)[-1] == max(ranks(wanted))
    assert changes([5]).limit is Changes().limit is None
    assert Changes().merged(evens) is evens and evens.merged(Changes()) is evens
    assert_array_equal(both.without(wanted[:3]).keys, wanted[3:])
    assert both.without(both.keys).n_images == 0


def test_pictures_are_kept_until_others_have_lower_ranks():
    class Extractor:
        batch_size = 3

        def transform(self, copies):
            return {"a": np.zeros((len(copies), 2))}

    keys = [50, 95, 40, 30, 20, 60, 70, 80, 85, 10, 10, 11, 12]
    wanted = changes(list(set(keys))).keys
    limit = int(ranks(wanted)[-2])  # of that rank and above none matters
    pictures = Pictures(limit)
    for key in keys:
        pictures.see(key, np.zeros((4, 4, 3), np.uint8), {"a": np.full(2, key)})
    found = pictures.changes(Extractor(), KINDS)
    assert_array_equal(found.keys, wanted[:N_CHANGED])
    assert_array_equal(-found.differences["a"][:, 7, 1], wanted[:N_CHANGED])


# -- detectors -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good():
    return [make_picture(seed) for seed in range(24)]


@pytest.fixture(scope="module")
def new():
    return [make_picture(seed) for seed in range(60, 64)]


@pytest.fixture
def detector(small_weights) -> MahalanobisDetector:
    return MahalanobisDetector(
        "test_efficientnet", weights=small_weights, input_size=64, fpr=0.1, near_copies="separate"
    )


@pytest.mark.parametrize("scope", ["positions", "image"])
def test_a_fit_in_parts_is_one_fit(detector, good, new, scope):
    detector.set_params(scope=scope)
    whole = clone(detector).fit(good)
    parts = clone(detector).fit(good[:9]).partial_fit(good[9:15]).partial_fit(good[15:])
    halves = clone(detector).fit(good[13:]).merge(clone(detector).fit(good[:13]))
    for other in (parts, halves, clone(detector).set_params(batch_size=5).fit(good[::-1])):
        assert_allclose(other.anomaly_score(new), whole.anomaly_score(new), rtol=1e-4)
        assert other.threshold_ == pytest.approx(whole.threshold_, rel=1e-4)


@pytest.mark.parametrize("scope", ["positions", "image"])
@pytest.mark.parametrize("max_stored", [None, 10])
@pytest.mark.parametrize("slim", [False, True])
def test_a_file_keeps_what_is_tolerated(detector, good, new, scope, max_stored, slim, tmp_path):
    detector.set_params(scope=scope, max_stored=max_stored).fit(good)
    detector.save(tmp_path / "m", include_features=not slim)
    read = load(tmp_path / "m")
    assert_allclose(read.anomaly_score(new), detector.anomaly_score(new), rtol=1e-5)
    if not slim:
        more = [make_picture(seed) for seed in range(30, 34)]
        wanted = detector.partial_fit(more).anomaly_score(new)
        assert_allclose(read.partial_fit(more).anomaly_score(new), wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda a: a * 0 + 1e6, "holds .*, expected numbers that 16-bit floats can be"),
        (lambda a: a[:0], r"of shape \(0,.*expected shape"),
        (lambda a: np.concatenate([a, a]), r"of shape \(16,.*expected shape"),
        (lambda a: a[::-1], "changes/keys are not in the order of their ranks"),
        (lambda a: a[[0, 0, *range(2, N_CHANGED)]], "changes/keys are not in the order of"),
    ],
)
@pytest.mark.parametrize("scope", ["positions", "image"])
def test_damaged_changes_are_refused(detector, good, scope, damage, message, tmp_path):
    detector.set_params(scope=scope).fit(good).save(tmp_path / "m")
    header, arrays = read_model(tmp_path / "m")
    wrong = {
        name: damage(array.astype(np.float64) if array.dtype == np.float16 else array)
        for name, array in arrays.items()
        if name.startswith("changes/")
    }
    wrong["changes/keys"] = wrong["changes/keys"].astype(np.uint64)
    write_text(tmp_path / "m", json.dumps(header), {**arrays, **wrong})
    with pytest.raises(ModelFileError, match=message):
        load(tmp_path / "m")


@pytest.mark.parametrize("scope", ["positions", "image"])
def test_where_every_changed_image_is_removed_nothing_is_tolerated(
    detector, good, new, scope, tmp_path
):
    detector.set_params(scope=scope, max_stored=23).fit(good).save(tmp_path / "m")
    detector = load(tmp_path / "m")  # with sums, which are not those of the kept images alone
    kept = detector._state.store.kept
    first = np.argsort(ranks(kept.keys))[:N_CHANGED]  # as if all that are changed were kept
    changes = Changes(kept.keys[first], detector._state.changes.differences)
    detector._state = replace(detector._state, changes=changes)
    with pytest.warns(UserWarning, match=r"nothing is tolerated .*fit again"):
        detector.remove([good[int(name[2:-1])] for name in kept.names[first]])
    assert detector._state.changes.n_images == 0
    score = detector.anomaly_score(new)
    detector.save(tmp_path / "m")
    assert_allclose(load(tmp_path / "m").anomaly_score(new), score, rtol=1e-5)


def test_removed_images_are_not_changed_either(detector, good, new):
    few = good[:7]  # all of them are changed
    detector.fit(few).remove(few[:1])
    wanted = clone(detector).fit(few[1:])
    assert_allclose(detector.anomaly_score(new), wanted.anomaly_score(new), rtol=1e-4)


def test_images_held_out_say_nothing_of_the_scorer(detector, good, new):
    detector.set_params(threshold="holdout", holdout_fraction=0.5).fit(good)
    assert_told_of_fitted_images_alone(detector, new)


def assert_told_of_fitted_images_alone(detector, new) -> None:
    store, held_out = detector._state.store, detector._calibrated.keys
    changed = detector._state.changes.without(held_out)
    assert 0 < changed.n_images < N_CHANGED
    fitted = {name: F[~np.isin(store.keys, held_out), 0] for name, F in store.features.items()}
    scorer = detector.unfitted_scorer().tolerating(changed.rows, changed.n_images).fit(fitted)
    places = changed.places(store.keys[~np.isin(store.keys, held_out)])
    if detector.scope == "positions":
        scorer = scorer.standardized_by(scorer.leave_one_out(fitted, None, places)[1])
    found = detector.features_.transform([detector.features_.prepare(image) for image in new])
    assert_allclose(detector.anomaly_score(new), -scorer.score_samples(found), rtol=1e-4)


def test_near_copies_of_images_held_out_say_nothing_either(detector, good, new):
    """The images held out are those of whole parts, of which copies are one."""
    images = [np.array(image) for image in good]
    for image in images[::2]:
        images.append(image.copy())
        images[-1][0, 0] ^= 1
    detector.set_params(scope="image", threshold="holdout", holdout_fraction=0.5)
    with pytest.warns(UserWarning, match="near-copies"):
        detector.set_params(near_copies="group").fit(images)
    assert_told_of_fitted_images_alone(detector, new)


@pytest.mark.parametrize("scope", ["positions", "image"])
def test_a_file_with_images_held_out_scores_as_before(detector, good, new, scope, tmp_path):
    detector.set_params(scope=scope, threshold="holdout", holdout_fraction=0.5).fit(good)
    assert detector._state.changes.without(detector._calibrated.keys).n_images < N_CHANGED
    detector.save(tmp_path / "m")
    read = load(tmp_path / "m")
    assert_allclose(read.anomaly_score(new), detector.anomaly_score(new), rtol=1e-5)
    more = [make_picture(seed) for seed in range(30, 34)]
    wanted = detector.partial_fit(more).anomaly_score(new)
    assert_allclose(read.partial_fit(more).anomaly_score(new), wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ("params", "kinds"),
    [
        ({}, KINDS),
        ({"tolerate": ("shift", "light")}, ("light", "shift")),
        ({"tolerate": ["noise"]}, ("noise",)),
        ({"tolerate": ()}, ()),
        ({"scope": "image", "reduction": "npca"}, ()),
        ({"scope": "image", "threshold": "chi2-nominal"}, ()),
        ({"scope": "image", "reduction": "npca", "tolerate": ()}, ()),
    ],
)
def test_what_is_tolerated(detector, good, params, kinds):
    detector.set_params(**params)
    assert detector.tolerated() == kinds
    detector.fit(good)
    found = detector._state.changes
    assert found.n_images == (N_CHANGED if kinds else 0)
    if kinds:
        assert next(iter(found.differences.values())).shape[1] == len(ways_of(kinds))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"tolerate": "light"}, "tolerate must be one of auto or a sequence of light, noise"),
        ({"tolerate": ("light", "dust")}, "tolerate must be one of auto or a sequence of"),
        ({"tolerate": ("light", "light")}, "tolerate must be one of auto or a sequence of"),
        ({"tolerate": None}, "tolerate must be one of auto or a sequence of"),
        ({"scope": "image", "reduction": "pca", "tolerate": ("light",)}, "leave out the reduction"),
        (
            {"scope": "image", "threshold": "chi2-nominal", "tolerate": ["noise"]},
            "leave out the reduction",
        ),
    ],
)
def test_what_cannot_be_tolerated(detector, good, params, message):
    with pytest.raises(InputError, match=message):
        detector.set_params(**params).fit(good)


def test_a_rule_that_knows_nothing_of_changes_is_not_exchanged_for_another(detector, good):
    """Distances that tolerate something are no chi squares."""
    detector.set_params(scope="image").fit(good).set_params(threshold="chi2-nominal")
    for ask in (lambda: detector.threshold_, lambda: detector.partial_fit(good[:1])):
        with pytest.raises(InputError, match=r"threshold changed .*: fit again"):
            ask()
    assert detector.set_params(threshold="chi2").threshold_ > 0
    detector.set_params(tolerate=()).fit(good)
    assert detector.set_params(threshold="chi2-nominal").threshold_ > 0


def test_the_order_of_kinds_does_not_matter(detector, good):
    detector.set_params(scope="image", tolerate=("noise", "light"))
    other = clone(detector).set_params(tolerate=["light", "noise"]).fit(good[12:])
    assert detector.fit(good[:12]).merge(other).n_images_ == 24
    detector.set_params(tolerate="auto").fit(good[:12])
    assert detector.merge(clone(detector).set_params(tolerate=KINDS).fit(good[12:])).n_images_ == 24


def test_fits_that_tolerate_other_changes_are_not_merged(detector, good):
    other = clone(detector).set_params(tolerate=("light",)).fit(good[12:])
    with pytest.raises(InputError, match="cannot merge fits with different tolerate"):
        detector.fit(good[:12]).merge(other)


def noisy(picture, seed):
    rng = np.random.default_rng(seed)
    pixels = np.asarray(picture) * 0.95 + rng.normal(0, 3, (*picture.size, 3))
    return pixels.round().clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("neighbourhood", ["nearest", 0])
def test_what_raises_distances_everywhere_is_no_defect(detector, neighbourhood, tmp_path):
    """Noise and less light, together, on all of a picture; a spot is still one."""
    good, new = ([make_picture(seed) for seed in range(n, n + 40)] for n in (0, 70))
    spots = [make_picture(seed, spot=True) for seed in range(70, 80)]
    detector.set_params(neighbourhood=neighbourhood).fit(good)
    changed = [noisy(picture, i) for i, picture in enumerate(new)]
    assert (detector.predict(changed) == -1).mean() < 0.3  # 0.1 was asked for
    assert (detector.predict(spots) == -1).all()
    scorer = detector.scorer_
    assert scorer.standards_.common == 1
    without = scorer.standardized_by(replace(scorer.standards_, common=0.0))
    levels = detector.features_.transform([detector.features_.prepare(p) for p in changed])
    assert (scorer.score_samples(levels) > without.score_samples(levels)).mean() > 0.25


def test_an_older_file_weighs_changes_as_it_did():
    """The image-level distance of a fit whose sums are in the file is made anew of these."""
    old = load(Path(__file__).parent / "data" / "format7_nearest_reservoir.mahalad")
    assert old.scorer_.standards_.common == 0
    assert old.scorer_._image_tolerance == 1


def test_an_older_file_tolerates_nothing():
    old = load(Path(__file__).parent / "data" / "format5_image.mahalad")
    assert old.tolerated() == () and old.tolerate == []
    assert old._state.changes.n_images == 0


# -- command line --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        ([], KINDS),
        (["--tolerate", "none"], ()),
        (["--tolerate", "noise, light"], ("light", "noise")),
        (["--scope", "image", "--tolerate", "auto"], KINDS),
        (["--reduction", "npca"], ()),
        (["--scorer", "knn", "--tolerate", "light"], ("light",)),
        (["--scorer", "sed"], ()),
        (["--preset", "rippel2020"], ()),
        (["--preset", "rippel2020", "--tolerate", "focus"], ("focus",)),
    ],
)
def test_fit_tolerates_what_is_asked_for(options, kinds, small_weights, picture_folder, tmp_path):
    network = ["--backbone", "test_efficientnet", "--weights", str(small_weights), "--size", "64"]
    out = tmp_path / "m"
    arguments = ["fit", str(picture_folder / "good"), "-o", str(out), *network, *options]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    model = load(out)
    assert model.tolerated() == kinds
    assert model._state.changes.n_images == (N_CHANGED if kinds else 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tolerate", "dust"], "'dust' is not auto, none, or some of light, noise"),
        (["--tolerate", "light,light"], "'light,light' is not auto, none"),
        (["--tolerate", ""], "'' is not auto, none"),
        (["--tolerate", "light", "--scorer", "sed"], "--tolerate is for --scorer gaussian or knn"),
        (["--tolerate", "light", "--reduction", "npca"], "leave out the reduction"),
    ],
)
def test_what_fit_cannot_tolerate(options, message, picture_folder, tmp_path):
    done = CliRunner().invoke(
        main, ["fit", str(picture_folder / "good"), "-o", str(tmp_path / "m"), *options]
    )
    assert done.exit_code in (1, 2) and message in " ".join(done.output.split())
    assert not (tmp_path / "m").exists()
