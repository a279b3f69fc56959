"""What folders tell: common parents, stems without collisions, kinds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mahalad.errors import InputError
from mahalad.images.folders import check_apart, common_folder, kinds_of, stems_below


def make(folder: Path, *names: str) -> list[str]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return [str(folder / name) for name in names]


def test_the_common_folder_is_the_folder_that_was_given(tmp_path):
    names = make(tmp_path, "new/monday/1.png")
    assert common_folder([str(tmp_path / "new")], names) == tmp_path / "new"
    assert common_folder([f"{tmp_path}/new/*/*.png"], names) == tmp_path / "new/monday"
    names = make(tmp_path, "new/monday/1.png", "new/tuesday/1.png")
    assert common_folder(names, names) == tmp_path / "new"


def test_stems_are_unique_on_any_file_system(tmp_path):
    names = make(tmp_path, "a.png", "a.jpg", "A.bmp", "a-2.png", "x.y/a.b.png", "x.y/a.c.png")
    stems = stems_below(tmp_path, names)
    assert list(stems.values()) == ["a", "a-2", "A-3", "a-2-2", "x.y/a.b", "x.y/a.c"]
    assert list(stems_below(None, names[:2]).values()) == ["a", "a-2"]
    assert stems_below(tmp_path, [*names, names[0]]) == stems  # the same image twice


def test_stems_of_relative_paths(tmp_path, monkeypatch):
    make(tmp_path, "in/1.png", "in/deep/1.png")
    monkeypatch.chdir(tmp_path / "in")
    names = ["1.png", "./deep/../deep/1.png"]
    assert list(stems_below(common_folder([], names), names).values()) == ["1", "deep/1"]


def test_a_folder_of_images_is_no_place_for_pictures(tmp_path):
    names = make(tmp_path, "in/deep/1.png")
    given = [str(tmp_path / "in")]
    os.symlink(tmp_path / "in", tmp_path / "link")
    for folder in ("in", "in/deep", "in/maps", "in/a/b", "link", "link/maps"):
        with pytest.raises(InputError, match=r"would be taken for images of .*give another folder"):
            check_apart(tmp_path / folder, given, names)
    with pytest.raises(InputError, match="would be taken"):
        check_apart(tmp_path / "in/deep", names, names)  # a file that was given by itself
    for folder in ("", "maps", "inside"):
        check_apart(tmp_path / folder, given, names)
    check_apart(tmp_path / "in/maps", names, names)


@pytest.mark.parametrize(
    ("base", "names", "kinds"),
    [
        ("x/test", ["x/test/good/1", "x/test/cut/1", "x/test/cut/deep/1"], ["good", "cut", "cut"]),
        ("x", ["x/train/good/1", "x/test/good/1", "x/test/cut/1"], ["good", "good", "cut"]),
        ("x", ["x/train/good/1", "x/test/cut/1", "x/train/1"], ["good", None, None]),
        ("x/test", ["x/test/cut/1", "x/test/hole/1"], [None, None]),
        ("x/test/good", ["x/test/good/1", "x/test/good/deep/1"], ["good", "good"]),
        ("good/new", ["good/new/1", "good/new/cut/1"], [None, None]),  # only from base on
        ("x", ["x/goods/1", "x/good.png"], [None, None]),
        ("x", ["x/OK/1", "x/Nok/1", "x/cut/1"], ["good", "Nok", "cut"]),
        ("x", ["x/Images/Normal/1", "x/Images/Anomaly/1"], ["good", "Anomaly"]),
        ("x", ["x/a/NG parts/1", "x/b/1"], ["NG parts", None]),  # by its name alone
        ("x/defective", ["x/defective/1", "x/defective/a/1"], ["defective", "defective"]),
        ("x", ["x/defect-free/1", "x/good/masks/1", "x/ground_truth/bad/1"], ["good", None, None]),
    ],
)
def test_kinds(base, names, kinds):
    names = [f"/{name}.png" for name in names]
    assert list(kinds_of(Path("/", base), names).values()) == kinds
