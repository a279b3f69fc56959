"""Shares of positions in the score: they add up exactly, and the largest is where the change is."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import make_picture
from PIL import Image

from mahalad import AnomalyDetector, BackboneFeatures, MahalanobisDetector
from mahalad.detectors.attribution import attribute, enlarge, enlarge_keeping_sum
from mahalad.detectors.maps import can_attribute
from mahalad.errors import InputError
from mahalad.scorers.level_sum import make_scorer

# Levels of 4, 16 and 24 channels: with 12 images the larger two have more features than samples.
N_OF = {"n > D": 40, "n < D": 12}


def pictures(seeds, **options):
    return [make_picture(seed, **options) for seed in seeds]


@pytest.fixture(scope="module", params=N_OF)
def fitted(request, small_weights):
    detector = MahalanobisDetector(
        "test_efficientnet", weights=small_weights, scope="image", input_size=64, fpr=0.1
    )
    return detector.fit(pictures(range(N_OF[request.param])))


def in_roi(small_weights, n=30):
    region = np.zeros((64, 64), bool)
    region[8:40, 16:60] = True
    return MahalanobisDetector(
        "test_efficientnet", weights=small_weights, scope="image", input_size=64, roi=region,
        fpr=0.1,
    ).fit(pictures(range(n)))  # fmt: skip


def assert_shares_add_up(detector, images):
    levels = detector.level_scores(images)
    for shares, distances in zip(detector.explain(images), levels, strict=True):
        assert list(shares) == list(detector.features_.backbone_.level_names)
        sums = [values.sum() for values in shares.values()]
        np.testing.assert_allclose(sums, distances, rtol=1e-5)
    where = detector.anomaly_map(images)
    assert where.shape == (len(images), 64, 64)
    assert where.dtype == np.float64
    np.testing.assert_allclose(where.sum(axis=(1, 2)), levels.sum(axis=1), rtol=1e-5)
    np.testing.assert_allclose(where.mean(axis=(1, 2)) * 64**2, levels.sum(axis=1), rtol=1e-5)


def test_shares_add_up_to_the_scores_of_all_levels(fitted):
    assert_shares_add_up(fitted, pictures([70, 71]) + pictures([60], spot=True))


def test_shares_add_up_within_a_region_and_are_nothing_outside(small_weights):
    detector = in_roi(small_weights)
    images = pictures([70]) + pictures([60], spot=True)
    assert_shares_add_up(detector, images)
    for shares in detector.explain(images):
        stem = shares["stem"]  # 32 x 32 positions of 2 pixels
        outside = np.ones((32, 32), bool)
        outside[4:20, 8:30] = False
        np.testing.assert_array_equal(stem[outside], 0.0)
        assert np.abs(stem[~outside]).min() > 0


def test_shares_equal_the_formula_position_by_position(fitted):
    """c_p = w (f_p - mu)' Sigma^-1 (fbar - mu) / d, in float64 loops over positions."""
    features = fitted.features_
    prepared = [features.prepare(make_picture(60, spot=True))]
    shares = attribute(features, fitted.scorer_, prepared)
    for name, (maps, weights) in features.unpooled(prepared).items():
        gaussian = fitted.scorer_.estimators_[name]
        f, mu = maps[0].astype(float), gaussian.location_
        h, w = f.shape[1:]
        np.testing.assert_allclose(weights, 1 / (h * w), rtol=1e-6)
        z = f.mean(axis=(1, 2)) - mu
        direction = np.linalg.solve(gaussian.covariance_, z)
        want = np.empty((h, w))
        for y in range(h):
            for x in range(w):
                want[y, x] = (f[:, y, x] - mu) @ direction / np.sqrt(z @ direction) / (h * w)
        # The difference of the means leaves float32's digits of them.
        np.testing.assert_allclose(shares[name][0], want, rtol=1e-4, atol=1e-4 * abs(want).max())


