"""Gaussians per position: a loop over positions with scikit-learn and refits are the oracle."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.covariance import LedoitWolf
from sklearn.exceptions import NotFittedError

from mahalad.errors import DegenerateDataError, InputError
from mahalad.scorers.positions import chunks
from mahalad.scorers.positions.gaussians import PatchGaussian

# n_samples, n_positions, n_features: more samples than features, and fewer
SHAPES = [(40, 5, 6), (12, 4, 20), (5, 3, 4)]


def samples(n: int, P: int, D: int, seed: int = 0, offset: float = 0.0) -> np.ndarray:
    """Correlated features whose spread differs from position to position."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(P, D, D)) / np.sqrt(np.arange(1, D + 1))[:, None]
    own = np.random.default_rng(seed + 100).normal(size=(n, P, D))
    spread = np.linspace(0.3, 2, P)[None, :, None]
    return np.einsum("npd,pde->npe", own, mixing) * spread + offset


def gaussians(X: np.ndarray, floor: float = 0.01) -> list[tuple[np.ndarray, np.ndarray, float]]:
    """Of each position mean, covariance with shrinkage and floor, and the ridge: a loop."""
    fits = [LedoitWolf().fit(X[:, p]) for p in range(X.shape[1])]
    variances = [X[:, p].var(axis=0).mean() for p in range(X.shape[1])]
    ridge = floor * np.mean(variances)
    return [
        (fit.location_, fit.covariance_ + ridge * np.eye(X.shape[2]), fit.shrinkage_ * v + ridge)
        for fit, v in zip(fits, variances, strict=True)
    ]


def mahalanobis(x: np.ndarray, location: np.ndarray, covariance: np.ndarray) -> float:
    z = x - location
    return float(np.sqrt(z @ np.linalg.solve(covariance, z)))


def brute_force(X: np.ndarray, groups: np.ndarray, floor: float = 0.01) -> np.ndarray:
    """Fits without each sample's group; what the floor adds is that of the whole fit."""
    n, P, D = X.shape
    ridge = floor * X.var(axis=0).mean()
    found = np.empty((n, P))
    for p in range(P):
        for i in range(n):
            rest = LedoitWolf().fit(X[groups != groups[i], p])
            covariance = rest.covariance_ + ridge * np.eye(D)
            found[i, p] = mahalanobis(X[i, p], rest.location_, covariance)
    return found


@pytest.mark.parametrize(("n", "P", "D"), SHAPES)
@pytest.mark.parametrize("floor", [0.01, 0.3])
def test_equals_scikit_learn_at_every_position(n, P, D, floor):
    X, new = samples(n, P, D, offset=3.0), samples(7, P, D, seed=1, offset=3.0)
    gaussian = PatchGaussian(floor).fit(X)
    want = np.array([[mahalanobis(x[p], *g[:2]) for p, g in enumerate(gaussians(X, floor))]
                     for x in new])  # fmt: skip
    np.testing.assert_allclose(gaussian.distances(new), want, rtol=1e-9)
    np.testing.assert_allclose(gaussian.score_samples(new), -want.mean(axis=1), rtol=1e-9)
    assert gaussian.n_samples_seen_ == n


@pytest.mark.parametrize(("n", "P", "D"), SHAPES)
def test_leave_one_out_equals_brute_force(n, P, D):
    X = samples(n, P, D)
    gaussian = PatchGaussian().fit(X)
    alone = np.arange(n)
    found = gaussian.leave_one_out_distances(X)
    np.testing.assert_allclose(found, brute_force(X, alone), rtol=1e-10)
    some = gaussian.leave_one_out_distances(X[2:4])
    np.testing.assert_allclose(some, found[2:4], rtol=1e-12)


@pytest.mark.parametrize(("n", "P", "D"), [(40, 3, 6), (14, 4, 20)])
def test_leave_group_out_equals_brute_force(n, P, D, rng):
    X = samples(n, P, D)
    gaussian = PatchGaussian().fit(X)
    groups = rng.permutation(np.repeat(np.arange(n), 3)[:n])  # of three, and one that is smaller
    found = gaussian.leave_one_out_distances(X, groups)
    np.testing.assert_allclose(found, brute_force(X, groups), rtol=1e-10)
    named = gaussian.leave_one_out_distances(X, [f"part {g}" for g in groups])
    np.testing.assert_allclose(named, found, rtol=1e-12)
    alone = gaussian.leave_one_out_distances(X, np.arange(n))
    np.testing.assert_allclose(alone, gaussian.leave_one_out_distances(X), rtol=1e-12)


