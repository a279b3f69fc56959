"""Tests of the rendered set: determinism, locality of defects, layout, and difficulty."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from mahalad.demo.rendered import (
    DEFECTS,
    pixel_baseline_scores,
    render_masked,
    render_part,
    write_dataset,
)
from mahalad.errors import InputError
from mahalad.images.mvtec import find_categories, mask_beside

SIZE = 128


def render(seed: int | list[int], defect: str | None = None) -> NDArray[np.uint8]:
    return np.asarray(render_part(np.random.default_rng(seed), defect, SIZE))


def read_all(folder: Path) -> dict[str, bytes]:
    files = sorted(folder.rglob("*.png"))
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def area_under_roc(good: NDArray[np.float64], bad: NDArray[np.float64]) -> float:
    """Return the share of (good, bad) pairs in the right order."""
    return float(np.mean(bad[:, None] > good[None, :]))


@pytest.mark.parametrize("defect", [None, *DEFECTS])
def test_same_seed_same_image_and_other_seed_another(defect: str | None) -> None:
    assert render(1, defect).tobytes() == render(1, defect).tobytes()
    assert render(1, defect).tobytes() != render(2, defect).tobytes()


def test_one_generator_gives_one_image_after_another() -> None:
    rng = np.random.default_rng(0)
    first, second = render_part(rng, size=SIZE), render_part(rng, size=SIZE)
    assert first.tobytes() != second.tobytes()


def test_default_image_is_rgb_and_well_exposed() -> None:
    image = render_part(np.random.default_rng(0))
    assert (image.mode, image.size) == ("RGB", (256, 256))
    pixels = np.asarray(image)
    assert 70 < pixels.mean() < 170
    assert np.mean((pixels == 0) | (pixels == 255)) < 0.02


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("defect", DEFECTS)
def test_defect_changes_the_good_image_visibly_and_only_locally(defect: str, seed: int) -> None:
    change = np.abs(render(seed, defect).astype(int) - render(seed).astype(int)).max(axis=2)
    # A human eye needs some pixels that differ by far more than the sensor noise (about 2).
    assert np.sum(change > 25) >= 15
    assert np.mean(change > 2) < 0.12


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("defect", DEFECTS)
def test_masks_mark_what_the_defect_changed(defect: str, seed: int) -> None:
    image, mask = render_masked(np.random.default_rng(seed), defect, SIZE)
    where = np.asarray(mask)
    assert image.tobytes() == render_part(np.random.default_rng(seed), defect, SIZE).tobytes()
    change = np.abs(render(seed, defect).astype(int) - render(seed).astype(int)).max(axis=2)
    strong = change > 25
    # Shadows and bevels beside a defect change as well, and a dent not where its floor is level.
    near = ndimage.binary_dilation(where, iterations=6)
    assert 0.001 < where.mean() < 0.05
    assert strong[near].sum() > 0.7 * strong.sum()
    assert (change[where] > 4).mean() > 0.5


def test_good_parts_have_an_empty_mask() -> None:
    assert not np.asarray(render_masked(np.random.default_rng(0), None, SIZE)[1]).any()


def test_unknown_defect_is_refused_with_the_allowed_names() -> None:
    with pytest.raises(InputError, match=r"defect must be one of scratch.*crack.*got 'rust'"):
        render_part(np.random.default_rng(0), "rust")
    with pytest.raises(ValueError, match="missing_hole"):
        render_part(np.random.default_rng(0), "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 15}, "size must be a whole number >= 16, got 15"),
        ({"n_train": -1}, "n_train must be a whole number >= 0, got -1"),
        ({"n_test_per_defect": 1.5}, "n_test_per_defect must be a whole number >= 0, got 1.5"),
        ({"seed": -1}, "seed must be a whole number >= 0, got -1"),
    ],
)
def test_bad_numbers_are_refused_before_anything_is_written(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    numbers = {"n_train": 1, "n_test_good": 1, "n_test_per_defect": 1, "seed": 0, "size": 16}
    with pytest.raises(InputError, match=message):
        write_dataset(tmp_path / "new", **(numbers | options))
    assert not (tmp_path / "new").exists()


def test_dataset_layout(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "flange"
    written = write_dataset(
        folder, n_train=3, n_test_good=2, n_test_per_defect=1, seed=0, size=SIZE
    )
    assert written == folder
    expected = {f"train/good/{i:03d}.png" for i in range(3)}
    expected |= {f"test/good/{i:03d}.png" for i in range(2)}
    expected |= {f"test/{defect}/000.png" for defect in DEFECTS}
    expected |= {f"ground_truth/{defect}/000_mask.png" for defect in DEFECTS}
    files = read_all(folder)
    assert set(files) == expected
    assert len(set(files.values())) == len(files)
    (category,) = find_categories([folder])
    assert category.has_masks
    for path, mask in zip(category.test, category.masks, strict=True):
        assert mask == mask_beside(path) and (mask is None) == (path.parent.name == "good")
    with Image.open(folder / "train/good/000.png") as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (SIZE, SIZE))


def test_counts_do_not_change_the_images(tmp_path: Path) -> None:
    small = read_all(
        write_dataset(
            tmp_path / "small", n_train=1, n_test_good=1, n_test_per_defect=1, seed=5, size=64
        )
    )
    large = read_all(
        write_dataset(
            tmp_path / "large", n_train=4, n_test_good=3, n_test_per_defect=2, seed=5, size=64
        )
    )
    assert {name: large[name] for name in small} == small


def test_another_seed_writes_another_set(tmp_path: Path) -> None:
    sets = [
        read_all(
            write_dataset(
                tmp_path / str(seed),
                n_train=1,
                n_test_good=1,
                n_test_per_defect=1,
                seed=seed,
                size=64,
            )
        )
        for seed in (0, 1)
    ]
    assert all(sets[0][name] != sets[1][name] for name in sets[0])


def test_pixel_baseline_matches_loops() -> None:
    rng = np.random.default_rng(0)
    train = rng.integers(0, 256, (4, 3, 5, 3), dtype=np.uint8)
    test = rng.integers(0, 256, (2, 3, 5, 3), dtype=np.uint8)
    expected = []
    for image in test:
        total = 0.0
        for position in np.ndindex(3, 5, 3):
            mean = sum(float(normal[position]) for normal in train) / 4
            total += (float(image[position]) - mean) ** 2
        expected.append(math.sqrt(total))
    np.testing.assert_allclose(pixel_baseline_scores(list(train), list(test)), expected)
    as_images = pixel_baseline_scores(
        [Image.fromarray(image) for image in train], [Image.fromarray(image) for image in test]
    )
    np.testing.assert_allclose(as_images, expected)


def test_pixel_baseline_refuses_no_images_and_mixed_shapes() -> None:
    with pytest.raises(InputError, match="got 0 for training"):
        pixel_baseline_scores([], [np.zeros((2, 2))])
    with pytest.raises(InputError, match=r"shapes=\[\(2, 2\), \(2, 3\)\]"):
        pixel_baseline_scores([np.zeros((2, 2))], [np.zeros((2, 3))])


@pytest.mark.parametrize("seed", [0, 1])
def test_pixels_alone_do_not_find_the_defects(seed: int) -> None:
    train = [render([seed, 0, i]) for i in range(40)]
    good = [render([seed, 1, i]) for i in range(30)]
    bad = [render([seed, 2, i], DEFECTS[i % len(DEFECTS)]) for i in range(48)]
    area = area_under_roc(pixel_baseline_scores(train, good), pixel_baseline_scores(train, bad))
    assert 0.25 < area < 0.85
