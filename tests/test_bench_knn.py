"""`bench knn` on small generated features and images."""

import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from mahalad.bench import knn as bench_knn
from mahalad.bench import knn_methods as bench_knn_methods
from mahalad.bench.knn import differences, judge
from mahalad.bench.knn_methods import (
    ENCODER,
    LOGISTIC,
    SCALED,
    SELF_TRAINED,
    choose,
    fit_and_predict,
)
from mahalad.errors import InputError
from mahalad.metric.triplets.projection import TripletProjection
from mahalad.metric.triplets.self_training import fit_with_unlabelled
from mahalad.metric.votes import Voting


@pytest.fixture
def problem(rng):
    """Two classes, told apart along one of 40 dimensions: train (60) and test (80)."""
    y, y_test = np.arange(60) % 2, np.arange(80) % 2
    F, test = rng.normal(size=(60, 40)), rng.normal(size=(80, 40))
    F[:, 3] += 3 * y
    test[:, 3] += 3 * y_test
    return F.astype(np.float32), y, test.astype(np.float32), y_test


def test_encoder_votes_are_those_of_scikit_learn(problem):
    F, y, test, _ = problem
    chosen = choose(ENCODER, F, y, 0)
    predicted, _ = fit_and_predict(ENCODER, chosen, F, y, test, 0)
    voting = chosen["voting"]
    want = KNeighborsClassifier(voting.k, algorithm="brute").fit(F, y).predict(test)
    np.testing.assert_array_equal(predicted, want)
    assert voting in bench_knn_methods.VOTINGS
    assert voting.class_weight is None  # of the same votes the first: both labels are as frequent


def test_logistic_regression_is_scikit_learns_with_the_chosen_strength(problem):
    F, y, test, _ = problem
    chosen = choose(LOGISTIC, F, y, 0)
    predicted, _ = fit_and_predict(LOGISTIC, chosen, F, y, test, 0)
    C, weight = chosen["candidate"]
    want = LogisticRegression(C=C, class_weight=weight, max_iter=3000).fit(F, y).predict(test)
    np.testing.assert_array_equal(predicted, want)


@pytest.mark.parametrize("loss", ["batch-all", "batch-hard-scaled"])
def test_projections_are_trained_with_the_chosen_margin(problem, loss, monkeypatch):
    monkeypatch.setattr(bench_knn_methods, "EPOCHS", 10)
    F, y, test, _ = problem
    chosen = choose(loss, F, y, 3)
    predicted, _ = fit_and_predict(loss, chosen, F, y, test, 3)
    projection = TripletProjection(
        loss=loss, margin=chosen["candidate"], max_epochs=10, validation_fraction=0, random_state=3
    ).fit(F, y)
    knn = KNeighborsClassifier(chosen["voting"].k, algorithm="brute").fit(
        projection.transform(F), y
    )
    np.testing.assert_array_equal(predicted, knn.predict(projection.transform(test)))


def test_the_voting_is_chosen_too(rng):
    """12 of 100 labels are rare and lie among the others: balanced votes find them."""
    y, y_test = (np.where(np.arange(n) % 100 < 12, "rare", "usual") for n in (200, 400))
    F, test = rng.normal(size=(200, 2)), rng.normal(size=(400, 2))
    F[y == "rare"] += 1.5
    test[y_test == "rare"] += 1.5
    chosen = choose(ENCODER, F.astype(np.float32), y, 0)
    assert chosen["voting"].class_weight == "balanced"
    plain = chosen | {"voting": Voting(chosen["voting"].k)}
    recalls = [
        judge(y_test, fit_and_predict(ENCODER, c, F, y, test, 0)[0], "rare")["recall"]
        for c in (chosen, plain)
    ]
    assert recalls[0] > recalls[1] + 0.1


def test_unlabelled_samples_train_one_method(problem, monkeypatch):
    monkeypatch.setattr(bench_knn_methods, "EPOCHS", 10)
    F, y, test, _ = problem
    chosen = {"candidate": 0.3, "voting": Voting(5), "validation_f1": 1.0}
    plain, about = fit_and_predict(SCALED, chosen, F, y, test, 3, further=test)
    assert about == {}
    same, _ = fit_and_predict(SELF_TRAINED, chosen, F, y, test, 3)
    np.testing.assert_array_equal(same, plain)
    found, about = fit_and_predict(SELF_TRAINED, chosen, F, y, test, 3, further=test)
    projection = TripletProjection(
        loss=SCALED, margin=0.3, max_epochs=10, validation_fraction=0, random_state=3
    )
    sure = fit_with_unlabelled(projection, F, y, test)
    knn = KNeighborsClassifier(5, algorithm="brute").fit(projection.transform(F), y)
    np.testing.assert_array_equal(found, knn.predict(projection.transform(test)))
    assert about == {"unlabelled": 80, "took_part": sure.sum()} and sure.any()