@pytest.mark.parametrize("size", [1, 3])
def test_how_much_distances_grow_without_a_group_equals_brute_force(size):
    X = samples(12, 3, 20)
    groups = np.arange(12) // size
    distances, growth = PatchGaussian().fit(X).leave_one_out(X, groups)
    np.testing.assert_allclose(distances, brute_force(X, groups), rtol=1e-9)
    for one in np.unique(groups):
        changes = []
        for other in np.setdiff1d(groups, one):
            merged = np.where(groups == one, other, groups)
            new = brute_force(X, merged)[groups == other]
            changes.append((new - distances[groups == other]).mean(axis=0))
        want = 1 + np.mean(changes, axis=0) / distances.mean(axis=0)
        # One by one it is to first order in what an image does to shrinkage and mean variance.
        tolerance = 1e-9 if size > 1 else 0.01
        np.testing.assert_allclose(growth[groups == one], np.tile(want, (size, 1)), rtol=tolerance)


def test_samples_are_left_as_they_are():
    X = samples(20, 4, 3)
    gaussian, before = PatchGaussian().fit(X), X.copy()
    for one in (X[:1], X[:7]):  # of a single sample no copy is needed to reorder it
        first = gaussian.distances(one)
        np.testing.assert_array_equal(gaussian.distances(one), first)
        gaussian.leave_one_out_distances(one)
    np.testing.assert_array_equal(X, before)


def test_leave_one_out_where_shrinkage_is_total(rng):
    """rho = 1 at some positions: round clouds, of which the covariance keeps the size alone."""
    X = rng.normal(size=(30, 8, 4)) * np.linspace(0.5, 2, 8)[None, :, None]
    shrinkage = [LedoitWolf().fit(X[:, p]).shrinkage_ for p in range(8)]
    assert min(shrinkage) < 1.0
    assert max(shrinkage) == 1.0
    gaussian, groups = PatchGaussian().fit(X), np.arange(30) // 3
    for labels in (np.arange(30), groups):
        found = gaussian.leave_one_out_distances(X, labels)
        np.testing.assert_allclose(found, brute_force(X, labels), rtol=1e-10)


def test_leave_one_out_refusals():
    X = samples(12, 2, 3)
    gaussian = PatchGaussian().fit(X)
    with pytest.raises(DegenerateDataError, match=r"leaving out 11 of 12 samples .* leaves 1: "):
        gaussian.leave_one_out_distances(X, [0] * 11 + [1])
    far = np.full((1, 2, 3), 1e4)
    with pytest.raises(ValueError, match="part of the fit: at least one sample of X was not"):
        gaussian.leave_one_out_distances(far)
    with pytest.raises(ValueError, match="part of the fit: at least one sample of X was not"):
        gaussian.leave_one_out_distances(np.concatenate([far, -far]), [0, 0])


# -- updates and merging -------------------------------------------------------------------


def fitted_in(batches: list[np.ndarray]) -> PatchGaussian:
    gaussian = PatchGaussian()
    for batch in batches:
        gaussian.partial_fit(batch)
    return gaussian


def assert_same_fit(a: PatchGaussian, b: PatchGaussian, X: np.ndarray, new: np.ndarray) -> None:
    assert a.n_samples_seen_ == b.n_samples_seen_
    np.testing.assert_allclose(a.distances(new), b.distances(new), rtol=1e-10)
    np.testing.assert_allclose(
        a.leave_one_out_distances(X), b.leave_one_out_distances(X), rtol=1e-10
    )


@pytest.mark.parametrize("offset", [0.0, 1e3])
@pytest.mark.parametrize("cuts", [[1, 2, 3], [20], [7, 8, 39], list(range(1, 40))])
def test_any_batches_equal_one_fit(cuts, offset):
    X, new = samples(40, 4, 6, offset=offset), samples(5, 4, 6, seed=1, offset=offset)
    assert_same_fit(fitted_in(np.split(X, cuts)), PatchGaussian().fit(X), X, new)


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_seven_shards_merged_equal_one_fit(offset):
    X, new = samples(70, 4, 6, offset=offset), samples(5, 4, 6, seed=1, offset=offset)
    whole = PatchGaussian().fit(X)
    shards = [PatchGaussian().fit(part) for part in np.array_split(X, 7)]
    before = shards[6].distances(new)
    merged = shards[0]
    for shard in shards[1:]:
        merged.merge(shard)
    assert_same_fit(merged, whole, X, new)
    np.testing.assert_array_equal(shards[6].distances(new), before)
    assert shards[6].n_samples_seen_ == 10


