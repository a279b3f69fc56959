"""Unlabelled features in the training of a projection."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import make_picture, run
from sklearn.neighbors import KNeighborsClassifier

from mahalad.errors import InputError
from mahalad.metric.classifier import MetricKNNClassifier
from mahalad.metric.triplets.projection import TripletProjection
from mahalad.metric.triplets.self_training import fit_with_unlabelled

OPTIONS = {"n_components": 4, "learning_rate": 1e-2, "random_state": 3}
PLAIN = {"max_epochs": 12, "validation_fraction": 0.0}


@pytest.fixture
def beans(rng):
    """30 labelled rows of 8 features, of which one tells the labels, and 200 unlabelled ones."""
    y = np.where(np.arange(30) % 2, "good", "bad")
    F, further = (rng.normal(size=(n, 8)).astype(np.float32) for n in (30, 200))
    F[:, 2] += 4 * (y == "good")
    further[:, 2] += 4 * (np.arange(200) % 2)
    return F, y, further


@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_sure_ones_take_part_with_the_label_that_won(beans, rounds, class_weight):
    F, y, further = beans
    F, y = F[:-6], y[:-6].copy()
    y[:6] = "good"  # 15 good, 9 bad; three of them wrongly good
    projection = TripletProjection(**OPTIONS, **PLAIN)
    sure = fit_with_unlabelled(
        projection, F, y, further, confidence=0.7, class_weight=class_weight, rounds=rounds
    )

    again = TripletProjection(**OPTIONS, **PLAIN).fit(F, y)
    worth = {n: 1 / np.sum(y == n) if class_weight else 1 for n in ("bad", "good")}
    for _ in range(rounds):
        knn = KNeighborsClassifier(5, algorithm="brute").fit(again.transform(F), y)
        shares = knn.predict_proba(again.transform(further)) * [worth["bad"], worth["good"]]
        shares /= shares.sum(axis=1, keepdims=True)
        now = shares.max(axis=1) >= 0.7
        guessed = knn.classes_[shares.argmax(axis=1)][now]
        n_epochs = max(10, round(4 * 12 * 24 / (24 + now.sum())))
        again = TripletProjection(**OPTIONS, max_epochs=n_epochs, validation_fraction=0.0)
        again.fit(np.concatenate([F, further[now]]), np.concatenate([y, guessed]))
    np.testing.assert_array_equal(sure, now)
    assert 20 < sure.sum() < 200
    np.testing.assert_array_equal(projection.transform(further), again.transform(further))
    assert projection.get_params()["max_epochs"] == 12  # as it was given


def test_a_rare_label_can_win(rng):
    """Of 15 voters 8 images of a label could never be 95 %: only the other label would grow."""
    y = np.repeat(["bad", "good"], [8, 32])
    F, further = (rng.normal(size=(n, 8)).astype(np.float32) for n in (40, 200))
    F[:8, 2] += 8
    further[:100, 2] += 8
    projection = TripletProjection(**OPTIONS, **PLAIN)
    sure = fit_with_unlabelled(projection, F, y, further)
    assert sure[:100].mean() > 0.8 and sure[100:].mean() > 0.8
    knn = KNeighborsClassifier(4).fit(projection.transform(F), y)
    assert (knn.predict(projection.transform(further)) == "bad").tolist() == [True] * 100 + [
        False
    ] * 100


def test_rounds_end_where_nothing_changes(beans, monkeypatch):
    """Labels far apart: all are sure in the first round, and the same in the second."""
    F, y, further = beans
    F[:, 2] += 50 * (y == "good")
    further[:, 2] += 50 * (np.arange(200) % 2)
    sizes, real = [], TripletProjection.fit
    monkeypatch.setattr(
        TripletProjection, "fit", lambda self, X, y: sizes.append(len(X)) or real(self, X, y)
    )
    sure = fit_with_unlabelled(TripletProjection(**OPTIONS, **PLAIN), F, y, further, rounds=5)
    assert sure.all() and sizes == [30, 230]


def test_without_sure_ones_it_is_the_ordinary_fit(rng):
    F = rng.normal(size=(40, 6)).astype(np.float32)
    y = np.where(np.arange(40) % 2, "a", "b")  # says nothing
    projection = TripletProjection(**OPTIONS, max_epochs=1, validation_fraction=0.0)
    for further in (np.empty((0, 6), np.float32), rng.normal(size=(9, 6)).astype(np.float32)):
        sure = fit_with_unlabelled(projection, F, y, further, confidence=1.0)
        assert sure.shape == (len(further),) and not sure.any()
        plain = TripletProjection(**OPTIONS, max_epochs=1, validation_fraction=0.0).fit(F, y)
        np.testing.assert_array_equal(projection.transform(F), plain.transform(F))


def test_the_classifier_stores_labelled_images_alone(beans, tmp_path):
    F, y, further = beans
    knn = MetricKNNClassifier(
        projection=TripletProjection(**OPTIONS, **PLAIN), n_neighbors=3, self_training=0.8,
        novelty_fpr=0.1,
    ).fit(F, y, unlabelled=np.concatenate([further, F[:7]]))  # fmt: skip
    assert len(knn.index_) == 30
    Z = knn.embedding_.standardized(np.concatenate([F, further]))
    projection = TripletProjection(**OPTIONS, **PLAIN)
    sure = fit_with_unlabelled(projection, Z[:30], y, Z[30:], confidence=0.8)
    assert knn.n_self_trained_ == sure.sum() > 0  # labelled images among them do not take part
    np.testing.assert_array_equal(knn.embed(further), projection.transform(Z[30:]))
    knn.save(tmp_path / "m")
    again = MetricKNNClassifier.load(tmp_path / "m")
    assert (again.self_training, again.n_self_trained_) == (0.8, knn.n_self_trained_)
    np.testing.assert_allclose(again.embed(further), knn.embed(further), rtol=1e-5, atol=1e-6)


def test_honest_votes_are_of_projections_that_saw_the_unlabelled_too(beans):
    F, y, further = beans
    options = {"n_neighbors": 3, "novelty_fpr": 0.1, "calibration_folds": 3}
    found = {}
    for share in (None, 0.6):
        knn = MetricKNNClassifier(
            projection=TripletProjection(**OPTIONS, **PLAIN), self_training=share, **options
        ).fit(F, y, unlabelled=further)
        assert knn.calibration_method_ == "cross-fit"
        found[share] = knn.held_out()[0].distances
    assert not np.allclose(found[None], found[0.6])


def test_what_cannot_train(beans):
    F, y, further = beans
    projection = TripletProjection(**OPTIONS, **PLAIN)
    for share in (0.5, 1.1, "high", True):
        with pytest.raises(InputError, match=r"self_training must lie in \(0.5, 1\] or"):
            MetricKNNClassifier(projection=projection, self_training=share).fit(
                F, y, unlabelled=further
            )
    with pytest.raises(InputError, match="needs unlabelled images, and a projection"):
        MetricKNNClassifier(projection=projection, self_training=0.9).fit(F, y)
    with pytest.raises(InputError, match="needs unlabelled images, and a projection"):
        MetricKNNClassifier(self_training=0.9).fit(F, y, unlabelled=further)


def test_tune_says_how_many_took_part(small_weights, tmp_path):
    for name, seeds in (("good", range(10)), ("spot", range(50, 60))):
        (tmp_path / "beans" / name).mkdir(parents=True)
        for seed in seeds:
            picture = make_picture(seed, spot=name == "spot")
            picture.save(tmp_path / "beans" / name / f"{seed}.png")
    (tmp_path / "more").mkdir()
    for seed in range(100, 120):
        make_picture(seed, spot=seed % 2 == 0).save(tmp_path / "more" / f"{seed}.png")
    options = ["--backbone", "test_efficientnet", "--weights", small_weights, "--size", "64",
               "--neighbors", "3", "--fpr", "0.2"]  # fmt: skip
    model = tmp_path / "m.mahalad"
    result = run("tune", tmp_path / "beans", "-o", model, *options, "--self-training", "0.7",
                 "--unlabelled", tmp_path / "more")  # fmt: skip
    assert result.exit_code == 0, result.output
    n = MetricKNNClassifier.load(model).n_self_trained_
    assert f"{n} unlabelled images trained the projection too" in result.stderr
    result = run("tune", tmp_path / "beans", "-o", model, *options, "--self-training", "0.7")
    assert result.exit_code == 2
    assert "self_training needs unlabelled images" in result.stderr