def test_judge():
    y = np.array(["bad", "bad", "good", "good", "good"])
    predicted = np.array(["bad", "good", "bad", "good", "good"])
    found = judge(y, predicted, "bad")
    assert found == pytest.approx(
        {"precision": 0.5, "recall": 0.5, "f1": 0.5, "macro_f1": (0.5 + 2 / 3) / 2}
    )


def test_differences_are_paired_over_seeds():
    scores = {"batch-hard-scaled": (0.8, 0.9, 0.7), "encoder": (0.5, 0.5, 0.5)}
    results = [
        {"task": "t", "labels": 50, "seed": i, "method": m, "macro_f1": v}
        for m, values in scores.items()
        for i, v in enumerate(values)
    ]
    [row] = differences(results, "t", 50)
    assert row["against"] == "encoder"
    assert row["mean"] == pytest.approx(0.3)
    # t quantile 4.3027 of 2 degrees of freedom, standard deviation 0.1
    assert row["half_width"] == pytest.approx(4.302653 * 0.1 / np.sqrt(3), rel=1e-6)


@pytest.fixture
def beans(tmp_path, rng):
    """Small pictures of three classes: brightness tells them apart, roughly."""
    from PIL import Image

    for part, n in (("train", 12), ("test", 6)):
        for name, level in (("defect", 60), ("long", 120), ("round", 180)):
            folder = tmp_path / "beans" / part / name
            folder.mkdir(parents=True)
            for i in range(n):
                pixels = rng.normal(level, 30, size=(24, 24, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "beans"


class Brightness:
    """An extractor of eight block means."""

    batch_size = 8

    def prepare(self, image):
        from mahalad.images.resizing import resize_square

        return resize_square(image, 16, "bilinear")

    def transform(self, prepared):
        x = np.stack(prepared).astype(np.float32).mean(axis=3).reshape(-1, 8, 2, 16)
        return {"means": x.mean(axis=(2, 3))}

    def record(self):
        return {"kind": "brightness"}


def test_run_gives_tables_a_file_and_a_picture(beans, tmp_path, monkeypatch):
    monkeypatch.setattr(bench_knn_methods, "EPOCHS", 5)
    monkeypatch.setattr(bench_knn_methods, "MARGINS", (0.2,))
    text = bench_knn.run(
        beans,
        labels=(12, 24),
        seeds=2,
        methods=(ENCODER, "batch-hard-scaled", LOGISTIC),
        encoder=Brightness(),
        json_file=tmp_path / "knn.json",
        plot_file=tmp_path / "knn.png",
    )
    assert "36 train, 18 test; brightness, 8 features" in text
    assert "batch-hard-scaled less encoder" in text
    report = json.loads((tmp_path / "knn.json").read_text())
    # two tasks, two counts, two seeds, three methods, and all labels once for each task
    assert len(report["results"]) == 2 * 2 * 2 * 3 + 2
    assert {r["task"] for r in report["results"]} == {"defect or not", "3 classes"}
    supervised = [r for r in report["results"] if r["method"] == bench_knn.SUPERVISED]
    assert [r["labels"] for r in supervised] == [36, 36]
    assert all(r["macro_f1"] > 0.8 for r in supervised)
    assert (tmp_path / "knn.png").read_bytes()[:4] == b"\x89PNG"


def test_bad_folders(beans, tmp_path):
    with pytest.raises(InputError, match=r"they must be the same, with 'crack' \(--positive\)"):
        bench_knn.run(beans, positive="crack", encoder=Brightness())
    with pytest.raises(InputError, match="no such folder or file"):
        bench_knn.run(tmp_path, encoder=Brightness())
    with pytest.raises(InputError, match="seeds must be a whole number >= 1, got 0"):
        bench_knn.run(beans, encoder=Brightness(), seeds=0)
    with pytest.raises(InputError, match=r"methods must be one of encoder.*got 'forest'"):
        bench_knn.run(beans, encoder=Brightness(), methods=["forest"])
    with pytest.raises(InputError, match="its folder is missing"):
        bench_knn.run(beans, encoder=Brightness(), json_file=tmp_path / "no" / "x.json")
