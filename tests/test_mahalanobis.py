"""The ready-made detector of positions: its parts, maps, thresholds, files and refusals.

Its image-level sibling (``scope="image"``) is in test_detector.py and test_attribution.py.
"""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
from conftest import make_picture
from PIL import Image
from sklearn.base import clone
from sklearn.metrics import roc_auc_score

import mahalad.features.backbones as backbones
from mahalad import AnomalyDetector, BackboneFeatures, MahalanobisDetector, load
from mahalad.choices import CHANGES
from mahalad.detectors.changes import ranks
from mahalad.errors import (
    CalibrationError,
    DegenerateDataError,
    ImageReadError,
    InputError,
    ModelFileError,
)
from mahalad.files.container import read_header, read_model
from mahalad.images.changes import changed_copies
from mahalad.images.reading import content_key
from mahalad.scorers.level_sum import LevelSum, make_scorer
from mahalad.scorers.positions.scorer import PatchScorer

MAPS = ["maps/blocks.1", "maps/blocks.2", "maps/blocks.3"]


def pictures(seeds, **options):
    return [make_picture(seed, **options) for seed in seeds]


@pytest.fixture
def detector(small_weights):
    return MahalanobisDetector("test_efficientnet", weights=small_weights, input_size=64, fpr=0.1)


@pytest.fixture(scope="module")
def fitted(small_weights, picture_folder):
    """Fitted to the 40 good pictures; not to be changed."""
    detector = MahalanobisDetector(
        "test_efficientnet", weights=small_weights, input_size=64, fpr=0.1
    )
    return detector.fit(picture_folder / "good")


def map_features(n, seed=0):
    rng = np.random.default_rng(seed)
    return {"m": rng.normal(size=(n, 3, 3, 4)), "whole": rng.normal(size=(n, 5))}


def array_detector(**options):
    return AnomalyDetector(scorer=PatchScorer(top_fraction=0.3), **{"fpr": 0.1, **options})


def assert_same(a, b, X, rtol=1e-4):
    """Scores, maps and both thresholds; scores are in standard deviations and pass through 0."""
    np.testing.assert_allclose(a.level_scores(X), b.level_scores(X), rtol=rtol, atol=rtol)
    np.testing.assert_allclose(a.anomaly_map(X), b.anomaly_map(X), rtol=rtol, atol=rtol)
    assert a.threshold_ == pytest.approx(b.threshold_, rel=rtol)
    assert a.map_threshold_ == pytest.approx(b.map_threshold_, rel=rtol)
    assert a.n_images_ == b.n_images_


# -- what it is made of --------------------------------------------------------------------


def test_the_whole_is_its_parts_put_together(fitted, small_weights, picture_folder):
    features = BackboneFeatures(
        "test_efficientnet", weights=small_weights, levels=[-1], maps="auto", input_size=64
    ).build()
    good, test = (
        [features.prepare(Image.open(p)) for p in sorted((picture_folder / name).rglob("*.png"))]
        for name in ("good", "test")
    )
    F, G = features.transform(good), features.transform(test)
    assert list(F) == ["head", *MAPS]
    keys = np.array([content_key(image, 0) for image in good], np.uint64)
    changed = np.argsort(ranks(keys))[:8]
    copies = [changed_copies(good[i], CHANGES, int(keys[i])) for i in changed]
    D = {name: [] for name in F}
    for i, own in zip(changed, copies, strict=True):
        for name, values in features.transform(own).items():
            D[name].append((values - F[name][i]).astype(np.float16))
    D = {name: np.concatenate(values) for name, values in D.items()}
    scorer = PatchScorer().tolerating(D, 8).partial_fit(F)
    own = np.full(len(good), -1)
    own[changed] = np.arange(8)
    left_out, standards = scorer.leave_one_out(F, None, own)
    calibration = -left_out.sum(axis=1)
    scorer = scorer.standardized_by(standards)
    levels, where = scorer.scores_and_maps(G)
    folder = picture_folder / "test"
    np.testing.assert_allclose(fitted.level_scores(folder), -levels, rtol=1e-3)
    np.testing.assert_allclose(fitted.calibration_scores_, calibration, rtol=1e-3)
    np.testing.assert_allclose(fitted.anomaly_score(folder), -levels.sum(axis=1), rtol=1e-3)
    p = [(1 + np.sum(calibration >= s)) / 41 for s in -levels.sum(axis=1)]
    np.testing.assert_allclose(fitted.p_values(folder), p, rtol=1e-12)
    for one, wanted in zip(fitted.explain(folder), where, strict=True):
        assert list(one) == ["positions"]
        np.testing.assert_allclose(one["positions"], wanted, rtol=1e-3, atol=1e-3)
    assert fitted.calibration_method_ == "leave-one-out"
    assert fitted.scorer_.groups_ == ((MAPS[0],), (MAPS[1],), (MAPS[2],))


