"""`mahalad score --maps`: files that are what the library computes, and nothing lost."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import run
from PIL import Image

from mahalad import load
from mahalad.report.overlays import overlay


@pytest.fixture(scope="module")
def model(fit_by_command):
    return fit_by_command("positions")


def rows_of(result):
    return [json.loads(line) for line in result.stdout.splitlines()]


def read_png(path):
    with Image.open(path) as picture:
        assert picture.mode == "I;16"
        return np.asarray(picture).astype(np.float64)


def below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_maps_are_the_library_s(model, picture_folder, tmp_path):
    test, out = picture_folder / "test", tmp_path / "new" / "maps"
    plain = rows_of(run("score", test, "-m", model, "--format", "jsonl"))
    rows = rows_of(run("score", test, "-m", model, "--format", "jsonl", "--maps", out))
    detector = load(model)
    maps, note = detector.anomaly_map(test), json.loads((out / "maps.json").read_text())
    assert note["map_threshold"] == detector.map_threshold_
    assert (note["fpr"], note["format"], note["scale"]) == (0.05, "png", 100.0)
    assert "standard deviations" in note["meaning"]
    n_coloured = 0
    for row, before, values in zip(rows, plain, maps, strict=True):
        path = Path(row["path"])
        stem = str(out / path.relative_to(test).with_suffix(""))
        assert row.pop("map") == f"{stem}.map.png"
        assert row.pop("overlay") == f"{stem}.overlay.png"
        assert row == pytest.approx(before)
        found = read_png(f"{stem}.map.png") / 65535 * note["scale"]
        np.testing.assert_allclose(found, np.clip(values, 0, 100), atol=0.51 * 100 / 65535)
        with Image.open(path) as picture, Image.open(f"{stem}.overlay.png") as drawn:
            begins = detector.map_threshold_ if row["anomaly"] else np.inf
            wanted = overlay(picture, values, begins)
            assert np.array_equal(drawn, wanted)
            n_coloured += not np.array_equal(drawn, picture)
    # An image may be flagged for what no single place shows.
    assert 8 <= n_coloured <= sum(row["anomaly"] for row in rows) < 16
    assert len(below(out)) == 2 * 16 + 1


def test_npy_has_the_values_as_they_are(model, picture_folder, tmp_path):
    spot = picture_folder / "test/spot"
    result = run("score", spot, "-m", model, "--maps", tmp_path, "--map-format", "npy",
                 "--format", "csv", "--fpr", "0.2")  # fmt: skip
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    maps = load(model).anomaly_map(spot)
    for row, values in zip(rows, maps, strict=True):
        assert row["map"].endswith(".map.npy") and row["overlay"].endswith(".overlay.png")
        np.testing.assert_array_equal(np.load(row["map"]), values.astype(np.float32))
    note = json.loads((tmp_path / "maps.json").read_text())
    assert (note["scale"], note["fpr"]) == (None, 0.2)
    assert note["map_threshold"] == load(model).map_threshold_


def test_overlays_have_the_size_of_the_image_up_to_1600(model, tmp_path):
    sizes = {"large.png": (2000, 500), "tall.jpg": (20, 90), "deep.png": (70, 60)}
    for name, size in sizes.items():
        mode = "I;16" if name == "deep.png" else "RGB"
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.new(mode, size, 30_000 if mode == "I;16" else "grey").save(tmp_path / "in" / name)
    command = ("score", tmp_path / "in", "-m", model, "--maps", tmp_path)
    assert run(*command, "--bits", 16).exit_code == 0
    found = {}
    for name in sizes:
        with Image.open(tmp_path / f"{name[:-4]}.overlay.png") as picture:
            found[name] = picture.size
    assert found == sizes | {"large.png": (1600, 400)}


def test_equal_stems_do_not_collide(model, picture_folder, tmp_path):
    for name in ("a/1.png", "b/1.png", "b/1.bmp"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        with Image.open(picture_folder / "good/000.png") as picture:
            picture.save(tmp_path / "in" / name)
    files = [tmp_path / "in" / name for name in ("a/1.png", "b/1.png", "b/1.bmp")]
    for given in ([tmp_path / "in"], files):
        out = tmp_path / f"out{len(given)}"
        rows = rows_of(run("score", *given, "-m", model, "--maps", out, "--format", "jsonl"))
        assert len({row["map"] for row in rows}) == len({row["overlay"] for row in rows}) == 3
        stems = ("a/1", "b/1", "b/1-2")
        ends = ("map.png", "overlay.png")
        assert below(out) == sorted(["maps.json", *(f"{s}.{e}" for s in stems for e in ends)])


def test_a_map_that_cannot_be_written_costs_nothing_else(model, picture_folder, tmp_path):
    (tmp_path / "good").write_text("in the way of a folder")
    (tmp_path / "spot/200.map.png").mkdir(parents=True)
    result = run("score", picture_folder / "test", "-m", model, "--maps", tmp_path,
                 "--format", "jsonl", "--fail-on-anomaly")  # fmt: skip
    assert result.exit_code == 1
    rows = {row["path"][-12:]: row for row in rows_of(result)}
    assert len(rows) == 16 and all(row["score"] is not None for row in rows.values())
    assert rows["good/100.png"]["map"] is rows["good/100.png"]["overlay"] is None
    assert rows["spot/200.png"]["map"] is None
    for name in (rows["spot/200.png"]["overlay"], rows["spot/201.png"]["map"]):
        assert Path(name).is_file()
    assert "16 images scored" in result.stderr
    assert result.stderr.count("Error: ") == 2 * 8 + 1
    assert "200.map.png: cannot be written" in result.stderr
    assert "Traceback" not in result.output


def test_images_are_never_written_over(model, picture_folder, tmp_path):
    content = (picture_folder / "good/000.png").read_bytes()
    (tmp_path / "in").mkdir()
    (tmp_path / "in/1.png").write_bytes(content)
    (tmp_path / "maps").mkdir()
    os.symlink(tmp_path / "in/1.png", tmp_path / "maps/1.overlay.png")
    result = run("score", tmp_path / "in", "-m", model, "--maps", tmp_path / "maps")
    assert result.exit_code == 2
    assert "1.overlay.png: is one of the images" in result.stderr
    for place in (tmp_path / "in", tmp_path / "in/maps"):
        result = run("score", tmp_path / "in", "-m", model, "--maps", place)
        assert result.exit_code == 2
        assert "would be taken for images" in result.stderr
    normals = ["--normals", picture_folder / "good", "--maps", picture_folder / "good/maps"]
    assert run("score", tmp_path / "in", *normals).exit_code == 2
    assert (tmp_path / "in/1.png").read_bytes() == content
    assert below(tmp_path) == ["in/1.png", "maps/1.overlay.png"]
    assert not (picture_folder / "good/maps").exists()


def test_unreadable_images_have_no_maps(model, picture_folder, tmp_path):
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "none.png").symlink_to(tmp_path / "gone.png")
    good = picture_folder / "test/good"
    result = run("score", tmp_path / "text.png", tmp_path / "none.png", good, "-m", model,
                 "--maps", tmp_path / "maps", "--format", "jsonl")  # fmt: skip
    assert result.exit_code == 3
    rows = rows_of(result)
    assert len(rows) == 10
    assert all(row["map"] is row["overlay"] is row["score"] is None for row in rows[:2])
    assert all(row["map"] and "error" not in row for row in rows[2:])


def test_scope_image_has_raw_maps_only(fit_by_command, picture_folder, tmp_path):
    model = fit_by_command("image", "--scope", "image", "--levels", "blocks.0,blocks.2")
    result = run("score", picture_folder / "test", "-m", model, "--maps", tmp_path,
                 "--map-format", "npy", "--format", "jsonl")  # fmt: skip
    assert result.exit_code == 0
    assert result.stderr.count("overlays need --scope positions") == 1
    for row in rows_of(result):
        assert row["overlay"] is None
        np.testing.assert_allclose(np.load(row["map"]).mean() * 64**2, row["score"], rtol=1e-4)
    note = json.loads((tmp_path / "maps.json").read_text())
    assert note["map_threshold"] is None
    assert "mean * 64**2 = score" in note["meaning"]


def test_no_maps_is_a_usage_error_before_scoring(fit_by_command, picture_folder, tmp_path):
    model = fit_by_command("knn", "--scorer", "knn")
    result = run("score", picture_folder / "test", "-m", model, "--maps", tmp_path / "maps")
    assert result.exit_code == 2
    assert "no anomaly maps" in result.stderr
    assert result.stdout == "" and not (tmp_path / "maps").exists()


def test_overlays_take_any_rate_that_scores_can_give(fit_by_command, picture_folder, tmp_path):
    # With much weight on the distance of the image, scores are positive, as this rule needs.
    model = fit_by_command("chi2", "--threshold", "chi2", "--image-weight", "5")
    result = run("score", picture_folder / "test/good", "-m", model, "--maps", tmp_path,
                 "--fpr", "0.001")  # fmt: skip
    assert result.exit_code == 0
    assert "8 images scored, 0 flagged" in result.stderr
    overlays = sorted(tmp_path.glob("*.overlay.png"))
    assert len(overlays) == 8
    for path in overlays:  # none is flagged: no colour
        picture = picture_folder / "test/good" / path.name.replace(".overlay", "")
        with Image.open(picture) as bare, Image.open(path) as drawn:
            assert np.array_equal(drawn, bare)


def test_why_there_are_no_maps_is_one_line(fit_by_command, picture_folder, tmp_path):
    path = fit_by_command("npca.mahalad", "--scope", "image", "--reduction", "npca")
    result = run("score", picture_folder / "test", "-m", path, "--maps", tmp_path / "maps")
    assert result.exit_code == 2
    (line,) = [text for text in result.stderr.splitlines() if "no anomaly maps from" in text]
    assert line.endswith("or Gaussians per level of a network's features")
