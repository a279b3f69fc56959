"""Tests of how the masks of a category are found."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from mahalad.errors import InputError
from mahalad.images.mvtec import Category, find_categories, grouping

TEST = ("good/000.png", "good/001.png", "crack/000.png", "crack/001.png", "dent/a/000.png")


def make_category(folder: Path, masks: tuple[str, ...], test: tuple[str, ...] = TEST) -> Path:
    """Write empty files in the layout of MVTec AD."""
    files = ["train/good/000.png", *(f"test/{name}" for name in test)]
    for name in (*files, *(f"ground_truth/{name}" for name in masks)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def read(folder: Path) -> Category:
    (category,) = find_categories([folder])
    return category


@pytest.mark.parametrize(
    "masks",
    [
        ("crack/000_mask.png", "crack/001_mask.png", "dent/a/000_mask.png"),
        ("crack/000.bmp", "crack/001_mask.PNG", "dent/a/000.tif"),
    ],
)
def test_each_defective_image_has_its_mask(tmp_path: Path, masks: tuple[str, ...]) -> None:
    category = read(make_category(tmp_path / "cog", masks))
    truth = tmp_path / "cog" / "ground_truth"
    assert category.kinds == ("crack", "crack", "dent", "good", "good")
    assert category.masks == (*(truth / name for name in masks), None, None)
    assert category.has_masks


def test_name_with_mask_comes_first(tmp_path: Path) -> None:
    masks = ("crack/000.png", "crack/000_mask.png")
    category = read(make_category(tmp_path / "cog", masks, ("good/0.png", "crack/000.png")))
    assert category.masks == (tmp_path / "cog" / "ground_truth" / masks[1], None)


def test_dots_in_names_are_kept(tmp_path: Path) -> None:
    test = ("good/0.png", "crack/a.1.png", "crack/a.2.png")
    category = read(
        make_category(tmp_path / "cog", ("crack/a.1_mask.png", "crack/a.2_mask.png"), test)
    )
    assert [mask and mask.name for mask in category.masks] == [
        "a.1_mask.png", "a.2_mask.png", None,
    ]  # fmt: skip


def test_good_images_have_no_mask(tmp_path: Path) -> None:
    category = read(make_category(tmp_path / "cog", ("good/000_mask.png",)))
    assert category.masks == (None,) * 5
    assert not category.has_masks


@pytest.mark.parametrize("others", [(), (".gitkeep",), ("notes.txt",)])
def test_category_without_masks(tmp_path: Path, others: tuple[str, ...]) -> None:
    category = read(make_category(tmp_path / "cog", others))
    assert category.masks == (None,) * len(category.test)
    assert not category.has_masks
    assert not Category("cog", (), (), ()).has_masks


def test_some_masks_missing_is_refused(tmp_path: Path) -> None:
    folder = make_category(tmp_path / "cog", ("crack/000_mask.png",))
    with pytest.raises(
        InputError,
        match=r"test/crack/001\.png: no mask .* of the 3 defective test images of .*cog, 2 have "
        r"none.*ground_truth/crack/001_mask\.png",
    ):
        find_categories([folder])


@pytest.mark.parametrize(
    ("name", "n_masks"),
    [
        ("mvtec_ad/bottle", 63),
        ("mvtec_ad/pill", 141),
        ("magnetic_tile/tile", 392),
        ("dobot_cubes/cubes", 0),
    ],
)
def test_real_sets(shared: Path, name: str, n_masks: int) -> None:
    category = read(shared / "data" / name)
    pairs = list(zip(category.test, category.kinds, category.masks, strict=True))
    found = [(path, kind, mask) for path, kind, mask in pairs if mask is not None]
    assert len(found) == n_masks
    assert category.has_masks == (n_masks > 0)
    for path, kind, mask in found:
        assert mask.stem == f"{path.stem}_mask"
        assert mask.parent.name == kind == path.parent.name
    for path, _, mask in found[::40]:
        with Image.open(path) as picture, Image.open(mask) as truth:
            assert picture.size == truth.size


def write_groups(folder: Path, text: str) -> str:
    (folder / "groups.csv").write_text(text, encoding="utf-8")
    return str(folder / "groups.csv")


def test_groups_from_a_file_go_by_the_end_of_the_path(tmp_path: Path) -> None:
    file = write_groups(tmp_path, "path,group\ngood/1.png,a\ngood/2.png,a\ntest/good/1.png,b\n")
    group = grouping(file)
    paths = ("/x/train/good/1.png", "/x/train/good/2.png", "/x/test/good/1.png", "good/1.png")
    assert [group(path) for path in paths] == ["a", "a", "b", "a"]
    with pytest.raises(InputError, match=r"no row for /x/good/3\.png: it must name every image"):
        group("/x/good/3.png")


def test_groups_from_a_regular_expression() -> None:
    assert grouping(r"num_(\d+)")("/x/exp1_num_12.jpg") == "12"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,group\n1.png,a\n,b\n", "line 3: needs a path and a group"),
        ("path;group\n1.png;a\n", "line 2: needs a path and a group"),
        ("path,group\n1.png,a\n1.png,b\n", "line 3: 1.png is in two groups: a, b"),
        ("path,group\n", "no rows; needs the columns path and group"),
    ],
)
def test_broken_group_files(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        grouping(write_groups(tmp_path, text))


def test_missing_group_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="groups cannot be read"):
        grouping(str(tmp_path / "none.csv"))
