"""An output never replaces an input, the model, or a file that mahalad did not write."""

from __future__ import annotations

import json
import os
import shutil

import pytest
from conftest import DATA, make_picture, run
from PIL import Image

from mahalad import load
from mahalad.commands.paths import check_output
from mahalad.files.recognition import Content, recognize

NETWORK = ("--backbone", "test_efficientnet", "--size", "64")


@pytest.fixture(scope="module")
def model(fit_by_command):
    return fit_by_command("part.mahalad")


@pytest.fixture
def parts(tmp_path):
    """A folder of 20 pictures, and further files that a user has."""
    folder = tmp_path / "parts"
    folder.mkdir()
    for seed in range(20):
        make_picture(seed).save(folder / f"{seed:03}.png")
    (tmp_path / "link.png").symlink_to(folder / "001.png")
    os.link(folder / "002.png", tmp_path / "hard.png")
    (tmp_path / "groups.csv").write_text("path,group\n001.png,a\n")
    (tmp_path / "notes.txt").write_text("dear diary\n")
    (tmp_path / "own.json").write_text('{"mine": 1}\n')
    return tmp_path


def files_of(folder) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


@pytest.mark.parametrize("more", [(), ("--force",)], ids=["", "force"])
@pytest.mark.parametrize(
    "command",
    [
        "score parts -m MODEL -o parts/000.png",
        "score -m MODEL -o parts/000.png parts/001.png parts/002.png",  # the shell expanded it
        "score parts/*.png -m MODEL -o link.png",
        "score parts -m MODEL -o hard.png",
        "score parts -m copy.mahalad -o copy.mahalad",
        "score parts --normals groups.csv -o groups.csv",
        "score gone.png parts -m MODEL -o gone.png",
        "score parts/000.png -m MODEL --weights WEIGHTS -o weights.safetensors",
        "score parts -m MODEL --format csv -o own.json",
        "report parts -m MODEL -o parts/003.png",
        "report parts -m copy.mahalad -o copy.mahalad",
        "report parts -m MODEL -o notes.txt",
        "fit parts -o parts/000.png",
        "fit parts -o notes.txt",
        "fit parts --group groups.csv -o groups.csv",
        "fit parts --roi parts/000.png -o link.png",
        "fit parts --without notes.txt -o notes.txt",
        "fit parts --weights weights.safetensors -o weights.safetensors",
        "fit parts --threshold holdout --calibration parts/01*.png -o hard.png",
        "pretrain parts -o parts/000.png",
        "pretrain parts -o new --checkpoint new",
        "pretrain parts -o new --checkpoint notes.txt",
        "pretrain parts -o new --grid parts/000.png",
        "pretrain parts -o new --grid link.png",
        "finetune labelled.csv --weights weights.safetensors -o weights.safetensors",
        "tune labelled.csv -o labelled.csv",
        "tune labelled.csv -o parts/000.png",
        "tune labelled.csv --unlabelled parts -o link.png",
        "bench mvtec --root root --plot root/train/good/000.png",
        "bench fpr --root root --json notes.txt",
        "bench robust --root root --plot root/train/good/000.png",
        "bench knn --root parts --plot parts/000.png",
    ],
)
def test_what_is_read_is_never_replaced(command, more, model, small_weights, parts, monkeypatch):
    monkeypatch.chdir(parts)
    shutil.copy(model, "copy.mahalad")
    shutil.copy(small_weights, "weights.safetensors")
    (parts / "root/train/good").mkdir(parents=True)
    (parts / "root/test").mkdir()
    shutil.copy("parts/000.png", "root/train/good/000.png")
    rows = [f"parts/{i:03}.png,{'ab'[i % 2]}" for i in range(4)]
    (parts / "labelled.csv").write_text("\n".join(["path,label", *rows]))
    before = files_of(parts)
    words = command.replace("MODEL", str(model)).replace("WEIGHTS", "weights.safetensors").split()
    result = run(*words, *more)
    assert result.exit_code == 2, result.output
    assert files_of(parts) == before
    said = " ".join(result.stderr.split())
    assert "this command uses already" in said or "is there already" in said or "gone" in command


def test_an_earlier_output_is_replaced_and_another_file_by_force_alone(model, parts, monkeypatch):
    monkeypatch.chdir(parts)
    for style in ("csv", "jsonl", "table"):  # each over the one before, and over itself
        for _ in range(2):
            result = run("score", "parts", "-m", model, "--format", style, "-o", "rows")
            assert result.exit_code == 0, result.output
    refused = run("score", "parts", "-m", model, "-o", "notes.txt")
    assert refused.exit_code == 2
    assert "notes.txt: is there already and is a text file, not rows of `score`: --force" in (
        " ".join(refused.stderr.split())
    )
    assert run("score", "parts", "-m", model, "-o", "notes.txt", "--force").exit_code == 0
    assert (parts / "notes.txt").read_text().count("\n") == 21
    for _ in range(2):
        assert run("report", "parts", "-m", model, "-o", "page.html").exit_code == 0
    (parts / "empty").touch()  # as mktemp makes it
    assert run("score", "parts", "-m", model, "-o", "empty").exit_code == 0


