"""Sums that merge exactly, against NumPy and scikit-learn on the samples themselves."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf_shrinkage as sklearn_shrinkage

from mahalad.scorers.moments import Moments, ledoit_wolf_shrinkage, principal_axes

SHAPES = [(3, 2), (20, 5), (15, 40), (200, 16), (60, 300)]


def samples(n: int, D: int, offset: float = 0.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, D)) * np.linspace(0.1, 2, D) + offset


@pytest.mark.parametrize(("n", "D"), SHAPES)
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_mean_covariance_and_shrinkage(n, D, offset):
    X = samples(n, D, offset)
    moments = Moments.from_samples(X)
    C = moments.covariance()
    np.testing.assert_allclose(moments.mean(), X.mean(axis=0), rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(C, np.cov(X.T, bias=True), rtol=1e-9, atol=1e-12)
    assert ledoit_wolf_shrinkage(moments, C) == pytest.approx(sklearn_shrinkage(X), rel=1e-10)


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_sums_of_shards_are_the_sum_of_all(offset):
    X = samples(70, 12, offset)
    whole = Moments.from_samples(X)
    parts = [Moments.from_samples(part) for part in np.array_split(X, 7)]
    merged = sum(parts[1:], parts[0]).reshift(whole.shift)
    for name in ("s2", "q1", "q2", "q4"):
        want = getattr(whole, name)
        scale = np.abs(want).max()
        np.testing.assert_allclose(getattr(merged, name), want, rtol=1e-10, atol=1e-10 * scale)
    np.testing.assert_allclose(merged.mean(), whole.mean(), rtol=1e-13, atol=1e-15)
    assert merged.n_samples == 70


def test_reshift_equals_summing_around_the_other_shift(rng):
    X = samples(30, 6)
    elsewhere = rng.normal(size=6) * 3
    moved, direct = Moments.from_samples(X).reshift(elsewhere), Moments.from_samples(X, elsewhere)
    for name in ("s1", "s2", "q1", "q2", "q4"):
        np.testing.assert_allclose(getattr(moved, name), getattr(direct, name), rtol=1e-11)


def test_other_number_of_features_is_refused():
    with pytest.raises(ValueError, match="cannot add sums over 2 features to sums over 3"):
        Moments.from_samples(samples(5, 2)) + Moments.from_samples(samples(5, 3))


def test_one_feature_is_not_shrunk():
    X = samples(10, 1)
    moments = Moments.from_samples(X)
    assert ledoit_wolf_shrinkage(moments, moments.covariance()) == 0.0


@pytest.mark.parametrize(("n", "D"), [(40, 10), (10, 40), (12, 12)])
def test_principal_axes_rebuild_the_covariance(n, D):
    C = Moments.from_samples(samples(n, D)).covariance()
    eigenvalues, basis = principal_axes(C, max_rank=n - 1)
    assert len(eigenvalues) == min(n - 1, D)
    assert np.all(np.diff(eigenvalues) <= 0)
    np.testing.assert_allclose((basis * eigenvalues) @ basis.T, C, atol=1e-13 * np.abs(C).max())
    np.testing.assert_allclose(basis.T @ basis, np.eye(len(eigenvalues)), atol=1e-9)


# -- many sets of samples at once ----------------------------------------------------------

FIELDS = ("shift", "s1", "s2", "q1", "q2", "q4")


def stacked(sets: list[Moments], name: str) -> np.ndarray:
    return np.stack([getattr(one, name) for one in sets])


def assert_same_sums(many: Moments, sets: list[Moments]) -> None:
    assert many.n_samples == sets[0].n_samples
    for name in FIELDS:
        want = stacked(sets, name).reshape(getattr(many, name).shape)
        scale = np.abs(want).max()
        np.testing.assert_allclose(getattr(many, name), want, rtol=1e-12, atol=1e-13 * scale)


@pytest.mark.parametrize("leading", [(5,), (2, 3)])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_leading_axes_equal_a_loop_over_sets(rng, leading, offset):
    P, n, D = int(np.prod(leading)), 14, 4
    X = rng.normal(size=(*leading, n, D)) * np.linspace(0.1, 3, P).reshape(*leading, 1, 1) + offset
    Y = rng.normal(size=(*leading, 9, D)) + offset
    loop_X, loop_Y = X.reshape(P, n, D), Y.reshape(P, 9, D)
    elsewhere = rng.normal(size=(*leading, D)) + offset
    many = Moments.from_samples(X)
    sets = [Moments.from_samples(x) for x in loop_X]
    assert many.n_features == D
    assert_same_sums(many, sets)
    assert_same_sums(
        Moments.from_samples(X, elsewhere),
        [Moments.from_samples(x, a) for x, a in zip(loop_X, elsewhere.reshape(P, D), strict=True)],
    )
    assert_same_sums(
        many.reshift(elsewhere),
        [one.reshift(a) for one, a in zip(sets, elsewhere.reshape(P, D), strict=True)],
    )
    others = [Moments.from_samples(y) for y in loop_Y]
    assert_same_sums(
        many + Moments.from_samples(Y), [a + b for a, b in zip(sets, others, strict=True)]
    )
    C = many.covariance()
    want = np.array([one.covariance() for one in sets]).reshape(*leading, D, D)
    np.testing.assert_allclose(C, want, rtol=1e-12, atol=1e-14 * np.abs(want).max())
    mean = X.mean(axis=-2)
    np.testing.assert_allclose(many.mean(), mean, rtol=1e-13, atol=1e-14)
    shrinkage = ledoit_wolf_shrinkage(many, C)
    assert shrinkage.shape == leading
    wanted = [sklearn_shrinkage(x - x.mean(axis=0), assume_centered=True) for x in loop_X]
    np.testing.assert_allclose(shrinkage.ravel(), wanted, rtol=1e-8)


def test_at_takes_some_of_the_sets(rng):
    X = rng.normal(size=(6, 10, 3))
    assert_same_sums(
        Moments.from_samples(X).at(slice(2, 5)), [Moments.from_samples(x) for x in X[2:5]]
    )


def test_sets_without_spread_among_others_are_not_shrunk(rng):
    X = rng.normal(size=(3, 10, 2))
    X[1] = 4.0
    moments = Moments.from_samples(X)
    shrinkage = ledoit_wolf_shrinkage(moments, moments.covariance())
    assert shrinkage[1] == 0.0
    np.testing.assert_allclose(
        shrinkage[[0, 2]], [sklearn_shrinkage(X[0]), sklearn_shrinkage(X[2])], rtol=1e-10
    )


def test_one_feature_of_many_sets_is_not_shrunk(rng):
    moments = Moments.from_samples(rng.normal(size=(4, 10, 1)))
    np.testing.assert_array_equal(ledoit_wolf_shrinkage(moments, moments.covariance()), np.zeros(4))


def test_other_numbers_of_sets_are_refused(rng):
    a, b = (Moments.from_samples(rng.normal(size=(P, 5, 2))) for P in (3, 4))
    message = "cannot add sums over 2 features at 3 positions to sums over 2 features at 4"
    with pytest.raises(ValueError, match=message):
        a + b