def test_default_and_paper_configurations():
    default = MahalanobisDetector()
    assert (default.scope, default.max_stored, default.most_stored()) == ("positions", None, 1000)
    features, scorer = default.unfitted_parts()
    assert (features.levels, features.maps, features.input_size) == ("highest", None, 320)
    assert isinstance(scorer, PatchScorer)
    assert (scorer.top_fraction, scorer.image_weight, scorer.smoothing) == (0.03, 0.1, 0.0)
    no_image = MahalanobisDetector(image_weight=0.0, input_size=64).unfitted_parts()[0]
    assert (no_image.levels, no_image.input_size) == ([], 64)
    paper = MahalanobisDetector.rippel2020(n_augment=100, reduction="npca", fpr=0.01)
    assert paper.get_params() == {
        **MahalanobisDetector().get_params(),
        "backbone": "tf_efficientnet_b4.aa_in1k",
        "scope": "image",
        "reduction": "npca",
        "n_augment": 100,
        "fpr": 0.01,
        "tolerate": (),
    }
    assert (default.tolerated(), paper.tolerated()) == (CHANGES, ())
    assert paper.most_stored() == 10_000
    features, scorer = paper.unfitted_parts()
    assert (features.levels, features.maps, features.input_size) == (None, (), None)
    assert isinstance(scorer, LevelSum)
    assert scorer.get_params()["estimator__principalcomponents__keep"] == "last"
    assert MahalanobisDetector.rippel2020("resnet18", weights="w.pth").weights == "w.pth"


def test_image_scope_of_a_few_levels_is_a_plain_sum(small_weights, picture_folder):
    options = {"weights": small_weights, "levels": ["stem", "head"], "input_size": 64}
    detector = MahalanobisDetector("test_efficientnet", scope="image", tolerate=(), **options)
    plain = AnomalyDetector(
        BackboneFeatures("test_efficientnet", **options), make_scorer("gaussian")
    )
    good, test = picture_folder / "good", picture_folder / "test"
    np.testing.assert_array_equal(
        detector.fit(good).level_scores(test), plain.fit(good).level_scores(test)
    )


# -- asking --------------------------------------------------------------------------------


def test_spots_are_found_and_shown_where_they_are(fitted, picture_folder):
    test = picture_folder / "test"
    scores = fitted.anomaly_score(test)
    is_spot = np.repeat([False, True], 8)
    assert roc_auc_score(is_spot, scores) == 1.0
    np.testing.assert_array_equal(fitted.predict(test) == -1, scores > fitted.threshold_)
    assert (fitted.predict(test)[is_spot] == -1).all()
    where = fitted.anomaly_map(test)
    assert where.shape == (16, 64, 64)
    assert where.dtype == np.float64
    for one in where[is_spot]:  # the spot is at 21..32 in both directions
        peak = np.unravel_index(one.argmax(), one.shape)
        assert all(17 <= place < 36 for place in peak)
        assert one.max() > fitted.map_threshold_