def test_a_model_is_replaced_by_one_of_its_kind(small_weights, parts, monkeypatch):
    monkeypatch.chdir(parts)
    network = (*NETWORK, "--weights", small_weights)
    shutil.copy(DATA / "format5_classifier.mahalad", "beans.mahalad")
    for _ in range(2):
        assert run("fit", "parts", "-o", "part.mahalad", *network).exit_code == 0
    refused = run("fit", "parts", "-o", "beans.mahalad", *network)
    assert refused.exit_code == 2
    assert "a model of `tune`, not a model of `fit`" in " ".join(refused.stderr.split())
    assert run("fit", "parts", "-o", "beans.mahalad", *network, "--force").exit_code == 0
    assert load("beans.mahalad").n_images_ == 20
    for name in ("other.safetensors", "9"):  # not there: the name does not matter
        done = run("fit", "parts", "-o", name, *network, "--group", "9", "--force")
        assert done.exit_code == 2 and "group" in done.stderr  # of the pattern, not of the name
        done = run("fit", "parts", "-o", name, *network)
        assert done.exit_code == 0, done.output


@pytest.mark.parametrize("name", ["grid.png", "grid.jpg"])
def test_pictures_of_an_earlier_run_are_known(name, parts, monkeypatch):
    monkeypatch.chdir(parts)
    command = ("pretrain", "parts", "-o", "enc", "--epochs", 1, "--width", 1, "--size", 32)
    for _ in range(2):
        assert run(*command, "--grid", name).exit_code == 0
    assert recognize(name) == Content("picture", "picture")


@pytest.mark.parametrize("name", ["plot.png", "plot.svg", "plot.pdf"])
def test_plots_of_an_earlier_run_are_known(name, tmp_path):
    from matplotlib.figure import Figure

    from mahalad.bench.plots import save_figure

    save_figure(Figure(), tmp_path / name)
    assert recognize(tmp_path / name) == Content("picture", "picture")
    check_output(str(tmp_path / name), "picture")


def test_maps_replace_maps_alone(model, parts, monkeypatch):
    monkeypatch.chdir(parts)
    command = ("score", "parts", "-m", model, "--maps", "maps")
    for _ in range(2):
        assert run(*command).exit_code == 0
    assert json.loads((parts / "maps/maps.json").read_text())["format"] == "png"
    (parts / "maps/maps.json").unlink()
    before = files_of(parts)
    refused = run(*command)
    assert refused.exit_code == 2
    assert "no maps.json of an earlier run" in refused.stderr
    assert files_of(parts) == before
    (parts / "maps/maps.json").write_text('{"streets": []}')
    assert run(*command, "--force").exit_code == 2  # maps of a town
    shutil.copy(model, "x.mahalad")
    (parts / "maps/maps.json").unlink()
    (parts / "maps/000.map.png").unlink()
    (parts / "maps/000.map.png").symlink_to(parts / "x.mahalad")
    used = run("score", "parts", "-m", "x.mahalad", "--maps", "maps", "--force")
    assert used.exit_code == 2 and "in use" in used.stderr


@pytest.mark.parametrize(
    ("content", "form"),
    [
        (b"a,b\n1,2\n", "text"),
        (b'{"path": "x"}\n{"path": "y"}\n', "text"),
        (b"caf\xe9\n", "text"),
        (b'{\n "a": 1}', "JSON"),
        (b"<!doctype html><p>mine", "page"),
        (b"<?xml version='1.0'?>\n<svg></svg>", "picture"),
        (b"PK\3\4\0\0", "unknown"),
        (b"\x08\0\0\0\0\0\0\0{notjson", "unknown"),
    ],
)
def test_files_of_others_are_told_by_their_content(content, form, tmp_path):
    (tmp_path / "file").write_bytes(content)
    assert recognize(tmp_path / "file") == Content(form, None)


def test_pictures_and_models_are_told_by_their_content(tmp_path, small_weights):
    for style in ("png", "jpg", "gif", "bmp", "tif", "webp", "ppm", "pdf"):
        path = tmp_path / f"x.{style}"
        Image.new("RGB", (8, 8)).save(path)
        assert recognize(path) == Content("picture", None), style
    assert recognize(small_weights) == Content("weights", None)
    found = {path.name: recognize(path) for path in DATA.glob("*.mahalad")}
    assert {content.form for content in found.values()} == {"model"}
    assert recognize(tmp_path / "none") is recognize("/dev/null") is None
