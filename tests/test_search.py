"""The search for parameters: scores by hand, planted winners, what is kept of it."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.metrics import f1_score
from sklearn.model_selection import StratifiedShuffleSplit

from mahalad.errors import CollapseError, InputError
from mahalad.files.container import read_header
from mahalad.metric import search
from mahalad.metric.classifier import MetricKNNClassifier
from mahalad.metric.search import search_parameters
from mahalad.metric.triplets.projection import TripletProjection

QUICK = TripletProjection(8, max_epochs=6, learning_rate=1e-2)


@pytest.fixture
def beans(rng):
    """60 rows of 6 features of other scales, of which one tells the labels."""
    y = np.where(np.arange(60) % 3, "good", "bad")
    F = rng.normal(size=(60, 6)) * [1, 1, 1, 30, 30, 1] + [0, 5, 0, 0, 0, 0]
    F[:, 0] += 1.5 * (y == "bad")
    return F, y


def by_hand(F, y, projection, k, seed, standardize, class_weight=None):
    """Macro F1 over the same splits, with one distance after the other."""
    found = []
    splits = StratifiedShuffleSplit(search.N_SPLITS, test_size=search.HELD_OUT, random_state=seed)
    for inner, outer in splits.split(F, y):
        mean, scale = F[inner].mean(axis=0), F[inner].std(axis=0)
        Z = (F - mean) / scale if standardize else F
        if projection is not None:
            fitted = clone(projection).fit(Z[inner], y[inner])
            Z = fitted.transform(Z)
        predicted = []
        for row in outer:
            distances = [np.linalg.norm(Z[row] - Z[other]) for other in inner]
            near = y[inner][np.argsort(distances)[:k]].tolist()
            stored = y[inner].tolist()
            worth = {n: 1 / stored.count(n) if class_weight else 1 for n in set(stored)}
            predicted.append(max(near, key=lambda n: round(near.count(n) * worth[n], 9)))
        found.append(f1_score(y[outer], predicted, average="macro"))
    return np.mean(found)


def test_scores_are_those_of_a_loop(beans):
    F, y = beans
    knn = MetricKNNClassifier(None, QUICK, n_neighbors=3, random_state=5)
    found = search_parameters(knn, F, y, n_candidates=3)
    assert len(found.candidates) == 4
    assert {candidate["class_weight"] for candidate in found.candidates} == {None, "balanced"}
    for candidate in found.candidates:
        values = dict(candidate)
        f1, class_weight = values.pop("validation_f1"), values.pop("class_weight")
        projection = clone(QUICK).set_params(**values)
        assert f1 == pytest.approx(
            by_hand(F, y, projection, values["n_neighbors"], 5, True, class_weight)
        )
    scores = [candidate["validation_f1"] for candidate in found.candidates]
    first = {n: getattr(QUICK, n) for n in ("margin", "dropout", "n_components", "learning_rate")}
    votes = {"n_neighbors": 3, "class_weight": None}
    assert found.candidates[0] == {**first, **votes, "validation_f1": scores[0]}
    assert (found.default_f1, found.validation_f1) == (scores[0], max(scores))
    assert found.candidates[int(np.argmax(scores))].items() >= found.chosen.items()
    assert knn.n_neighbors == knn.projection.n_neighbors == found.chosen["n_neighbors"]
    assert knn.class_weight == found.chosen["class_weight"]
    assert {n: getattr(knn.projection, n) for n in first}.items() <= found.chosen.items()
    assert QUICK.n_components == 8 and QUICK.n_neighbors == 5  # a clone was changed
    again = MetricKNNClassifier(None, QUICK, n_neighbors=3, random_state=5)
    assert search_parameters(again, F, y, n_candidates=3) == found


@pytest.mark.parametrize("standardize", [True, False])
def test_a_planted_number_of_neighbours_wins(rng, standardize):
    """A third of the labels is wrong, at random: one neighbour is misled, many are not."""
    F = rng.normal(size=(160, 2)) + 8 * (np.arange(160) % 2)[:, None]
    wrong = rng.random(160) < 0.3
    y = np.where((np.arange(160) % 2 == 1) ^ wrong, "bad", "good")
    knn = MetricKNNClassifier(n_neighbors=1, standardize=standardize)
    found = search_parameters(knn, F, y, n_candidates=50)
    assert set(found.chosen) == {"n_neighbors", "class_weight"} and knn.n_neighbors >= 9
    assert sorted(c["n_neighbors"] for c in found.candidates) == sorted([1, 3, 5, 9, 15, 25] * 2)
    for candidate in found.candidates:
        k, class_weight = candidate["n_neighbors"], candidate["class_weight"]
        f1 = by_hand(F, y, None, k, 0, standardize, class_weight)
        assert candidate["validation_f1"] == pytest.approx(f1)
    assert found.validation_f1 > found.default_f1 + 0.05


def test_what_is_given_stays_and_unlabelled_images_standardise(beans):
    F, y = beans
    knn = MetricKNNClassifier(None, QUICK, n_neighbors=5)
    found = search_parameters(knn, F, y, n_candidates=2, over=["dropout"], unlabelled=F[:30])
    assert set(found.chosen) == {"dropout"} and knn.n_neighbors == 5
    Z = ((F - F[:30].mean(axis=0)) / F[:30].std(axis=0)).astype(np.float32)
    assert found.default_f1 == pytest.approx(by_hand(Z, y, QUICK, 5, 0, False))


def test_a_failed_training_is_not_chosen(beans, monkeypatch):
    F, y = beans
    real = TripletProjection.fit
    fails = [0.1]

    def fit(self, X, y):
        if not fails or self.margin in fails:
            raise CollapseError("in one point")
        return real(self, X, y)

    monkeypatch.setattr(TripletProjection, "fit", fit)
    knn = MetricKNNClassifier(None, clone(QUICK).set_params(margin=0.1), n_neighbors=3)
    found = search_parameters(knn, F, y, n_candidates=2, over=["margin"])
    assert found.default_f1 is None and found.candidates[0]["validation_f1"] is None
    assert found.chosen["margin"] != 0.1
    fails.clear()
    with pytest.raises(CollapseError, match=r"failed for all \d candidates"):
        search_parameters(knn, F, y, n_candidates=2, over=["margin"])


def test_the_file_keeps_it_while_it_holds(beans, tmp_path):
    F, y = beans
    knn = MetricKNNClassifier(None, QUICK, n_neighbors=3)
    found = search_parameters(knn, F, y, n_candidates=1, over=["margin", "n_neighbors"])
    knn.fit(F, y).save(tmp_path / "m")
    assert read_header(tmp_path / "m")["search"] == vars(found)
    assert knn.search_ == found
    assert knn.fit(F[:40], y[:40]).search_ is None  # it was for another fit
    loaded = MetricKNNClassifier.load(tmp_path / "m")
    assert loaded.search_ == found
    loaded.save(tmp_path / "again")
    assert read_header(tmp_path / "again")["search"] == vars(found)
    knn.set_params(n_neighbors=7).fit(F, y).save(tmp_path / "other")
    assert read_header(tmp_path / "other")["search"] is None


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (slice(60), {"n_candidates": 0}, "n_candidates of at least 1"),
        (slice(60), {"over": ["loss"]}, "parameters to choose among margin, dropout, .* and loss"),
        (slice(60), {"over": []}, "nothing is left to search"),
        (slice(9), {}, r"needs 4 images of each; of {'bad': 3} there are fewer"),
    ],
)
def test_what_cannot_be_searched(beans, rows, options, message):
    F, y = beans
    with pytest.raises(InputError, match=message):
        search_parameters(MetricKNNClassifier(None, QUICK), F[rows], y[rows], **options)


def test_too_many_neighbours_for_a_split(beans):
    F, y = beans
    with pytest.raises(InputError, match="n_neighbors=50, but the splits of the search leave 45"):
        search_parameters(MetricKNNClassifier(None, QUICK, n_neighbors=50), F, y)
    with pytest.raises(InputError, match="59 labels given for 60 images"):
        search_parameters(MetricKNNClassifier(None, QUICK), F, y[1:])
