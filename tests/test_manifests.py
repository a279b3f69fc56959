"""Lists of images: CSV and Parquet files."""

from __future__ import annotations

import pytest
from conftest import make_picture

from mahalad.errors import InputError
from mahalad.images import iter_sources
from mahalad.images.manifests import is_manifest, open_manifest


@pytest.fixture
def folder(tmp_path):
    for seed in range(5):
        make_picture(seed).save(tmp_path / f"{seed}.png")
    return tmp_path


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_names_of_manifests():
    assert is_manifest("a/parts.CSV") and is_manifest("s3://b/parts.parquet")
    assert not is_manifest("a/parts.png") and not is_manifest(["parts.csv"])


def test_a_csv_has_paths_from_its_own_folder(folder):
    elsewhere = folder / "2.png"
    path = write(folder / "m.csv", "path,group,split", "0.png,a,train", f"{elsewhere},b,test")
    found = list(open_manifest(path).entries())
    assert [e.source.path for e in found] == [folder / "0.png", elsewhere]
    assert [(e.row, e.group, e.label, e.split) for e in found] == [
        (1, "a", "", "train"),
        (2, "b", "", "test"),
    ]


def test_parquet_is_the_same(folder):
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    table = pa.table({"path": ["0.png", None, "1.png"], "label": [1, 0, None]})
    parquet.write_table(table, folder / "m.parquet")
    empty = []
    found = list(open_manifest(folder / "m.parquet").entries(empty.append))
    assert [(e.source.path, e.row, e.label) for e in found] == [
        (folder / "0.png", 1, "1"),
        (folder / "1.png", 3, ""),
    ]
    assert empty == [2]


def test_urls(folder):
    pytest.importorskip("fsspec", reason="fsspec is not installed")
    write(folder / "m.csv", "path", "0.png", "memory://x/1.png")
    (first, second) = open_manifest(f"{folder.as_uri()}/m.csv").entries()
    assert (first.source.name, second.source.name) == (
        f"{folder.as_uri()}/0.png",
        "memory://x/1.png",
    )


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("file,group", "columns are file, group.*has the column path.*rename or remove file"),
        ("path,colour", "rename or remove colour"),
        ("group", "columns are group;"),
        ("path,path", "columns are path, path"),
        ("", "columns are none"),
    ],
)
def test_wrong_columns(folder, header, message):
    with pytest.raises(InputError, match=message):
        open_manifest(write(folder / "m.csv", header, "0.png,a"))


def test_what_is_no_list(folder):
    with pytest.raises(InputError, match=r"none\.csv: no such list"):
        open_manifest(folder / "none.csv")
    (folder / "m.csv").write_bytes(b"path\n\xff\xfe.png\n")
    with pytest.raises(InputError, match=r"m\.csv: the list of images cannot be read"):
        list(open_manifest(folder / "m.csv").entries())
    (folder / "m.parquet").write_bytes(b"path\n0.png\n")
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    with pytest.raises(InputError, match=r"m\.parquet: the list of images cannot be read"):
        open_manifest(folder / "m.parquet")


def test_a_row_without_a_path(folder):
    path = write(folder / "m.csv", "path,group", "0.png,a", ",b")
    with pytest.raises(InputError, match=r"m\.csv, row 2: has no path"):
        list(open_manifest(path).entries())


def test_a_missing_image_is_told_by_its_row(folder, small_weights):
    from mahalad import MahalanobisDetector

    path = write(folder / "m.csv", "path", *(f"{i}.png" for i in (0, 9, 1, 2, 3, 4)))
    sources = [entry.source for entry in open_manifest(path).entries()]
    assert [s.name for s in iter_sources(sources)][1].endswith("9.png")
    detector = MahalanobisDetector(
        "test_efficientnet", weights=small_weights, input_size=64, scope="image", fpr=0.3
    )
    with pytest.warns(UserWarning, match=r"m\.csv, row 2: .*9\.png: no such file"):
        detector.fit(sources)
    assert detector.n_images_ == 5