def test_results_carry_parts_and_maps(fitted, picture_folder):
    test = picture_folder / "test"
    levels, where = fitted.level_scores(test), fitted.anomaly_map(test)
    results = list(fitted.inspect(test, maps=True))
    assert len(results) == 16
    for i, result in enumerate(results):
        assert list(result.level_scores) == ["positions", "image"]
        assert list(result.level_scores.values()) == pytest.approx(levels[i], rel=1e-5, abs=1e-6)
        assert result.score == pytest.approx(levels[i].sum(), rel=1e-5, abs=1e-6)
        assert result.threshold == fitted.threshold_
        assert result.anomaly == (result.score > fitted.threshold_)
        np.testing.assert_allclose(result.anomaly_map, where[i], rtol=1e-4, atol=1e-5)
    assert [r.anomaly_map for r in fitted.inspect(test)] == [None] * 16


def test_maps_of_images_that_cannot_be_read(fitted, tmp_path):
    (tmp_path / "text.png").write_text("hello")
    images = [make_picture(1), tmp_path / "text.png", make_picture(2)]
    first, bad, last = fitted.inspect(images, maps=True)
    wanted = fitted.anomaly_map([images[0], images[2]])
    assert bad.anomaly_map is None
    assert "not an image" in bad.error
    np.testing.assert_allclose([first.anomaly_map, last.anomaly_map], wanted, rtol=1e-4, atol=1e-5)
    for ask in (fitted.anomaly_map, fitted.explain):
        with pytest.raises(ImageReadError, match=r"text\.png.*inspect\(\) reports such images"):
            ask(images)


def test_the_map_threshold_is_what_every_second_good_image_exceeds(fitted):
    maxima = np.sort(fitted.scorer_.map_maxima_)
    assert len(maxima) == 40
    for fpr in (0.001, 0.05, 0.5):  # flags have a rate; where colour begins has none
        other = clone(fitted)
        other.__dict__.update(fitted.__dict__)
        threshold = other.set_params(fpr=fpr).map_threshold_
        assert threshold == (maxima[19] + maxima[20]) / 2


def test_without_an_image_level_there_is_one_part(detector, picture_folder):
    detector.set_params(image_weight=0.0).fit(picture_folder / "good")
    assert detector.features_.backbone_.level_names == ()
    levels = detector.level_scores(picture_folder / "test")
    np.testing.assert_array_equal(levels[:, 0], detector.anomaly_score(picture_folder / "test"))
    assert list(next(detector.inspect(picture_folder / "test")).level_scores) == ["positions"]


def test_maps_of_feature_arrays_are_on_their_own_grid():
    X, new = map_features(30), map_features(4, seed=1)
    detector = array_detector().fit(X)
    scorer = PatchScorer(top_fraction=0.3).fit(X)
    np.testing.assert_allclose(detector.anomaly_map(new), scorer.anomaly_maps(new), rtol=1e-10)
    results = list(detector.inspect(new, maps=True))
    np.testing.assert_allclose(
        [r.anomaly_map for r in results], scorer.anomaly_maps(new), rtol=1e-10
    )


# -- how it was fitted does not matter -----------------------------------------------------


def test_order_batch_size_shards_and_repetition_do_not_matter(detector, fitted, picture_folder):
    paths = sorted((picture_folder / "good").iterdir())
    test = picture_folder / "test"
    merged = clone(detector).fit(paths[:13])
    for part in (paths[13:20], paths[20:]):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # 7 images are too few for a threshold
            merged.merge(clone(detector).fit(part))
    streamed = clone(detector).fit(paths[20:])
    for part in (paths[:1], paths[1:3], paths[3:20]):
        streamed.partial_fit(part)
    for other in (
        clone(detector).fit(paths),
        clone(detector).set_params(batch_size=1).fit(paths),
        clone(detector).set_params(batch_size=7).fit(paths[::-1]),
        merged,
        streamed,
    ):
        # Features change in the last digits with what is in a batch, and one between two steps is
        # kept as either: see `Nearest`.
        assert_same(other, fitted, test, rtol=1e-3)


def test_shards_of_features_merged_equal_one_fit_exactly():
    X, new = map_features(70), map_features(5, seed=1)
    whole = array_detector().fit(X)
    parts = [{k: v[r] for k, v in X.items()} for r in np.array_split(np.arange(70), 7)]
    merged = array_detector().fit(parts[0])
    for part in parts[1:]:
        merged.merge(array_detector().fit(part))
    assert_same(merged, whole, new, rtol=1e-9)


