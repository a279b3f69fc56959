"""Labelled images: folders and CSV files, line numbers of what is wrong, stratified draws."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from mahalad.errors import InputError
from mahalad.metric.labelled import draw, read_labelled


@pytest.fixture
def folder(tmp_path):
    """Files that need not be images: they are not opened."""
    for name in ("good/a.png", "good/deep/b.png", "bad/c.jpg", "bad/d.png", ".hidden/e.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "notes.txt").write_text("not an image")
    return tmp_path


def write(folder, *lines, name="labels.csv"):
    path = folder / name
    path.write_text("\n".join(lines) + "\n")
    return path


def test_class_folders(folder):
    paths, labels = read_labelled(folder)
    names = ["bad/c.jpg", "bad/d.png", "good/a.png", "good/deep/b.png"]
    assert paths == [str(folder / name) for name in names]
    assert labels == ["bad", "bad", "good", "good"]


def test_csv_with_relative_and_absolute_paths(folder):
    rows = ["label,path", "x,good/a.png", f"y,{folder / 'bad/c.jpg'}", "x,bad/d.png", ""]
    paths, labels = read_labelled(write(folder, *rows, "y,good/deep/b.png"))
    names = ["good/a.png", "bad/c.jpg", "bad/d.png", "good/deep/b.png"]
    assert paths == [str(folder / name) for name in names]
    assert labels == ["x", "y", "x", "y"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["path,label,colour", "a,b,c"], "columns are path, label, colour; they must be path and"),
        (["path", "a"], "columns are path; they must be"),
        (["path,label"], "no rows"),
        (["path,label", "good/a.png,x", "bad/c.jpg,", "bad/d.png", ",y"],
         r"lines 3, 4, 5: no path or no label; 3 of such"),
        (["path,label", "good/a.png,x", "good/z.png,x"], r"line 3: no such file \(.*z.png\); 1 of"),
        (["path,label", "good/a.png,x,y"], "line 2: more than path and label"),
        (["path,label", "good/a.png,x", "bad/c.jpg,y", "good/../good/a.png,y"],
         "lines 2 and 4: .* is listed as 'x' and as 'y'"),
        (["path,label", "good/a.png,x", "good/a.png,x"], "lines 2 and 3: .* as 'x' twice"),
        (["path,label", "good/a.png,x", "bad/c.jpg,x"], r"one label only, 'x' \(2\)"),
        (["path,label", "good/a.png,x", "bad/c.jpg,x", "bad/d.png,y"],
         "one image only for 'y'; each label needs at least two"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_file_is_named_by_line(folder, lines, message):
    with pytest.raises(InputError, match=message):
        read_labelled(write(folder, *lines))


def test_quoted_lines_are_counted_as_an_editor_does(folder):
    path = write(folder, "path,label", 'good/a.png,"two', 'lines"', "bad/c.jpg,")
    with pytest.raises(InputError, match="line 4: no path or no label"):
        read_labelled(path)


def test_what_is_wrong_in_a_folder(folder, tmp_path_factory):
    with pytest.raises(InputError, match="no such folder or file"):
        read_labelled(folder / "none")
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(InputError, match="no subfolders"):
        read_labelled(empty)
    (folder / "bad/d.png").unlink()
    with pytest.raises(InputError, match=r"one image only for 'bad'.*'bad' \(1\), 'good' \(2\)"):
        read_labelled(folder)
    (folder / "loose.png").write_bytes(b"x")
    with pytest.raises(InputError, match=r"1 images without a label, such as .*loose\.png"):
        read_labelled(folder)
    (folder / "loose.png").unlink()
    (folder / "new").mkdir()
    with pytest.raises(InputError, match="new: no images in this folder"):
        read_labelled(folder)
    binary = folder / "binary.csv"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="labels cannot be read"):
        read_labelled(binary)


@pytest.mark.parametrize("n", [6, 7, 20, 100, 300])
def test_draw_keeps_proportions_and_two_of_each(n):
    labels = ["a"] * 200 + ["b"] * 97 + ["c"] * 3
    rows = draw(labels, n, seed=3)
    assert len(rows) == n == len(set(rows.tolist()))
    assert (np.diff(rows) > 0).all()
    counts = Counter(labels[i] for i in rows)
    assert min(counts.values()) >= 2
    for name, total in (("a", 200), ("b", 97)):
        assert abs(counts[name] - n * total / 300) <= 2
    assert (draw(labels, n, seed=3) == rows).all()
    if n == 100:
        assert (draw(labels, n, seed=4) != rows).any()


@pytest.mark.parametrize("n", [3, 11])
def test_draw_of_too_few_or_too_many(n):
    with pytest.raises(InputError, match="it can be 4 to 10"):
        draw(["a"] * 5 + ["b"] * 5, n)
