"""Tests of the pictures of anomaly maps: which pixels change, to what, and what files hold."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from mahalad.errors import ImageValueError, InputError, ModelFileError
from mahalad.images.mvtec import mask_beside
from mahalad.report.maps import save_map
from mahalad.report.overlays import (
    ALPHA,
    INNER_LINE,
    OUTER_LINE,
    RAMP,
    outlined,
    overlay,
    thumbnail,
    without_halo,
)
from mahalad.report.results import hits

THRESHOLD = 2.0


def random_picture(rng: np.random.Generator, width: int = 90, height: int = 60) -> Image.Image:
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def map_with_block(value: float, *, background: float = 0.0) -> NDArray[np.float64]:
    """(60, 90), with a block of one value at rows 20 to 39, columns 30 to 69."""
    anomaly_map = np.full((60, 90), background)
    anomaly_map[20:40, 30:70] = value
    return anomaly_map


def loop_colour(pixel: Any, value: float, threshold: float, full: float) -> tuple[int, ...]:
    """The documented colour of one pixel: the ramp at t, over the pixel."""
    t = min((value - threshold) / (full - threshold), 1.0)
    place = t * (len(RAMP) - 1)
    before = min(int(place), len(RAMP) - 2)
    share = place - before
    alpha = ALPHA[0] + (ALPHA[1] - ALPHA[0]) * t
    return tuple(
        round(float((1 - alpha) * p + alpha * ((1 - share) * a + share * b)))
        for p, a, b in zip(pixel, RAMP[before], RAMP[before + 1], strict=True)
    )


def test_an_image_without_excess_is_left_as_it_is(rng: np.random.Generator) -> None:
    picture = random_picture(rng)
    for anomaly_map in (np.full((7, 5), THRESHOLD), rng.uniform(-9, THRESHOLD, (224, 224))):
        drawn = overlay(picture, anomaly_map, THRESHOLD)
        assert drawn.mode == "RGB" and drawn.tobytes() == picture.tobytes()
    everything = overlay(picture, np.full((4, 4), 1e9), math.inf)
    assert everything.tobytes() == picture.tobytes()


def test_a_threshold_that_float32_rounds_up_colours_nothing(rng: np.random.Generator) -> None:
    # float32(0.1) is above 0.1: comparing after a cast would colour the whole image.
    picture = random_picture(rng)
    assert float(np.float32(0.1)) > 0.1
    assert overlay(picture, np.full((9, 9), 0.1), 0.1).tobytes() == picture.tobytes()


def test_pixels_at_or_below_the_threshold_are_left_exactly(rng: np.random.Generator) -> None:
    picture = random_picture(rng, 300, 200)
    anomaly_map = rng.uniform(0, 1.2 * THRESHOLD, (20, 30))
    excess = Image.fromarray((anomaly_map - THRESHOLD).astype(np.float32))
    above = np.asarray(excess.resize((300, 200), Image.Resampling.BILINEAR)) > 0
    changed = (np.array(overlay(picture, anomaly_map, THRESHOLD)) != np.array(picture)).any(axis=2)
    assert 0.01 < above.mean() < 0.5
    assert not changed[~above].any()
    assert changed[above].mean() > 0.99


@pytest.mark.parametrize("value", [2.2, 3.0, 3.7, 4.0, 50.0])
def test_colours_are_the_ramp_over_the_image(rng: np.random.Generator, value: float) -> None:
    picture = random_picture(rng)
    drawn = overlay(picture, map_with_block(value), THRESHOLD)
    for place in ((50, 30), (40, 25), (60, 34)):
        expected = loop_colour(picture.getpixel(place), value, THRESHOLD, THRESHOLD + 4)
        assert drawn.getpixel(place) == pytest.approx(expected, abs=1)


def test_the_scale_is_absolute() -> None:
    grey = Image.new("RGB", (90, 60), (120, 120, 120))
    alone = overlay(grey, map_with_block(3.0), THRESHOLD)
    # The same block beside a far stronger one, and on a higher background.
    beside = map_with_block(3.0, background=1.5)
    beside[:10, :10] = 500.0
    other = overlay(grey, beside, THRESHOLD)
    assert alone.getpixel((50, 30)) == other.getpixel((50, 30)) != (120, 120, 120)
    # Above `full`, nothing changes any more; a higher `full` makes a value paler.
    strong, stronger = (overlay(grey, map_with_block(v), THRESHOLD) for v in (6.0, 400.0))
    assert strong.tobytes() == stronger.tobytes()
    paler = overlay(grey, map_with_block(6.0), THRESHOLD, full=14.0)
    same = overlay(grey, map_with_block(10.0 / 3), THRESHOLD)  # t = 1/3 in both
    assert paler.tobytes() == same.tobytes() != strong.tobytes()


def test_a_threshold_below_zero_is_one_like_others() -> None:
    grey = Image.new("RGB", (90, 60), (120, 120, 120))
    low = overlay(grey, map_with_block(0.5, background=-3.0), -0.5)
    same = overlay(grey, map_with_block(3.0, background=-3.0), 2.0)  # both one above it
    assert low.tobytes() == same.tobytes() != grey.tobytes()


def test_the_ramp_grows_darker_and_stronger() -> None:
    lightness = RAMP @ (0.2126, 0.7152, 0.0722)
    assert (np.diff(lightness) < -20).all()
    assert ALPHA[0] < ALPHA[1]


def test_the_outline_is_dark_outside_and_light_inside() -> None:
    for ground in ((0, 0, 0), (255, 255, 255)):
        drawn = np.array(overlay(Image.new("RGB", (90, 60), ground), map_with_block(4), THRESHOLD))
        assert (drawn[20, 30:70] == OUTER_LINE).all() and (drawn[39, 30:70] == OUTER_LINE).all()
        assert (drawn[20:40, 30] == OUTER_LINE).all() and (drawn[20:40, 69] == OUTER_LINE).all()
        assert (drawn[21, 31:69] == INNER_LINE).all() and (drawn[21:39, 68] == INNER_LINE).all()
        assert not (drawn[22:38, 32:68] == INNER_LINE).all(axis=2).any()
        assert (drawn[19, 30:70] == ground).all() and (drawn[20:40, 29] == ground).all()


def test_the_outline_grows_with_the_image() -> None:
    left_to_right = np.array([[0.0, 9.0]])
    widths = []
    for side in (300, 1200, 2400):
        drawn = np.array(overlay(Image.new("RGB", (side, side)), left_to_right, THRESHOLD))
        row = drawn[side // 2, : side * 3 // 4]
        widths.append([int((row == line).all(axis=1).sum()) for line in (OUTER_LINE, INNER_LINE)])
    assert widths == [[1, 1], [2, 2], [4, 4]]


def test_the_map_covers_the_whole_image(rng: np.random.Generator) -> None:
    # A square map of a wide picture: its lower right quarter is the picture's.
    picture = random_picture(rng, 200, 80)
    anomaly_map = np.zeros((100, 100))
    anomaly_map[50:, 50:] = 4.0
    changed = (np.array(overlay(picture, anomaly_map, THRESHOLD)) != np.array(picture)).any(axis=2)
    rows, columns = np.nonzero(changed)
    assert (rows.min(), rows.max()) == (40, 79)
    assert (columns.min(), columns.max()) == (pytest.approx(100, abs=1), 199)


@pytest.mark.parametrize("shape", [(60, 90), (60, 90, 3)])
def test_float_images_are_drawn_as_their_8_bit_versions(
    rng: np.random.Generator, shape: tuple[int, ...]
) -> None:
    eight_bits = rng.integers(0, 256, shape, dtype=np.uint8)
    picture = Image.fromarray(eight_bits).convert("RGB")
    values = eight_bits.astype(np.float32) / np.float32(255)
    for block in (1.0, 3.0):
        expected = overlay(picture, map_with_block(block), THRESHOLD)
        assert overlay(values, map_with_block(block), THRESHOLD).tobytes() == expected.tobytes()


def test_the_image_is_not_changed(rng: np.random.Generator) -> None:
    picture = random_picture(rng)
    before = picture.tobytes()
    overlay(picture, map_with_block(9), THRESHOLD).putpixel((0, 0), (1, 2, 3))
    overlay(picture, map_with_block(0), THRESHOLD).putpixel((0, 0), (1, 2, 3))
    thumbnail(picture, 5)
    thumbnail(picture, 500).putpixel((0, 0), (1, 2, 3))
    assert picture.tobytes() == before and picture.size == (90, 60)


@pytest.mark.parametrize(
    ("anomaly_map", "threshold", "full", "message"),
    [
        (np.zeros((3, 3, 1)), 1.0, None, r"shape \(3, 3, 1\)"),
        (np.zeros((0, 3)), 1.0, None, r"shape \(0, 3\)"),
        (np.array([[1.0, np.nan]]), 1.0, None, "1 of 2 values .* not finite"),
        (np.zeros((3, 3)), math.nan, None, "is NaN"),
        (np.zeros((3, 3)), 3.0, 0.0, "full is 0; allowed is .* above the threshold, which is 3"),
        (np.zeros((3, 3)), 2.0, 2.0, "full is 2"),
        (np.zeros((3, 3)), 2.0, math.inf, "full is inf"),
        (np.zeros((3, 3)), 2.0, math.nan, "full is nan"),
    ],
)
def test_wrong_maps_and_thresholds_are_refused(
    anomaly_map: NDArray[np.float64], threshold: float, full: float | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        overlay(Image.new("RGB", (9, 9)), anomaly_map, threshold, full=full)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.new("L", (9, 9)), "mode 'L'"),
        (np.zeros((9, 9, 4), np.float32), r"shape \(9, 9, 4\)"),
        (np.full((9, 9), 255.0, np.float32), "from 255.0 to 255.0"),
        (np.zeros((9, 9), np.uint8), "type uint8"),
        (np.full((9, 9), np.nan, np.float32), "from nan"),
    ],
)
def test_wrong_images_are_refused(image: Any, message: str) -> None:
    with pytest.raises(ImageValueError, match=message):
        overlay(image, np.zeros((3, 3)), 1.0)
    with pytest.raises(ImageValueError, match=message):
        thumbnail(image, 4)


def test_npy_holds_the_values(tmp_path: Path, rng: np.random.Generator) -> None:
    anomaly_map = rng.normal(size=(6, 4))
    save_map(anomaly_map, tmp_path / "a.NPY", scale=1.0)
    loaded = np.load(io.BytesIO((tmp_path / "a.NPY").read_bytes()), allow_pickle=False)
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, anomaly_map.astype(np.float32))


def test_png_holds_16_bits_on_an_absolute_scale(tmp_path: Path, rng: np.random.Generator) -> None:
    scale = 7.5
    anomaly_map = rng.uniform(0, scale, (40, 30))
    anomaly_map[0, :4] = (-3.0, 0.0, scale, 99.0)
    save_map(anomaly_map, tmp_path / "a.png", scale=scale)
    with Image.open(tmp_path / "a.png") as file:
        assert file.mode == "I;16" and file.size == (30, 40)
        grey = np.array(file)
    assert grey[0, :4].tolist() == [0, 0, 65535, 65535]
    restored = grey / 65535 * scale
    np.testing.assert_allclose(restored[1:], anomaly_map[1:], atol=0.5 / 65535 * scale * 1.001)
    # Another map with the same scale: the same value has the same grey.
    save_map(np.full((2, 2), anomaly_map[5, 5]), tmp_path / "b.png", scale=scale)
    with Image.open(tmp_path / "b.png") as file:
        assert (np.array(file) == grey[5, 5]).all()


@pytest.mark.parametrize("name", ["a.jpg", "a", "a.npz", ".npy"])
def test_other_extensions_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"allowed are \.npy .* and \.png"):
        save_map(np.zeros((2, 2)), tmp_path / name, scale=1.0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a.npy", "a.png"])
def test_values_that_cannot_be_stored_leave_no_file(tmp_path: Path, name: str) -> None:
    for value in (np.nan, np.inf):
        with pytest.raises(InputError, match=r"1 of 2 values .* not finite"):
            save_map(np.array([[0.0, value]]), tmp_path / name, scale=1.0)
    for scale in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(InputError, match="scale is"):
            save_map(np.zeros((2, 2)), tmp_path / name, scale=scale)
    assert not list(tmp_path.iterdir())


def test_values_beyond_float32_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not finite"):
        save_map(np.array([[1e300]]), tmp_path / "a.npy", scale=1.0)


def test_a_missing_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="cannot be written"):
        save_map(np.zeros((2, 2)), tmp_path / "none" / "a.png", scale=1.0)


@pytest.mark.parametrize(
    ("size", "side", "expected"),
    [
        ((90, 60), 30, (30, 20)),
        ((60, 90), 30, (20, 30)),
        ((9, 6), 30, (9, 6)),
        ((400, 1), 8, (8, 1)),
    ],
)
def test_thumbnails_fit_and_keep_the_aspect(
    size: tuple[int, int], side: int, expected: tuple[int, int]
) -> None:
    small = thumbnail(Image.new("RGB", size, (10, 200, 30)), side)
    assert small.size == expected
    assert np.abs(np.array(small, int) - (10, 200, 30)).max() <= 1
    grey = thumbnail(np.full(size[::-1], 0.2, np.float32), side)
    assert grey.size == expected and grey.getpixel((0, 0)) == (51, 51, 51)


def test_a_thumbnail_of_no_size_is_refused() -> None:
    with pytest.raises(InputError, match="side is 0"):
        thumbnail(Image.new("RGB", (4, 4)), 0)


@pytest.mark.parametrize("line", [None, 1, 3])
@pytest.mark.parametrize("side", [(60, 90), (20, 30)])
def test_the_outline_of_a_mask_lies_around_it(line: int | None, side: tuple[int, int]) -> None:
    mask = np.zeros(side, bool)
    mask[side[0] // 3 : 2 * side[0] // 3, side[1] // 3 : 2 * side[1] // 3] = True
    for ground in ((0, 0, 0), (255, 255, 255), (120, 120, 120)):
        drawn = np.array(outlined(Image.new("RGB", (90, 60), ground), mask, line=line))
        width = line or 1
        changed = (drawn != ground).any(axis=2)
        assert not changed[22:38, 32:58].any()  # inside: 20 to 40, 30 to 60, to half a pixel
        rows, columns = np.nonzero((drawn == OUTER_LINE).all(axis=2))
        slack = 60 / side[0] + 0.01
        assert rows.min() == pytest.approx(20 - 2 * width, abs=slack)
        assert columns.max() == pytest.approx(59 + 2 * width, abs=slack)
        assert (drawn == INNER_LINE).all(axis=2).any()


def test_a_line_of_one_pixel_is_outlined_in_a_smaller_image() -> None:
    mask = np.zeros((900, 900), bool)
    mask[450, 300:600] = True
    mask[449:452, 300:600] = True
    drawn = np.array(outlined(Image.new("RGB", (300, 300), "grey"), mask))
    assert (drawn == OUTER_LINE).all(axis=2).any()


@pytest.mark.parametrize(
    ("place", "expected"), [((5, 5), True), ((5, 9), False), ((9, 19), True), ((0, 19), False)]
)
def test_a_map_hits_a_defect_that_its_highest_point_lies_on(
    place: tuple[int, int], expected: bool
) -> None:
    values = np.zeros((10, 20))
    values[place] = 1
    mask = np.zeros((100, 100), bool)
    mask[50:60, 25:30] = mask[97:, 97:] = True
    assert hits(values, mask) == expected


@pytest.mark.parametrize(
    ("mask", "image"),
    [
        ("a/ground_truth/cut/1_mask.png", "a/test/cut/1.jpg"),
        ("a/ground_truth/cut/1.bmp", "a/test/cut/1.png"),
        ("test/b/ground_truth/cut/day/1_mask.png", "test/b/test/cut/day/1.png"),
    ],
)
def test_masks_are_found_where_mvtec_ad_has_them(tmp_path: Path, mask: str, image: str) -> None:
    (tmp_path / mask).parent.mkdir(parents=True)
    (tmp_path / mask).touch()
    assert mask_beside(tmp_path / image) == tmp_path / mask


@pytest.mark.parametrize("image", ["a/test/1.png", "a/test/cut/2.png", "cut/1.png", "test/1.png"])
def test_no_mask_is_found_where_there_is_none(tmp_path: Path, image: str) -> None:
    (tmp_path / "a/ground_truth/cut").mkdir(parents=True)
    (tmp_path / "a/ground_truth/cut/1_mask.png").touch()
    assert mask_beside(tmp_path / image) is None


def test_the_halo_of_a_defect_is_not_coloured() -> None:
    anomaly_map = np.zeros((100, 100))
    anomaly_map[37:63, 37:63] = THRESHOLD + 1.0  # 7 around it: above the threshold
    anomaly_map[44:56, 44:56] = THRESHOLD + 4.0
    anomaly_map[5:10, 80:90] = THRESHOLD + 0.5  # further away: a faint defect of its own
    region = without_halo(anomaly_map, THRESHOLD)
    assert region[44:56, 44:56].all() and region[5:10, 80:90].all()
    assert region.sum() == 12 * 12 + 5 * 10
    grey = Image.new("RGB", (100, 100), (120, 120, 120))
    drawn = np.array(overlay(grey, anomaly_map, THRESHOLD))
    assert ((drawn != 120).any(axis=2) == region).all()


def test_colour_ends_halfway_to_the_halo_in_large_pictures() -> None:
    anomaly_map = np.full((1, 40), THRESHOLD - 1.0)
    anomaly_map[0, 18:22] = THRESHOLD + 2.0
    anomaly_map[0, [17, 22]] = THRESHOLD + 0.7  # a halo
    drawn = overlay(Image.new("RGB", (400, 10), (120, 120, 120)), anomaly_map, THRESHOLD)
    coloured = np.nonzero((np.array(drawn)[5] != 120).any(axis=1))[0]
    assert 175 <= coloured.min() <= 180 and 219 <= coloured.max() <= 224


@pytest.mark.parametrize("below", [1.2, 1.3])
def test_a_halo_is_some_deviations_below_what_it_surrounds(below: float) -> None:
    anomaly_map = np.zeros((100, 100))
    anomaly_map[40:60, 40:60] = THRESHOLD + 2.0 - below
    anomaly_map[45:55, 45:55] = THRESHOLD + 2.0
    assert without_halo(anomaly_map, THRESHOLD)[41, 41] == (below < 1.25)


def test_of_a_glaring_defect_all_above_half_is_coloured() -> None:
    anomaly_map = np.zeros((100, 100))
    for i, height in enumerate((4.9, 5.1, 10.0)):
        anomaly_map[40 + 2 * i : 60 - 2 * i, 40 + 2 * i : 60 - 2 * i] = THRESHOLD + height
    region = without_halo(anomaly_map, THRESHOLD)
    assert not region[40, 50] and region[42, 50]


def test_what_a_defect_encloses_is_part_of_it() -> None:
    anomaly_map = np.zeros((100, 100))
    anomaly_map[5:95, 5:95] = THRESHOLD + 0.1
    anomaly_map[10:90, 10:90] = THRESHOLD + 3.0
    anomaly_map[20:80, 20:80] = THRESHOLD + 0.1
    region = without_halo(anomaly_map, THRESHOLD)
    assert region[10:90, 10:90].all() and region.sum() == 80 * 80
    anomaly_map[50, 50] = THRESHOLD  # but never what is not above the threshold
    assert not without_halo(anomaly_map, THRESHOLD)[50, 50]


def test_the_largest_value_of_a_map_is_coloured_if_any_is(rng: np.random.Generator) -> None:
    for shape in ((1, 1), (3, 80), (40, 40)):
        anomaly_map = rng.normal(THRESHOLD, 1.0, shape)
        region = without_halo(anomaly_map, THRESHOLD)
        assert not region[anomaly_map <= THRESHOLD].any()
        assert region.flat[anomaly_map.argmax()] == (anomaly_map.max() > THRESHOLD)
    assert not without_halo(np.zeros((4, 4)), math.inf).any()