def test_a_part_of_the_images_is_kept_and_all_are_fitted():
    X, new = map_features(200), map_features(5, seed=1)
    whole, few = array_detector().fit(X), array_detector(max_stored=30)
    for rows in np.array_split(np.arange(200), 9):
        few.partial_fit({k: v[rows] for k, v in X.items()})
    assert (few._state.store.n_kept, few.n_images_) == (30, 200)
    values = new["m"].reshape(5, 9, 4)
    a, b = (d.scorer_.patch_gaussians_["m"] for d in (few, whole))
    assert a.n_samples_seen_ == 200
    np.testing.assert_allclose(a.distances(values), b.distances(values), rtol=1e-10)
    c, d = (x.scorer_.image_gaussians_["whole"] for x in (few, whole))
    np.testing.assert_allclose(c.distances(new["whole"]), d.distances(new["whole"]), rtol=1e-10)
    # Standardization and threshold come from the 30 that are kept, left out of all 200.
    kept = few._state.store.features
    scorer = PatchScorer(top_fraction=0.3).partial_fit(X)
    levels, standards = scorer.leave_one_out({k: v[:, 0] for k, v in kept.items()})
    scores, scorer = -levels.sum(axis=1), scorer.standardized_by(standards)
    np.testing.assert_allclose(few.calibration_scores_, scores, rtol=1e-9)
    np.testing.assert_allclose(few.anomaly_score(new), -scorer.score_samples(new), rtol=1e-9)
    assert few.threshold_ == pytest.approx(np.sort(scores)[-3], rel=1e-9)


def test_groups_that_are_only_partly_kept_are_cross_fitted():
    X, groups = map_features(120), np.arange(120) // 4
    complete = array_detector().fit(X, groups=groups)
    assert complete.calibration_method_ == "leave-one-out"
    scorer = PatchScorer(top_fraction=0.3).partial_fit(X)
    levels, standards = scorer.leave_one_out(X, groups)
    wanted, scorer = -levels.sum(axis=1), scorer.standardized_by(standards)
    np.testing.assert_allclose(complete.calibration_scores_, wanted, rtol=1e-9)
    np.testing.assert_allclose(complete.scorer_.map_maxima_, scorer.map_maxima_, rtol=1e-9)