@pytest.mark.parametrize("corner", [(4, 4), (40, 8), (24, 44)])
def test_a_pasted_patch_gets_the_largest_share(fitted, corner):
    y, x = corner
    picture = make_picture(75)
    picture.paste((255, 255, 255), (x, y, x + 12, y + 12))
    where = fitted.anomaly_map([picture])[0]
    peak = np.unravel_index(where.argmax(), where.shape)
    assert y - 6 <= peak[0] < y + 18
    assert x - 6 <= peak[1] < x + 18
    inside = np.zeros((64, 64), bool)
    inside[max(y - 4, 0) : y + 16, max(x - 4, 0) : x + 16] = True
    assert where[inside].mean() > 3 * abs(where[~inside].mean())


def test_results_carry_the_same_maps(fitted):
    images = pictures([70, 71])
    results = list(fitted.inspect(images, maps=True))
    where = fitted.anomaly_map(images)
    for result, one in zip(results, where, strict=True):
        np.testing.assert_allclose(result.anomaly_map, one, rtol=1e-6, atol=1e-12)
    assert all(r.anomaly_map is None for r in fitted.inspect(images))


def test_the_precision_is_applied_as_the_full_inverse_would_be(small_weights):
    """Also where samples are fewer than features, and at distance 0."""
    features = BackboneFeatures("test_efficientnet", weights=small_weights, input_size=64).build()
    prepared = [features.prepare(p) for p in pictures(range(10))]
    scorer = make_scorer("gaussian").fit(features.transform(prepared))
    for gaussian in scorer.estimators_.values():
        mean = np.zeros_like(gaussian.location_)
        np.testing.assert_array_equal(gaussian.apply_precision(mean[None]), mean[None])
    for name, (maps, _) in features.unpooled(prepared[:1]).items():
        gaussian = scorer.estimators_[name]
        z = maps.mean(axis=(2, 3)) - gaussian.location_
        want = np.linalg.solve(gaussian.covariance_, z.T.astype(float)).T
        np.testing.assert_allclose(gaussian.apply_precision(z), want, rtol=1e-7)


def test_scorers_without_shares_are_refused(small_weights):
    features = BackboneFeatures("test_efficientnet", weights=small_weights, input_size=64)
    assert can_attribute(features, make_scorer("gaussian"))
    assert not can_attribute(features, make_scorer("gaussian", "npca"))
    assert not can_attribute(None, make_scorer("gaussian"))
    for scorer in (make_scorer("knn"), make_scorer("gaussian", "npca")):
        detector = AnomalyDetector(features, scorer, fpr=0.2).fit(pictures(range(12)))
        message = r"(?s)no anomaly maps from LevelSum\(.*scope='positions'"
        with pytest.raises(InputError, match=message):
            detector.anomaly_map(pictures([70]))
        with pytest.raises(InputError, match=r"have no threshold: the per-position"):
            _ = detector.map_threshold_


# -- enlarging -----------------------------------------------------------------------------


def test_enlarged_maps_are_pillows_bilinear_ones(rng):
    maps = rng.normal(size=(2, 5, 5))
    want = [
        np.asarray(
            Image.fromarray(one.astype(np.float32)).resize((20, 20), Image.Resampling.BILINEAR)
        )
        for one in maps
    ]
    np.testing.assert_allclose(enlarge(maps, 20), want, atol=1e-6)


@pytest.mark.parametrize(("h", "w", "side"), [(4, 4, 64), (7, 7, 64), (3, 5, 32), (8, 8, 8)])
def test_enlarging_keeps_the_sum(rng, h, w, side):
    maps = rng.normal(size=(3, h, w))
    large = enlarge_keeping_sum(maps, side)
    assert large.shape == (3, side, side)
    np.testing.assert_allclose(large.sum(axis=(1, 2)), maps.sum(axis=(1, 2)), rtol=1e-10)
    flat = np.full((1, h, w), 2.0)  # each position's value is spread over its own pixels
    np.testing.assert_allclose(enlarge_keeping_sum(flat, side), 2.0 * h * w / side**2, rtol=1e-12)
