"""Folders: what of them is used, what is left out and said, and pages of files."""

from __future__ import annotations

import io
import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import make_picture, run
from PIL import Image

from mahalad import MahalanobisDetector, load
from mahalad.cli import main
from mahalad.errors import (
    DoubtfulFolderWarning,
    ImageReadError,
    InputError,
    SeveralPagesWarning,
)
from mahalad.images.decoding import open_image
from mahalad.images.folders import stems_below, without_masks
from mahalad.images.listing import find_images
from mahalad.images.mvtec import grouping
from mahalad.images.pages import page_names, split_page
from mahalad.images.searching import image_extensions
from mahalad.images.sources import iter_sources, source_of
from mahalad.images.words import meaning_of
from mahalad.metric.labelled import read_labelled

RED, BLUE, GREEN = (255, 0, 0), (0, 0, 255), (0, 255, 0)
PAGES = [Image.new("RGB", (16, 8), colour) for colour in (RED, BLUE, GREEN)]


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def lock(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Folders of this name cannot be listed."""
    scandir = os.scandir

    def refuse(path):
        if not isinstance(path, int) and Path(path).name == name:  # an open folder is a number
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)


# --- what folders are called ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("meaning", "names"),
    [
        ("good", "good GOOD ok OK normal Normal nominal pass defect-free i.O. Good_parts good2"),
        ("defect", "bad NG ng_parts nok NOK ko notOK not_good anomaly Anomalies anomalous broken"),
        ("defect", "scrap reject rejected FAIL failed defects Defective n.i.O. BadParts bad01"),
        ("test", "test Test test_images TEST-set"),
        ("mask", "ground_truth GroundTruth ground-truth gt mask masks Masks"),
        (None, "train parts bottle line3 notes contest mastermask goodyear images badger 2024"),
    ],
)
def test_names_of_folders_say_what_they_hold(meaning, names):
    assert {name: meaning_of(name) for name in names.split()} == dict.fromkeys(
        names.split(), meaning
    )


# --- formats --------------------------------------------------------------------------------


def writable() -> list[tuple[str, str, str]]:
    """Extension, format and mode of all that Pillow can write as well as read."""
    found = []
    formats = Image.registered_extensions() | {".mpo": "MPO"}
    for extension in image_extensions():
        name = formats[extension]
        for mode in ("RGB", "L", "1", "P"):
            try:
                Image.new(mode, (16, 16), 0).save(io.BytesIO(), name)
            except (OSError, ValueError, KeyError):
                continue
            found.append((extension, name, mode))
            break
    return found


@pytest.mark.parametrize(("extension", "name", "mode"), writable())
def test_every_format_of_pillow_is_found_and_read(tmp_path, extension, name, mode):
    black = {"RGB": (0, 0, 0), "L": 0, "1": 0, "P": 0}[mode]
    Image.new(mode, (16, 16), black).save(tmp_path / f"a{extension.upper()}", name)
    (source,) = iter_sources(str(tmp_path))
    pixels = np.asarray(open_image(source), float)
    assert name == "ICNS" or pixels.shape[:2] == (16, 16)  # an ICNS holds several sizes
    assert pixels.max() <= 4


def test_formats_that_are_no_pictures_are_not_searched_for(tmp_path):
    known = image_extensions()
    assert {".jp2", ".j2k", ".gif", ".tga", ".avif", ".jpe", ".mpo", ".qoi", ".pcx"} <= set(known)
    assert {".apng", ".psd", ".ico", ".pbm", ".dib", ".jfif"} <= set(known)
    no_pictures = {".pdf", ".eps", ".ps", ".mpg", ".mpeg", ".wmf", ".emf", ".hdf", ".fits", ".iim"}
    assert not no_pictures & set(known)


def test_a_format_that_is_registered_later_is_searched_for_too(tmp_path, monkeypatch):
    monkeypatch.setitem(Image.EXTENSION, ".mine", "PNG")
    touch(tmp_path, "a.mine")
    assert [source.name for source in iter_sources(str(tmp_path))] == [str(tmp_path / "a.mine")]


def test_a_deep_fits_is_refused(tmp_path):
    cards = [
        "SIMPLE  =                    T", "BITPIX  =                   16",
        "NAXIS   =                    2", "NAXIS1  =                    4",
        "NAXIS2  =                    2", "END",
    ]  # fmt: skip
    header = "".join(card.ljust(80) for card in cards).ljust(2880).encode()
    (tmp_path / "a.fits").write_bytes(header + bytes(2880))
    with pytest.raises(ImageReadError, match="a FITS of more than 8 bits"):
        open_image(source_of(str(tmp_path / "a.fits")))


# --- what is left out -----------------------------------------------------------------------


def test_what_a_folder_leaves_out_is_counted(tmp_path):
    touch(
        tmp_path, "good/a.png", "good/b.jpg", "good/x.heic", "good/y.HEIC", "good/n.txt", "good/m"
    )
    touch(tmp_path, "good/@eaDir/a.png/T.jpg", "good/.thumbnails/a.png", "__MACOSX/good/._a.png")
    touch(tmp_path, "good/._a.png", "good/Thumbs.db", "#recycle/z.png", "$RECYCLE.BIN/z.png")
    touch(tmp_path, "deep/Thumbnails/a.png", "deep/c.tif")
    found = find_images(str(tmp_path))
    assert [Path(name).name for name in found.names] == ["c.tif", "a.png", "b.jpg"]
    assert found.others == {".heic": 2, ".txt": 1, "no extension": 1}
    assert found.counts() == {"deep": 1, "good": 2}
    lines = str(found).splitlines()
    assert lines == [
        "3 images: 1 from deep, 2 from good",
        "4 files left out: .heic (2), .txt (1), no extension (1)",
        "6 hidden or system folders left out (#recycle, $RECYCLE.BIN, .thumbnails, @eaDir, "
        "Thumbnails, __MACOSX)",
        "2 hidden or system files left out",
    ]


def test_a_folder_of_a_system_that_is_named_is_searched(tmp_path):
    touch(tmp_path, "@eaDir/a.png")
    assert len(find_images(str(tmp_path / "@eaDir")).names) == 1


def test_patterns_leave_out_what_systems_made(tmp_path):
    touch(tmp_path, "a/1.png", "a/@eaDir/1.png", "__MACOSX/a/1.png", "a/.hidden.png")
    found = find_images(str(tmp_path / "**" / "*.png"))
    assert found.names == [str(tmp_path / "a/1.png")]
    assert "2 hidden or system files left out" in str(found)
    spelled = find_images(str(tmp_path / "a/@eaDir/*.png"))
    assert spelled.names == [str(tmp_path / "a/@eaDir/1.png")]


def test_nothing_is_said_of_files_that_are_named_in_full(tmp_path):
    touch(tmp_path, "a.png", "b.txt")
    assert find_images([str(tmp_path / "a.png"), str(tmp_path / "b.txt")]).lines() == []


def test_many_folders_are_summed_up(tmp_path):
    touch(tmp_path, *(f"lot{i:02}/{j}.png" for i in range(30) for j in range(2)))
    (line,) = find_images(str(tmp_path)).lines()
    assert line.startswith("60 images: 2 from lot00, 2 from lot01")
    assert line.endswith("2 from lot07 and 44 from 22 further folders")


def test_images_in_memory_are_listed():
    found = find_images([np.zeros((4, 4, 3), np.uint8), Image.new("L", (2, 2))], pages="all")
    assert [source.name for source in found.sources] == ["X[0]", "X[1]"]
    assert found.lines() == [] and found.doubtful() == {}


def test_label_folders_of_systems_are_no_labels(tmp_path):
    names = [f"{label}/{i}.png" for label in ("good", "bad", "@eaDir", "__MACOSX") for i in (1, 2)]
    listings = []
    paths, labels = read_labelled(touch(tmp_path, *names, "good/n.txt"), on_listing=listings.append)
    assert labels == ["bad", "bad", "good", "good"]
    assert [Path(path).parent.name for path in paths] == labels
    assert "1 file left out: .txt (1)" in str(listings[0])
    assert "2 hidden or system folders left out (@eaDir, __MACOSX)" in str(listings[0])


# --- folders that hold no good images -------------------------------------------------------

SET = ("train/good/1.png", "train/good/2.png", "test/good/3.png", "test/cut/4.png",
       "ground_truth/cut/4.png")  # fmt: skip


@pytest.mark.parametrize(
    ("given", "doubtful"),
    [
        (["."], {"ground_truth/cut": 1, "test/cut": 1, "test/good": 1}),
        (["train"], {}),
        (["train/good", "test/good"], {}),  # each is named by the user
        (["test"], {"cut": 1, "good": 1}),
        (["test/good", "test/cut"], {"cut": 1}),  # as a shell spells test/*
        (["*/*/*.png"], {"ground_truth/cut": 1, "test/cut": 1, "test/good": 1}),
        (["train/*/*.png"], {}),
        (["train/good/1.png", "test/cut/4.png"], {"test/cut": 1}),
        (["test/good/3.png"], {}),
    ],
)
def test_folders_that_are_not_of_good_images_are_found(tmp_path, monkeypatch, given, doubtful):
    touch(tmp_path / "set", *SET)
    monkeypatch.chdir(tmp_path / "set")
    assert find_images(given).doubtful() == doubtful


@pytest.mark.parametrize("name", ["NG", "defects", "Ground Truth", "masks", "Scrap", "TEST", "nok"])
def test_a_fit_over_such_a_folder_is_a_question(tmp_path, picture_folder, name, monkeypatch):
    folder = tmp_path / "parts" / name
    folder.parent.mkdir()
    folder.symlink_to(picture_folder / "good")
    command = ["fit", tmp_path / "parts", "-o", tmp_path / "m"]
    result = run(*command)
    assert (result.exit_code, (tmp_path / "m").exists()) == (2, False)
    assert f"40 images from {name}" in result.stderr
    assert f"Error: 40 from {name}: folders called or lying like these hold" in result.stderr
    assert "--yes" in result.stderr
    monkeypatch.setattr("mahalad.commands.gathering.can_answer", lambda: True)
    refused = CliRunner().invoke(main, [str(a) for a in command], input="n\n")
    assert refused.exit_code == 2 and "nothing is done" in refused.stderr
    assert not (tmp_path / "m").exists()


@pytest.fixture(scope="module")
def mixed(picture_folder, tmp_path_factory) -> Path:
    """A category, with defects and masks, and 12 good images."""
    folder = tmp_path_factory.mktemp("mixed")
    for name, seeds, spot in (
        ("train/good", range(12), False),
        ("test/spot", range(200, 203), True),
        ("ground_truth/spot", range(300, 303), False),
    ):
        (folder / name).mkdir(parents=True)
        for seed in seeds:
            make_picture(seed, spot=spot).save(folder / name / f"{seed}.png")
    return folder


@pytest.fixture(scope="module")
def tiny(small_weights):
    return ["--backbone", "test_efficientnet", "--weights", small_weights, "--size", "64",
            "--fpr", "0.2"]  # fmt: skip


def test_yes_answers_and_so_does_somebody(mixed, tiny, tmp_path, monkeypatch):
    assert run("fit", mixed, "-o", tmp_path / "m", *tiny, "--yes").exit_code == 0
    assert load(tmp_path / "m").n_images_ == 18
    monkeypatch.setattr("mahalad.commands.gathering.can_answer", lambda: True)
    arguments = [str(a) for a in ("fit", mixed, "-o", tmp_path / "n", *tiny)]
    result = CliRunner().invoke(main, arguments, input="y\n")
    assert result.exit_code == 0, result.output
    assert "3 from ground_truth/spot, 3 from test/spot" in result.stderr
    assert load(tmp_path / "n").n_images_ == 18


def test_images_that_are_left_out_are_not_asked_about(mixed, tiny, tmp_path):
    unwanted = [a for n in mixed.rglob("*.png") if "train" not in n.parts for a in ("--without", n)]
    result = run("fit", mixed, "-o", tmp_path / "m", *tiny, *unwanted)
    assert result.exit_code == 0, result.output
    assert load(tmp_path / "m").n_images_ == 12


def test_all_commands_that_fit_ask(mixed, tiny, tmp_path):
    model = tmp_path / "m"
    assert run("fit", mixed / "train", "-o", model, *tiny).exit_code == 0
    before = model.read_bytes()
    for command in (
        ["update", model, mixed],
        ["score", mixed / "train", "--normals", mixed],
        ["report", mixed / "train", "--normals", mixed, "-o", tmp_path / "page.html"],
        ["fit", mixed / "train", "--threshold", "holdout", "--calibration", mixed / "test",
         "-o", tmp_path / "n"],
        ["pretrain", mixed, "-o", tmp_path / "n"],
    ):  # fmt: skip
        result = run(*command)
        assert result.exit_code == 2, command
        assert "give other folders, or --yes to take these" in result.stderr, command
    assert "from ground_truth/spot: folders" in result.stderr  # of `pretrain`: masks alone
    assert model.read_bytes() == before
    assert not (tmp_path / "n").exists()


def test_a_fit_in_python_warns(mixed, small_weights):
    detector = MahalanobisDetector(
        "test_efficientnet", weights=small_weights, input_size=64, fpr=0.2
    )
    with pytest.warns(DoubtfulFolderWarning, match="3 from ground_truth/spot, 3 from test/spot"):
        detector.fit(mixed)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DoubtfulFolderWarning)
        detector.fit(mixed / "train")
        detector.remove([mixed / "train/good/1.png"])
        detector.fit([*(mixed / "train/good").iterdir(), mixed / "test/spot/200.png"])
    with pytest.warns(DoubtfulFolderWarning, match="3 from spot"):
        detector.partial_fit(str(mixed / "test"))


def test_report_leaves_masks_out_and_score_says_them(mixed, tiny, tmp_path):
    model = tmp_path / "m"
    assert run("fit", mixed / "train", "-o", model, *tiny).exit_code == 0
    result = run("report", mixed, "-m", model, "-o", tmp_path / "page.html")
    assert result.exit_code == 0, result.output
    assert "left out as masks: 3 from ground_truth/spot" in result.stderr
    assert "15 images scored" in result.stderr
    result = run("score", mixed, "-m", model, "--format", "jsonl")
    assert len(result.stdout.splitlines()) == 18
    assert "Warning: 3 from ground_truth/spot: taken as images" in result.stderr


def test_masks_are_left_out_of_sets_alone():
    names = ["/x/good/1.png", "/x/Masks/1.png"]
    assert without_masks(Path("/x"), names) == names[:1]
    assert without_masks(Path("/x"), ["/x/masks/1.png"]) == ["/x/masks/1.png"]  # a product
    assert without_masks(Path("/x/gt"), ["/x/gt/good/1.png"]) == ["/x/gt/good/1.png"]  # as given


# --- folders that cannot be listed ----------------------------------------------------------


def test_the_rest_goes_on_where_a_subfolder_cannot_be_listed(mixed, tiny, tmp_path, monkeypatch):
    folder = tmp_path / "good"
    folder.mkdir()
    for path in (mixed / "train/good").iterdir():
        (folder / path.name).symlink_to(path)
    touch(folder, "locked/1.png")
    lock(monkeypatch, "locked")
    model = tmp_path / "m"
    result = run("fit", folder, "-o", model, *tiny, "--group", r"(\d+)\.png")
    assert result.exit_code == 3, result.output
    assert f"{folder / 'locked'}: cannot be listed: Permission denied" in result.stderr
    assert load(model).n_images_ == 12
    result = run("score", folder, "-m", model, "--format", "jsonl")
    assert result.exit_code == 3
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["path"] for row in rows if row.get("error")] == [str(folder / "locked")]
    assert len(rows) == 13
    assert run("report", folder, "-m", model, "-o", tmp_path / "page.html").exit_code == 3
    assert run("update", model, folder).exit_code == 3
    few = tmp_path / "few"
    few.mkdir()
    (few / "1.png").symlink_to(mixed / "train/good/1.png")
    touch(few, "locked/1.png")
    n = load(model).n_images_
    assert run("remove", model, few).exit_code == 3
    assert load(model).n_images_ < n


def test_a_listing_has_the_folders_that_cannot_be_listed(tmp_path, monkeypatch):
    touch(tmp_path, "a/1.png", "locked/2.png")
    lock(monkeypatch, "locked")
    found = find_images(str(tmp_path))
    assert found.unlisted == {tmp_path / "locked": "Permission denied"}
    assert "1 image from a" in str(found)
    (tmp_path / "a/1.png").unlink()
    with pytest.raises(InputError, match=r"no images .* cannot be listed: .*locked \(Permission"):
        find_images(str(tmp_path))


# --- pages ----------------------------------------------------------------------------------


def save_pages(path: Path, pages: list[Image.Image] = PAGES, **options: object) -> Path:
    first, *others = [page.copy() for page in pages]  # saving leaves traces in them
    first.save(path, save_all=True, append_images=others, **options)
    return path


def colour(name: str) -> tuple[int, ...]:
    pixels = np.asarray(open_image(source_of(name))).reshape(-1, 3).astype(int)
    return tuple(255 * (pixels.mean(axis=0) > 128))


@pytest.mark.parametrize("extension", [".tif", ".gif", ".png", ".webp", ".avif", ".tiff"])
def test_pages_are_images(tmp_path, extension):
    path = save_pages(
        tmp_path / f"scan{extension}", **({"lossless": True} if "w" in extension else {})
    )
    names = [f"{path}#{number}" for number in (1, 2, 3)]
    assert page_names(str(path)) == names
    assert find_images(str(tmp_path), pages="all").names == names
    assert find_images([str(path), names[1]], pages="all").names == [*names, names[1]]
    assert [colour(name) for name in names] == [RED, BLUE, GREEN]
    assert find_images(str(tmp_path)).names == [str(path)]
    with pytest.warns(SeveralPagesWarning, match="has 3 pages, and the first one is taken"):
        assert colour(str(path)) == RED
    for number in (4, 99):
        with pytest.raises(ImageReadError, match=f"there is no page {number}: the file has 3"):
            open_image(source_of(f"{path}#{number}"))


def test_files_of_one_page_have_no_numbers_and_no_word(tmp_path):
    for extension in (".tif", ".gif", ".png", ".webp", ".jpg", ".bmp"):
        PAGES[0].save(tmp_path / f"one{extension}")
    listing = find_images(str(tmp_path), pages="all")
    assert not any("#" in name for name in listing.names)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for source in listing.sources:
            open_image(source)
    assert colour(f"{tmp_path / 'one.bmp'}#1") == RED
    with pytest.raises(ImageReadError, match="there is no page 2: the file has 1"):
        open_image(source_of(f"{tmp_path / 'one.bmp'}#2"))


def test_previews_are_no_pages(tmp_path):
    small = PAGES[1].resize((8, 4))
    mpo = save_pages(tmp_path / "photo.mpo", [PAGES[0], small], format="MPO")
    with Image.open(mpo) as opened:
        assert (opened.format, opened.n_frames) == ("MPO", 2)
    # A smaller version in a TIFF says so (tag 254, bit 1), and a transparency mask (bit 4).
    with io.BytesIO() as buffer:
        from PIL.TiffImagePlugin import AppendingTiffWriter

        with AppendingTiffWriter(buffer, new=True) as writer:
            for page, kind in ((PAGES[0], 0), (small, 1), (PAGES[2], 0), (small, 4)):
                page.save(writer, format="TIFF", tiffinfo={254: kind})
                writer.newFrame()
        (tmp_path / "scan.tif").write_bytes(buffer.getvalue())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert page_names(str(mpo)) == [str(mpo)]
        assert colour(str(mpo)) == RED
    scan = str(tmp_path / "scan.tif")
    assert page_names(scan) == [f"{scan}#1", f"{scan}#3"]
    assert colour(f"{scan}#3") == GREEN
    with pytest.raises(ImageReadError, match="no page 2"):
        open_image(source_of(f"{mpo}#2"))


def test_a_damaged_later_page_leaves_the_first_one(tmp_path):
    path = save_pages(tmp_path / "scan.gif")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - 60])
    assert colour(f"{path}#1") == RED
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SeveralPagesWarning)
        assert colour(str(path)) == RED


def test_a_file_with_the_name_of_a_page_goes_first(tmp_path):
    path = save_pages(tmp_path / "scan.tif")
    assert split_page(f"{path}#2") == (str(path), 2)
    PAGES[2].save(tmp_path / "scan.tif#2", "PNG")
    assert split_page(f"{path}#2") == (f"{path}#2", None)
    assert colour(f"{path}#2") == GREEN
    for name in (f"{path}#0", f"{path}#x", "gone.tif#1", f"{tmp_path}#1"):
        assert split_page(name) == (name, None)


def test_stems_of_pages_keep_their_numbers(tmp_path):
    path = save_pages(tmp_path / "scan.tif")
    names = [f"{path}#{i}" for i in (1, 3)] + [str(tmp_path / "scan.png")]
    assert list(stems_below(tmp_path, names).values()) == ["scan#1", "scan#3", "scan"]


def test_groups_of_pages(tmp_path):
    path = save_pages(tmp_path / "scan.tif")
    (tmp_path / "g.csv").write_text("path,group\nscan.tif,all\nscan.tif#2,second\n")
    group = grouping(str(tmp_path / "g.csv"))
    assert [group(f"{path}#{i}") for i in (1, 2, 3)] == ["all", "second", "all"]
    assert grouping("(.*)#")(f"{path}#2") == str(path)


def test_pages_in_a_table_of_labels(tmp_path):
    save_pages(tmp_path / "scan.tif")
    rows = "".join(f"scan.tif#{i},{'ab'[i % 2]}\n" for i in (1, 2, 3))
    (tmp_path / "l.csv").write_text(f"path,label\n{rows}scan.tif,a\n")
    assert read_labelled(tmp_path / "l.csv")[1] == ["b", "a", "b", "a"]
    (tmp_path / "l.csv").write_text(f"path,label\n{rows}scam.tif#1,a\n")
    with pytest.raises(InputError, match="no such file"):
        read_labelled(tmp_path / "l.csv")


@pytest.mark.parametrize("pages", ["every", 2, None])
def test_other_pages_are_refused(pages):
    with pytest.raises(InputError, match="allowed are first, all"):
        find_images("x", pages=pages)


def test_commands_work_on_pages(mixed, tiny, tmp_path):
    model, scans = tmp_path / "m", tmp_path / "scans"
    scans.mkdir()
    pages = [make_picture(400), make_picture(401, spot=True), make_picture(402)]
    scan = save_pages(scans / "scan.tif", pages)
    assert run("fit", mixed / "train", "-o", model, *tiny).exit_code == 0

    result = run("score", scans, "-m", model)
    assert f"Warning: 1 file has several pages, and the first one alone is read ({scan}: 3); " in (
        result.stderr
    )
    maps = tmp_path / "maps"
    result = run("score", scans, "-m", model, "--pages", "all", "--format", "jsonl", "--maps", maps)
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["path"] for row in rows] == [f"{scan}#{i}" for i in (1, 2, 3)]
    scores = [row["score"] for row in rows]
    assert max(scores) == scores[1] > 2 * sorted(scores)[1]
    assert rows[1]["map"] == str(maps / "scan#2.map.png")
    assert "several pages" not in result.stderr

    page = tmp_path / "page.html"
    assert run("report", scans, "-m", model, "--pages", "all", "-o", page).exit_code == 0
    assert "scan.tif#2" in page.read_text()

    result = run("update", model, scans, "--pages", "all")
    assert result.exit_code == 0, result.output
    assert load(model).n_images_ == 15
    assert run("score", f"{scan}#2", "-m", model, "--format", "jsonl").stdout.count(
        '"in_fit": true'
    )
    assert run("remove", model, f"{scan}#2").exit_code == 0
    assert load(model).n_images_ == 14
    result = run("fit", scans, mixed / "train", "-o", tmp_path / "n", *tiny, "--pages", "all",
                 "--without", f"{scan}#2")  # fmt: skip
    assert load(tmp_path / "n").n_images_ == 14, result.output
    result = run("fit", scans, mixed / "train", "-o", tmp_path / "o", *tiny, "--pages", "all",
                 "--without", scan)  # fmt: skip
    assert load(tmp_path / "o").n_images_ == 12, result.output


def test_the_file_of_a_page_is_never_replaced(mixed, tiny, tmp_path):
    model, scan = tmp_path / "m", save_pages(tmp_path / "scan.tif")
    assert run("fit", mixed / "train", "-o", model, *tiny).exit_code == 0
    before = scan.read_bytes()
    result = run("score", f"{scan}#2", "-m", model, "-o", scan, "--force")
    assert result.exit_code == 2
    assert "uses already" in result.stderr
    assert scan.read_bytes() == before


def test_labelling_commands_say_the_same(mixed, tmp_path, small_weights, monkeypatch):
    folder = tmp_path / "labelled"
    for label, name in (("good", "train/good"), ("spot", "test/spot")):
        (folder / label).mkdir(parents=True)
        for path in (mixed / name).iterdir():
            (folder / label / path.name).symlink_to(path)
    touch(folder, "good/@eaDir/1.png", "good/n.heic", "spot/locked/1.png")
    scans = tmp_path / "scans"
    scans.mkdir()
    save_pages(scans / "scan.tif", [make_picture(500 + i, spot=True) for i in range(2)])
    touch(scans, "locked/2.png", "n.txt")
    lock(monkeypatch, "locked")
    model = tmp_path / "m"
    network = ["--backbone", "test_efficientnet", "--weights", small_weights, "--size", "64"]
    result = run("tune", folder, "-o", model, *network, "--no-projection", "--neighbors", "1",
                 "--fpr", "0.5", "--unlabelled", scans, "--pages", "all")  # fmt: skip
    assert result.exit_code == 3, result.output
    for line in ("15 images: 12 from good, 3 from spot", "1 file left out: .heic (1)",
                 "1 hidden or system folder left out (@eaDir)", "2 images from scans",
                 "cannot be listed: Permission denied"):  # fmt: skip
        assert line in result.stderr
    result = run("index", "add", model, scans, "--label", "spot", "--pages", "all")
    assert result.exit_code == 3, result.output
    assert len(result.stdout.split()) == 2
    assert "1 file left out: .txt (1)" in result.stderr