@pytest.mark.parametrize("n", [255, 256, 257, 600])
def test_fits_across_the_buffers_edge(n):
    """Samples are summed 256 at a time: what was summed and what waits must add up."""
    X, new = samples(n, 2, 3), samples(5, 2, 3, seed=1)
    streamed = fitted_in(np.array_split(X, 9))
    want = np.array([[mahalanobis(x[p], *g[:2]) for p, g in enumerate(gaussians(X))] for x in new])
    np.testing.assert_allclose(streamed.distances(new), want, rtol=1e-9)
    assert streamed.n_samples_seen_ == n
    streamed.partial_fit(new)  # after scoring: the old whitening must be forgotten
    assert_same_fit(streamed, PatchGaussian().fit(np.concatenate([X, new])), X, new)


def test_positions_in_pieces_are_the_same(monkeypatch):
    """Working arrays are bounded: with a bound of 50 numbers every position is on its own."""
    X, new = samples(30, 5, 4), samples(6, 5, 4, seed=1)
    whole = PatchGaussian().fit(X)
    wanted = whole.distances(new), whole.leave_one_out_distances(X, np.arange(30) // 2)
    monkeypatch.setattr(chunks, "_CHUNK", 50)
    pieces = PatchGaussian().fit(X)
    np.testing.assert_allclose(pieces.distances(new), wanted[0], rtol=1e-12)
    found = pieces.leave_one_out_distances(X, np.arange(30) // 2)
    np.testing.assert_allclose(found, wanted[1], rtol=1e-12)


def test_memory_that_the_caller_reuses_does_no_harm():
    X, new = samples(30, 2, 3), samples(4, 2, 3, seed=1)
    buffer, streamed = np.empty((10, 2, 3)), PatchGaussian()
    for batch in np.split(X, 3):
        buffer[:] = batch
        streamed.partial_fit(buffer)
    assert_same_fit(streamed, PatchGaussian().fit(X), X, new)


def test_fit_forgets_earlier_samples_and_float32_is_summed_in_float64():
    X, new = samples(30, 2, 3), samples(4, 2, 3, seed=1)
    again = PatchGaussian().fit(5 + samples(9, 4, 2)).fit(X)
    np.testing.assert_allclose(again.distances(new), PatchGaussian().fit(X).distances(new))
    single = X.astype(np.float32)
    a, b = PatchGaussian().fit(single), PatchGaussian().fit(single.astype(np.float64))
    np.testing.assert_allclose(a.distances(new), b.distances(new), rtol=1e-12)


# -- data that are hard --------------------------------------------------------------------


def test_a_position_that_never_varied():
    """It is 0 away itself; its first change is measured by the floor, not divided by zero."""
    X = samples(30, 3, 4)
    X[:, 1] = 7.0
    gaussian = PatchGaussian(floor=0.02).fit(X)
    mean_variance = np.mean([X[:, p].var(axis=0).mean() for p in range(3)])
    new = X[:2].copy()
    new[1, 1, 0] += 0.5
    distances = gaussian.distances(new)
    assert distances[0, 1] == 0.0
    assert distances[1, 1] == pytest.approx(0.5 / np.sqrt(0.02 * mean_variance), rel=1e-10)
    left_out = gaussian.leave_one_out_distances(X)
    np.testing.assert_array_equal(left_out[:, 1], np.zeros(30))
    np.testing.assert_allclose(left_out, brute_force(X, np.arange(30), 0.02), atol=1e-9)


def test_without_a_floor_a_position_that_never_varied_is_named():
    X = samples(30, 3, 4)
    X[:, 1] = 7.0
    with pytest.raises(DegenerateDataError, match=r"position 1 have no spread .* give floor > 0"):
        PatchGaussian(floor=0.0).fit(X).distances(X)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
def test_identical_samples_are_refused(value):
    with pytest.raises(DegenerateDataError, match="all 10 samples are identical"):
        PatchGaussian().fit(np.full((10, 3, 4), value))


def test_fewer_than_five_samples_are_refused():
    X = samples(5, 3, 2)
    message = r"at least 5 good images, and has 4: give more, .*scope='image'.*, which needs 4"
    with pytest.raises(InputError, match=message):
        PatchGaussian().fit(X[:4])
    waiting = PatchGaussian().partial_fit(X[:4])
    with pytest.raises(InputError, match="has 4"):
        waiting.distances(X)
    want = PatchGaussian().fit(X).distances(X)
    np.testing.assert_allclose(waiting.partial_fit(X[4:]).distances(X), want, rtol=1e-10)


@pytest.mark.parametrize("floor", [-0.01, np.nan, np.inf, "0.01", None])
def test_a_floor_below_0_is_refused(floor):
    with pytest.raises(InputError, match="floor must be a number >= 0, got"):
        PatchGaussian(floor).fit(samples(10, 3, 2))


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.zeros((10, 3)), r"\(n_samples, n_positions, n_features\), got float64 of shape \(10, "),
        (np.zeros((0, 3, 2)), r"got float64 of shape \(0, 3, 2\)"),
        (np.zeros((10, 3, 0)), r"got float64 of shape \(10, 3, 0\)"),
        (np.full((10, 3, 2), "a"), "must be finite numbers .* got <U1"),
        (np.full((10, 3, 2), np.nan), "must be finite numbers"),
    ],
)
def test_arrays_that_are_no_samples_are_refused(X, message):
    with pytest.raises(InputError, match=message):
        PatchGaussian().fit(X)


