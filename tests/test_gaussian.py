"""The Gaussian core: scikit-learn's LedoitWolf and brute force are the oracles."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.covariance import LedoitWolf
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks

from mahalad.errors import DegenerateDataError
from mahalad.scorers.baselines import MeanDistance, NearestNeighborDistance, StandardizedDistance
from mahalad.scorers.gaussian import LedoitWolfGaussian
from mahalad.scorers.reduction import PrincipalComponents

SHAPES = [(200, 16), (50, 50), (20, 100), (3, 7), (500, 120)]


def samples(n: int, D: int, offset: float = 0.0, seed: int = 0) -> np.ndarray:
    """Correlated features with a falling spectrum."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(D, D)) / np.sqrt(np.arange(1, D + 1))[:, None]
    return rng.normal(size=(n, D)) @ mixing + offset


@parametrize_with_checks(
    [
        LedoitWolfGaussian(),
        PrincipalComponents("first"),
        PrincipalComponents("last"),
        MeanDistance(),
        StandardizedDistance(),
        NearestNeighborDistance(),
    ]
)
def test_scikit_learn_contract(estimator, check):
    check(estimator)


@pytest.mark.parametrize(("n", "D"), SHAPES)
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_equals_scikit_learn(n, D, offset):
    X, new = samples(n, D, offset), samples(9, D, offset, seed=1)
    ours, theirs = LedoitWolfGaussian().fit(X), LedoitWolf().fit(X - offset)
    np.testing.assert_allclose(ours.shrinkage_, theirs.shrinkage_, rtol=1e-10)
    # offsets of 1e6 leave 1e-10 of the digits of X itself
    scale = np.abs(theirs.covariance_).max()
    np.testing.assert_allclose(ours.covariance_, theirs.covariance_, atol=1e-10 * scale)
    wanted = np.sqrt(theirs.mahalanobis(new - offset))
    np.testing.assert_allclose(ours.distances(new), wanted, rtol=1e-9 if offset else 1e-10)


@pytest.mark.parametrize(("n", "D"), SHAPES)
def test_low_rank_scoring_equals_the_full_inverse(n, D):
    X, new = samples(n, D), samples(9, D, seed=1)
    gaussian = LedoitWolfGaussian().fit(X)
    z = new - X.mean(axis=0)
    direct = np.sqrt(np.einsum("ij,ij->i", z, np.linalg.solve(gaussian.covariance_, z.T).T))
    np.testing.assert_allclose(gaussian.distances(new), direct, rtol=1e-10)
    np.testing.assert_array_equal(gaussian.score_samples(new), -gaussian.distances(new))


