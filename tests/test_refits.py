"""Exact refits of positions that tolerate changes: two ways to the same distances."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from mahalad import PatchGaussian
from mahalad.scorers.left_out import Refit
from mahalad.scorers.nuisance import Nuisance
from mahalad.scorers.positions import covariances
from mahalad.scorers.positions.refits import ByFeatures, BySamples

N, P, D, M = 14, 3, 40, 12  # N + M < D: by samples
IMAGES = 4


@pytest.fixture(name="X")
def samples(rng) -> np.ndarray:
    return rng.normal(size=(N, P, D)) * np.linspace(2, 0.1, D) + 3


@pytest.fixture
def nuisance(rng) -> Nuisance:
    return Nuisance(rng.normal(size=(M, P, D)).astype(np.float16), IMAGES)


def both_ways(X, nuisance):
    """Ridges, and the same samples by samples and by features, with a factor of K for these."""
    z = torch.from_numpy(np.ascontiguousarray((X - X.mean(axis=0)).swapaxes(0, 1)))
    C = z.mT @ z / len(X)
    ridge = np.linspace(0.1, 0.4, P)
    K = nuisance.covariance() + ridge[:, None, None] * np.eye(D)
    by_samples = BySamples.of(len(X), z, C, nuisance)
    assert by_samples is not None
    L = torch.linalg.cholesky(torch.from_numpy(K))
    return ridge, K, L, by_samples, ByFeatures.of(len(X), z, C, nuisance)


def test_coordinates_in_which_what_is_added_is_1(X, nuisance):
    """K^-1 of samples, and its square along the axes, are those of K written out."""
    ridge, K, L, *ways = both_ways(X, nuisance)
    z, inverse = np.asarray(ways[1].z), np.linalg.inv(K)
    for tolerance, w in (ways[0].tolerance(ridge), ways[1].tolerance(ridge, L)):
        assert_allclose(w @ w.swapaxes(1, 2), z @ inverse @ z.swapaxes(1, 2), atol=1e-9)
        assert_allclose((w**2).mean(axis=1), tolerance.eigenvalues, atol=1e-10)
        there = tolerance.eigenvalues > 1e-6
        assert there.sum() == P * (N - 1)
        lengths = np.where(there, N * tolerance.eigenvalues, np.inf)[:, None]
        back = inverse @ z.swapaxes(1, 2) @ w / lengths
        response = (back**2).sum(axis=1)
        assert_allclose(tolerance.response[there], response[there], rtol=1e-8)


@pytest.mark.parametrize(
    ("members", "images"), [([3], [0]), ([3], [2, 0]), ([0, 5, 13], [1]), ([1], [0, 1, 2, 3])]
)
def test_refits_are_those_of_the_other_samples(X, nuisance, members, images):
    members, images = np.array(members), np.array(images)
    *_, by_samples, by_features = both_ways(X, nuisance)
    kept, ridge = np.linspace(0.3, 0.9, P), np.linspace(0.05, 0.2, P)
    others, rest = np.delete(X, members, axis=0), nuisance.without(images)
    wanted = np.empty((P, len(members)))
    for p in range(P):
        sigma = kept[p] * np.cov(others[:, p].T, bias=True) + ridge[p] * np.eye(D)
        sigma += rest.covariance()[p]
        z = X[members, p] - others[:, p].mean(axis=0)
        wanted[p] = np.sqrt(np.einsum("ij,ij->i", z, np.linalg.solve(sigma, z.T).T))
    for way in (by_samples, by_features):
        assert_allclose(way.distances(members, images, kept, ridge), wanted, rtol=1e-10)


def test_rows_of_images_and_weights_of_the_rest(nuisance):
    d = nuisance.differences.astype(float)
    for images in ([], [1], [3, 0], [0, 1, 2, 3]):
        rows, weight, of_trace = nuisance.without_rows(np.array(images, np.intp))
        left = np.delete(d, rows, axis=0)
        wanted = nuisance.without(np.array(images, np.intp)).covariance()
        for p in range(P):
            found = weight * left[:, p].T @ left[:, p]
            found += of_trace * (left[:, p] ** 2).sum() * np.eye(D)
            assert_allclose(found, wanted[p], rtol=1e-10, atol=1e-12)


def test_some_of_the_samples_are_refitted_by_features(X, nuisance, monkeypatch):
    """Their products say nothing of the others; what comes of it is the same."""
    used = []
    for way in (BySamples, ByFeatures):
        distances = way.distances
        monkeypatch.setattr(
            way, "distances", lambda self, *a, d=distances: used.append(type(self)) or d(self, *a)
        )
    gaussian = PatchGaussian().fit(X).tolerate(nuisance)
    changed = np.where(np.arange(N) < IMAGES, np.arange(N), -1)
    whole = gaussian.leave_one_out(X, None, 0, changed)[0]
    assert set(used) == {BySamples}
    used.clear()
    some = gaussian.leave_one_out(X[:6], None, 0, changed[:6])[0]
    assert set(used) == {ByFeatures}
    assert_allclose(some, whole[:6], rtol=1e-9)
    used.clear()
    wide = PatchGaussian().fit(np.concatenate([X, X + 1, X - 1])).tolerate(nuisance)
    wide.leave_one_out(np.concatenate([X, X + 1, X - 1]), None, 0, np.tile(changed, 3))
    assert set(used) == {ByFeatures}


def test_positions_that_never_vary_have_no_distance(X, nuisance):
    X[:, 1] = 7.0
    gaussian = PatchGaussian().fit(X).tolerate(nuisance)
    changed = np.where(np.arange(N) < IMAGES, np.arange(N), -1)
    distances, growth = gaussian.leave_one_out(X, None, 20, changed)
    assert_allclose(distances[:, 1], 0, atol=1e-7)
    assert_allclose(growth[:, 1], 1, atol=1e-7)
    assert np.isfinite(distances).all() and (distances[:, 0] > 0.1).all()


def test_rho_and_m_do_not_depend_on_the_axes(X):
    """With C itself, coordinates need not be on its axes."""
    z = X[:, 0] - X[:, 0].mean(axis=0)
    C, squares = z.T @ z / N, (z**2).sum(axis=1)
    values, axes = np.linalg.eigh(C)
    common = ((squares**2).sum(), np.array(0.3), np.array(0.0))
    on_axes = Refit(N, D, values, squares @ z @ axes, *common)
    anyhow = Refit(N, D, C, squares @ z, *common)
    for sets in (np.arange(N)[:, None], np.array([[0, 4, 5], [7, 2, 9]])):
        wanted = on_axes.shrunk((z @ axes)[sets])
        assert_allclose(anyhow.shrunk(np.hstack([z, z @ C])[sets]), wanted, rtol=1e-9)


def test_only_one_eigendecomposition_is_made(X, nuisance, monkeypatch):
    calls, eigh = [], torch.linalg.eigh
    monkeypatch.setattr(
        covariances.torch.linalg, "eigh", lambda a: calls.append(a.shape) or eigh(a)
    )
    PatchGaussian().fit(X).tolerate(nuisance).leave_one_out(X, None, 10)
    assert calls == [(P, N, N)]
