"""Tests of `bench robust` on small rendered sets, against detectors on pictures changed by hand."""

from __future__ import annotations

import io
import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from scipy.ndimage import gaussian_filter
from sklearn.metrics import roc_auc_score

from mahalad import BackboneFeatures, MahalanobisDetector
from mahalad.bench import robust
from mahalad.bench.changes import GRADED, KINDS, GradedChange
from mahalad.cli import main
from mahalad.demo.rendered import write_dataset
from mahalad.errors import InputError
from mahalad.images.mvtec import find_categories

IMAGE: dict[str, Any] = {"scope": "image", "levels": ["stem", "blocks.0"], "input_size": 64}
POSITIONS: dict[str, Any] = {"levels": ["blocks.1", "blocks.2"], "input_size": 64}
NAMES = [
    *("brightness -10 %", "brightness -5 %", "brightness +5 %", "brightness +10 %"),
    *("noise 1", "noise 2", "noise 4", "JPEG quality 95", "JPEG quality 85", "JPEG quality 70"),
    *("shift 1 px", "shift 3 px", "shift 5 px", "rotation 0.5°", "rotation 1°", "rotation 2°"),
    *("blur 0.5 px", "blur 1 px"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two categories: 24 to fit, 4 good and 6 bad; and 20 to fit, 2 good and 6 bad."""
    folder = tmp_path_factory.mktemp("sets")
    write_dataset(folder / "cog", n_train=24, n_test_good=4, n_test_per_defect=1, seed=0, size=64)
    write_dataset(folder / "disc", n_train=20, n_test_good=2, n_test_per_defect=1, seed=1, size=64)
    return folder


@pytest.fixture
def picture() -> Image.Image:
    values = np.random.default_rng(3).uniform(60, 190, (40, 56, 3))
    return Image.fromarray(gaussian_filter(values, (2, 2, 0)).round().astype(np.uint8))


def run_robust(root: Path, folder: Path, **options: Any) -> tuple[dict[str, Any], str]:
    """Run the benchmark; return what it wrote as JSON, and its text."""
    file = folder / "report.json"
    text = robust.run(roots=[root], json_file=file, **(IMAGE | options))
    return json.loads(file.read_text()), text


def fit(X: Any, **options: Any) -> MahalanobisDetector:
    with warnings.catch_warnings():  # too few images for some rates
        warnings.simplefilter("ignore")
        return MahalanobisDetector(**(IMAGE | options)).fit(X)


def change(name: str) -> GradedChange:
    return GRADED[NAMES.index(name)]


def test_changes_and_strengths_are_those_of_the_table() -> None:
    assert [one.name for one in GRADED] == NAMES


def test_brightness_is_a_factor(picture: Image.Image) -> None:
    pixels = np.asarray(picture).astype(float)
    for name, factor in (("brightness -10 %", 0.9), ("brightness +5 %", 1.05)):
        found = change(name).of(picture, 0)
        assert found.dtype == np.uint8
        np.testing.assert_allclose(found, pixels * factor, atol=0.501)
    white = Image.new("RGB", (4, 4), (250, 250, 250))
    assert (change("brightness +10 %").of(white, 0) == 255).all()


def test_noise_has_its_deviation_and_is_the_same_at_every_strength(picture: Image.Image) -> None:
    flat = Image.new("RGB", (200, 200), (120, 121, 122))
    drawn = {s: change(f"noise {s}").of(flat, 5).astype(float) - (120, 121, 122) for s in (1, 2, 4)}
    for strength, noise in drawn.items():
        assert noise.std() == pytest.approx(np.hypot(strength, 12**-0.5), rel=0.02)  # rounding
        assert abs(noise.mean()) < 0.05
        assert abs(np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1]) < 0.05
    np.testing.assert_allclose(drawn[4], 2 * drawn[2], atol=1.501)
    assert (change("noise 2").of(flat, 5) != change("noise 2").of(flat, 6)).any()


def test_noise_of_grey_pictures_is_grey() -> None:
    found = change("noise 4").of(Image.new("RGB", (30, 30), (90, 90, 90)), 0)
    assert found.std() > 2
    assert (found == found[..., :1]).all()


def test_compression_is_a_saved_jpeg(picture: Image.Image) -> None:
    for quality in (95, 85, 70):
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=quality)
        found = change(f"JPEG quality {quality}").of(picture, 0)
        np.testing.assert_array_equal(found, np.asarray(Image.open(buffer)))


def test_a_shift_goes_to_one_side_and_mirrors_what_is_within(picture: Image.Image) -> None:
    pixels, sides = np.asarray(picture), set()
    for number in range(20):
        padded = np.pad(pixels, ((3, 3), (3, 3), (0, 0)), mode="symmetric")
        candidates = {
            (y, x): padded[3 + y : 43 + y, 3 + x : 59 + x]
            for y, x in ((3, 0), (-3, 0), (0, 3), (0, -3))
        }
        found = change("shift 3 px").of(picture, number)
        (side,) = [side for side, moved in candidates.items() if (moved == found).all()]
        sides.add(side)
    assert len(sides) == 4


def test_rotation_turns_about_the_centre_either_way() -> None:
    dots = np.zeros((81, 81, 3), np.uint8)
    dots[38:43, 68:73] = 255  # 30 pixels to the right of the centre
    heights = set()
    for number in range(8):
        values = change("rotation 2°").of(Image.fromarray(dots), number)[..., 0].astype(float)
        y, x = (np.average(grid, weights=values) for grid in np.mgrid[:81, :81])
        assert x == pytest.approx(40 + 30 * np.cos(np.radians(2)), abs=0.1)
        assert abs(y - 40) == pytest.approx(30 * np.sin(np.radians(2)), abs=0.1)
        heights.add(y > 40)
    assert len(heights) == 2


def test_rotation_draws_no_stripes_at_the_corners(rng: np.random.Generator) -> None:
    grain = Image.fromarray(rng.integers(0, 256, (200, 200, 3), dtype=np.uint8))
    values = change("rotation 2°").of(grain, 0).astype(float)
    steps = np.abs(np.diff(values, axis=0)).mean(axis=(1, 2)), np.abs(np.diff(values, axis=1))
    within = steps[0][80:120].mean()
    assert (steps[0][:2] > 0.8 * within).all() and (steps[0][-2:] > 0.8 * within).all()
    assert steps[1][:, -1].mean() > 0.8 * within


def test_blur_is_a_gaussian(picture: Image.Image) -> None:
    pixels = np.asarray(picture).astype(float)
    found = change("blur 1 px").of(picture, 0)
    np.testing.assert_allclose(found, gaussian_filter(pixels, (1, 1, 0), mode="reflect"), atol=0.51)


@pytest.mark.parametrize("graded", GRADED, ids=lambda one: one.name)
def test_deep_pictures_are_changed_as_those_of_8_bits(
    graded: GradedChange, picture: Image.Image
) -> None:
    deep = np.asarray(picture).astype(np.float32) / np.float32(255)
    found = graded.of(deep, 2)
    assert (found.dtype, found.shape) == (np.float32, deep.shape)
    assert found.min() >= 0 and found.max() <= 1
    np.testing.assert_allclose(found * 255, graded.of(picture, 2), atol=0.51)
    grey = graded.of(deep[..., 0], 2)
    assert (grey == grey[..., :1]).mean() > 0.99 and grey.shape == deep.shape


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "JPEG quality"])
def test_the_strength_none_changes_nothing(kind: str, picture: Image.Image) -> None:
    found = GradedChange(kind, KINDS[kind].none).of(picture, 1)
    np.testing.assert_array_equal(found, np.asarray(picture))


@pytest.mark.parametrize(
    ("categories", "tolerate", "options"),
    [
        (["cog", "disc"], (), IMAGE),
        (["disc"], "auto", IMAGE),
        (["disc"], (), {"scope": "positions", **POSITIONS}),
    ],
)
def test_rows_are_the_detector_on_changed_files(
    root: Path, tmp_path: Path, categories: list[str], tolerate: Any, options: dict[str, Any]
) -> None:
    options = {"fpr": 0.2, "tolerate": tolerate, **options}
    report, text = run_robust(root, tmp_path, categories=categories, **options)
    assert [row["name"] for row in report["rows"]] == ["unchanged", *NAMES]
    for category in find_categories([root], categories):
        detector = fit(list(map(str, category.train)), **options)
        is_bad = np.array([kind != "good" for kind in category.kinds])
        for name in ("unchanged", "brightness -10 %", "noise 2", "JPEG quality 70"):
            files = []
            for number, path in enumerate(category.test):
                file = tmp_path / f"{name.split()[0]}_{category.name}_{len(files)}.png"
                image = Image.open(path).convert("RGB")
                if name.startswith("JPEG"):
                    image.save(file.with_suffix(".jpg"), quality=70)
                    image = Image.open(file.with_suffix(".jpg"))
                elif name.startswith("brightness"):
                    image = Image.fromarray(np.rint(np.asarray(image) * 0.9).astype(np.uint8))
                elif name.startswith("noise"):
                    image = Image.fromarray(change(name).of(image, number))
                image.save(file)
                files.append(file)
            row = report["rows"][["unchanged", *NAMES].index(name)]
            found = row["categories"][category.name]
            scores = detector.anomaly_score(files)
            flagged = detector.predict(files) == -1
            np.testing.assert_allclose(found["scores"], scores, rtol=1e-4)
            assert found["threshold"] == pytest.approx(detector.threshold_, rel=1e-6)
            assert found["fpr"] == flagged[~is_bad].mean()
            assert found["tpr"] == flagged[is_bad].mean()
            assert found["roc_auc"] == pytest.approx(roc_auc_score(is_bad, scores))
    for row in report["rows"]:
        for figure in ("fpr", "tpr", "roc_auc"):
            values = [one[figure] for one in row["categories"].values()]
            assert row["mean"][figure]["mean"] == pytest.approx(np.mean(values))
    assert ("tolerated nothing" in text) == (tolerate == ())


@pytest.mark.parametrize("options", [IMAGE, {"scope": "positions", "tolerate": (), **POSITIONS}])
def test_the_table_has_a_row_for_each_change(
    root: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    report, text = run_robust(root, tmp_path, fpr=0.2, **options)
    lines = text.splitlines()
    assert max(map(len, lines)) <= max(100, len(str(root)) + 12)
    assert "conformal, 20 % of good images asked" in text
    assert "cog: 24 to fit; test: 4 good (steps of 25 points), 6 bad, 64 x 64 px" in text
    assert "disc: 20 to fit; test: 2 good (steps of 50 points), 6 bad, 64 x 64 px" in text
    for row in report["rows"]:
        shown = [line.removeprefix(row["name"]).split() for line in lines if row["name"] in line]
        expected = [
            f"{100 * value:.1f}"
            for one in (*row["categories"].values(), {k: v["mean"] for k, v in row["mean"].items()})
            for value in (one["fpr"], one["tpr"], one["roc_auc"])
        ]
        assert [cell for cells in shown for cell in cells] == expected


def test_sizes_that_differ_are_told(root: Path, tmp_path: Path) -> None:
    folder = write_dataset(
        tmp_path / "cog", n_train=4, n_test_good=1, n_test_per_defect=1, seed=0, size=64
    )
    file = folder / "test/good/000.png"
    Image.open(file).resize((96, 80)).save(file)
    _, text = run_robust(folder, tmp_path, fpr=0.4)
    assert "mean of" not in text  # one category is its own mean
    assert "64 x 64 to 96 x 80 px" in text


def test_a_rate_that_takes_more_images_is_not_available(root: Path, tmp_path: Path) -> None:
    plot = tmp_path / "plot.svg"
    report, text = run_robust(root, tmp_path, fpr=0.01, categories=["cog"], plot_file=plot)
    assert text.count("n/a (needs 99)") == 2 * 19
    assert "n/a (needs N): that rule needs N calibration images" in text
    for row in report["rows"]:
        found = row["categories"]["cog"]
        assert (found["fpr"], found["tpr"], found["threshold"]) == (None, None, None)
        assert found["roc_auc"] is not None
    assert b"<svg" in plot.read_bytes()


def test_images_of_the_fit_pass_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passed = []
    transform = BackboneFeatures.transform

    def counted(self: Any, X: Any) -> Any:
        passed.append(len(X))
        return transform(self, X)

    monkeypatch.setattr(BackboneFeatures, "transform", counted)
    told: list[int] = []

    def progress(items: Any, total: int) -> Any:
        told.append(total)
        return items

    robust.run(roots=[root], categories=["cog"], fpr=0.2, tolerate=(), progress=progress, **IMAGE)
    assert told == [19 * 10]
    assert sum(passed) == 24 + 19 * 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scope": "mine"}, "scope must be one of positions, image, got 'mine'"),
        ({"scope": "positions", "scorer": "knn"}, "scorer='knn' is for features pooled"),
        ({"scope": "positions", "reduction": "npca"}, "reduction='npca' is for features pooled"),
        ({"scope": "positions", "threshold": "chi2-nominal"}, "chi2-nominal.* scope='image'"),
        ({"threshold": "mine"}, r"threshold must be one of conformal.*got 'mine'"),
        ({"fpr": 1.0}, r"fpr must lie between 0 and 1, got 1.0"),
        ({"categories": ["nut"]}, "no category nut"),
        ({"plot_file": "plot.gif"}, r"plot.gif: a plot is written as \.png, \.svg, \.pdf"),
        ({"json_file": "missing/report.json"}, "missing/report.json: its folder is missing"),
    ],
)
def test_usage_errors_come_before_the_work(
    root: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        robust.run(roots=[root], **(IMAGE | options))


def test_unreadable_images_are_named_not_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "cog"
    write_dataset(folder, n_train=4, n_test_good=1, n_test_per_defect=1, seed=0, size=64)
    for name in ("train/good/001.png", "test/good/000.png"):
        (folder / name).write_bytes(b"no image")
    with pytest.raises(InputError, match=r"2 of 11 .*001\.png.*test/good/000\.png"):
        robust.run(roots=[folder], **IMAGE)


def test_category_without_good_test_images_is_refused(tmp_path: Path) -> None:
    folder = write_dataset(
        tmp_path / "cog", n_train=4, n_test_good=0, n_test_per_defect=1, seed=0, size=64
    )
    with pytest.raises(InputError, match="cog: 0 of its 6 test images are good"):
        robust.run(roots=[folder], **IMAGE)


def test_command(root: Path, tmp_path: Path) -> None:
    figures, plot = tmp_path / "figures.json", tmp_path / "plot.png"
    command = ["bench", "robust", "--root", root, "-C", "disc", "--size", 64, "--tolerate", "none"]
    command += ["--levels", "blocks.1,blocks.2", "--fpr", "20%", "--json", figures, "--plot", plot]
    result = CliRunner().invoke(main, list(map(str, command)))
    assert result.exit_code == 0, result.output
    assert plot.read_bytes().startswith(b"\x89PNG")
    report = json.loads(figures.read_text())
    assert report["parameters"]["tolerate"] == []
    assert report["parameters"]["fpr"] == 0.2
    assert len(report["rows"]) == 19
    assert re.search(r"^brightness -10 % .* \d", result.output, re.MULTILINE)