def test_other_shapes_than_fitted_are_refused():
    gaussian = PatchGaussian().fit(samples(10, 3, 2))
    with pytest.raises(InputError, match=r"of shape \(4, 2\) added to a fit of \(3, 2\)"):
        gaussian.partial_fit(samples(10, 4, 2))
    for ask in (gaussian.distances, gaussian.leave_one_out_distances):
        with pytest.raises(InputError, match=r"of shape \(3, 5\) given to a fit of \(3, 2\)"):
            ask(samples(2, 3, 5))
    with pytest.raises(InputError, match="samples must be finite numbers"):
        gaussian.distances(np.full((1, 3, 2), np.inf))
    with pytest.raises(ValueError, match=r"2 features at 3 positions .* 2 features at 4 positions"):
        gaussian.merge(PatchGaussian().fit(samples(10, 4, 2)))
    assert gaussian.n_samples_seen_ == 10


# -- files and scikit-learn ----------------------------------------------------------------


def test_scoring_state_round_trip():
    X, new = samples(40, 5, 12), samples(9, 5, 12, seed=1)
    gaussian = PatchGaussian().fit(X)
    state = gaussian.scoring_state()
    assert {name: a.shape for name, a in state.items()} == {
        "location": (5, 12),
        "whitening": (5, 12 * 13 // 2),
    }
    assert state["whitening"].dtype == np.float32
    restored = PatchGaussian().restore_scoring(**state)
    np.testing.assert_allclose(restored.distances(new), gaussian.distances(new), rtol=1e-6)
    assert (gaussian.has_sums_, restored.has_sums_) == (True, False)
    again = restored.scoring_state()
    for name, values in state.items():
        np.testing.assert_array_equal(again[name], values)


def test_a_restored_fit_can_only_score():
    X = samples(20, 2, 3)
    restored = PatchGaussian().restore_scoring(**PatchGaussian().fit(X).scoring_state())
    for ask in (
        lambda: restored.moments_,
        lambda: restored.partial_fit(X),
        lambda: restored.merge(PatchGaussian().fit(X)),
        lambda: PatchGaussian().fit(X).merge(restored),
        lambda: restored.leave_one_out_distances(X),
    ):
        with pytest.raises(InputError, match="without its sums: it can only score"):
            ask()
    assert restored.fit(X).n_samples_seen_ == 20


def test_sums_given_back_make_a_fit():
    X, new = samples(20, 2, 3), samples(4, 2, 3, seed=1)
    gaussian, other = PatchGaussian().fit(X), PatchGaussian()
    other.moments_ = gaussian.moments_
    assert_same_fit(other, gaussian, X, new)
    assert other.has_sums_


def test_before_fit_clone_and_pickle():
    X = samples(20, 2, 3)
    with pytest.raises(NotFittedError, match="PatchGaussian instance is not fitted yet"):
        PatchGaussian().distances(X)
    with pytest.raises(NotFittedError, match="PatchGaussian instance is not fitted yet"):
        _ = PatchGaussian().moments_
    fitted = PatchGaussian(floor=0.5).fit(X)
    copy = clone(fitted)
    assert copy.get_params() == {"floor": 0.5}
    with pytest.raises(NotFittedError, match="not fitted yet"):
        copy.distances(X)
    for used in (fitted, PatchGaussian(floor=0.5).partial_fit(X)):
        copy = pickle.loads(pickle.dumps(used))
        np.testing.assert_array_equal(copy.distances(X), fitted.distances(X))
