"""`fit` and `score` with lists of images, checkpoints and `--ray`, as far as no Ray is needed."""

from __future__ import annotations

import json
import re

import pytest
from conftest import run


@pytest.fixture
def network(small_weights):
    return ["--backbone", "test_efficientnet", "--weights", small_weights, "--size", "64",
            "--scope", "image"]  # fmt: skip


@pytest.fixture
def manifest(picture_folder, tmp_path):
    rows = [f"{path},{i // 2},train,good" for i, path in enumerate(sorted(
        (picture_folder / "good").glob("*.png")))]  # fmt: skip
    rows += ["none.png,a,train,good", f"{picture_folder}/good/000.png,0,train,scratch"]
    rows += [f"{picture_folder}/test/good/100.png,t,test,good", "lost.png,t,test,"]
    path = tmp_path / "parts.csv"
    path.write_text("\n".join(["path,group,split,label", *rows]) + "\n")
    return path


def test_a_list_says_what_is_fitted_and_what_is_scored(manifest, network, tmp_path):
    model = tmp_path / "model"
    result = run("fit", manifest, "-o", model, "--fpr", "0.1", *network)
    assert result.exit_code == 3, result.output
    assert "3 rows left out, of another split or label; 41 taken" in result.stderr
    assert "fitted to 40 images" in result.stderr
    assert re.search(r"parts\.csv, row 41: .*none\.png: no such file", result.stderr)
    result = run("score", manifest, "--split", "test", "-m", model, "--format", "jsonl")
    assert result.exit_code == 3, result.output
    first, second = map(json.loads, result.stdout.splitlines())
    assert first["path"].endswith("100.png") and first["score"] is not None
    assert "parts.csv, row 44: " in second["error"] and "lost.png" in second["error"]


def test_groups_of_a_list_count_as_one(manifest, network, tmp_path):
    result = run("fit", manifest, "-o", tmp_path / "model", "--fpr", "0.1", *network)
    assert "20 independent" in result.stderr, result.stderr


def test_a_checkpoint_of_a_fit(picture_folder, network, tmp_path):
    model, state = tmp_path / "model", tmp_path / "state"
    command = ["fit", picture_folder / "good", "-o", model, "--checkpoint", state, *network]
    assert run(*command).exit_code == 0
    assert state.is_file()
    assert run(*command).exit_code == 0  # it is all there already
    result = run(*command, "--size", "32")
    assert result.exit_code == 2 and "checkpoint of another fit" in result.stderr
    result = run("fit", picture_folder / "good", "-o", state, *network)
    assert result.exit_code == 2 and "a checkpoint of `fit`, not a model" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "GOOD", "-o", "MODEL", "--split", "train"], "--split is for a list of images"),
        (["fit", "GOOD", "LIST", "-o", "MODEL"], "give a list of images alone"),
        (["fit", "LIST", "-o", "MODEL", "--group", "x"], "has its own column group"),
        (["fit", "LIST", "-o", "MODEL", "--without", "x"], "take the rows out of the list"),
        (["fit", "-o", "MODEL", "--ray", "GOOD"], "is no address .*give --ray behind"),
        (["fit", "GOOD", "-o", "MODEL", "--workers", "2"], "--workers is for --ray"),
        (["fit", "GOOD", "-o", "MODEL", "--calibration", "GOOD", "--ray"], "not go with --ray"),
        (["score", "GOOD", "-m", "x", "--ray"], "give a folder for them, -o DIR"),
        (["score", "GOOD", "-m", "x", "-o", "LIST", "--ray"], "is a file: with --ray"),
        (["score", "GOOD", "-m", "x", "-o", "d", "--fdr", "0.1", "--ray"], "--fdr does not go"),
        (["score", "GOOD", "-m", "x", "-o", "d", "--format", "csv", "--ray"], "parquet or jsonl"),
        (["score", "GOOD", "--normals", "GOOD", "-o", "d", "--ray"], "--normals does not go"),
    ],
)
def test_what_does_not_go_together(arguments, message, picture_folder, manifest, tmp_path):
    names = {"GOOD": picture_folder / "good", "LIST": manifest, "MODEL": tmp_path / "model"}
    result = run(*(names.get(argument, argument) for argument in arguments))
    assert result.exit_code == 2
    assert re.search(message, " ".join(result.stderr.split())), result.stderr


def test_a_cluster_out_of_reach(picture_folder, network, tmp_path):
    pytest.importorskip("ray", reason="ray is not installed")
    address = "127.0.0.1:9"
    result = run("fit", picture_folder / "good", "-o", tmp_path / "m", *network, "--ray", address)
    assert result.exit_code == 2 and "no Ray at 127.0.0.1:9" in result.stderr
    assert not (tmp_path / "m").exists()