def test_a_reservoir_keeps_groups_whole():
    X, groups = map_features(120), np.arange(120) // 4
    partly = array_detector(max_stored=61).fit(X, groups=groups)
    assert partly.calibration_method_ == "leave-one-out"
    assert len(partly.calibration_scores_) == 60
    assert partly.guarantee_.n_independent == 15
    assert partly.scorer_.patch_gaussians_["m"].n_samples_seen_ == 120
    names, sizes = np.unique(partly._state.store.groups, return_counts=True)
    assert (sizes == 4).all()
    first = {k: v[:50] for k, v in X.items()}, groups[:50]  # a group is in both parts
    rest = {k: v[50:] for k, v in X.items()}, groups[50:]
    added = array_detector(max_stored=61).fit(first[0], groups=first[1])
    added.partial_fit(rest[0], groups=rest[1])
    shards = [array_detector(max_stored=61).fit(F, groups=g) for F, g in (rest, first)]
    shards[0].merge(shards[1])
    for other in (added, shards[0]):
        assert np.unique(other._state.store.groups).tolist() == names.tolist()
        np.testing.assert_allclose(
            np.sort(other.calibration_scores_), np.sort(partly.calibration_scores_), rtol=1e-7
        )
    with pytest.raises(CalibrationError, match="which is less than two groups: give a larger max_"):
        array_detector(max_stored=30).fit(X, groups=np.arange(120) // 20)
    # Of the same scale: what is asked for is flagged, roughly, of fresh images.
    rate = np.mean(partly.predict(map_features(1000, seed=2)) == -1)
    assert rate == pytest.approx(0.1, abs=0.08)


def test_held_out_images_set_the_threshold(detector, picture_folder):
    good = sorted((picture_folder / "good").iterdir())
    detector.set_params(threshold="holdout").fit(good[:25], calibration=good[25:])
    plain = clone(detector).set_params(threshold="conformal").fit(good[:25])
    assert (detector.calibration_method_, detector.n_images_) == ("holdout", 25)
    np.testing.assert_allclose(
        detector.calibration_scores_, plain.anomaly_score(good[25:]), rtol=1e-4, atol=1e-4
    )
    assert detector.map_threshold_ == pytest.approx(plain.map_threshold_, rel=1e-4)
    own = clone(detector).set_params(holdout_fraction=0.4).fit(good)
    assert len(own.calibration_scores_) == 16
    assert own.scorer_.patch_gaussians_[MAPS[0]].n_samples_seen_ == 24


def test_copies_leave_with_their_image(detector, picture_folder):
    """One picture's copies are one: in scores, standardization and maxima, for every rule."""
    good = sorted((picture_folder / "good").iterdir())
    detector.set_params(n_augment=2, tolerate=()).fit(good)
    assert detector.scorer_.patch_gaussians_[MAPS[0]].n_samples_seen_ == 120
    assert len(detector.calibration_scores_) == len(detector.scorer_.map_maxima_) == 40
    F = detector._state.store.features
    rows = {name: values.reshape(-1, *values.shape[2:]) for name, values in F.items()}
    scorer = PatchScorer().partial_fit(rows)
    levels, standards = scorer.leave_one_out(rows, np.repeat(np.arange(40), 3))
    scores, scorer = levels.sum(axis=1), scorer.standardized_by(standards)
    np.testing.assert_allclose(detector.calibration_scores_, -scores[::3], rtol=1e-9)
    np.testing.assert_allclose(detector.scorer_.map_maxima_, scorer.map_maxima_[::3], rtol=1e-9)
    held = clone(detector).set_params(threshold="holdout")
    held.fit(good, calibration=picture_folder / "test")
    np.testing.assert_allclose(held.scorer_.map_maxima_, scorer.map_maxima_[::3], rtol=1e-4)
    new = picture_folder / "test"
    assert held.anomaly_score(new) == pytest.approx(detector.anomaly_score(new), rel=1e-4)


def test_the_same_picture_twice_counts_as_one():
    X = map_features(20)
    twice = {k: np.repeat(v, 2, axis=0) for k, v in X.items()}
    doubled = array_detector().fit(twice)
    scorer = PatchScorer(top_fraction=0.3).partial_fit(twice)
    wanted = scorer.leave_one_out_level_scores(twice, np.repeat(np.arange(20), 2)).sum(axis=1)
    np.testing.assert_allclose(doubled.calibration_scores_, -wanted, rtol=1e-9)


# -- files ---------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", ["conformal", "holdout"])
def test_round_trip(detector, picture_folder, tmp_path, threshold):
    detector.set_params(threshold=threshold, smoothing=0.7).fit(picture_folder / "good")
    detector.save(tmp_path / "m")
    loaded = load(tmp_path / "m")
    assert type(loaded) is MahalanobisDetector
    assert_same(loaded, detector, picture_folder / "test", rtol=1e-5)
    assert loaded.get_params() == {**detector.get_params(), "weights": str(detector.weights)}
    info = read_header(tmp_path / "m")
    assert info["fit"]["levels"]["head"] == [detector._state.store.features["head"].shape[-1]]
    assert info["fit"]["levels"][MAPS[0]] == [8, 8, 24]
    assert info["features"]["maps"] == ["blocks.1", "blocks.2", "blocks.3"]


def test_slim_files_score_and_show_and_can_be_saved_again(fitted, picture_folder, tmp_path):
    fitted.save(tmp_path / "slim", include_features=False)
    fitted.save(tmp_path / "whole")
    names = read_model(tmp_path / "slim")[1]
    assert not any(name.startswith(("fit/", "moments/")) for name in names)
    assert (tmp_path / "slim").stat().st_size < (tmp_path / "whole").stat().st_size
    loaded = load(tmp_path / "slim")
    assert_same(loaded, fitted, picture_folder / "test", rtol=1e-5)
    for ask in (loaded.partial_fit, lambda X: loaded.merge(fitted)):
        with pytest.raises(InputError, match="without the features of its images"):
            ask(picture_folder / "good")
    loaded.save(tmp_path / "again")
    assert_same(load(tmp_path / "again"), fitted, picture_folder / "test", rtol=1e-5)


def test_loaded_models_are_updated_and_merged(detector, fitted, picture_folder, tmp_path):
    good, test = sorted((picture_folder / "good").iterdir()), picture_folder / "test"
    clone(detector).fit(good[:20]).save(tmp_path / "a")
    clone(detector).fit(good[20:]).save(tmp_path / "b")
    for other in (
        load(tmp_path / "a").partial_fit(good[20:]),
        load(tmp_path / "a").merge(load(tmp_path / "b")),
        clone(detector).fit(good[:20]).merge(load(tmp_path / "b")),
        load(tmp_path / "a").merge(clone(detector).fit(good[20:])),
    ):
        assert_same(other, fitted, test, rtol=2e-4)


def test_merging_leaves_the_other_as_it_is(tmp_path):
    X = map_features(60)
    a = array_detector().fit({k: v[::2] for k, v in X.items()})
    groups = np.arange(30) // 2
    b = array_detector().fit({k: v[1::2] for k, v in X.items()}, groups=groups)
    b.save(tmp_path / "b")
    loaded, new = load(tmp_path / "b"), map_features(4, seed=1)
    before = loaded.anomaly_score(new), loaded.threshold_
    a.merge(loaded)
    assert a.n_images_ == 60
    np.testing.assert_allclose(loaded.anomaly_score(new), before[0], rtol=1e-5)
    assert loaded.threshold_ == pytest.approx(before[1], rel=1e-9)


def test_reservoirs_and_sums_survive(tmp_path):
    X, new = map_features(100), map_features(5, seed=1)
    detector = array_detector(max_stored=25).fit(X)
    detector.save(tmp_path / "m")
    loaded = load(tmp_path / "m")
    assert (loaded.n_images_, loaded._state.store.n_kept) == (100, 25)
    assert_same(loaded, detector, new, rtol=1e-5)
    more = map_features(30, seed=2)
    assert_same(loaded.partial_fit(more), detector.partial_fit(more), new, rtol=1e-9)
    other = array_detector(max_stored=25).fit(map_features(40, seed=3))
    assert_same(load(tmp_path / "m").partial_fit(more).merge(other), detector.merge(other), new)
    detector.save(tmp_path / "n")
    assert load(tmp_path / "n").n_images_ == 170


def test_groups_survive(tmp_path):
    X, groups = map_features(60), np.arange(60) // 3
    detector = array_detector().fit(X, groups=groups)
    detector.save(tmp_path / "m")
    more = map_features(12, seed=4)
    a, b = (d.partial_fit(more, groups=[f"new {i // 2}" for i in range(12)])
            for d in (load(tmp_path / "m"), detector))  # fmt: skip
    assert_same(a, b, map_features(5, seed=1), rtol=1e-9)
    assert len(np.unique(a._state.store.groups)) == 26


def test_another_precision_is_found_out(fitted, tmp_path, monkeypatch):
    import torch

    fitted.save(tmp_path / "m")
    runner = backbones.runner

    def in_bfloat16(*options):
        run = runner(*options)
        return lambda x: {k: v.to(torch.bfloat16).float() for k, v in run(x).items()}

    monkeypatch.setattr(backbones, "runner", in_bfloat16)
    with pytest.raises(ModelFileError, match="does not score here"):
        load(tmp_path / "m")


def test_clone_and_pickle(fitted, picture_folder):
    copy = pickle.loads(pickle.dumps(fitted))
    assert_same(copy, fitted, picture_folder / "test", rtol=1e-5)
    assert clone(fitted).get_params() == fitted.get_params()
    assert not hasattr(clone(fitted), "_state")
    assert copy.partial_fit(pictures(range(300, 303))).n_images_ == 43
    assert fitted.n_images_ == 40


# -- refusals ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scope": "pixels"}, "scope must be one of positions, image, got 'pixels'"),
        ({"reduction": "npca"}, r"reduction is for scope='image'"),
        ({"threshold": "chi2-nominal"}, r"'chi2-nominal' is the paper's rule for scope='image'"),
        ({"top_fraction": 2.0}, r"top_fraction must lie in \[0, 1\], got 2\.0"),
        ({"image_weight": -1.0}, "image_weight must be a number >= 0, got -1"),
        ({"smoothing": np.inf}, "smoothing must be a number >= 0, got inf"),
        ({"max_stored": 1}, "max_stored must be a whole number >= 2, got 1"),
        ({"levels": ["head"], "input_size": 32}, "'maps/head' has 1 x 1 positions"),
        ({"levels": []}, "no feature maps, .* among the levels head"),
    ],
)
def test_bad_parameters(detector, options, message):
    with pytest.raises(InputError, match=message):
        detector.set_params(**options).fit(pictures(range(10)))


