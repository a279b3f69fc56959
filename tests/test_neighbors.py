"""Distance to the k-th neighbour: against scikit-learn, and against refits without each sample."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors
from sklearn.utils.estimator_checks import parametrize_with_checks

import mahalad.scorers.neighbors
from mahalad.choices import NEIGHBOR_DISTANCES, NEIGHBOR_REDUCES
from mahalad.errors import DegenerateDataError, InputError
from mahalad.scorers.capabilities import capabilities_of
from mahalad.scorers.level_sum import LevelSum, make_scorer
from mahalad.scorers.neighbors import KthNeighborDistance
from mahalad.scorers.nuisance import Nuisance
from mahalad.thresholds.calibration import leave_one_out_scores


def samples(n: int, D: int, seed: int = 0, offset: float = 3.0) -> np.ndarray:
    """Features of very different spread, far from 0, one of them constant but once."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, D)) / np.arange(1, D + 1) ** 2 + offset
    X[:, -1] = offset
    X[n // 2, -1] += 0.01
    return X


@parametrize_with_checks([KthNeighborDistance(), KthNeighborDistance(2, distance="euclidean")])
def test_scikit_learn_contract(estimator, check):
    check(estimator)


def oracle(X, new, k, distance, reduce):
    """The same by scikit-learn's search, and the standard deviations by a loop."""
    scale = np.ones(X.shape[1])
    if distance == "standardized":
        variances = np.array([np.mean((x - x.mean()) ** 2) for x in X.T])
        scale = np.sqrt((len(X) * variances + 10 * variances.mean()) / (len(X) + 10))
    metric = "cosine" if distance == "cosine" else "euclidean"
    search = NearestNeighbors(n_neighbors=k, metric=metric, algorithm="brute").fit(X / scale)
    found = search.kneighbors(new / scale)[0] / (2 if distance == "cosine" else 1)
    return found[:, -1] if reduce == "kth" else found.mean(axis=1)


@pytest.mark.parametrize("distance", NEIGHBOR_DISTANCES)
@pytest.mark.parametrize("reduce", NEIGHBOR_REDUCES)
@pytest.mark.parametrize("k", [1, 4])
def test_distances_are_scikit_learn_s(distance, reduce, k):
    X, new = samples(30, 6), samples(9, 6, seed=1, offset=2.9)
    scorer = KthNeighborDistance(k, distance=distance, reduce=reduce).fit(X)
    wanted = oracle(X, new, k, distance, reduce)
    np.testing.assert_allclose(scorer.distances(new), wanted, rtol=1e-9)
    np.testing.assert_array_equal(scorer.score_samples(new), -scorer.distances(new))


def left_out_by_refits(X, groups, **parameters):
    return np.array(
        [
            KthNeighborDistance(**parameters).fit(X[groups != group]).distances(x[None])[0]
            for x, group in zip(X, groups, strict=True)
        ]
    )


@pytest.mark.parametrize("distance", NEIGHBOR_DISTANCES)
@pytest.mark.parametrize("reduce", NEIGHBOR_REDUCES)
@pytest.mark.parametrize("n_groups", [None, 7])
@pytest.mark.parametrize("D", [3, 40])
def test_leave_one_out_equals_refits(distance, reduce, n_groups, D, rng):
    X, parameters = samples(25, D), {"n_neighbors": 3, "distance": distance, "reduce": reduce}
    groups = None if n_groups is None else rng.integers(0, n_groups, 25)
    found = KthNeighborDistance(**parameters).fit(X).leave_one_out_distances(X, groups)
    wanted = left_out_by_refits(X, np.arange(25) if groups is None else groups, **parameters)
    np.testing.assert_allclose(found, wanted, rtol=1e-9)


# -- harmless changes ----------------------------------------------------------------------


def changes(n_images: int, D: int, seed: int = 5) -> Nuisance:
    """Differences of 3 ways of change, mostly along one direction."""
    rng = np.random.default_rng(seed)
    d = rng.normal(size=(n_images * 3, 1)) * rng.normal(size=D) + 0.1 * rng.normal(
        size=(n_images * 3, D)
    )
    return Nuisance(d / np.arange(1, D + 1) ** 2, n_images)


def tolerant_oracle(X, new, k, reduce, nuisance):
    """Neighbours by the metric (I + 3 N)^-1 of standardized features, by its definition."""
    v, n = X.var(axis=0), len(X)
    units = np.sqrt((n * v + 10 * v.mean()) / (n + 10))
    d = nuisance.differences / units
    N = d.T @ d / nuisance.n_images
    N = 0.95 * N + 0.05 * np.trace(N) / len(N) * np.eye(len(N))
    precision = np.linalg.inv(np.eye(len(N)) + 3 * N)
    z = (new[:, None] - X) / units
    found = np.sort(np.sqrt(np.einsum("mni,ij,mnj->mn", z, precision, z)), axis=1)[:, :k]
    return found[:, -1] if reduce == "kth" else found.mean(axis=1)


@pytest.mark.parametrize("reduce", NEIGHBOR_REDUCES)
@pytest.mark.parametrize(("D", "n_images"), [(6, 4), (40, 3)])
@pytest.mark.parametrize("before", [True, False])
def test_changes_shorten_distances_along_them(reduce, D, n_images, before):
    X, new, nuisance = samples(30, D), samples(9, D, seed=1, offset=2.9), changes(n_images, D)
    scorer = KthNeighborDistance(2, reduce=reduce)
    scorer = scorer.tolerate(nuisance).fit(X) if before else scorer.fit(X).tolerate(nuisance)
    wanted = tolerant_oracle(X, new, 2, reduce, nuisance)
    np.testing.assert_allclose(scorer.distances(new), wanted, rtol=1e-9)
    plain = KthNeighborDistance(2, reduce=reduce).fit(X)
    assert (wanted < plain.distances(new)).all()
    np.testing.assert_array_equal(scorer.tolerate(None).distances(new), plain.distances(new))


@pytest.mark.parametrize("n_groups", [30, 12])
@pytest.mark.parametrize(("n", "D"), [(30, 6), (30, 50), (60, 20)])
def test_changes_of_an_image_are_left_out_with_it(n_groups, n, D):
    X, nuisance = samples(n, D), changes(4, D)
    X[3] += 8 / np.arange(1, D + 1) ** 2  # an odd one: deviations without it are others
    groups = np.arange(n) % n_groups
    changed = np.full(n, -1)
    changed[[2, 7, 11, 2 + n_groups * (n > n_groups)]] = [0, 1, 2, 3]
    scorer = KthNeighborDistance(2).tolerate(nuisance).fit(X)
    found = scorer.leave_one_out_distances(X, groups, changed)
    wanted = []
    for x, group in zip(X, groups, strict=True):
        own = changed[(groups == group) & (changed >= 0)]
        others = nuisance.without(own) if len(own) else nuisance
        wanted.append(tolerant_oracle(X[groups != group], x[None], 2, "kth", others)[0])
    np.testing.assert_allclose(found, wanted, rtol=1e-9)


def test_only_standardized_distances_tolerate_changes():
    for distance in NEIGHBOR_DISTANCES:
        scorer = LevelSum(KthNeighborDistance(distance=distance))
        assert capabilities_of(scorer).tolerates == (distance == "standardized")
    assert not capabilities_of(make_scorer("knn", "npca")).tolerates


def test_images_are_left_out_with_their_copies(rng):
    originals = rng.normal(size=(12, 1, 4))
    features = {
        "a": np.concatenate([originals, originals + 0.01 * rng.normal(size=(12, 3, 4))], axis=1),
        "b": rng.normal(size=(12, 4, 2)),
    }
    flat = {name: values.reshape(48, -1) for name, values in features.items()}
    scorer = make_scorer("knn").fit(flat)
    assert capabilities_of(scorer).leaves_one_out
    image_of = np.repeat(np.arange(12), 4)
    wanted = sum(left_out_by_refits(X, image_of, n_neighbors=1) for X in flat.values())
    found, standards = leave_one_out_scores(scorer, features)
    np.testing.assert_allclose(found, wanted[::4], rtol=1e-9)
    assert standards is None
    parts = np.repeat(np.arange(4), 3)  # groups of images, each with its copies
    wanted = sum(left_out_by_refits(X, parts.repeat(4), n_neighbors=1) for X in flat.values())
    found, _ = leave_one_out_scores(scorer, features, parts)
    np.testing.assert_allclose(found, wanted[::4], rtol=1e-9)


def test_blocks_change_nothing(monkeypatch):
    X, new = samples(40, 5), samples(40, 5, seed=1)
    scorer = KthNeighborDistance(3).fit(X)
    wanted = scorer.distances(new), scorer.leave_one_out_distances(X)
    monkeypatch.setattr(mahalad.scorers.neighbors, "_BLOCK", 100)  # two rows at a time
    np.testing.assert_allclose(scorer.distances(new), wanted[0], rtol=1e-12)
    np.testing.assert_allclose(scorer.leave_one_out_distances(X), wanted[1], rtol=1e-12)


def test_order_of_samples_does_not_matter(rng):
    X, new = samples(40, 5), samples(9, 5, seed=1)
    order = rng.permutation(40)
    scorers = [KthNeighborDistance(3).fit(rows) for rows in (X, X[order])]
    np.testing.assert_allclose(*(scorer.distances(new) for scorer in scorers), rtol=1e-12)
    found = scorers[1].leave_one_out_distances(X[order])
    np.testing.assert_allclose(found, scorers[0].leave_one_out_distances(X)[order], rtol=1e-12)


@pytest.mark.parametrize("distance", NEIGHBOR_DISTANCES)
def test_near_samples_keep_their_digits(distance, rng):
    """Far from 0, the short form |z|^2 + |s|^2 - 2 z's would be off by 1e-8 * 1e4."""
    X = rng.normal(size=(20, 6)) + 1e4
    scorer = KthNeighborDistance(1, distance=distance).fit(X)
    assert scorer.distances(X).tolist() == [0.0] * 20
    step = np.zeros((20, 6))
    step[:, 0] = 2.0**-20
    expected = {"euclidean": 2.0**-20, "standardized": 2.0**-20 / scorer.scale_[0]}
    if distance in expected:
        found = scorer.distances(X + step)
        np.testing.assert_allclose(found, np.full(20, expected[distance]), rtol=1e-5)


def test_features_that_hardly_vary_do_not_decide(rng):
    X = rng.normal(size=(20, 4)) * [1, 1, 1, 0]
    new = np.array([[0.0, 0, 0, 1e-3], [8, 0, 0, 0]])
    found = KthNeighborDistance(2).fit(X).distances(new)
    assert found[0] < 2 < found[1]


@pytest.mark.parametrize("k", [1, 5])
def test_mean_rate_of_the_leave_one_out_rank(rng, k):
    """A new sample lies above the 90 % rank of the leave-one-out distances in 10 % of the cases.

    100 fits to 60 samples of 20 features, 200 new ones each: standard error about 0.004.
    """
    rates = []
    for _ in range(100):
        X, new = (rng.normal(size=(n, 20)) / np.sqrt(np.arange(1, 21)) for n in (60, 200))
        scorer = KthNeighborDistance(k).fit(X)
        threshold = np.sort(scorer.leave_one_out_distances(X))[-6]  # (5 + 1) / 61 above
        rates.append(np.mean(scorer.distances(new) > threshold))
    assert np.mean(rates) == pytest.approx(6 / 61, abs=0.015)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_neighbors": 0}, "n_neighbors must be a whole number >= 1, got 0"),
        ({"n_neighbors": 2.5}, "n_neighbors must be a whole number >= 1, got 2.5"),
        ({"n_neighbors": True}, "n_neighbors must be a whole number >= 1, got True"),
        ({"distance": "manhattan"}, "distance must be one of standardized, .*, got 'manhattan'"),
        ({"reduce": "median"}, "reduce must be one of kth, mean, got 'median'"),
        ({"n_neighbors": 10}, "n_neighbors=10 needs at least 11 good images .* there are 10: give"),
    ],
)
def test_bad_parameters(parameters, message):
    with pytest.raises(InputError, match=message):
        KthNeighborDistance(**parameters).fit(samples(10, 3))


def test_bad_samples(rng):
    X = rng.normal(size=(12, 3))
    assert KthNeighborDistance(11).fit(X).leave_one_out_distances(X).shape == (12,)
    with pytest.raises(DegenerateDataError, match="level 'a': all 12 samples are identical"):
        LevelSum(KthNeighborDistance(5)).fit({"a": np.repeat(X[:1], 12, axis=0)})
    with pytest.raises(InputError, match="sample 4 is zero in all features"):
        KthNeighborDistance(distance="cosine").fit(X * (np.arange(12) != 4)[:, None])
    scorer = KthNeighborDistance(5).fit(X)
    for other in (X[1:], X[::-1], X + 1e-9):
        with pytest.raises(InputError, match="for the samples of the fit, all of them"):
            scorer.leave_one_out_distances(other)
    with pytest.raises(InputError, match=r"group of 8 .* leaves 4 of 12 samples, fewer than n_ne"):
        scorer.leave_one_out_distances(X, [0] * 8 + [1] * 4)
    twins = np.repeat(X[:2], [11, 1], axis=0)
    with pytest.raises(DegenerateDataError, match=r"all samples but one, .* are identical"):
        KthNeighborDistance(1).fit(twins).leave_one_out_distances(twins)
