"""`--bits` of the commands: said at the fit, kept in the model, said anew when images come."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import make_picture, run
from PIL import Image

from mahalad import load
from mahalad.metric.autoencoder import Autoencoder, ReconstructionError


def pictures(folder, seeds, bits):
    """Grey PNGs; of more than 8 bits in 16."""
    folder.mkdir(parents=True)
    for seed in seeds:
        grey = np.asarray(make_picture(seed).convert("L"))
        if bits > 8:
            grey = np.rint(grey / 255 * (2**bits - 1)).astype(np.uint16)
        Image.fromarray(grey).save(folder / f"{seed}.png")
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    return {bits: pictures(folder / str(bits), range(24), bits) for bits in (8, 12)} | {
        f"new {bits}": pictures(folder / f"new{bits}", range(100, 103), bits)
        for bits in (8, 12, 16)
    }


@pytest.fixture(scope="module")
def models(folders, small_weights, tmp_path_factory):
    """Models of 8 bits, and of 12."""
    folder, found = tmp_path_factory.mktemp("models"), {}
    network = ["--backbone", "test_efficientnet", "--weights", small_weights, "--size", "64"]
    network += ["--tolerate", "none"]  # what is changed is drawn by the pixels as they are
    for bits, options in ((8, []), (12, ["--bits", "12"])):
        found[bits] = folder / f"{bits}.mahalad"
        result = run("fit", folders[bits], "-o", found[bits], *network, *options)
        assert result.exit_code == 0, result.output
        assert "never exceed" not in result.stderr
    return found


def scores(result):
    return [json.loads(line)["score"] for line in result.stdout.splitlines()]


def test_a_model_knows_its_bits(folders, models):
    assert load(models[12]).get_params()["bits"] == 12
    assert "pixels       16-bit; 12 bits of 16 are used\n" in run("info", models[12]).stdout
    assert "pixels       8-bit\n" in run("info", models[8]).stdout
    wanted = scores(run("score", folders["new 8"], "-m", models[8], "--format", "jsonl"))
    found = run("score", folders["new 12"], "-m", models[12], "--format", "jsonl")
    assert found.exit_code == 0 and "Warning" not in found.stderr
    np.testing.assert_allclose(scores(found), wanted, rtol=0.1)


def test_16_bits_are_refused_by_a_model_of_8_until_bits_are_given(folders, models):
    refused = run("score", folders["new 12"], "-m", models[8])
    assert refused.exit_code == 3
    assert refused.stderr.count("is stored in 16 bits, and no image of the fit was") == 3
    told = run("score", folders["new 12"], "-m", models[8], "--bits", 12, "--format", "jsonl")
    assert told.exit_code == 0, told.output
    wanted = scores(run("score", folders["new 8"], "-m", models[8], "--format", "jsonl"))
    np.testing.assert_allclose(scores(told), wanted, rtol=0.1)


def test_values_beyond_the_bits_are_rows_of_errors(folders, models):
    refused = run("score", folders["new 16"], "-m", models[12], "--format", "jsonl")
    assert refused.exit_code == 3
    errors = [json.loads(line)["error"] for line in refused.stdout.splitlines()]
    assert all("values up to" in error and "bits=12" in error for error in errors)
    assert "100.png" in errors[0]
    told = run("score", folders["new 16"], "-m", models[12], "--bits", 16)
    assert told.exit_code == 0, told.output


def test_a_fit_that_nobody_told_warns(folders, small_weights, tmp_path):
    network = ["--backbone", "test_efficientnet", "--weights", small_weights, "--size", "64"]
    result = run("fit", folders[12], "-o", tmp_path / "model", *network)
    assert "Warning: 24 images stored in 16 bits never exceed" in result.stderr
    assert "Give bits=12 (--bits 12 on the command line)" in result.stderr
    scored = run("score", folders["new 12"], "-m", tmp_path / "model")
    assert "Warning: 3 images stored in 16 bits never exceed" in scored.stderr


@pytest.mark.parametrize("bits", ["7", "17", "twelve"])
def test_bits_that_there_are_not(folders, models, bits):
    result = run("score", folders["new 8"], "-m", models[8], "--bits", bits)
    assert result.exit_code == 2 and "--bits" in result.stderr


def test_overlays_and_pages_show_pictures_as_bright_as_they_are(folders, models, tmp_path):
    result = run("score", folders["new 12"], "-m", models[12], "--maps", tmp_path / "maps")
    assert result.exit_code == 0, result.output
    shown = np.asarray(Image.open(tmp_path / "maps" / "100.overlay.png").convert("L"))
    assert 60 < shown.mean() < 200  # divided by 65535, it would be 8
    result = run(
        "report", folders["new 12"], "-m", models[8], "--bits", 12, "-o", tmp_path / "page"
    )
    assert result.exit_code == 0, result.output


def test_a_page_says_that_colours_are_swapped(small_weights, tmp_path):
    from test_guessed_pixels import frames

    for name, seeds, order in (("good", range(24), 1), ("new", range(100, 110), -1)):
        (tmp_path / name).mkdir()
        for seed, image in zip(seeds, frames(seeds), strict=True):
            Image.fromarray(image[:, :, ::order].copy()).save(tmp_path / name / f"{seed}.png")
    network = ["--backbone", "test_efficientnet", "--weights", small_weights, "--size", "64"]
    assert run("fit", tmp_path / "good", "-o", tmp_path / "model", *network).exit_code == 0
    result = run("report", tmp_path / "new", "-m", tmp_path / "model", "-o", tmp_path / "page")
    assert "normal with red and blue swapped" in result.stderr
    assert "normal with red and blue swapped" in (tmp_path / "page").read_text()


def test_update_takes_bits_and_keeps_them(folders, models, tmp_path):
    model = tmp_path / "part.mahalad"
    model.write_bytes(models[8].read_bytes())
    result = run("update", model, folders["new 12"], "--bits", 12)
    assert result.exit_code == 0, result.output
    assert load(model).get_params()["bits"] == 12
    assert "never exceed" not in result.stderr and "several ways" not in result.stderr


def test_pretrain_and_what_uses_it_know_the_bits(folders, tmp_path):
    options = ["--size", "32", "--width", "2", "--epochs", "1"]
    result = run("pretrain", folders[12], "-o", tmp_path / "enc", *options, "--bits", 12)
    assert result.exit_code == 0 and "Warning" not in result.stderr, result.output
    autoencoder = Autoencoder.load(tmp_path / "enc")
    assert autoencoder.pixels.bits == 12 == ReconstructionError(autoencoder).pixels.bits
    eight = autoencoder.embed(folders["new 8"])
    np.testing.assert_allclose(autoencoder.embed(folders["new 12"]), eight, atol=0.05)
    autoencoder.set_params(bits=None).save(tmp_path / "again")
    assert Autoencoder.load(tmp_path / "again").bits is None
    with pytest.warns(UserWarning, match="never exceed"):
        Autoencoder.load(tmp_path / "again").embed(folders["new 12"])


def test_a_classifier_knows_its_bits(folders, small_weights, tmp_path):
    labelled = tmp_path / "labelled"
    pictures(labelled / "a", range(8), 12)
    pictures(labelled / "b", range(20, 28), 12)
    network = ["--backbone", "test_efficientnet", "--weights", small_weights, "--no-projection"]
    model = tmp_path / "model"
    result = run("tune", labelled, "-o", model, *network, "--bits", 12)
    assert result.exit_code == 0 and "never exceed" not in result.stderr, result.output
    assert "pixels       16-bit; 12 bits of 16 are used\n" in run("info", model).stdout
    told = run("score", folders["new 12"], "-m", model, "--format", "jsonl")
    assert told.exit_code == 0 and "never exceed" not in told.stderr
    refused = run("score", folders["new 16"], "-m", model)
    assert refused.exit_code == 3 and "bits=12" in refused.stderr
    assert run("score", folders["new 16"], "-m", model, "--bits", 16).exit_code == 0


def test_a_classifier_of_8_bits_refuses_16_until_bits_are_given(folders, small_weights, tmp_path):
    labelled = tmp_path / "labelled"
    pictures(labelled / "a", range(8), 8)
    pictures(labelled / "b", range(20, 28), 8)
    network = ["--backbone", "test_efficientnet", "--weights", small_weights, "--no-projection"]
    model = tmp_path / "model"
    assert run("tune", labelled, "-o", model, *network).exit_code == 0
    refused = run("score", folders["new 12"], "-m", model)
    assert refused.exit_code == 3
    assert refused.stderr.count("is stored in 16 bits, and no image of the fit was") == 3
    added = run("index", "add", model, folders["new 12"] / "100.png", "--label", "a")
    assert added.exit_code != 0 and "is stored in 16 bits" in added.stderr
    picture = folders["new 12"] / "100.png"
    assert run("index", "add", model, picture, "--label", "a", "--bits", 12).exit_code == 0
    row = json.loads(run("score", picture, "-m", model, "--format", "jsonl").stdout)
    assert row["neighbours"][0]["distance"] < 1e-6  # the model knows it now
    assert run("score", folders["new 12"], "-m", model, "--bits", 12).exit_code == 0
    pictures(labelled / "a" / "deep", range(40, 42), 16)
    mixed = run("tune", labelled, "-o", model, *network)
    assert "Warning: the images of the fit are stored in several ways: " in mixed.stderr


def test_finetune_reads_by_its_bits(small_weights, tmp_path):
    labelled = tmp_path / "labelled"
    pictures(labelled / "a", range(6), 12)
    pictures(labelled / "b", range(20, 26), 12)
    network = ["--backbone", "test_efficientnet", "--weights", small_weights, "--size", "64"]
    short = ["--stages", "1", "--epochs", "1"]
    weights = tmp_path / "net.safetensors"
    result = run("finetune", labelled, "-o", weights, *network, *short, "--bits", 12)
    assert result.exit_code == 0 and "never exceed" not in result.stderr, result.output
    result = run("finetune", labelled, "-o", weights, *network, *short, "--force", "--bits", 10)
    assert result.exit_code != 0 and "bits=10" in result.output
