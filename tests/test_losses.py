"""Triplet losses against loops over triplets and finite differences; balanced batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mahalad.choices import EMBEDDING_DISTANCES
from mahalad.errors import InputError
from mahalad.metric.triplets.batches import BalancedBatches, hold_out
from mahalad.metric.triplets.losses import (
    LOSSES,
    batch_all,
    batch_hard,
    pairwise_distances,
    semi_hard,
)

# -- the slow oracle: loops over anchors, positives and negatives --------------------------


def slow_distance(u, v, distance):
    if distance == "euclidean":
        return float(np.sqrt(np.sum((u - v) ** 2)))
    return float((1 - u @ v / np.sqrt((u @ u) * (v @ v))) / 2)


def slow_triplets(E, labels, distance):
    """Per anchor: distances to its positives and to its negatives."""
    n = len(E)
    for a in range(n):
        to = [slow_distance(E[a], E[j], distance) for j in range(n)]
        positives = [to[j] for j in range(n) if j != a and labels[j] == labels[a]]
        negatives = [to[j] for j in range(n) if labels[j] != labels[a]]
        if positives and negatives:
            yield positives, negatives


def slow_batch_all(E, labels, distance, margin):
    found = [
        dp - dn + margin
        for positives, negatives in slow_triplets(E, labels, distance)
        for dp in positives
        for dn in negatives
        if dp - dn + margin > 0
    ]
    return np.mean(found) if found else 0.0


def slow_batch_hard(E, labels, distance, margin, unit=None):
    pairs = [(max(p), min(n)) for p, n in slow_triplets(E, labels, distance)]
    if not pairs:
        return 0.0
    unit = 1.0 if unit is None else np.mean([n for _, n in pairs]) + unit
    return np.mean([max(0.0, (p - n) / unit + margin) for p, n in pairs])


def slow_semi_hard(E, labels, distance, margin):
    found = []
    for positives, negatives in slow_triplets(E, labels, distance):
        for dp in positives:
            beyond = [dn for dn in negatives if dn > dp]
            found.append(max(0.0, dp - (min(beyond) if beyond else max(negatives)) + margin))
    return np.mean(found) if found else 0.0


SLOW = {
    "batch-all": slow_batch_all,
    "batch-hard": slow_batch_hard,
    "batch-hard-scaled": lambda *args: slow_batch_hard(*args, unit=1e-8),
    "semi-hard": slow_semi_hard,
}


def case(seed, n=14, n_classes=4, d=5):
    """Random embeddings around class means, as near as half and as far as three times apart."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(n_classes, size=n)
    E = rng.normal(size=(n, d)) + rng.uniform(0.5, 3) * rng.normal(size=(n_classes, d))[labels]
    return torch.tensor(E), torch.tensor(labels)


@pytest.mark.parametrize("distance", EMBEDDING_DISTANCES)
@pytest.mark.parametrize("name", LOSSES)
def test_losses_equal_loops_over_triplets(name, distance):
    values = []
    for seed in range(25):
        E, labels = case(seed, n_classes=2 + seed % 4)
        margin = (0.05, 0.5, 2.0)[seed % 3]
        got = LOSSES[name](E, labels, margin=margin, distance=distance)
        want = SLOW[name](E.numpy(), labels.numpy(), distance, margin)
        assert got.item() == pytest.approx(want, rel=1e-9, abs=1e-12)
        values.append(want)
    assert np.ptp(values) > 0.1  # cases that differ


def test_pairwise_distances_equal_loops():
    E, _ = case(3)
    for distance in EMBEDDING_DISTANCES:
        want = [[slow_distance(u, v, distance) for v in E.numpy()] for u in E.numpy()]
        np.testing.assert_allclose(pairwise_distances(E, distance), want, rtol=1e-7, atol=1e-15)
    ends = pairwise_distances(torch.tensor([[2.0, 0.0], [-3.0, 0.0], [0.0, 1.0]]))
    np.testing.assert_allclose(ends, [[0, 1, 0.5], [1, 0, 0.5], [0.5, 0.5, 0]], atol=1e-7)


def test_small_angles_keep_their_digits_in_float32():
    """1 - cos of an angle of 1e-4 is 5e-9, less than a rounding of 1 in float32."""
    E = torch.tensor([[1.0, 0.0], [1.0, 1e-4]])
    assert pairwise_distances(E)[0, 1].item() == pytest.approx(0.25e-8, rel=1e-3)


@pytest.mark.parametrize("distance", EMBEDDING_DISTANCES)
@pytest.mark.parametrize("name", LOSSES)
def test_gradients_equal_finite_differences(name, distance):
    """The scaled loss too: its unit is part of what is differentiated."""
    for seed in range(3):
        E, labels = case(seed, n=9, n_classes=3, d=4)
        assert torch.autograd.gradcheck(
            lambda x, labels=labels: LOSSES[name](x, labels, margin=0.5, distance=distance),
            E.requires_grad_(),
        )