def test_fewer_than_five_images_are_refused_by_number(detector):
    for n in (2, 4):
        with pytest.raises(InputError, match=rf"at least 5 good images, and has {n}: .*'image'"):
            detector.fit(pictures(range(n)))
    with pytest.raises(InputError, match="at least 2 good images that can be read, and has 1"):
        detector.fit(pictures([0]))
    with pytest.warns(UserWarning, match="needs at least 9 calibration images and has 5"):
        detector.fit(pictures(range(5)))
    assert detector.anomaly_score(pictures([0])).shape == (1,)
    added = detector.partial_fit(pictures(range(5, 9)))
    assert added.predict(pictures([60], spot=True)).tolist() == [-1]


def test_identical_images_are_refused(detector):
    with pytest.raises(DegenerateDataError, match="all 10 samples are identical"):
        detector.fit(pictures([1] * 10))


def test_other_scopes_and_parameters_do_not_merge(fitted, detector, picture_folder):
    for options, what in (
        ({"scope": "image"}, "features"),
        ({"levels": ["blocks.2"]}, "features"),
        ({"top_fraction": 0.5}, "scorer"),
        ({"max_stored": 20}, "max_stored"),
    ):
        other = clone(detector).set_params(**options).fit(picture_folder / "good")
        with pytest.raises(InputError, match=f"cannot merge fits with different {what}"):
            fitted.merge(other)
    assert fitted.n_images_ == 40


