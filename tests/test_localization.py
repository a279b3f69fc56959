"""Tests of the figures of merit of anomaly maps, against loops over thresholds and scikit-learn."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import label
from sklearn.metrics import precision_recall_curve, roc_auc_score, roc_curve

from mahalad.errors import EmptyMaskError, InputError
from mahalad.evaluation.masks import read_mask
from mahalad.evaluation.pixels import PixelFigures, pixel_figures, resize_map

Maps = list[NDArray[np.float32]]
Masks = list[NDArray[np.bool_] | None]
Case = tuple[Maps, Masks]

LIMITS = (0.05, 0.3, 1.0)


def make_case(seed: int, *, levels: int | None) -> Case:
    """Six maps of two sizes, two of good images; scores of few levels have many ties."""
    rng = np.random.default_rng(seed)
    maps: Maps = []
    masks: Masks = []
    for index in range(6):
        shape = (9, 12) if index % 2 else (11, 8)
        mask = rng.random(shape) < 0.15  # some regions touch at corners, some are single pixels
        mask[: rng.integers(1, 5), : rng.integers(1, 7)] = True
        scores = rng.normal(size=shape) + (mask if index > 1 else 0)
        if levels is not None:
            scores = np.round(scores * levels) / levels
        maps.append(scores.astype(np.float32))
        masks.append(mask if index > 1 else None)
    return maps, masks


CASES = [make_case(seed, levels=levels) for seed in range(3) for levels in (None, 4, 1)]


def pixels(case: Case) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float64]]:
    """Score, label and weight (1 / size of the region; 1 if good) of each pixel."""
    scores, labels, weights = [], [], []
    for values, mask in zip(*case, strict=True):
        mask = np.zeros(values.shape, bool) if mask is None else mask
        regions, n_regions = label(mask, np.ones((3, 3)))
        weight = np.ones(values.shape)
        for region in range(1, n_regions + 1):
            weight[regions == region] = 1 / np.sum(regions == region)
        scores.append(values.ravel())
        labels.append(mask.ravel())
        weights.append(weight.ravel())
    return np.concatenate(scores), np.concatenate(labels), np.concatenate(weights)


def area_below(x: list[float], y: list[float], limit: float) -> float:
    """Area under straight lines, one by one, each cut at the limit; over the limit."""
    area = 0.0
    for left, right, low, high in zip(x, x[1:], y, y[1:], strict=False):
        if left < limit and right > left:
            end = min(right, limit)
            at_end = low + (high - low) * (end - left) / (right - left)
            area += (end - left) * (low + at_end) / 2
    return area / limit


def loop_aupro(case: Case, limit: float) -> float:
    """Flag at each score in turn, and look at each region."""
    images = []
    for values, mask in zip(*case, strict=True):
        mask = np.zeros(values.shape, bool) if mask is None else mask
        images.append((values, ~mask, *label(mask, np.ones((3, 3)))))
    n_good = sum(good.sum() for _, good, _, _ in images)
    x, y = [0.0], [0.0]
    for threshold in sorted(set(np.concatenate([v.ravel() for v in case[0]])), reverse=True):
        shares, false_positives = [], 0
        for values, good, regions, n_regions in images:
            flagged = values >= threshold
            false_positives += np.sum(flagged & good)
            shares += [flagged[regions == k].mean() for k in range(1, n_regions + 1)]
        x.append(false_positives / n_good)
        y.append(np.mean(shares))
    return area_below(x, y, limit)


@pytest.mark.parametrize("case", CASES)
def test_roc_auc_is_that_of_all_pixels(case: Case) -> None:
    scores, labels, _ = pixels(case)
    expected = roc_auc_score(labels, scores)
    assert pixel_figures(*case).roc_auc == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_f1_max_is_the_best_over_all_thresholds(case: Case) -> None:
    scores, labels, _ = pixels(case)
    precision, recall, _ = precision_recall_curve(labels, scores)
    expected = np.max(2 * precision * recall / np.maximum(precision + recall, 1e-300))
    assert pixel_figures(*case).f1_max == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("case", CASES)
def test_aupro_is_the_mean_over_regions_at_each_threshold(case: Case, limit: float) -> None:
    found = pixel_figures(*case, fpr_limit=limit).aupro
    assert found == pytest.approx(loop_aupro(case, limit), abs=1e-12)


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("case", CASES)
def test_aupro_is_the_area_of_a_weighted_roc_curve(case: Case, limit: float) -> None:
    scores, labels, weights = pixels(case)
    x, y, _ = roc_curve(labels, scores, sample_weight=weights, drop_intermediate=False)
    expected = area_below(x.tolist(), y.tolist(), limit)
    assert pixel_figures(*case, fpr_limit=limit).aupro == pytest.approx(expected, abs=1e-12)


def test_figures_by_hand() -> None:
    """Two regions, of two pixels and of one; two good pixels, with the scores 4 and 1.

    From the highest score down: 5 hits half of the first region, 4 is the first false positive,
    3 is the other half, 2 is the second region, 1 is the other false positive. So PRO is 1/4 up
    to a rate of 1/2, then 1.
    """
    maps = [np.array([[5.0, 3.0, 4.0, 1.0, 2.0]])]
    masks = [np.array([[True, True, False, False, True]])]
    found = pixel_figures(maps, masks, fpr_limit=1.0)
    assert found.roc_auc == pytest.approx(4 / 6)
    assert found.aupro == pytest.approx((1 / 4 + 1) / 2)
    assert found.f1_max == pytest.approx(2 * 3 / (2 * 3 + 1))
    assert pixel_figures(maps, masks, fpr_limit=0.5).aupro == pytest.approx(1 / 4)
    assert pixel_figures(maps, masks, fpr_limit=0.8).aupro == pytest.approx(
        (0.5 * 0.25 + 0.3 * 1) / 0.8
    )


def test_equal_scores_are_one_step() -> None:
    """Of the score 2 are one good pixel of two and all of the defect: a slope up to 1/2."""
    maps = [np.array([[2.0, 2.0, 1.0]])]
    masks = [np.array([[True, False, False]])]
    assert pixel_figures(maps, masks, fpr_limit=0.5) == PixelFigures(0.75, 0.5, 2 / 3)
    # The line to (1/2, 1) is cut at 1/4, where it has reached 1/2.
    assert pixel_figures(maps, masks, fpr_limit=0.25).aupro == pytest.approx(0.25)


def test_corners_join_a_region() -> None:
    """A long diagonal is one region, which weighs as much as the single pixel apart from it."""
    mask = np.zeros((6, 8), bool)
    mask[range(5), range(5)] = True
    mask[0, 7] = True
    scores = mask.astype(float)
    scores[0, 7] = -1  # missed until everything is flagged
    assert pixel_figures([scores], [mask]).aupro == pytest.approx(0.5)


def test_perfect_and_reversed_maps() -> None:
    maps, masks = CASES[0]
    perfect = [
        np.zeros(values.shape) if mask is None else mask.astype(float)
        for values, mask in zip(maps, masks, strict=True)
    ]
    for limit in LIMITS:
        assert pixel_figures(perfect, masks, fpr_limit=limit) == PixelFigures(1.0, 1.0, 1.0)
    found = pixel_figures([-values for values in perfect], masks)
    assert found.roc_auc == found.aupro == 0


def test_constant_map_is_as_good_as_chance() -> None:
    masks = CASES[0][1]
    found = pixel_figures([np.full(values.shape, 7.0) for values in CASES[0][0]], masks)
    assert found.roc_auc == 0.5
    assert found.aupro == pytest.approx(0.15)  # the diagonal, up to 0.3
    n_bad = sum(mask.sum() for mask in masks if mask is not None)
    n_all = sum(values.size for values in CASES[0][0])
    assert found.f1_max == pytest.approx(2 * n_bad / (n_bad + n_all))


def test_good_images_may_have_a_mask_without_defect() -> None:
    maps, masks = CASES[1]
    explicit = [
        np.zeros(m.shape, bool) if k is None else k for m, k in zip(maps, masks, strict=True)
    ]
    assert pixel_figures(maps, explicit) == pixel_figures(maps, masks)


def test_maps_are_read_one_by_one_and_left_as_they_are() -> None:
    """A generator may use one buffer for all of its maps."""
    rng = np.random.default_rng(0)
    maps, mask = rng.normal(size=(3, 6, 7)).astype(np.float32), np.eye(6, 7, dtype=bool)
    buffer = np.empty((6, 7), np.float32)

    def generate() -> Iterator[NDArray[np.float32]]:
        for values in maps:
            buffer[:] = values
            yield buffer

    before = maps.copy()
    masks = [None, mask, mask]
    assert pixel_figures(generate(), iter(masks)) == pixel_figures(maps, masks)
    np.testing.assert_array_equal(maps, before)


def test_scores_are_used_raw() -> None:
    maps, masks = CASES[0]
    expected = pixel_figures(maps, masks)
    assert pixel_figures([4 * values for values in maps], masks) == expected


MAP, MASK = np.arange(6.0).reshape(2, 3), np.arange(6).reshape(2, 3) > 4


@pytest.mark.parametrize(
    ("maps", "masks", "message"),
    [
        ([], [], "no image: maps and masks are empty"),
        ([MAP, MAP], [MASK], "there are 1 masks, and more maps"),
        ([MAP], [MASK, None, None], "there are 1 maps, and more masks"),
        ([MAP, MAP], [MASK, MASK.T], r"masks\[1\] has shape \(3, 2\) and maps\[1\] \(2, 3\)"),
        ([MAP[None]], [MASK], r"maps\[0\] must have shape \(H, W\), got \(1, 2, 3\)"),
        ([MAP, MAP / [1, np.nan, 1]], [MASK, None], r"maps\[1\] must be finite.*; 2 of its 6 val"),
        ([MAP * 1e300], [MASK], "finite as float32; 5 of its 6 values"),
        ([MAP, MAP], [None, MASK & False], "got 12 good and 0 of a defect in 2 images"),
        ([MAP], [MASK | True], "got 0 good and 6 of a defect in 1 images"),
    ],
)
def test_unusable_maps_are_refused(maps: Maps, masks: Masks, message: str) -> None:
    with pytest.raises(InputError, match=message):
        pixel_figures(maps, masks)


@pytest.mark.parametrize("limit", [0.0, -0.1, 1.01, float("nan")])
def test_limit_outside_its_range_is_refused(limit: float) -> None:
    with pytest.raises(InputError, match="fpr_limit must be above 0 and at most 1, got"):
        pixel_figures([MAP], [MASK], fpr_limit=limit)


@pytest.mark.parametrize("shape", [(48, 64), (7, 9), (20, 5), (3, 4), (1, 1), (50, 3)])
@pytest.mark.parametrize("size", [(5, 7), (1, 1), (1, 6), (24, 24)])
def test_resized_map_is_that_of_torch(size: tuple[int, int], shape: tuple[int, int]) -> None:
    values = np.random.default_rng(1).normal(size=size).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(values)[None, None], shape, mode="bilinear", align_corners=False
    )[0, 0].numpy()
    found = resize_map(values, shape)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_resized_map_keeps_what_is_constant() -> None:
    """Exactly: rounding would make thresholds of its own."""
    assert np.all(resize_map(np.full((5, 7), 0.1), (48, 64)) == np.float32(0.1))
    values = np.random.default_rng(2).normal(size=(5, 7)).astype(np.float32)
    np.testing.assert_array_equal(resize_map(values, (5, 7)), values)


@pytest.mark.parametrize(
    ("values", "shape", "message"),
    [
        (np.zeros((1, 2, 2)), (4, 4), r"shape \(h, w\), not empty; got shape \(1, 2, 2\)"),
        (np.zeros((0, 2)), (4, 4), r"got shape \(0, 2\)"),
        (np.zeros((2, 2)), (4, 0), r"1 or more, got \(4, 0\)"),
        (np.zeros((2, 2)), (4,), r"a height and a width of 1 or more, got \(4,\)"),
    ],
)
def test_unusable_sizes_are_refused(
    values: NDArray[np.float64], shape: tuple[int, int], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        resize_map(values, shape)


def test_import_does_not_import_torch() -> None:
    code = "import sys, mahalad.evaluation.pixels; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


SPOT = np.zeros((4, 6), bool)
SPOT[1:3, 2:5] = True


def palette_picture() -> Image.Image:
    picture = Image.fromarray(SPOT.astype(np.uint8), "P")
    picture.putpalette([0, 0, 0, 200, 0, 0])  # a defect in red
    return picture


def colour_picture(rgb: tuple[int, ...]) -> Image.Image:
    return Image.fromarray(SPOT[:, :, None] * np.array(rgb, np.uint8))


PICTURES = {
    "1": Image.fromarray(SPOT),
    "L": Image.fromarray(np.where(SPOT, 128, 127).astype(np.uint8)),
    "P": palette_picture(),
    "RGB": colour_picture((255, 255, 255)),
    "RGB, blue": colour_picture((0, 0, 255)),
    "I;16": Image.fromarray(np.where(SPOT, 32768, 32767).astype(np.uint16)),
    "LA": Image.fromarray(np.dstack([np.full(SPOT.shape, 255), 255 * SPOT]).astype(np.uint8)),
    "RGBA": colour_picture((255, 255, 255, 255)),  # transparent elsewhere
}


@pytest.mark.parametrize("mode", PICTURES)
def test_mask_is_what_is_above_half_of_the_range(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "mask.png"
    PICTURES[mode].save(path)
    found = read_mask(path, (4, 6))
    assert found.dtype == np.bool_
    np.testing.assert_array_equal(found, SPOT)


def test_mask_of_floats(tmp_path: Path) -> None:
    path = tmp_path / "mask.tiff"
    Image.fromarray(np.where(SPOT, 0.6, 0.5).astype(np.float32)).save(path)
    np.testing.assert_array_equal(read_mask(path), SPOT)


def test_mask_is_turned_as_its_image_is(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(SPOT).save(path, exif=exif)
    np.testing.assert_array_equal(read_mask(path), SPOT[::-1, ::-1])


def test_unusable_masks_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    with pytest.raises(InputError, match=r"mask\.png: cannot be read as a mask: No such file"):
        read_mask(path)
    path.write_bytes(b"no image")
    with pytest.raises(InputError, match=r"mask\.png: cannot be read .*cannot identify image"):
        read_mask(str(path))
    Image.fromarray(SPOT).save(path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match=r"mask\.png: cannot be read as a mask"):
        read_mask(path)
    Image.fromarray(SPOT).save(path)
    with pytest.raises(InputError, match=r"mask\.png: this mask is 4 x 6 .* its image 6 x 4"):
        read_mask(path, (6, 4))
    Image.fromarray(np.zeros_like(SPOT)).save(path)
    with pytest.raises(EmptyMaskError, match=r"mask\.png: this mask is empty: it marks no pixel"):
        read_mask(path)
