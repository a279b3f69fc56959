"""Votes of neighbours against scikit-learn, and leave-one-out against refitting n times."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from mahalad.errors import InputError
from mahalad.metric import votes
from mahalad.metric.votes import (
    Voting,
    leave_one_out_neighbors,
    leave_one_out_votes,
    nearest_neighbors,
    vote,
    winners,
)

CLASSES = ["bad", "good", "odd"]


@pytest.fixture
def data(rng):
    """60 labelled vectors (some of them twice) and 40 queries (some of them stored)."""
    X = rng.normal(size=(60, 3))
    X[50:] = X[:10]
    y = rng.choice(CLASSES, 60)
    queries = np.vstack([rng.normal(size=(30, 3)), X[5:15]])
    return X, y, queries


@pytest.mark.parametrize("weights", ["uniform", "distance"])
@pytest.mark.parametrize("k", [1, 4, 7])
def test_votes_equal_scikit_learn(data, weights, k):
    X, y, queries = data
    indices, distances = nearest_neighbors(X, queries, k, "euclidean")
    found = vote(y[indices], distances, CLASSES, weights)
    oracle = KNeighborsClassifier(k, weights=weights, algorithm="kd_tree").fit(X, y)
    theirs, places = oracle.kneighbors(queries)
    np.testing.assert_allclose(distances, theirs, rtol=1e-12, atol=1e-15)
    # Which of two equal vectors is taken is arbitrary, and may matter at the last place only.
    same = (np.sort(indices) == np.sort(places)).all(axis=1)
    assert same.mean() > 0.5
    np.testing.assert_allclose(found[same], oracle.predict_proba(queries)[same], rtol=1e-12)
    np.testing.assert_allclose(found.sum(axis=1), 1)


def test_an_exact_match_outvotes_all_others():
    labels, distances = [["good", "bad", "bad"]], [[0.0, 1e-9, 1e-9]]
    assert vote(labels, distances, CLASSES, "distance").tolist() == [[0, 1, 0]]
    assert vote(labels, distances, CLASSES).tolist() == [[2 / 3, 1 / 3, 0]]


@pytest.mark.parametrize("weights", ["uniform", "distance"])
def test_balanced_votes_equal_each_image_stored_as_often_as_its_label_is_rare(rng, weights):
    X, queries = rng.normal(size=(42, 3)), rng.normal(size=(20, 3))
    y = np.repeat(CLASSES, [24, 12, 6])
    times = {"bad": 1, "good": 2, "odd": 4}
    indices, distances = nearest_neighbors(X, queries, 7, "euclidean")
    balanced = Voting(7, weights, "balanced")
    found = balanced.shares(y[indices], distances, CLASSES, [24, 12, 6])
    for labels, far, shares in zip(y[indices], distances, found, strict=True):
        repeated = np.repeat(labels, [times[label] for label in labels])
        far = np.repeat(far, [times[label] for label in labels])
        np.testing.assert_allclose(vote([repeated], [far], CLASSES, weights)[0], shares)


def test_ties_go_to_the_nearest_neighbour():
    labels = [["good", "bad", "bad", "good"], ["bad", "good", "odd", "odd"], ["odd", "bad"] * 2]
    distances = np.array([[1.0, 2, 3, 4]] * 3)
    shares = vote(labels, distances, CLASSES)
    won = [CLASSES[code] for code in winners(shares, labels, distances, CLASSES)]
    assert won == ["good", "odd", "odd"]


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("cells", [1, 200, 2**24])
def test_neighbours_equal_brute_force(data, distance, cells, monkeypatch):
    monkeypatch.setattr(votes, "_CELLS", cells)
    X, _, queries = data
    indices, distances = nearest_neighbors(X, queries, 5, distance)
    for query, places, found in zip(queries, indices, distances, strict=True):
        if distance == "euclidean":
            all_distances = np.array([np.sqrt(np.sum((x - query) ** 2)) for x in X])
        else:
            cosines = [x @ query / np.linalg.norm(x) / np.linalg.norm(query) for x in X]
            all_distances = (1 - np.array(cosines)) / 2
        np.testing.assert_allclose(found, np.sort(all_distances)[:5], atol=1e-14)
        np.testing.assert_allclose(all_distances[places], found, atol=1e-14)
    assert (distances[30:, 0] == 0).all()  # stored vectors: exactly 0, not a rounding of it


@pytest.mark.parametrize("weights", ["uniform", "distance"])
def test_leave_one_out_equals_n_refits(rng, weights):
    X, y = rng.normal(size=(40, 4)), rng.choice(CLASSES, 40)
    found, kth = leave_one_out_votes(X, y, CLASSES, 5, weights, "euclidean")
    for i in range(40):
        others = np.arange(40) != i
        oracle = KNeighborsClassifier(5, weights=weights).fit(X[others], y[others])
        np.testing.assert_allclose(found[i], oracle.predict_proba(X[[i]])[0], rtol=1e-9)
    rows = np.array([3, 17])
    indices, distances = leave_one_out_neighbors(X, 5, "euclidean")
    assert (kth == distances[:, -1]).all()
    some, some_distances = leave_one_out_neighbors(X, 5, "euclidean", rows)
    assert (some == indices[rows]).all() and (some_distances == distances[rows]).all()
    assert not (indices == np.arange(40)[:, None]).any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: vote([["ugly"]], [[1]], CLASSES), "unknown label 'ugly'; known are 'bad', 'good'"),
        (lambda: vote([["bad"]], [[1]], CLASSES, "rank"), "unknown weights 'rank'"),
        (
            lambda: Voting(1, class_weight="even").shares([["bad"]], [[1]], CLASSES, [1, 1, 1]),
            "unknown class_weight 'even'",
        ),
        (lambda: nearest_neighbors(np.eye(3), np.eye(3), 4), "there are 3 vectors to choose"),
        (lambda: leave_one_out_neighbors(np.eye(3), 3), "there are 2 vectors to choose from"),
        (lambda: nearest_neighbors(np.eye(3), np.eye(3), 0), "0 neighbours asked for"),
        (lambda: nearest_neighbors(np.eye(3), np.eye(3), 1, "l1"), "unknown distance 'l1'"),
        (lambda: nearest_neighbors(np.eye(3), np.zeros((1, 3)), 1), "vector 0 has length 0"),
        (lambda: nearest_neighbors(np.eye(3) * np.nan, np.eye(3), 1), "must be finite"),
    ],
)
def test_errors(call, message):
    with pytest.raises(InputError, match=message):
        call()
