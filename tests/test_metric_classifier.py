"""The classifier by nearest neighbours: votes, corrections, thresholds, novelty, model files."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import sklearn.metrics
from conftest import DATA, assert_same_entries, make_picture
from sklearn.base import clone
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from mahalad import BackboneFeatures
from mahalad.errors import (
    CalibrationError,
    ImageReadError,
    InputError,
    ModelFileError,
    UnreadableImageWarning,
)
from mahalad.files.container import read_model, write_model
from mahalad.index.opening import open_index
from mahalad.loading import is_classifier
from mahalad.metric.classifier import MetricKNNClassifier
from mahalad.metric.file import read_index
from mahalad.metric.operating import choose, precision_recall_curve
from mahalad.metric.triplets.projection import TripletProjection
from mahalad.metric.votes import leave_one_out_neighbors
from mahalad.unfitted import NotFittedError

FEW = "ignore:.*too few to tell:UserWarning"
QUICK = TripletProjection(n_components=8, max_epochs=15, learning_rate=1e-2)


@pytest.fixture
def beans(rng):
    """120 labelled rows of 6 features, of which 2 tell the labels, and 60 further ones."""

    def draw(n):
        y = rng.choice(["bad", "good", "odd"], n, p=[0.3, 0.5, 0.2])
        shift = {"bad": [1.5, 0], "good": [0, 0], "odd": [0, 1.5]}
        F = rng.normal(size=(n, 6)) * [1, 1, 1, 1, 30, 30]
        F[:, :2] += [shift[label] for label in y]
        return F, y

    return *draw(120), *draw(60)


@pytest.fixture
def pictures():
    """Labelled pictures with and without a bright spot."""
    images = [np.asarray(make_picture(seed, spot=seed % 2 == 1)) for seed in range(12)]
    return images, ["good", "spot"] * 6


@pytest.fixture
def network(small_weights):
    return BackboneFeatures("test_efficientnet", weights=small_weights, input_size=64)


# -- votes and neighbours ---------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["uniform", "distance"])
def test_equals_scikit_learn(beans, weights):
    F, y, asked, truth = beans
    knn = MetricKNNClassifier(n_neighbors=7, weights=weights).fit(F, y)
    scaler = StandardScaler().fit(F)
    oracle = KNeighborsClassifier(7, weights=weights).fit(scaler.transform(F), y)
    Z = scaler.transform(asked)
    assert knn.classes_.tolist() == oracle.classes_.tolist()
    np.testing.assert_allclose(knn.predict_proba(asked), oracle.predict_proba(Z), rtol=1e-4)
    top = np.sort(oracle.predict_proba(Z), axis=1)
    clear = top[:, -1] > top[:, -2] + 1e-3
    assert (knn.predict(asked) == oracle.predict(Z))[clear].all()
    assert knn.score(asked, truth) == np.mean(knn.predict(asked) == truth)
    found, (distances, places) = knn.kneighbors(asked), oracle.kneighbors(Z)
    assert (found.ids == places).mean() > 0.99
    np.testing.assert_allclose(found.distances, distances, rtol=1e-5)
    assert (found.labels == y[found.ids]).all()
    assert found.paths[0, 0] == f"X[{found.ids[0, 0]}]"


def test_balanced_votes_follow_what_is_stored(tmp_path):
    F = np.array([[0.0], [1], [2], [3], [10], [11]])
    knn = MetricKNNClassifier(n_neighbors=5, class_weight="balanced", standardize=False)
    with pytest.warns(UserWarning, match="too few to tell whether"):
        knn.fit(F, ["good"] * 4 + ["bad"] * 2)
    # The nearest five of 2.5 are all but the one at 11: a bad vote of 1/2, good ones of 1/4.
    np.testing.assert_allclose(knn.predict_proba([[2.5]]), [[1 / 3, 2 / 3]])
    held_out, labels = knn.held_out()
    assert labels.tolist() == ["good"] * 4 + ["bad"] * 2
    # A good one has 3 good neighbours of 1/4 and 2 bad ones of 1/2, a bad one 4 and 1: a vote is
    # worth what it is for a new image, or a threshold would mean something else for it.
    bad, good = [1 / (1 + 3 / 4)] * 4 + [1 / 3] * 2, [3 / 4 / (1 + 3 / 4)] * 4 + [2 / 3] * 2
    np.testing.assert_allclose(held_out.probabilities, np.transpose([bad, good]))
    knn.save(tmp_path / "m")
    knn.add([[30.0], [31.0]], "bad")  # farther away: the same five vote, each bad one less
    for ask, n_bad in ((knn, 4), (MetricKNNClassifier.load(tmp_path / "m"), 2)):
        np.testing.assert_allclose(ask.predict_proba([[2.5]])[0, 0], 1 / (1 + n_bad))
    knn.remove([4, 5, 6])  # one bad image is left, which counts as much as the four good ones
    np.testing.assert_allclose(knn.predict_proba([[2.5]]), [[0.5, 0.5]])


def test_levels_stand_side_by_side_and_unlabelled_images_standardise(beans):
    F, y, asked, _ = beans
    levels, others = ({"a": X[:, :4], "b": X[:, 4:]} for X in (F, asked))
    whole, split = (MetricKNNClassifier().fit(X, y) for X in (F, levels))
    np.testing.assert_array_equal(whole.embed(asked), split.embed(others))
    with pytest.raises(InputError, match=r"sizes \{'a': 4\} by level given to a model of"):
        split.predict({"a": asked[:, :4]})
    scaled = MetricKNNClassifier().fit(F, y, unlabelled=asked)
    np.testing.assert_allclose(scaled.embedding_.mean, asked.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(scaled.embedding_.scale, asked.std(axis=0), rtol=1e-12)
    batches = np.array_split(F, 5)
    scaled.embedding_.standardize_as(batches)
    np.testing.assert_allclose(scaled.embedding_.scale, F.std(axis=0), rtol=1e-12)
    raw = MetricKNNClassifier(standardize=False).fit(F, y)
    np.testing.assert_array_equal(raw.embed(asked), asked.astype(np.float32))
    constant = np.column_stack([F, np.full(len(F), 0.1)])
    assert MetricKNNClassifier().fit(constant, y).embedding_.scale[-1] == 1


def test_labels_may_be_numbers(beans):
    F, y, asked, _ = beans
    numbers = np.where(y == "bad", 10, 2)
    knn = MetricKNNClassifier(positive=10).fit(F, numbers)
    assert knn.classes_.tolist() == [2, 10]
    assert set(knn.predict(asked).tolist()) == {2, 10}
    assert 0 <= knn.score(F, numbers) <= 1
    knn.add(asked[:1], 10)
    with pytest.raises(InputError, match="unknown label '3'; known are '2', '10'"):
        knn.add(asked[:1], 3)
    assert clone(knn).get_params() == knn.get_params()


# -- corrections ------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [None, "folder"])
def test_a_correction_holds_at_once_and_after_a_restart(pictures, network, tmp_path, where):
    if where is not None:
        pytest.importorskip("qdrant_edge", reason="qdrant-edge-py is not installed")
        where = str(tmp_path / where)
    images, y = pictures
    knn = MetricKNNClassifier(network, n_neighbors=1, index=where, novelty_fpr=0.2).fit(images, y)
    wrong = np.asarray(make_picture(77, spot=True))
    nearly = [np.clip(wrong.astype(int) + step, 0, 255).astype(np.uint8) for step in (-1, 1)]
    before = knn.predict([wrong])[0]
    right = "good" if before == "spot" else "spot"
    assert knn.predict(nearly).tolist() == [before] * 2
    weights_before = knn.embedding_.mean.copy()
    [number] = knn.add([wrong], [right], ["line 4, 12:31"])
    assert knn.predict([wrong, *nearly]).tolist() == [right] * 3
    assert (knn.embedding_.mean == weights_before).all()  # no refit
    knn.save(tmp_path / "m")
    knn.index_.close()
    again = MetricKNNClassifier.load(tmp_path / "m")
    assert again.predict([wrong, *nearly]).tolist() == [right] * 3
    [result] = again.inspect([nearly[0]])
    assert (result.label, result.probability) == (right, 1.0)
    neighbour = result.neighbours[0]
    assert (neighbour.id, neighbour.path) == (number, "line 4, 12:31")
    assert neighbour.label == right
    nearest, second = again.kneighbors([nearly[0]], 2).distances[0]
    assert neighbour.distance == result.distance == nearest < second / 2
    again.relabel([number], before)
    assert again.predict(nearly).tolist() == [before] * 2
    again.relabel([number], [right])
    assert again.remove([number, 999]) == 1
    assert again.predict(nearly).tolist() == [before] * 2
    again.index_.close()


def test_labels_must_be_known_or_declared_new(beans):
    F, y, asked, _ = beans
    knn = MetricKNNClassifier(n_neighbors=3).fit(F, y)
    held_out = knn.held_out()[0].probabilities
    for call in (lambda: knn.add(asked[:2], "awful"), lambda: knn.relabel([0], ["awful"])):
        with pytest.raises(InputError, match="unknown label 'awful'; known are 'bad', 'good'"):
            call()
    assert len(knn.index_) == 120
    far = asked[:3] + 500
    knn.add(far, "awful", new_label=True)
    assert knn.classes_.tolist() == ["bad", "good", "odd", "awful"]
    assert knn.predict(far).tolist() == ["awful"] * 3
    after, labels = knn.held_out()
    np.testing.assert_array_equal(after.probabilities[:120, :3], held_out)
    assert labels[120:].tolist() == ["awful"] * 3
    with pytest.raises(InputError, match="2 images, 3 labels and 2 paths to add"):
        knn.add(asked[:2], ["bad"] * 3)
    with pytest.raises(InputError, match="2 images, 2 labels and 1 paths to add"):
        knn.add(asked[:2], "bad", ["a"])


def test_others_may_write_to_the_same_index(beans, tmp_path):
    pytest.importorskip("qdrant_edge", reason="qdrant-edge-py is not installed")
    F, y, asked, _ = beans
    knn = MetricKNNClassifier(n_neighbors=1, index=str(tmp_path / "i")).fit(F, y)
    knn.save(tmp_path / "m")
    knn.add(asked[:1], "scratched", new_label=True)  # after the save
    knn.index_.close()
    again = MetricKNNClassifier.load(tmp_path / "m")
    assert again.predict(asked[:1]).tolist() == ["scratched"]
    again.index_.close()


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize("where", [None, "folder"])
@pytest.mark.parametrize("from_a_file", [False, True])
def test_an_id_that_is_given_again_does_not_inherit_votes(
    beans, tmp_path, where, distance, from_a_file
):
    if where is not None:
        pytest.importorskip("qdrant_edge", reason="qdrant-edge-py is not installed")
        where = str(tmp_path / where)
    F, y, asked, truth = beans
    knn = MetricKNNClassifier(distance=distance, index=where).fit(F, y)
    if from_a_file:
        knn.save(tmp_path / "m")
        knn.index_.close()
        knn = MetricKNNClassifier.load(tmp_path / "m")
    before, _ = knn.held_out()
    # Another program takes images out of the store, and gives their ids to others.
    given = knn.embed(asked[:3])
    knn.index_.remove([4, 9, 100])
    knn.index_.add(given, truth[:3].tolist(), ["a", "b", "c"], [4, 9, 100])
    knn.use_index(knn.index_)
    after, labels = knn.held_out()
    assert labels[[4, 9, 100]].tolist() == truth[:3].tolist()
    kept = ~np.isin(after.ids, [4, 9, 100])
    np.testing.assert_array_equal(after.distances[kept], before.distances[kept])
    stored = np.concatenate([r.vectors for r in knn.index_.records()])
    _, found = leave_one_out_neighbors(stored, 5, distance, np.array([4, 9, 100]))
    np.testing.assert_allclose(after.distances[~kept], found[:, -1])
    assert not np.isclose(after.distances[~kept], before.distances[~kept]).any()
    knn.index_.close()


def test_votes_of_an_older_file_are_those_of_the_vectors_it_is_read_with():
    knn = MetricKNNClassifier.load(DATA / "format4_classifier.mahalad")
    votes, _ = knn.held_out()
    [record] = knn.index_.records()
    knn.index_.add(record.vectors[:1] + 1, ["good"], ["x"], [int(record.ids[0])])
    knn.use_index(knn.index_)
    assert knn.held_out()[0].distances[0] != votes.distances[0]
    of_fit = slice(1, 80)  # others are left out among what is stored now
    np.testing.assert_array_equal(knn.held_out()[0].distances[of_fit], votes.distances[of_fit])


# -- thresholds -------------------------------------------------------------------------------


def test_curve_equals_scikit_learn(rng):
    scores = rng.integers(0, 6, 200) / 5
    truth = rng.random(200) < 0.2 + 0.6 * scores
    curve = precision_recall_curve(scores, truth)
    precision, recall, thresholds = sklearn.metrics.precision_recall_curve(truth, scores)
    np.testing.assert_array_equal(curve.thresholds, thresholds)
    np.testing.assert_allclose(curve.precision, precision[:-1])
    np.testing.assert_allclose(curve.recall, recall[:-1])


@pytest.mark.parametrize("asked", [{"precision": 0.7}, {"recall": 0.5}, {"recall": 0.999}])
def test_the_chosen_threshold_is_the_best_of_all(rng, asked):
    scores = rng.random(80)
    truth = rng.random(80) < scores
    point = choose(precision_recall_curve(scores, truth), **asked)
    best = None
    for threshold in scores:
        flagged = scores >= threshold
        found = {"precision": truth[flagged].mean(), "recall": flagged[truth].mean()}
        [(name, least)] = asked.items()
        other = found["recall" if name == "precision" else "precision"]
        if found[name] >= least and (best is None or other > best):
            best = other
    flagged = scores >= point.threshold
    assert point.precision == pytest.approx(truth[flagged].mean())
    assert point.recall == pytest.approx(flagged[truth].mean())
    assert (point.recall if "precision" in asked else point.precision) == pytest.approx(best)
    both = choose(precision_recall_curve(scores, truth), precision=0.5, recall=0.5)
    assert both.precision >= 0.5 and both.recall >= 0.5


def test_what_cannot_be_reached_names_the_best():
    curve = precision_recall_curve([0.0, 0.5, 0.5, 1.0], [False, True, False, False])
    for asked in ({}, {"recall": 0.5}):
        with pytest.raises(InputError, match=r"best precision is 0\.333, with recall 1\.000"):
            choose(curve, precision=0.9, **asked)
    never = precision_recall_curve([0.0, 0.0, 0.5, 1.0], [False, True, True, False])
    with pytest.raises(InputError, match=r"best recall is 0\.500, with precision 0\.500"):
        choose(never, recall=0.6)  # but for a threshold of 0, which gives the label to all
    with pytest.raises(InputError, match=r"give precision=\.\.\., recall=\.\.\. or both"):
        choose(curve)
    with pytest.raises(InputError, match=r"recall must lie in \(0, 1\], got 1.5"):
        choose(curve, recall=1.5)
    with pytest.raises(InputError, match="none of the 2 images is positive"):
        precision_recall_curve([0, 1], [False, False])


@pytest.mark.parametrize("calibration_folds", [None, 5])
def test_balanced_votes_keep_the_recall_that_was_asked_for(rng, calibration_folds):
    """A threshold must mean the same for held-out and for new images, also after corrections."""

    def draw(n_bad, n_good):
        y = np.repeat(["bad", "good"], [n_bad, n_good])
        return rng.normal(size=(len(y), 2)) + 1.5 * (y == "bad")[:, None], y

    told, new, corrected = [], [], []
    for _ in range(15):
        knn = MetricKNNClassifier(
            n_neighbors=9, class_weight="balanced", positive="bad",
            calibration_folds=calibration_folds,
        ).fit(*draw(30, 300))  # fmt: skip
        point = knn.set_operating_point(recall=0.7).operating_point_
        asked, _ = draw(400, 0)
        told.append(point.recall)
        new.append(np.mean(knn.predict(asked) == "bad"))
        knn.add([[50.0, 50.0]], "bad")  # far away: it votes on nothing here
        corrected.append(np.mean(knn.predict(asked) == "bad"))
    # One vote more or less is 0.12 of recall; the standard error of the differences is 0.03.
    assert np.mean(new) == pytest.approx(np.mean(told), abs=0.06)
    assert corrected == new


def test_operating_point_decides_and_survives(beans, tmp_path):
    F, y, asked, _ = beans
    knn = MetricKNNClassifier(n_neighbors=9, positive="bad").fit(F, y)
    majority = knn.predict(asked)
    knn.set_operating_point(recall=0.95)
    point, curve = knn.operating_point_, knn.precision_recall_curve()
    assert point.recall >= 0.95
    # Midway between the value that was chosen and the next one below.
    at = np.searchsorted(curve.thresholds, point.threshold)
    assert point.threshold == pytest.approx(curve.thresholds[at - 1 : at + 1].mean())
    assert set(curve.thresholds) <= set(np.arange(10) / 9)  # k + 1 different probabilities
    labels, shares = knn.predict(asked), knn.predict_proba(asked)
    assert (labels == "bad").tolist() == (shares[:, 0] >= point.threshold).tolist()
    assert (labels == "bad").sum() > (majority == "bad").sum()
    others = labels != "bad"
    assert (
        labels[others] == np.array(["good", "odd"])[shares[others, 1:].argmax(axis=1)]
    ).mean() > 0.9
    knn.save(tmp_path / "m")
    loaded = MetricKNNClassifier.load(tmp_path / "m")
    assert loaded.operating_point_ == point
    results = list(loaded.inspect(asked))
    assert [r.label for r in results] == labels.tolist()
    assert [r.anomaly for r in results] == (labels == "bad").tolist()
    assert {r.positive_threshold for r in results} == {point.threshold}
    assert {r.threshold for r in results} == {point.threshold}  # the name of the column
    np.testing.assert_allclose([r.score for r in results], shares[:, 0])
    assert (knn.set_operating_point().predict(asked) == majority).all()
    with pytest.raises(InputError, match="is not one of the labels: bad, good, odd"):
        MetricKNNClassifier(positive="ugly").fit(F, y)
    with pytest.raises(InputError, match=r"set_params\(positive=...\), one of 'bad'"):
        MetricKNNClassifier().fit(F, y).set_operating_point(recall=0.5)


def test_cross_fitted_votes_are_honest_about_noise(rng):
    """Labels that say nothing: only images that a projection was trained on look told apart."""
    F, y = rng.normal(size=(80, 40)), np.array(["a", "b"] * 40)
    projection = TripletProjection(
        8, max_epochs=40, learning_rate=1e-2, validation_fraction=0, hidden=32
    )
    found = {}
    for folds in (None, 4):
        knn = MetricKNNClassifier(projection=projection, calibration_folds=folds).fit(F, y)
        held_out, labels = knn.held_out()
        found[folds] = np.mean((held_out.probabilities[:, 1] > 0.5) == (labels == "b"))
    assert found[None] > 0.9
    assert 0.3 < found[4] < 0.7
    assert knn.calibration_method_ == "cross-fit"
    with pytest.raises(InputError, match=r"n_neighbors and weights were \(5, 'uniform'\)"):
        knn.set_params(n_neighbors=3).held_out()


def test_too_few_to_cross_fit_is_said(rng):
    F, y = rng.normal(size=(6, 4)), ["a", "b"] * 3
    knn = MetricKNNClassifier(projection=QUICK, n_neighbors=1, novelty_fpr=0.3)
    with pytest.warns(UserWarning, match="6 labelled images are too few to train without"):
        knn.fit(F, y)
    assert knn.calibration_method_ == "leave-one-out"


# -- novelty ----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:5 of 6 images are copies:UserWarning")
def test_novelty_keeps_its_rate_and_finds_strangers(rng):
    labels = np.array(["a", "b"])
    rates = []
    for _ in range(10):
        F, new = rng.normal(size=(150, 3)), rng.normal(size=(300, 3))
        knn = MetricKNNClassifier(novelty_fpr=0.1).fit(F, labels[(F[:, 0] > 0).astype(int)])
        rates.append(np.mean([r.novel for r in knn.inspect(new)]))
    # Of one fit: binomial, and beta of the threshold; of the mean of ten about 0.01.
    assert np.mean(rates) == pytest.approx(0.1, abs=0.035)
    [far, near] = knn.inspect([[40.0, 0, 0], [0.0, 0, 0]])
    assert far.novel and far.anomaly and far.novelty_p_value == pytest.approx(1 / 151)
    assert not near.novel and near.novelty_p_value > 0.1
    assert (far.p_value, near.p_value) == (far.novelty_p_value, near.novelty_p_value)
    assert far.distance > knn.novelty_threshold_ > near.distance
    knn.add([[40.0, 0, 0]] * 6, "b")
    assert not next(knn.inspect([[40.0, 0, 0]])).novel


def test_novelty_allows_for_many_features_of_few_images(rng):
    """What standardises the features lies nearer to itself than new images do."""
    rates = {5: [], None: []}
    for _ in range(4):
        F, new = rng.standard_t(3, size=(60, 300)), rng.standard_t(3, size=(300, 300))
        y = np.array(["a", "b"])[(F[:, 0] > 0).astype(int)]
        for folds, found in rates.items():
            knn = MetricKNNClassifier(novelty_fpr=0.2, calibration_folds=folds).fit(F, y)
            found.append(np.mean([r.novel for r in knn.inspect(new)]))
    assert np.mean(rates[5]) == pytest.approx(0.2, abs=0.08)
    assert np.mean(rates[None]) > np.mean(rates[5]) + 0.15


@pytest.mark.filterwarnings(FEW)
def test_too_few_images_to_judge_novelty(rng):
    F, y = rng.normal(size=(6, 2)), ["a", "b"] * 3
    with pytest.warns(UserWarning, match="6 labelled images are too few to tell whether"):
        knn = MetricKNNClassifier(n_neighbors=2).fit(F, y)
    [result] = knn.inspect(F[:1])
    assert result.novel is None and result.anomaly is None and result.p_value is not None
    with pytest.raises(CalibrationError, match="needs at least 19 calibration images and has 6"):
        _ = knn.novelty_threshold_
    all_of_them = MetricKNNClassifier(n_neighbors=6).fit(F, y)
    assert next(all_of_them.inspect(F[:1])).p_value is None
    with pytest.raises(CalibrationError, match="6 neighbours besides the image itself"):
        all_of_them.held_out()


# -- images and bad input ---------------------------------------------------------------------


@pytest.mark.filterwarnings(FEW)
def test_unreadable_images_are_reported_and_the_rest_labelled(pictures, network, tmp_path):
    images, y = pictures
    (tmp_path / "text.png").write_text("hello")
    broken = tmp_path / "text.png"
    knn = MetricKNNClassifier(network, n_neighbors=3)
    with pytest.warns(UnreadableImageWarning, match=r"left out of the fit: .*text\.png"):
        knn.fit([images[0], broken, *images[1:]], ["good", "spot", *y[1:]])
    assert [r.name for r in knn.unreadable_] == [str(broken)]
    assert knn.index_.counts() == {"good": 6, "spot": 6}
    results = list(knn.inspect([images[1], broken, images[0]]))
    assert [r.label for r in results] == [*knn.predict([images[1]]), None, *knn.predict(images[:1])]
    assert "text.png" in results[1].error and results[1].score is None
    for call in (lambda: knn.predict([broken]), lambda: knn.add([images[0], broken], "good")):
        with pytest.raises(ImageReadError, match=r"text\.png"):
            call()
    assert len(knn.index_) == 12
    with pytest.raises(InputError, match="no anomaly maps"):
        next(knn.inspect(images, maps=True))
    assert all(r.error for r in knn.inspect([broken]))


@pytest.mark.parametrize(
    ("params", "y", "message"),
    [
        ({"n_neighbors": 0}, None, "n_neighbors must be a whole number >= 1, got 0"),
        ({"n_neighbors": 7}, None, "n_neighbors=7, but there are 6 labelled images"),
        ({"weights": "rank"}, None, "weights must be one of uniform, distance, got 'rank'"),
        ({"distance": "l1"}, None, "distance must be one of None, cosine, euclidean, got 'l1'"),
        ({"novelty_fpr": 2}, None, "novelty_fpr must lie between 0 and 1, got 2"),
        ({"calibration_folds": 1}, None, "calibration_folds must be a whole number >= 2"),
        (
            {"random_state": -1},
            None,
            "random_state must be None or a whole number",
        ),
        ({}, ["a"] * 6, r"one label only, 'a' \(6\)"),
        ({}, ["a"] * 5 + ["b"], "one image only for 'b'"),
        ({}, ["a", "b"], "2 labels given for 6 images"),
        ({}, ["a", "b", None, "a", "b", "a"], "none may be missing"),
        ({}, ["a", "b", "", "a", "b", "a"], "image 2 has an empty label"),
        ({}, [0.5] * 6, "type float64"),
    ],
)
def test_parameters_and_labels_are_checked(rng, params, y, message):
    F = rng.normal(size=(6, 2))
    with pytest.raises(InputError, match=message):
        MetricKNNClassifier(**params).fit(F, ["a", "b"] * 3 if y is None else y)


def test_other_bad_input(rng, beans):
    F, y, asked, _ = beans
    with pytest.raises(NotFittedError, match="not fitted: call fit with labelled images"):
        MetricKNNClassifier().predict(F)
    knn = MetricKNNClassifier().fit(F, y)
    with pytest.raises(InputError, match="must be finite"):
        knn.predict(asked * np.nan)
    with pytest.raises(InputError, match="by level given to a model of"):
        knn.predict(asked[:, :3])
    with pytest.raises(InputError, match=r"pooled, \(n, n_features\) for each level, not maps"):
        knn.fit(rng.normal(size=(6, 2, 2, 3)), ["a", "b"] * 3)
    with pytest.raises(NotFittedError, match="not fitted"):  # a failed fit leaves no old one
        knn.predict(F)
    knn = MetricKNNClassifier().fit(F, y)
    knn.remove(range(116))
    with pytest.raises(InputError, match="5 neighbours asked for, but it holds 4"):
        knn.predict(asked)


# -- files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["uniform", "distance"])
def test_a_file_answers_as_the_classifier_did(beans, tmp_path, weights):
    F, y, asked, _ = beans
    knn = MetricKNNClassifier(
        projection=QUICK, weights=weights, positive="bad", calibration_folds=3, random_state=1
    )
    knn.fit({"a": F[:, :4], "b": F[:, 4:]}, y).set_operating_point(recall=0.8)
    X = {"a": asked[:, :4], "b": asked[:, 4:]}
    knn.save(tmp_path / "m")
    assert is_classifier(tmp_path / "m")
    loaded = MetricKNNClassifier.load(tmp_path / "m")
    assert list(loaded.inspect(X)) == list(knn.inspect(X))
    assert loaded.novelty_threshold_ == knn.novelty_threshold_
    assert loaded.calibration_method_ == "cross-fit"
    theirs, mine = loaded.get_params(deep=False), knn.get_params(deep=False)
    assert theirs.pop("projection").get_params() == mine.pop("projection").get_params()
    assert theirs == mine
    for one in (knn, loaded):
        one.add({"a": asked[:5, :4], "b": asked[:5, 4:]}, "odd")
    np.testing.assert_array_equal(
        loaded.held_out()[0].probabilities, knn.held_out()[0].probabilities
    )
    assert len(read_index(tmp_path / "m")) == 120
    again = clone(loaded).fit({"a": F[:, :4], "b": F[:, 4:]}, y)
    np.testing.assert_array_equal(again.embed(X), knn.embed(X))


@pytest.mark.filterwarnings(FEW)
def test_a_file_with_a_network(pictures, network, small_weights, tmp_path):
    images, y = pictures
    roi = np.zeros((64, 64), bool)
    roi[:, :40] = True
    for name, encoder in (("plain", network), ("region", clone(network).set_params(roi=roi))):
        knn = MetricKNNClassifier(encoder, n_neighbors=3, cache=tmp_path / "cache").fit(images, y)
        knn.save(tmp_path / name)
        knn.save(tmp_path / "bare", include_weights=False)
        assert (tmp_path / "bare").stat().st_size < (tmp_path / name).stat().st_size
        loaded = MetricKNNClassifier.load(tmp_path / name, device="cpu")
        assert list(loaded.inspect(images)) == list(knn.inspect(images))
        assert loaded.cache is None  # a folder of the machine that fitted
        with pytest.raises(ModelFileError, match="saved without its weights"):
            MetricKNNClassifier.load(tmp_path / "bare")
        bare = MetricKNNClassifier.load(tmp_path / "bare", weights=small_weights)
        np.testing.assert_array_equal(bare.embed(images), knn.embed(images))
    assert loaded.encoder.roi.sum() > 0
    refit = clone(loaded).fit(images, y)
    np.testing.assert_array_equal(refit.embed(images), knn.embed(images))


@pytest.mark.filterwarnings(FEW)
def test_a_file_with_an_autoencoder(pictures, tmp_path):
    from mahalad.metric.autoencoder.autoencoder import Autoencoder

    images, y = pictures
    encoder = Autoencoder(bottleneck=8, width=2, input_size=32, epochs=1).fit(images)
    knn = MetricKNNClassifier(encoder, n_neighbors=3, cache=tmp_path / "cache").fit(images, y)
    knn.save(tmp_path / "m")
    loaded = MetricKNNClassifier.load(tmp_path / "m")
    assert list(loaded.inspect(images)) == list(knn.inspect(images))
    np.testing.assert_array_equal(clone(loaded).fit(images, y).embed(images), knn.embed(images))


def test_a_stored_file_written_again_has_the_same_entries(tmp_path):
    path = DATA / "format4_classifier.mahalad"
    assert_same_entries(path, MetricKNNClassifier.load, tmp_path / "again")


def test_damaged_and_foreign_files_are_refused(beans, tmp_path):
    F, y, *_ = beans
    knn = MetricKNNClassifier().fit(F, y)
    knn.save(tmp_path / "m")
    header, arrays = read_model(tmp_path / "m")
    header.pop("format_version")

    def change(changed_header=None, **changed):
        write_model(tmp_path / "bad", changed_header or header, arrays | changed)
        return tmp_path / "bad"

    with pytest.raises(ModelFileError, match="does not embed here as it did"):
        MetricKNNClassifier.load(change(mean=arrays["mean"] + 1))
    with pytest.raises(ModelFileError, match="index in the model file is damaged"):
        MetricKNNClassifier.load(change(**{"index/ids": arrays["index/ids"][1:]}))
    with pytest.raises(ModelFileError, match="lacks 'classes'"):
        MetricKNNClassifier.load(change({k: v for k, v in header.items() if k != "classes"}))
    for name, odd in [
        ("n_neighbors", -3),
        ("weights", "rank"),
        ("novelty_fpr", 1),
        ("distance", 0),
    ]:
        params = header["params"] | {name: odd}
        with pytest.raises(ModelFileError, match=f"bad: {name} must .*, got {odd!r}"):
            MetricKNNClassifier.load(change(header | {"params": params}))
    with pytest.raises(ModelFileError, match=r"method is 'guess', expected 'cross-fit'"):
        MetricKNNClassifier.load(
            change(header | {"calibration": header["calibration"] | {"method": "guess"}})
        )
    with pytest.raises(ModelFileError, match=r"holds no classifier .* but somebody's"):
        MetricKNNClassifier.load(change(header | {"kind": "somebody's"}))
    with pytest.raises(ModelFileError, match="no such model file"):
        MetricKNNClassifier.load(tmp_path / "none")
    with pytest.raises(ModelFileError, match="cannot be written"):
        knn.save(tmp_path / "none" / "m")
    with pytest.raises(InputError, match="its index is in the file itself"):
        MetricKNNClassifier.load(tmp_path / "m", index="elsewhere")
    assert json.dumps(header)  # nothing but JSON
    odd = MetricKNNClassifier(_Odd(), n_neighbors=1, novelty_fpr=0.5)
    odd.fit(np.zeros((4, 8, 8, 3)), [1, 2] * 2)
    with pytest.raises(InputError, match="cannot be saved in a model file"):
        odd.save(tmp_path / "x")


class _Odd:
    """An encoder from outside the library."""

    batch_size = 4

    def build(self):
        return self

    def prepare(self, image):
        return np.asarray(image)

    def transform(self, prepared):
        return {"sum": np.arange(2.0 * len(prepared)).reshape(-1, 2).astype(np.float32)}

    def record(self):
        return {"odd": True}


def test_an_index_elsewhere_must_be_empty_and_of_this_model(beans, tmp_path):
    pytest.importorskip("qdrant_edge", reason="qdrant-edge-py is not installed")
    F, y, asked, _ = beans
    knn = MetricKNNClassifier(index=str(tmp_path / "i")).fit(F, y)
    knn.save(tmp_path / "m")
    wanted = knn.predict_proba(asked)
    knn.index_.close()
    with pytest.raises(InputError, match="holds 120 vectors already; a fit needs an empty index"):
        MetricKNNClassifier(index=str(tmp_path / "i")).fit(F, y)
    other = MetricKNNClassifier(index=str(tmp_path / "other")).fit(2 * F + asked[0], y)
    other.index_.close()
    with pytest.raises(InputError, match=r"index holds vectors of another kind .*fingerprint"):
        MetricKNNClassifier.load(tmp_path / "m", index=str(tmp_path / "other"))
    loaded = MetricKNNClassifier.load(tmp_path / "m")
    np.testing.assert_allclose(loaded.predict_proba(asked), wanted, atol=1e-12)
    loaded.index_.close()
    (tmp_path / "i").rename(tmp_path / "moved")
    with pytest.raises(InputError, match="there is no index"):
        MetricKNNClassifier.load(tmp_path / "m")
    moved = MetricKNNClassifier.load(tmp_path / "m", index=str(tmp_path / "moved"))
    np.testing.assert_allclose(moved.predict_proba(asked), wanted, atol=1e-12)
    moved.index_.close()
    with open_index(str(tmp_path / "moved"), create=False) as index:
        assert len(index) == 120


def test_what_is_known_of_a_removed_image_is_not_told_of_a_new_one(rng, tmp_path):
    F = rng.normal(size=(60, 6)) + 4 * (np.arange(60) % 2)[:, None]
    y = np.where(np.arange(60) % 2, "bad", "good")
    knn = MetricKNNClassifier(n_neighbors=3, positive="bad").fit(F, y)
    knn.remove([59])
    knn.save(tmp_path / "m")
    knn = MetricKNNClassifier.load(tmp_path / "m")
    ids = knn.add([[50.0] * 6], ["good"])
    held_out, _ = knn.held_out()
    distance = held_out.distances[held_out.ids == ids[0]]
    assert distance > 10 * np.median(held_out.distances)


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_copies_are_added_and_said(rng, distance):
    F = rng.normal(size=(60, 6)) + 2 * (np.arange(60) % 2)[:, None]
    y = np.where(np.arange(60) % 2, "bad", "good")
    knn = MetricKNNClassifier(n_neighbors=3, distance=distance).fit(F, y)
    new = rng.normal(size=(3, 6))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        knn.add(new, "bad")
        knn.add(F[:1] * (1 + 1e-2), "good")  # alike, not the same
    given = np.vstack([F[4:6], new[2:], new[2:], new[:1] + 1])
    with pytest.warns(UserWarning, match="in the index already") as found:
        ids = knn.add(given, ["good", "good", "bad", "bad", "bad"])
    assert str(found[0].message) == (
        "4 of 5 images are in the index already (ids 4, 5, 62, 62); 1 of these with another label "
        "(5 is 'bad'); 1 of 5 images are copies of others that are given. They were added all the "
        "same, and every copy votes: `relabel` corrects a label, `remove` takes a copy away"
    )
    assert len(ids) == 5 and len(knn.index_) == 69
    # Rounding, as that of another pass through a network, makes no other image.
    with pytest.warns(UserWarning, match=r"1 of 1 images .* \(ids 7\)"):
        knn.add(F[7:8] * (1 + 2e-7), "bad")


def test_copies_are_found_through_a_network(small_weights):
    """Other images in the same pass change features a little; standardising enlarges that."""
    encoder = BackboneFeatures("test_efficientnet", weights=small_weights, input_size=64)
    pictures = [make_picture(seed) for seed in range(33)]
    knn = MetricKNNClassifier(encoder, n_neighbors=3, novelty_fpr=0.2).fit(
        pictures[:16], ["a", "b"] * 8
    )
    for i in (0, 5, 15):
        with pytest.warns(UserWarning, match=rf"1 of 1 images .* \(ids {i}\)"):
            knn.add([pictures[i]], "a")
    with pytest.warns(UserWarning, match="^1 of 18 images are copies of others that are given"):
        knn.add([*pictures[16:], pictures[16]], "b")  # in batches of their own


def test_operating_points_stay_with_what_they_are_for(rng, tmp_path):
    F = rng.normal(size=(60, 6)) + 0.5 * (np.arange(60) % 2)[:, None]
    y = np.where(np.arange(60) % 2, "bad", "good")
    knn = MetricKNNClassifier(n_neighbors=5, positive="bad").fit(F, y)
    knn.set_operating_point(recall=0.5)
    before = knn.operating_point_
    with pytest.raises(InputError, match="cannot be reached"):
        knn.set_operating_point(precision=1.0, recall=1.0)
    assert knn.operating_point_ == before
    knn.set_params(positive="good")
    for ask in (lambda: knn.predict(F), lambda: knn.save(tmp_path / "m")):
        with pytest.raises(InputError, match="set_operating_point again"):
            ask()
    assert len(knn.set_operating_point(recall=0.5).predict(F)) == 60


def test_paths_without_an_encoder_are_told_apart_from_features():
    with pytest.raises(InputError, match=r"these are paths: give an encoder, such as Backbone"):
        MetricKNNClassifier().fit(["a.png", "b.png"], ["x", "y"])
