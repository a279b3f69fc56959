"""Padding, tiles and neighbourhoods through the command line, on pictures that are no squares."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import make_picture, run
from PIL import Image

from mahalad import load
from mahalad.evaluation.pixels import pixel_figures, resize_map
from mahalad.report.overlays import overlay

SPOT = (12, 8, 24, 20)
OPTIONS = ("--size", "32", "--resize", "pad", "--tiles", "2", "--levels", "stem,blocks.1")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A category of wide pictures with white spots as defects, and their masks."""
    folder = tmp_path_factory.mktemp("root")
    for kind, seeds in (
        ("train/good", range(24)), ("test/good", range(40, 46)), ("test/spot", range(60, 66))
    ):  # fmt: skip
        (folder / "wide" / kind).mkdir(parents=True)
        for seed in seeds:
            picture = make_picture(seed, side=96).resize((96, 48), Image.Resampling.BICUBIC)
            if kind == "test/spot":
                picture.paste((255, 255, 255), SPOT)
            picture.save(folder / "wide" / kind / f"{seed:03}.png")
    mask = Image.new("L", (96, 48))
    mask.paste(255, SPOT)
    (folder / "wide/ground_truth/spot").mkdir(parents=True)
    for seed in range(60, 66):
        mask.save(folder / f"wide/ground_truth/spot/{seed:03}_mask.png")
    return folder


@pytest.fixture(scope="module")
def network(small_weights):
    return ("--backbone", "test_efficientnet", "--weights", small_weights)


@pytest.fixture(scope="module")
def model(root, network, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "m"
    result = run("fit", root / "wide/train", "-o", path, *network, *OPTIONS, "--fpr", "0.1")
    assert result.exit_code == 0, result.output
    return path


def test_info_says_how_images_become_squares(root, network, model, tmp_path):
    text = run("info", model).stdout
    assert "32 px, longer side to a square, edges repeated around, 2 x 2 tiles\n" in text
    assert "neighbourhood" not in text
    fit = ("fit", root / "wide/train", "-o", tmp_path / "m", *network, "--size", "64")
    for value in ("2", "all", "0"):
        assert run(*fit, "--neighbourhood", value).exit_code == 0
        text = run("info", tmp_path / "m").stdout
        assert f"image weight 0.1, neighbourhood {value})\n" in text
        assert "64 px, squash to a square, no crop\n" in text
        assert load(tmp_path / "m").scorer_.neighbourhood == (
            "all" if value == "all" else int(value)
        )


def test_options_change_the_fit(root, network, model, tmp_path):
    base = load(model).get_params()
    for name, options in {
        "resize": ["--resize", "squash"],
        "tiles": ["--tiles", "1"],
        "neighbourhood": ["--neighbourhood", "1"],
    }.items():
        fit = ("fit", root / "wide/train", "-o", tmp_path / name, *network, *OPTIONS, *options)
        assert run(*fit, "--fpr", "0.1").exit_code == 0
        found = load(tmp_path / name)
        assert {k for k, v in found.get_params().items() if v != base[k]} == {name}
        assert found.threshold_ != pytest.approx(load(model).threshold_, rel=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tiles", "0"], "0 is not in the range x>=1"),
        (["--resize", "crop"], "'squash', 'pad'"),
        (["--neighbourhood", "6"], "'6' is neither a number of positions from 0 to 5 nor 'all'"),
        (["--neighbourhood", "-1"], "'-1' is neither"),
        (["--neighbourhood", "1", "--scope", "image"], "--neighbourhood is for --scope positions"),
    ],
)
def test_usage_errors(root, tmp_path, options, message):
    result = run("fit", root / "wide/train", "-o", tmp_path / "m", *options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not list(tmp_path.iterdir())


def test_maps_of_padded_pictures_by_tiles(model, root, tmp_path):
    result = run("score", root / "wide/test", "-m", model, "--maps", tmp_path,
                 "--map-format", "npy", "--format", "jsonl")  # fmt: skip
    assert result.exit_code == 0, result.output
    detector, rows = load(model), [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["anomaly"] for row in rows[6:]] == [True] * 6
    for row, values in zip(rows, detector.anomaly_map(root / "wide/test"), strict=True):
        np.testing.assert_allclose(np.load(row["map"]), values, rtol=1e-5)
        with Image.open(row["path"]) as picture, Image.open(row["overlay"]) as drawn:
            begins = detector.map_threshold_ if row["anomaly"] else np.inf
            wanted = overlay(picture, values, begins)
            assert np.array_equal(drawn, wanted)
            changed = (np.asarray(drawn) != np.asarray(picture)).any(axis=2)
        if row["anomaly"] and "spot" in row["path"]:
            left, top, right, bottom = SPOT
            assert changed[top:bottom, left:right].mean() > 0.5
            assert changed[:, 48:].mean() < 0.1


def test_report(model, root, tmp_path):
    page = tmp_path / "page.html"
    result = run("report", root / "wide/test", "-m", model, "-o", page)
    assert result.exit_code == 0, result.output
    text = page.read_text()
    assert "test_efficientnet, 2 x 2 tiles of 32 px, padded" in text
    assert text.count("<img") >= 12 + 6  # thumbnails, and overlays of the defects


def test_benchmarks(model, root, network, tmp_path):
    options = ("--root", root, *network, *OPTIONS, "--json", tmp_path / "figures.json")
    result = run("bench", "mvtec", *options, "--neighbourhood", "1")
    assert result.exit_code == 0, result.output
    assert "test_efficientnet at 2 x 2 tiles of 32 px, padded" in result.stdout
    assert "a Gaussian per position, neighbourhood 1" in result.stdout
    assert json.loads((tmp_path / "figures.json").read_text())["parameters"]["tiles"] == 2
    assert run("bench", "mvtec", *options).exit_code == 0
    found = json.loads((tmp_path / "figures.json").read_text())["rows"][0]["categories"]["wide"]
    detector = load(model)
    extractor, maps = detector.features_, []
    for path in sorted((root / "wide/test").rglob("*.png")):
        with Image.open(path) as picture:
            features = extractor.transform([extractor.prepare(picture)])
        grid = detector.scorer_.anomaly_maps(features)[0]
        maps.append(resize_map(grid, (48, 96), (0, 0.25, 1, 0.75)))
    mask = np.zeros((48, 96), bool)
    mask[SPOT[1] : SPOT[3], SPOT[0] : SPOT[2]] = True
    want = pixel_figures(maps, [None] * 6 + [mask] * 6, fpr_limit=0.3)
    assert found["pixel_roc_auc"] == pytest.approx(want.roc_auc, abs=1e-4)
    assert want.roc_auc > 0.9
    rates = run("bench", "fpr", *options[:-2], "--splits", "2", "--alpha", "0.2")
    assert rates.exit_code == 0, rates.output
    assert "at 2 x 2 tiles of 32 px, padded" in rates.stdout