def test_semi_hard_takes_the_nearest_negative_beyond_the_positive_else_the_farthest():
    E = torch.tensor([[0.0], [1.0], [1.3], [1.4]], dtype=torch.float64)
    labels = torch.tensor([0, 0, 1, 1])
    # Anchor 0: positive 1.0, negative 1.3. Anchor 1: positive 1.0, none beyond, farthest 0.4.
    # Anchors 2 and 3: positive 0.1, negatives 0.3 and 0.4.
    want = np.mean([1.0 - 1.3 + 0.5, 1.0 - 0.4 + 0.5, 0.1 - 0.3 + 0.5, 0.1 - 0.4 + 0.5])
    got = semi_hard(E, labels, margin=0.5, distance="euclidean")
    assert got.item() == pytest.approx(want, rel=1e-12)


def test_scaled_loss_does_not_depend_on_the_unit_of_euclidean_distances():
    E, labels = case(0)
    losses = [batch_hard(c * E, labels, distance="euclidean", scale=True) for c in (1, 1e-3)]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-4)
    plain = [batch_hard(c * E, labels, distance="euclidean") for c in (1, 1e-3)]
    assert abs(plain[1].item() - 0.5) < 0.01 < abs(plain[0].item() - 0.5)


# -- collapse ------------------------------------------------------------------------------


def gradient_norms(spreads, distance, *, scale):
    """Gradient norms of batch-hard for embeddings that are one unit vector + spread * noise."""
    rng = np.random.default_rng(0)
    centre = np.eye(16)[0]
    noise = rng.normal(size=(24, 16))
    labels = torch.tensor(np.arange(24) % 3)
    norms = []
    for s in spreads:
        E = torch.tensor(centre + s * noise, requires_grad=True)
        loss = batch_hard(E, labels, distance=distance, scale=scale)
        norms.append(torch.autograd.grad(loss, E)[0].norm().item())
    return np.array(norms)


def test_near_collapse_the_plain_gradient_vanishes_and_the_scaled_one_grows():
    """The cosine distance of a spread s is of order s^2, its gradient of order s."""
    plain = gradient_norms([1e-1, 1e-2, 1e-3], "cosine", scale=False)
    scaled = gradient_norms([1e-1, 1e-2, 1e-3], "cosine", scale=True)
    # At 0.1 the unit vectors of the noise are still some 20 % off the plane.
    np.testing.assert_allclose(plain[:-1] / plain[1:], [8.5, 10], rtol=0.1)
    np.testing.assert_allclose(scaled[1:] / scaled[:-1], [10, 10], rtol=0.1)


def test_unsquared_euclidean_distances_have_a_plain_gradient_that_does_not_tell_of_collapse():
    plain = gradient_norms([1e-1, 1e-2, 1e-3], "euclidean", scale=False)
    np.testing.assert_allclose(plain, plain[0], rtol=1e-6)
    scaled = gradient_norms([1e-1, 1e-2, 1e-3], "euclidean", scale=True)
    np.testing.assert_allclose(scaled[1:] / scaled[:-1], 10, rtol=1e-4)


# -- edge cases ----------------------------------------------------------------------------


@pytest.mark.parametrize("distance", EMBEDDING_DISTANCES)
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [1, 1, 1, 1], [0], []])
def test_batches_without_triplets_give_0_and_a_gradient(labels, name, distance):
    E = torch.randn(len(labels), 3, generator=torch.manual_seed(0), requires_grad=True)
    loss = LOSSES[name](E, torch.tensor(labels, dtype=torch.int64), distance=distance)
    assert loss.item() == 0.0
    loss.backward()
    assert torch.equal(E.grad, torch.zeros_like(E))


@pytest.mark.parametrize("name", LOSSES)
def test_anchors_without_a_positive_are_dropped(name):
    """Sample 4, alone in its class, is a negative of the others but no anchor."""
    E, _ = case(1, n=5)
    labels = np.array([0, 0, 1, 1, 2])
    got = LOSSES[name](E, torch.tensor(labels), margin=1.0)
    assert got.item() == pytest.approx(SLOW[name](E.numpy(), labels, "cosine", 1.0), rel=1e-9)


