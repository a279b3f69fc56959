"""The detector by nearest neighbours: images, rates, files and the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import make_picture, run
from PIL import Image
from sklearn.base import clone
from sklearn.metrics import roc_auc_score

from mahalad import AnomalyDetector, KNNDetector, MahalanobisDetector, load
from mahalad.errors import CalibrationError, InputError
from mahalad.scorers.baselines import NearestNeighborDistance
from mahalad.scorers.level_sum import LevelSum, make_scorer
from mahalad.scorers.neighbors import KthNeighborDistance


@pytest.fixture
def detector(small_weights) -> KNNDetector:
    return KNNDetector("test_efficientnet", weights=small_weights, input_size=64, fpr=0.1)


def assert_same(a, b, X, rtol=1e-10):
    np.testing.assert_allclose(a.anomaly_score(X), b.anomaly_score(X), rtol=rtol)
    np.testing.assert_allclose(a.p_values(X), b.p_values(X), rtol=rtol)
    assert a.threshold_ == pytest.approx(b.threshold_, rel=rtol)


def test_scores_are_sums_over_levels_of_the_kth_distance(detector, picture_folder):
    good, test = picture_folder / "good", picture_folder / "test"
    detector.set_params(n_neighbors=3, reduce="mean").fit(good)
    assert detector.calibration_method_ == "leave-one-out"
    assert len(detector.calibration_scores_) == detector.n_images_ == 40
    store, extractor = detector._state.store.features, detector.features_
    results = list(detector.inspect(test))
    assert roc_auc_score(np.repeat([0, 1], 8), [r.score for r in results]) > 0.9
    assert set(results[0].level_scores) == set(extractor.backbone_.level_names)
    neighbors = KthNeighborDistance(3, reduce="mean")
    for level, values in store.items():
        scorer = detector.scorer_.estimators_[level]
        np.testing.assert_array_equal(scorer.samples_, clone(neighbors).fit(values[:, 0]).samples_)


def test_calibration_equals_fits_without_each_image(detector, picture_folder):
    good = sorted((picture_folder / "good").iterdir())[:12]
    whole = clone(detector).fit(good)
    # Those of which no changed copies were made: for one of the others a ninth takes its place.
    others = np.flatnonzero(whole._state.changes.places(whole._state.store.keys) < 0)
    assert len(others) == 4
    wanted = [
        clone(detector).fit(good[:i] + good[i + 1 :]).anomaly_score(good[i : i + 1])[0]
        for i in others
    ]
    np.testing.assert_allclose(whole.calibration_scores_[others], wanted, rtol=1e-4)


@pytest.mark.parametrize("threshold", ["conformal", "chi2", "holdout"])
def test_round_trip(detector, picture_folder, tmp_path, threshold):
    detector.set_params(threshold=threshold, distance="cosine", n_neighbors=2)
    detector.fit(picture_folder / "good").save(tmp_path / "m")
    loaded = load(tmp_path / "m")
    assert type(loaded) is KNNDetector
    assert loaded.get_params() == {**detector.get_params(), "weights": str(detector.weights)}
    assert_same(loaded, detector, picture_folder / "test")
    assert KNNDetector.load(tmp_path / "m").set_fpr(0.2).threshold_ < loaded.threshold_
    with pytest.raises(InputError, match="holds a KNNDetector, not a MahalanobisDetector"):
        MahalanobisDetector.load(tmp_path / "m")


def test_merge_and_partial_fit_equal_one_fit(detector, picture_folder, tmp_path):
    good, test = sorted((picture_folder / "good").iterdir()), picture_folder / "test"
    whole = clone(detector).fit(good)
    for part, name in ((good[:15], "a"), (good[15:], "b")):
        clone(detector).fit(part).save(tmp_path / name)
    for other in (
        load(tmp_path / "a").merge(load(tmp_path / "b")),
        load(tmp_path / "b").merge(load(tmp_path / "a")),
        load(tmp_path / "a").partial_fit(good[15:]),
    ):
        assert other.n_images_ == 40
        assert_same(other, whole, test, rtol=1e-4)
    with pytest.raises(InputError, match="cannot merge fits with different scorer"):
        load(tmp_path / "a").merge(clone(detector).set_params(n_neighbors=4).fit(good[15:]))


def test_copies_and_groups_are_left_out_together(detector, picture_folder):
    good = sorted((picture_folder / "good").iterdir())[:16]
    detector.set_params(tolerate=())  # other images would be changed without these
    grouped = clone(detector).set_params(fpr=0.2).fit(good, groups=np.arange(16) // 2)
    others = clone(detector).fit(good[:6] + good[8:])
    wanted = others.anomaly_score(good[6:8])
    np.testing.assert_allclose(grouped.calibration_scores_[6:8], wanted, rtol=1e-4)
    copies = clone(detector).set_params(n_augment=5).fit(good)
    assert copies.calibration_method_ == "leave-one-out"
    # Of its own 5 copies, which lie close by, an image must not be a neighbour.
    seen = copies.level_scores(good).sum(axis=1)
    assert np.all(copies.calibration_scores_ > seen)
    assert (copies.calibration_scores_ > 1.5 * seen).mean() > 0.5


def test_reduction_is_cross_fitted(detector, picture_folder):
    detector.set_params(reduction="pca").fit(picture_folder / "good")
    assert detector.calibration_method_ == "cross-fit"
    scores = detector.anomaly_score(picture_folder / "test")
    assert roc_auc_score(np.repeat([0, 1], 8), scores) > 0.9


@pytest.mark.parametrize(("threshold", "tolerance"), [("conformal", 0.015), ("holdout", 0.02)])
def test_mean_rate(threshold, tolerance):
    """0.1 asked, of 99 samples from two clusters, 60 fits; standard error 0.004 to 0.006.

    Conformal: 10 of 100 ranks, so the mean rate of split conformal is 0.1 at most.
    """
    rng, rates = np.random.default_rng(7), []
    for _ in range(60):
        X, new = (
            rng.normal(size=(n, 12)) + 4 * rng.integers(0, 2, (n, 1)) * (np.arange(12) < 3)
            for n in (99, 300)
        )
        detector = AnomalyDetector(scorer=make_scorer("knn"), threshold=threshold, fpr=0.1)
        rates.append(np.mean(detector.fit(X).predict(new) == -1))
    assert np.mean(rates) == pytest.approx(0.1, abs=tolerance)


def test_kinds_of_good_parts_that_one_gaussian_blurs():
    """Good parts of two kinds; halfway between them is abnormal, and the mean of the Gaussian."""
    rng = np.random.default_rng(3)
    X = rng.normal(size=(80, 5)) + 10 * (np.arange(80) % 2)[:, None]
    between = np.full((1, 5), 5.0)
    found = {
        name: AnomalyDetector(scorer=make_scorer(name)).fit(X).predict(between)[0]
        for name in ("gaussian", "knn")
    }
    assert found == {"gaussian": 1, "knn": -1}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_neighbors": 5}, "n_neighbors=5 needs at least 6 good images .* there are 5: give"),
        ({"n_neighbors": 1.5}, "n_neighbors must be a whole number >= 1, got 1.5"),
        ({"distance": "l1"}, "distance must be one of standardized, euclidean, cosine, got 'l1'"),
        ({"fpr": 2}, "got 2"),
    ],
)
def test_bad_parameters(detector, picture_folder, parameters, message):
    good = sorted((picture_folder / "good").iterdir())[:5]
    with pytest.raises(InputError, match=message):
        detector.set_params(**parameters).fit(good)
    assert not detector.__sklearn_is_fitted__()


def dimmer(picture: Image.Image) -> np.ndarray:
    return (np.asarray(picture) * 0.94).round().astype(np.uint8)


def test_dimmer_light_is_no_defect(detector):
    """A change that was learned of at the fit; without that, most pictures are flagged."""
    good, new = ([make_picture(seed) for seed in range(n, n + 40)] for n in (0, 60))
    flagged = {}
    for tolerate in ("auto", ()):
        detector.set_params(tolerate=tolerate, near_copies="separate").fit(good)
        flagged[tolerate] = np.mean(detector.predict([dimmer(p) for p in new]) == -1)
    assert flagged[()] > 0.6
    assert flagged["auto"] < 0.25  # 0.1 was asked for


@pytest.mark.parametrize(
    ("params", "n_kinds"),
    [
        ({}, 5),
        ({"tolerate": ("noise",)}, 1),
        ({"distance": "cosine"}, 0),
        ({"reduction": "pca"}, 0),
    ],
)
def test_what_is_tolerated(detector, params, n_kinds):
    assert len(detector.set_params(**params).tolerated()) == n_kinds


def test_other_distances_tolerate_nothing(detector, picture_folder):
    detector.set_params(distance="euclidean", tolerate=("noise",))
    with pytest.raises(InputError, match=r"leave out the reduction \(or the other scorer or dist"):
        detector.fit(picture_folder / "good")


def test_calibration_leaves_the_changes_of_an_image_out_with_it(detector, picture_folder):
    good = sorted((picture_folder / "good").iterdir())[:12]
    detector.fit(good)
    state, scorer = detector._state, detector.scorer_
    changed = state.changes.places(state.store.keys)
    i = int(np.flatnonzero(changed >= 0)[0])
    rest = state.store.without(np.arange(12) == i)
    unfitted = detector.unfitted_scorer().tolerating(
        state.changes.without(state.store.keys[[i]]).rows, state.changes.n_images - 1
    )
    other = unfitted.fit({name: F[:, 0] for name, F in rest.features.items()})
    own = {name: F[[i], 0] for name, F in state.store.features.items()}
    assert detector.calibration_scores_[i] == pytest.approx(-other.score_samples(own)[0], rel=1e-9)
    assert scorer.score_samples(own) != pytest.approx(other.score_samples(own))


def test_what_the_detector_has_not(detector, picture_folder, tmp_path):
    detector.fit(picture_folder / "good")
    with pytest.raises(InputError, match="no anomaly maps"):
        detector.anomaly_map(picture_folder / "test")
    with pytest.raises(InputError, match="learns from the features themselves"):
        detector.save(tmp_path / "m", include_features=False)
    with pytest.raises(InputError, match="threshold changed by set_params after the fit: fit"):
        _ = detector.set_params(threshold="chi2-nominal").threshold_  # tolerates changes
    detector.set_params(threshold="conformal", tolerate=()).fit(picture_folder / "good")
    with pytest.raises(CalibrationError, match="Mahalanobis"):
        _ = detector.set_params(threshold="chi2-nominal").threshold_


def test_old_files_with_the_mean_distance_can_be_read(picture_folder, small_weights, tmp_path):
    """What `--scorer knn` made before: mean distances, cross-fitted."""
    features = KNNDetector(
        "test_efficientnet", weights=small_weights, input_size=64
    ).unfitted_parts()
    old = AnomalyDetector(features[0], LevelSum(NearestNeighborDistance()), fpr=0.1)
    old.fit(picture_folder / "good").save(tmp_path / "m")
    loaded = load(tmp_path / "m")
    assert loaded.calibration_method_ == "cross-fit"
    assert_same(loaded, old, picture_folder / "test")


def test_command_line(fit_by_command, picture_folder, tmp_path):
    model = fit_by_command("knn", "--scorer", "knn", "--fpr", "0.1")
    detector = load(model)
    assert isinstance(detector.scorer_.estimator, KthNeighborDistance)
    assert detector.calibration_method_ == "leave-one-out"
    rows = run("score", picture_folder / "test", "-m", model, "--format", "jsonl")
    assert rows.exit_code == 0, rows.output
    flagged = [json.loads(line)["anomaly"] for line in rows.stdout.splitlines()]
    assert flagged == (detector.predict(picture_folder / "test") == -1).tolist()
    about = run("info", model)
    assert about.exit_code == 0
    assert "leave-one-out, 40 scores" in about.stdout
    assert "scope        image\n" in about.stdout
    report = run("report", picture_folder / "test", "-m", model, "-o", tmp_path / "page.html")
    assert report.exit_code == 0, report.output
    assert (tmp_path / "page.html").stat().st_size > 10_000