def test_changes_after_the_fit_are_refused(picture_folder, detector, tmp_path):
    detector.fit(picture_folder / "good")
    detector.set_params(top_fraction=0.5)
    with pytest.raises(InputError, match="top_fraction changed by set_params after the fit"):
        detector.save(tmp_path / "m")
    detector.set_params(top_fraction=0.03, threshold="chi2-nominal")
    with pytest.raises(CalibrationError, match=r"'chi2-nominal' is for Mahalanobis distances per"):
        detector.predict(pictures([1]))


def test_nominal_rule_and_missing_maps_are_refused_for_arrays(rng):
    with pytest.raises(InputError, match=r"'chi2-nominal' is for .*; the per-position scorer has"):
        array_detector(threshold="chi2-nominal").fit(map_features(30))
    plain = AnomalyDetector(fpr=0.1).fit(rng.normal(size=(30, 3)))
    with pytest.raises(InputError, match=r"no anomaly maps from LevelSum"):
        plain.anomaly_map(rng.normal(size=(2, 3)))
    with pytest.raises(InputError, match=r"no anomaly maps from LevelSum"):
        list(plain.inspect(rng.normal(size=(2, 3)), maps=True))
    with pytest.raises(InputError, match=r"have no threshold: the per-position scorer"):
        _ = plain.map_threshold_
    with pytest.raises(InputError, match=r"no feature maps, .* among the levels features"):
        array_detector().fit(rng.normal(size=(30, 3)))
    with pytest.raises(InputError, match=r"or maps \(n_samples, height, width, n_features\), got"):
        array_detector().fit({"m": rng.normal(size=(30, 3, 4))})


def test_one_group_is_not_enough():
    with pytest.raises(DegenerateDataError, match="leaving out 30 of 30"):
        array_detector().fit(map_features(30), groups=["a"] * 30)