@pytest.mark.parametrize("distance", EMBEDDING_DISTANCES)
@pytest.mark.parametrize("name", LOSSES)
def test_duplicates_and_zeros_have_finite_gradients(name, distance):
    labels = torch.tensor([0, 0, 1, 1])
    point, zeros = torch.ones(4, 3), torch.zeros(4, 3)
    twice = torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [0, 2.0, 0], [0, 2.0, 0]])
    for E in (point, zeros, twice, torch.cat([zeros[:1], twice[1:]])):
        E = E.clone().requires_grad_()
        loss = LOSSES[name](E, labels, distance=distance)
        loss.backward()
        assert np.isfinite(loss.item())
        assert torch.isfinite(E.grad).all()
        assert E.grad.abs().max() < 1e3
    assert LOSSES[name](point, labels, margin=0.3, distance=distance).item() == pytest.approx(0.3)


def test_satisfied_triplets_cost_nothing():
    E = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
    for loss in LOSSES.values():
        assert loss(E, torch.tensor([0, 0, 1, 1]), margin=0.5).item() == 0.0


def test_wrong_input_is_refused():
    E, labels = case(0)
    with pytest.raises(InputError, match="distance must be one of cosine, euclidean, got 'dot'"):
        pairwise_distances(E, "dot")
    with pytest.raises(InputError, match=r"floats of shape \(n, d\), got torch.float64 of .*14,"):
        batch_all(E[:, 0], labels)
    with pytest.raises(InputError, match=r"floats of shape \(n, d\), got torch.int64"):
        batch_all(labels[:, None], labels)
    with pytest.raises(InputError, match=r"labels of shape \(13,\) given for 14 embeddings"):
        batch_hard(E, labels[:13])


# -- balanced batches ----------------------------------------------------------------------


def test_a_batch_has_k_different_samples_of_each_of_p_classes():
    labels = np.repeat(list("abcde"), [20, 8, 30, 9, 12])
    batches = BalancedBatches(labels, n_classes=3, n_per_class=8)
    assert len(batches) == len(list(batches)) == 4  # ceil(79 / 24)
    drawn = set()
    for batch in (batch for _ in range(20) for batch in batches):
        names, counts = np.unique(labels[batch], return_counts=True)
        assert (len(names), *counts) == (3, 8, 8, 8)
        assert len(np.unique(batch)) == 24
        drawn |= {str(name) for name in names}
    assert drawn == set("abcde")


def test_a_class_is_gone_through_before_it_is_repeated():
    labels = np.repeat([0, 1], 40)
    counts = np.bincount(np.concatenate(list(BalancedBatches(labels, n_per_class=10))))
    np.testing.assert_array_equal(counts, np.ones(80))


def test_small_classes_are_drawn_with_replacement():
    labels = np.array([0] * 30 + [1] * 3)
    seen = np.concatenate([labels[batch] for batch in BalancedBatches(labels, n_per_class=16)])
    np.testing.assert_array_equal(np.bincount(seen), [32, 32])  # 2 batches of 2 x 16
    few = np.concatenate([b[labels[b] == 1] for b in BalancedBatches(labels, n_per_class=16)])
    assert set(few) == {30, 31, 32}


def test_batches_of_all_classes_up_to_8_by_default():
    for n_classes, want in ((2, 2), (8, 8), (11, 8)):
        labels = np.repeat(np.arange(n_classes), 4)
        batch = next(iter(BalancedBatches(labels, n_per_class=2)))
        assert len(np.unique(labels[batch])) == want


def test_one_seed_gives_the_same_batches_and_epochs_differ():
    labels = np.arange(60) % 3
    one, two, other = (BalancedBatches(labels, n_per_class=5, rng=seed) for seed in (1, 1, 2))
    first = np.array(list(one))
    np.testing.assert_array_equal(first, np.array(list(two)))
    assert (first != np.array(list(one))).any()
    assert (first != np.array(list(other))).any()


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ([1, 1, 1], {}, "balanced batches need at least 2 classes, got 1"),
        ([], {}, "balanced batches need at least 2 classes, got 0"),
        ([1, 2, 2], {"n_classes": 3}, "n_classes must be a whole number from 2 to 2, got 3"),
        ([1, 2, 2], {"n_classes": 1}, "n_classes must be a whole number from 2 to 2, got 1"),
        ([1, 2, 2], {"n_per_class": 1}, "n_per_class must be a whole number >= 2, got 1"),
    ],
)
def test_batches_that_cannot_be_drawn(labels, options, message):
    with pytest.raises(InputError, match=message):
        BalancedBatches(labels, **options)


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.2, 0.9])
def test_hold_out_takes_a_share_of_every_class_and_leaves_two(rng, fraction):
    codes = rng.permutation(np.repeat(np.arange(4), [2, 3, 10, 40]))
    train, held = hold_out(codes, fraction, rng)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, held])), np.arange(55))
    want = {0.0: [0, 0, 0, 0], 0.01: [0, 1, 1, 1], 0.2: [0, 1, 2, 8], 0.9: [0, 1, 8, 36]}
    np.testing.assert_array_equal(np.bincount(codes[held], minlength=4), want[fraction])
