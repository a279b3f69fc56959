"""The region of interest: how it is read, and what is looked at (`test_outside`: what is not)."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from conftest import make_picture
from PIL import Image
from sklearn.base import clone

from mahalad import AnomalyDetector, BackboneFeatures, MahalanobisDetector, load
from mahalad.errors import InputError
from mahalad.files.container import read_header
from mahalad.images.region import hash_region, read_region, region_on_grid
from mahalad.scorers.positions.scorer import PatchScorer


def left_half(side=64):
    region = np.zeros((side, side), bool)
    region[:, : side // 2] = True
    return region


def pictures(seeds, **options):
    return [make_picture(seed, **options) for seed in seeds]


# -- reading -------------------------------------------------------------------------------


def test_white_is_inspected_however_it_is_given(tmp_path):
    white = left_half(32).astype(np.uint8) * 255
    Image.fromarray(white).save(tmp_path / "grey.png")
    Image.fromarray(white).convert("1").save(tmp_path / "bits.png")
    Image.fromarray(white).convert("RGB").save(tmp_path / "colour.png")
    Image.fromarray(white.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    for roi in (
        left_half(32),
        white,
        white.astype(np.uint16) * 257,
        white.astype(np.float32) / 255,
        Image.fromarray(white),
        tmp_path / "grey.png",
        str(tmp_path / "bits.png"),
        tmp_path / "colour.png",
        tmp_path / "deep.png",
    ):
        region = read_region(roi, 64)
        assert region.dtype == bool
        np.testing.assert_array_equal(region, left_half(64))


def test_above_half_is_white():
    grey = np.repeat(np.array([[0, 127, 128, 255]], np.uint8), 4, axis=0)
    np.testing.assert_array_equal(read_region(grey, 4), [[False, False, True, True]] * 4)


def test_regions_are_squashed_as_images_are():
    wide = np.zeros((20, 80), bool)
    wide[:10, 40:] = True
    want = np.zeros((40, 40), bool)
    want[:20, 20:] = True
    np.testing.assert_array_equal(read_region(wide, 40), want)


def test_regions_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(InputError, match=r"region of interest: .*none\.png: no such file"):
        read_region(tmp_path / "none.png", 64)
    with pytest.raises(InputError, match=r"region of interest: .*text\.png: not an image"):
        read_region(tmp_path / "text.png", 64)
    with pytest.raises(InputError, match="region of interest: roi"):
        read_region(np.zeros(5), 64)


def test_a_region_that_covers_nothing_is_refused(tmp_path):
    Image.new("L", (32, 32)).save(tmp_path / "black.png")
    with pytest.raises(InputError, match=r"black\.png: covers nothing; white marks what is insp"):
        read_region(tmp_path / "black.png", 64)
    with pytest.raises(InputError, match="region of interest roi: covers nothing"):
        read_region(np.zeros((64, 64), bool), 64)
    line = np.zeros((64, 64), bool)
    line[:, 31:33] = True
    with pytest.raises(InputError, match="roi: covers no whole pixel of 16 x 16; white marks"):
        read_region(line, 16)


def test_positions_in_a_region_are_those_it_covers_by_half():
    region = np.zeros((8, 8), bool)
    region[:2, :2] = True  # the whole of position (0, 0)
    region[4:6, 4] = True  # half of (2, 2)
    region[7, 7] = True  # a quarter of (3, 3)
    want = np.zeros((4, 4), bool)
    want[0, 0] = want[2, 2] = True
    np.testing.assert_array_equal(region_on_grid(region, 4), want)
    np.testing.assert_array_equal(region_on_grid(region, 8), region)


def test_a_region_smaller_than_the_grids_positions_is_refused(small_weights):
    region = np.zeros((64, 64), bool)
    region[30:32, 30:32] = True
    with pytest.raises(InputError, match="covers no position of a 4 x 4 feature map by half"):
        region_on_grid(region, 4)
    detector = positions(small_weights, roi=region)
    with pytest.raises(InputError, match=r"covers no position of a . x . feature map by half"):
        detector.fit(pictures(range(10)))


def test_hashes_tell_regions_apart():
    other = left_half()
    other[0, 0] = False
    assert len({hash_region(r) for r in (left_half(), other, ~left_half())}) == 3
    assert hash_region(left_half()) == hash_region(left_half().copy())


# -- what counts ---------------------------------------------------------------------------


def positions(small_weights, **options):
    return MahalanobisDetector(
        "test_efficientnet",
        weights=small_weights,
        **{"input_size": 64, "fpr": 0.2, "roi": left_half(), **options},
    )


def test_pooling_is_the_mean_inside(small_weights):
    plain, within = (
        BackboneFeatures("test_efficientnet", weights=small_weights, input_size=64, **options)
        for options in ({"maps": ["stem"], "levels": ["stem"]}, {"levels": ["stem"]})
    )
    within.roi = left_half()
    picture = make_picture(3)
    prepared = [plain.build().prepare(picture)]
    maps, weights = within.build().unpooled(prepared)["stem"]
    inside = maps[0][:, :, :16]  # (C, 32, 16)
    np.testing.assert_allclose(weights[:, :16], 1 / (32 * 16), rtol=1e-6)
    np.testing.assert_array_equal(weights[:, 16:], 0)
    pooled = within.transform(prepared)["stem"][0]
    np.testing.assert_allclose(pooled, inside.mean(axis=(1, 2)), rtol=1e-4, atol=1e-5)


def test_maps_are_nothing_outside_the_region(small_weights):
    detector = positions(small_weights, levels=["blocks.1"]).fit(pictures(range(12)))
    where = detector.explain(pictures([60], spot=True))[0]["positions"]
    side = where.shape[1]
    outside = where[:, side // 2 :]
    assert outside.max() < where[:, : side // 2].min()  # of a distance of 0
    assert detector.scorer_.n_active_ == side * side // 2


def test_a_defect_inside_is_found_and_one_outside_is_not(small_weights):
    detector = positions(small_weights, image_weight=0.0).fit(pictures(range(30)))
    inside, outside = make_picture(80), make_picture(80)
    inside.paste((255, 255, 255), (8, 20, 20, 32))
    outside.paste((255, 255, 255), (52, 20, 64, 32))
    good, found, passed = detector.anomaly_score([make_picture(80), inside, outside])
    assert found > detector.threshold_
    assert found - good > 20 * abs(passed - good)
    peak = np.unravel_index(detector.anomaly_map([inside])[0].argmax(), (64, 64))
    assert 4 <= peak[0] < 36
    assert 4 <= peak[1] < 24


# -- files, pickles, parameters ------------------------------------------------------------


@pytest.mark.parametrize("scope", ["positions", "image"])
def test_regions_survive_files_pickles_and_another_fit(small_weights, tmp_path, scope):
    images, test = pictures(range(12)), pictures([60], spot=True) + pictures([50])
    detector = positions(small_weights, scope=scope).fit(images)
    wanted = detector.anomaly_score(test)
    detector.save(tmp_path / "m")
    assert read_header(tmp_path / "m")["features"]["region"] == hash_region(left_half())
    loaded = load(tmp_path / "m")
    np.testing.assert_array_equal(loaded.features_.region_, left_half())
    np.testing.assert_allclose(loaded.anomaly_score(test), wanted, rtol=1e-5)
    copy = pickle.loads(pickle.dumps(detector))
    np.testing.assert_array_equal(copy.features_.region_, left_half())
    np.testing.assert_allclose(copy.anomaly_score(test), wanted, rtol=1e-6)
    np.testing.assert_array_equal(loaded.roi, left_half())
    again = clone(loaded).fit(images)
    np.testing.assert_allclose(again.anomaly_score(test), wanted, rtol=1e-5)
    merged = load(tmp_path / "m").merge(clone(detector).fit(pictures(range(20, 32))))
    assert merged.n_images_ == 24
    loaded.save(tmp_path / "again")
    np.testing.assert_allclose(load(tmp_path / "again").anomaly_score(test), wanted, rtol=1e-5)


def test_a_region_from_a_file_needs_the_file_at_fit_only(small_weights, tmp_path):
    Image.fromarray(left_half().astype(np.uint8) * 255).save(tmp_path / "roi.png")
    detector = positions(small_weights, roi=tmp_path / "roi.png").fit(pictures(range(12)))
    detector.save(tmp_path / "m")
    (tmp_path / "roi.png").unlink()
    loaded = load(tmp_path / "m")
    assert loaded.roi == str(tmp_path / "roi.png")
    test = pictures([60])
    np.testing.assert_allclose(loaded.anomaly_score(test), detector.anomaly_score(test), rtol=1e-5)
    with pytest.raises(InputError, match=r"region of interest: .*roi\.png: no such file"):
        clone(loaded).fit(pictures(range(12)))


def test_regions_of_features_within_an_anomaly_detector_survive(small_weights, tmp_path):
    features = BackboneFeatures(
        "test_efficientnet", weights=small_weights, maps=["blocks.1"], levels=(), input_size=64,
        roi=left_half(),
    )  # fmt: skip
    detector = AnomalyDetector(features, PatchScorer(), fpr=0.2).fit(pictures(range(12)))
    detector.save(tmp_path / "m")
    loaded = load(tmp_path / "m")
    np.testing.assert_array_equal(loaded.features.roi, left_half())
    test = pictures([60], spot=True)
    np.testing.assert_allclose(loaded.anomaly_score(test), detector.anomaly_score(test), rtol=1e-5)


def test_fits_to_different_regions_do_not_merge(small_weights):
    a = positions(small_weights).fit(pictures(range(12)))
    b = positions(small_weights, roi=~left_half()).fit(pictures(range(12, 24)))
    with pytest.raises(InputError, match="cannot merge fits with different features"):
        a.merge(b)
    assert a.n_images_ == 12


def test_good_pictures_of_a_small_region_score_as_those_of_the_fit():
    """Few samples tell of its metric: each fifth of the images that is left out counts too much."""
    inside = np.zeros((96, 96), dtype=bool)
    inside[16:80, 16:80] = True
    gaps = []
    for seed in range(3):
        pictures = [make_picture(1000 * seed + i, side=96) for i in range(120)]
        detector = MahalanobisDetector(input_size=64, image_weight=0, roi=inside)
        detector.fit(pictures[:60])
        gaps.append(
            detector.calibration_scores_.mean() - detector.anomaly_score(pictures[60:]).mean()
        )
    assert np.mean(gaps) == pytest.approx(0, abs=0.15)  # of their standard deviation
