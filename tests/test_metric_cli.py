"""pretrain, tune, score and index on the command line, end to end on generated pictures."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import make_picture, run

from mahalad.files.container import read_header
from mahalad.metric.classifier import MetricKNNClassifier
from mahalad.metric.file import read, read_index


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """20 pictures in class folders, with and without a bright spot."""
    folder = tmp_path_factory.mktemp("labelled")
    for name, seeds in (("good", range(12)), ("spot", range(50, 58))):
        (folder / name).mkdir()
        for seed in seeds:
            make_picture(seed, spot=name == "spot").save(folder / name / f"{seed:02}.png")
    return folder


@pytest.fixture(scope="module")
def network(small_weights):
    return ["--backbone", "test_efficientnet", "--weights", small_weights, "--size", "64"]


@pytest.fixture(scope="module")
def tuned(labelled, network, tmp_path_factory):
    path = tmp_path_factory.mktemp("tuned") / "beans.mahalad"
    options = ["--positive", "spot", "--neighbors", "3", "--fpr", "0.1", "--seed", "1"]
    result = run("tune", labelled, "-o", path, *network, *options)
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    assert "20 labelled images (good 12, spot 8)" in result.stderr
    return path


@pytest.fixture
def model(tuned, tmp_path):
    return shutil.copy(tuned, tmp_path / "beans.mahalad")


def rows_of(*arguments):
    result = run("score", *arguments, "--format", "jsonl")
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_rows_equal_the_library(model, picture_folder):
    rows = rows_of(picture_folder / "test", "-m", model)
    results = list(MetricKNNClassifier.load(model).inspect(picture_folder / "test"))
    assert len(rows) == 16
    for row, result in zip(rows, results, strict=True):
        assert row["path"] == result.name
        names = ("label", "probability", "score", "threshold", "p_value", "novel", "anomaly")
        assert {n: row[n] for n in names} == {n: getattr(result, n) for n in names}
        assert [n["id"] for n in row["neighbours"]] == [n.id for n in result.neighbours]
        assert set(row["neighbours"][0]) == {"id", "path", "label", "distance"}
    assert len(rows[0]["neighbours"]) == 3
    other = rows_of(picture_folder / "test", "-m", model, "--fpr", "0.5")
    assert sum(row["novel"] for row in other) > sum(row["novel"] for row in rows)


def test_csv_and_table_say_the_same(model, picture_folder, tmp_path):
    wanted = rows_of(picture_folder / "test", "-m", model)
    text = run("score", picture_folder / "test", "-m", model, "--format", "csv").stdout
    for row, want in zip(csv.DictReader(io.StringIO(text)), wanted, strict=True):
        assert (row["path"], row["label"]) == (want["path"], want["label"])
        assert float(row["probability"]) == want["probability"]
        assert row["novel"] == str(want["novel"])
    (tmp_path / "text.png").write_text("hello")
    table = run("score", picture_folder / "test", tmp_path / "text.png", "-m", model)
    assert table.exit_code == 3
    lines = table.stdout.splitlines()
    assert lines[0].split() == ["label", "probability", "novelty-p", "verdict", "path"]
    for line, want in zip(lines[1:], wanted, strict=False):
        label, probability, p_value, *_ = line.split()
        assert label == want["label"]
        assert float(probability) == pytest.approx(want["probability"], abs=1e-3)
        assert float(p_value) == pytest.approx(want["p_value"], abs=1e-4)
        assert ("ANOMALY" in line, "NOVEL" in line) == (want["anomaly"], want["novel"])
    assert "UNREADABLE" in lines[-1]
    flagged = any(want["anomaly"] for want in wanted)
    gate = run("score", picture_folder / "test", "-m", model, "--fail-on-anomaly")
    assert gate.exit_code == (4 if flagged else 0)


def test_a_correction_changes_the_next_answer(labelled, model, picture_folder):
    """A wrong answer for an image, corrected: near-identical ones are answered rightly at once."""
    wrong = sorted((picture_folder / "test/spot").iterdir())[0]
    before = rows_of(wrong, "-m", model)[0]["label"]
    right = {"good": "spot", "spot": "good"}[before]
    ids = []
    for _ in range(2):  # two of three votes
        result = run("index", "add", model, wrong, "--label", right)
        assert result.exit_code == 0, result.output
        ids += result.stdout.split()
        assert "1 images added" in result.stderr
        again = "Warning: 1 of 1 images are in the index already (ids 20). They were added"
        assert (again in result.stderr) == (len(ids) == 2)
    assert ids == ["20", "21"]
    [row] = rows_of(wrong, "-m", model)
    assert row["label"] == right
    assert [n["id"] for n in row["neighbours"][:2]] == [20, 21]
    assert row["neighbours"][0]["path"] == str(wrong)
    assert run("index", "relabel", model, "20", "21", "--label", before).exit_code == 0
    assert rows_of(wrong, "-m", model)[0]["label"] == before
    removed = run("index", "remove", model, "20", "21", "99")
    assert "2 images removed, of 3 ids given" in removed.stderr
    stats = json.loads(run("index", "stats", model, "--json").stdout)
    assert stats["labels"] == {"good": 12, "spot": 8}
    assert stats["images"] == 20
    new = run("index", "add", model, wrong, "--label", "dust")
    assert new.exit_code == 2 and "unknown label 'dust'; known are" in new.stderr
    assert run("index", "add", model, wrong, "--label", "dust", "--new-label").exit_code == 0
    text = run("index", "stats", model).stdout
    assert "       1  dust" in text and "distance     euclidean" in text


def test_a_change_by_another_process_is_not_overwritten(model, monkeypatch):
    def change(classifier, ids):
        shutil.copy(model, f"{model}.new")
        shutil.move(f"{model}.new", model)
        return len(ids)

    monkeypatch.setattr(MetricKNNClassifier, "remove", change)
    before = Path(model).read_bytes()
    result = run("index", "remove", model, "1")
    assert result.exit_code == 2
    assert "another process changed the model meanwhile; nothing was written" in result.stderr
    assert Path(model).read_bytes() == before


def test_an_index_moves_to_a_folder_and_back(tuned, model, picture_folder, tmp_path):
    pytest.importorskip("qdrant_edge", reason="qdrant-edge-py is not installed")
    test, folder = picture_folder / "test", tmp_path / "store"
    wanted = rows_of(test, "-m", model)
    for _ in range(2):  # the second time there is nothing left to do
        copied = run("index", "copy", model, folder)
        assert copied.exit_code == 0, copied.output
    assert "0 images copied, 20 there" in copied.stderr
    assert "where" not in read_header(model)["index"]
    switched = run("index", "copy", model, folder, "--switch")
    assert switched.exit_code == 0, switched.output
    assert read_header(model)["index"] == {"where": str(folder)}
    assert run("index", "add", model, test / "spot", "--label", "spot").exit_code == 0
    assert json.loads(run("index", "stats", folder, "--json").stdout)["images"] == 28
    run("index", "remove", model, *range(20, 28))
    for row, want in zip(rows_of(test, "-m", model), wanted, strict=True):
        assert row["label"] == want["label"]
        assert row["distance"] == pytest.approx(want["distance"], abs=1e-6)
    again = run("index", "copy", folder, tuned)
    assert again.exit_code == 0 and "0 images copied, 20 there" in again.stderr
    wrong = run("index", "copy", folder, model, "--switch")
    assert wrong.exit_code == 2 and "--switch is for FROM a model file" in wrong.stderr


def test_copy_into_a_model_file(tuned, model, tmp_path):
    run("index", "remove", model, *range(5))
    assert len(read_index(model)) == 15
    result = run("index", "copy", tuned, model)
    assert result.exit_code == 0, result.output
    assert len(read_index(model)) == 20


def test_copy_again_after_removals(tuned, model, tmp_path):
    pytest.importorskip("qdrant_edge", reason="qdrant-edge-py is not installed")
    folder = tmp_path / "store"
    assert run("index", "copy", model, folder).exit_code == 0
    run("index", "remove", model, 2, 7)
    before = json.loads(run("index", "stats", folder, "--json").stdout)
    refused = run("index", "copy", model, folder)
    assert refused.exit_code == 2
    assert "holds 2 points that the source does not have (ids 2, 7)" in refused.stderr
    assert "--mirror" in refused.stderr
    assert json.loads(run("index", "stats", folder, "--json").stdout) == before
    mirrored = run("index", "copy", model, folder, "--mirror")
    assert mirrored.exit_code == 0, mirrored.output
    assert "2 images removed" in mirrored.stderr
    assert "0 images copied, 18 there, checksums compared" in mirrored.stderr


def votes_cast_on(path):
    """Ids of images that the model file has votes of the fit on."""
    saved = read(path, weights=None, device=None, index=None)
    return saved.fitted.calibration.votes.ids


def test_votes_on_an_image_do_not_pass_to_another_with_its_id(labelled, tuned, model, tmp_path):
    other = shutil.copy(tuned, tmp_path / "other.mahalad")
    image = labelled / "good" / "07.png"
    run("index", "remove", model, 19)
    assert run("index", "add", model, image, "--label", "good").stdout == "19\n"
    assert 19 in votes_cast_on(other)
    assert run("index", "copy", model, other, "--mirror").exit_code == 0
    assert read_index(other).get([19]).paths.tolist() == [str(image)]
    assert 19 not in votes_cast_on(other)


def test_every_tune_option_is_used(labelled, network, tmp_path):
    """An option that is parsed and never read would leave the model as it was."""
    base = [labelled, *network, "--labels", "16", "--no-projection", "--fpr", "0.2"]
    learnt = [labelled, *network, "--labels", "8", "--fpr", "0.2", "--neighbors", "3"]

    def tune(name, options):
        result = run("tune", "-o", tmp_path / name, *options)
        assert result.exit_code == 0, (name, result.output)
        header = read_header(tmp_path / name)
        return [header[k] for k in ("params", "about", "operating_point", "levels", "classes")]

    reference = tune("base", base)
    cases = {
        "labels": ["--labels", "12"],
        "seed": ["--seed", "3"],
        "neighbors": ["--neighbors", "3"],
        "vote": ["--vote", "distance"],
        "balanced": ["--balanced"],
        "fpr": ["--fpr", "0.3"],
        "levels": ["--levels", "0,1"],
        "size": ["--size", "48"],
        "unlabelled": ["--unlabelled", labelled / "good"],
        "positive": ["--positive", "spot"],
        "recall": ["--positive", "spot", "--recall", "0.5"],
    }
    for name, options in cases.items():
        assert tune(name, [*base, *options]) != reference, name
    projected = tune("projected", learnt)
    for name, options in {
        "loss": ["--loss", "batch-all"],
        "margin": ["--margin", "0.9"],
        "hidden": ["--hidden", "8"],
    }.items():
        assert tune(name, [*learnt, *options]) != projected, name
    assert tune("cache", [*base, "--cache", tmp_path / "c"]) == reference
    assert list((tmp_path / "c").rglob("*.safetensors"))
    pytest.importorskip("qdrant_edge", reason="qdrant-edge-py is not installed")
    tune("index", [*base, "--index", tmp_path / "i"])
    assert json.loads(run("index", "stats", tmp_path / "i", "--json").stdout)["images"] == 16


def test_tune_with_a_search(labelled, network, tmp_path):
    options = [labelled, *network, "--fpr", "0.2", "--margin", "0.3", "--search", "2"]
    result = run("tune", "-o", tmp_path / "m", *options)
    assert result.exit_code == 0, result.output
    header = read_header(tmp_path / "m")
    found = header["search"]
    assert "margin" not in found["chosen"] and len(found["candidates"]) == 3
    params = {**header["projection"]["params"], **header["params"]}
    assert params["margin"] == 0.3 and found["chosen"].items() <= params.items()
    told = f"macro F1 {found['validation_f1']:.3f} (without a search: {found['default_f1']:.3f})"
    assert f"search: best of 3 on held-out labels: {told}" in result.stderr
    assert f"n_neighbors {found['chosen']['n_neighbors']}" in result.stderr
    assert told in run("info", tmp_path / "m").stdout
    few = run("tune", "-o", tmp_path / "few", *options, "--labels", "6")
    assert few.exit_code == 2 and "needs 4 images of each" in few.stderr
    assert not (tmp_path / "few").exists()


def test_pretrain_then_tune(labelled, tmp_path):
    small = ["--epochs", "1", "--size", "32", "--width", "2", "--batch-size", "8"]
    options = [*small, "--checkpoint", tmp_path / "c", "--grid", tmp_path / "grid.png"]
    result = run("pretrain", labelled / "good", labelled / "spot", "-o", tmp_path / "enc", *options)
    assert result.exit_code == 0, result.output
    assert "trained on 20 images" in result.stderr
    assert (tmp_path / "grid.png").exists() and (tmp_path / "c").exists()
    tuned = run("tune", labelled, "-o", tmp_path / "m", "--encoder", tmp_path / "enc",
                "--no-projection", "--positive", "spot", "--recall", "0.5")  # fmt: skip
    assert tuned.exit_code == 0, tuned.output
    assert "threshold" in tuned.stderr and "recall" in tuned.stderr
    rows = rows_of(labelled, "-m", tmp_path / "m")
    assert {row["label"] for row in rows} <= {"good", "spot"}
    assert rows[0]["threshold"] > 0
    text = run("info", tmp_path / "m").stdout
    assert "encoder      Autoencoder" in text and "levels       bottleneck (128)" in text


def test_a_rate_out_of_reach_leaves_a_model_without_it(labelled, network, tmp_path):
    images = sorted((labelled / "good").iterdir())
    table = tmp_path / "labels.csv"  # whose labels say nothing of the images
    table.write_text("path,label\n" + "".join(f"{p},{'ab'[i % 2]}\n" for i, p in enumerate(images)))
    options = ["--no-projection", "--positive", "b", "--precision", "1", "--recall", "1"]
    result = run("tune", table, "-o", tmp_path / "m", *network, *options)
    assert result.exit_code == 1  # not 2: nothing about the command was wrong
    assert "12 labelled images (a 6, b 6)" in result.stderr
    assert "Error: precision 1 with recall 1 cannot be reached" in result.stderr
    assert "m is written without a threshold: the majority decides" in result.stderr
    assert read_header(tmp_path / "m")["operating_point"] is None
    rows = rows_of(images[0], "-m", tmp_path / "m")
    assert rows[0]["threshold"] is None and rows[0]["label"] in ("a", "b")


def test_info(model):
    text = run("info", model).stdout
    for words in (
        "MetricKNNClassifier",
        "labels       good, spot",
        "positive     spot",
        "test_efficientnet",
        "batch-hard-scaled, 128 features",
        "3, uniform votes",
        "index        in the model file",
        "calibration  cross-fit",
    ):
        assert words in text
    assert json.loads(run("info", model, "--json").stdout)["kind"] == "metric-knn"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tune", "{data}/none", "-o", "{tmp}/m"], "no such folder or file"),
        (["tune", "{data}/good", "-o", "{tmp}/m"], "images without a label"),
        (["tune", "{data}", "-o", "{tmp}/no/m"], "missing or not writable"),
        (["tune", "{data}", "-o", "{tmp}/m", "--labels", "3"], "it can be 4 to 20"),
        (["tune", "{data}", "-o", "{tmp}/m", "--recall", "0.5"], "give --positive LABEL"),
        (["tune", "{data}", "-o", "{tmp}/m", "--positive", "x"], "no such label in"),
        (
            ["tune", "{data}", "-o", "{tmp}/m", "--no-projection", "--margin", "1"],
            "--margin has no effect with --no-projection",
        ),
        (
            ["tune", "{data}", "-o", "{tmp}/m", "--encoder", "x", "--size", "64"],
            "--size has no effect with --encoder",
        ),
        (["tune", "{data}", "-o", "{tmp}/m", "--encoder", "{model}"], "holds no autoencoder"),
        (["pretrain", "{data}/good", "-o", "{tmp}/m", "--size", "40"], "must be a multiple of 32"),
        (["pretrain", "{tmp}", "-o", "{tmp}/m"], ".png, .jpg"),
        (["score", "{data}", "-m", "{model}", "--maps", "{tmp}/maps"], "has no anomaly maps"),
        (["index", "add", "{tmp}/none", "{data}", "--label", "good"], "no such model file"),
        (["index", "add", "{model}", "{tmp}/none.png", "--label", "good"], "no such file"),
        (["index", "relabel", "{model}", "99", "--label", "good"], "no points with ids 99"),
        (["index", "stats", "ftp://x"], "not an index"),
        (["index", "remove", "{model}", "x"], "is not a valid integer"),
    ],
)
def test_usage_errors(labelled, model, tmp_path, arguments, message):
    places = {"data": labelled, "tmp": tmp_path, "model": model}
    result = run(*[argument.format(**places) for argument in arguments])
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert not (tmp_path / "m").exists()


def test_help_does_not_import_torch():
    code = (
        "import sys; from click.testing import CliRunner; from mahalad.cli import main\n"
        "for command in ([], ['tune'], ['finetune'], ['pretrain'], ['index'], ['index', 'copy']):\n"
        "    assert CliRunner().invoke(main, [*command, '--help']).exit_code == 0\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