def brute_force(X: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Distance of each sample by scikit-learn's fit without the sample's group."""
    distances = []
    for x, group in zip(X, groups, strict=True):
        rest = LedoitWolf().fit(X[groups != group])
        distances.append(np.sqrt(rest.mahalanobis(x[None])[0]))
    return np.array(distances)


@pytest.mark.parametrize(("n", "D"), [(40, 6), (25, 60), (30, 29)])
def test_leave_one_out_equals_brute_force(n, D):
    X = samples(n, D)
    gaussian = LedoitWolfGaussian().fit(X)
    wanted = brute_force(X, np.arange(n))
    np.testing.assert_allclose(gaussian.leave_one_out_distances(X), wanted, rtol=1e-9)
    some = gaussian.leave_one_out_distances(X[3:7])
    np.testing.assert_allclose(some, wanted[3:7], rtol=1e-10)


@pytest.mark.parametrize(("n", "D"), [(40, 6), (25, 60)])
def test_leave_group_out_equals_brute_force(n, D, rng):
    X = samples(n, D)
    gaussian = LedoitWolfGaussian().fit(X)
    groups = rng.integers(0, 8, n)
    np.testing.assert_allclose(
        gaussian.leave_one_out_distances(X, groups), brute_force(X, groups), rtol=1e-9
    )
    np.testing.assert_allclose(
        gaussian.leave_one_out_distances(X, np.arange(n)),
        gaussian.leave_one_out_distances(X),
        rtol=1e-12,
    )


@pytest.mark.parametrize(("n", "D"), [(40, 6), (25, 60)])
def test_calibration_distances_leave_out_what_a_sample_does_to_others(n, D, rng):
    X, groups = samples(n, D), rng.integers(0, 8, n)
    gaussian = LedoitWolfGaussian().fit(X)
    alone = brute_force(X, groups)
    influence = np.empty(n)
    for one in np.unique(groups):
        changes = []
        for other in np.unique(groups[groups != one]):
            new = groups == other
            rest = LedoitWolf().fit(X[~new & (groups != one)])
            changes.append((np.sqrt(rest.mahalanobis(X[new])) - alone[new]).mean())
        influence[groups == one] = np.mean(changes)
    found = gaussian.calibration_distances(X, groups)
    np.testing.assert_allclose(found, alone - influence, rtol=1e-9)


def test_influences_by_some_of_many_others_are_about_those_by_all(monkeypatch):
    X = samples(120, 30)
    gaussian = LedoitWolfGaussian().fit(X)
    left = gaussian.leave_one_out_distances(X)
    some = left - gaussian.calibration_distances(X)
    monkeypatch.setattr("mahalad.scorers.left_out.PAIRS", 120**2)
    every = left - gaussian.calibration_distances(X)
    assert not np.array_equal(some, every)
    assert np.abs(some - every).max() < 0.01 * left.mean()
    monkeypatch.undo()
    order = np.random.default_rng(1).permutation(120)
    moved = LedoitWolfGaussian().fit(X[order]).calibration_distances(X[order])
    np.testing.assert_allclose(moved, (left - some)[order], rtol=1e-9)


def test_one_sample_that_outweighs_all_others_can_be_left_out():
    X = samples(30, 60)
    X[0] *= 1e6
    found = LedoitWolfGaussian().fit(X).leave_one_out_distances(X)
    assert np.isfinite(found).all()
    assert found[0] > 1e4 * found[1:].max()


@pytest.mark.parametrize(("n", "D"), [(2, 2), (2, 50)])
def test_two_samples_are_no_gaussian_of_several_features(n, D):
    X = samples(n, D)
    message = f"n_samples=2: a Gaussian of {D} features needs 3 samples"
    with pytest.raises(DegenerateDataError, match=message):
        LedoitWolfGaussian().fit(X)
    streamed = LedoitWolfGaussian().partial_fit(X[:1]).partial_fit(X[1:])
    with pytest.raises(DegenerateDataError, match=message):
        streamed.distances(X)
    assert LedoitWolfGaussian().fit(X[:, :1]).distances(X[:, :1]).shape == (2,)


def test_leaving_out_all_but_two_is_refused():
    X = samples(6, 3)
    gaussian = LedoitWolfGaussian().fit(X)
    message = r"leaving out 4 of 6 samples .* leaves 2: a Gaussian of 3 features needs 3"
    with pytest.raises(DegenerateDataError, match=message):
        gaussian.leave_one_out_distances(X, [0, 0, 0, 0, 1, 2])
    with pytest.raises(DegenerateDataError, match="leaving out 1 of 3 samples"):
        LedoitWolfGaussian().fit(X[:3]).leave_one_out_distances(X[:3])


def test_leave_one_out_of_a_stranger_is_refused():
    gaussian = LedoitWolfGaussian().fit(samples(30, 4))
    with pytest.raises(ValueError, match="part of the fit"):
        gaussian.leave_one_out_distances(np.full((1, 4), 1e4))


@pytest.mark.parametrize(("n", "D"), [(210, 16), (70, 100)])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_seven_shards_merged_equal_one_fit(n, D, offset):
    X, new = samples(n, D, offset), samples(9, D, offset, seed=1)
    whole = LedoitWolfGaussian().fit(X)
    shards = [LedoitWolfGaussian().fit(part) for part in np.array_split(X, 7)]
    merged = shards[0]
    for shard in shards[1:]:
        merged = merged.merge(shard)
    streamed = LedoitWolfGaussian()
    for part in np.array_split(X, 9):
        streamed.partial_fit(part)
    for other in (merged, streamed):
        assert other.n_samples_seen_ == n
        np.testing.assert_allclose(other.distances(new), whole.distances(new), rtol=1e-10)
        np.testing.assert_allclose(other.shrinkage_, whole.shrinkage_, rtol=1e-10)
        np.testing.assert_allclose(
            other.leave_one_out_distances(X), whole.leave_one_out_distances(X), rtol=1e-9
        )


def test_merge_leaves_the_other_as_it_is():
    a, b = (LedoitWolfGaussian().fit(samples(20, 3, seed=s)) for s in (0, 1))
    before = b.distances(np.ones((1, 3)))
    a.merge(b)
    np.testing.assert_array_equal(b.distances(np.ones((1, 3))), before)


def test_single_samples_can_be_added_one_by_one():
    X = samples(12, 3)
    gaussian = LedoitWolfGaussian()
    for x in X:
        gaussian.partial_fit(x[None])
    np.testing.assert_allclose(gaussian.covariance_, LedoitWolf().fit(X).covariance_, rtol=1e-10)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
def test_identical_samples_are_refused(value):
    with pytest.raises(DegenerateDataError, match="all 10 samples are identical"):
        LedoitWolfGaussian().fit(np.full((10, 4), value))


def test_two_samples_of_many_features_are_refused():
    with pytest.raises(DegenerateDataError, match="needs 3 samples, one more"):
        LedoitWolfGaussian().fit(samples(2, 5))


def test_one_sample_is_refused():
    with pytest.raises(DegenerateDataError, match="n_samples=1: a Gaussian of 5 features needs 3"):
        LedoitWolfGaussian().partial_fit(samples(1, 5)).distances(samples(1, 5))


def test_constant_features_do_no_harm():
    X = np.hstack([samples(30, 4), np.full((30, 2), 3.0)])
    new = X[:3].copy()
    new[0, 5] = 4.0
    theirs = LedoitWolf().fit(X)
    np.testing.assert_allclose(
        LedoitWolfGaussian().fit(X).distances(new), np.sqrt(theirs.mahalanobis(new)), rtol=1e-10
    )


def test_before_fit_and_clone():
    with pytest.raises(NotFittedError):
        LedoitWolfGaussian().distances(np.ones((1, 2)))
    fitted = LedoitWolfGaussian().fit(samples(10, 2))
    with pytest.raises(NotFittedError):
        _ = clone(fitted).covariance_
