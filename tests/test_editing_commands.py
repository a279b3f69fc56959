"""`mahalad update`, `remove`, `merge`: the model of one fit to all images, whole or not at all."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import DATA, make_picture, run

from mahalad import load
from mahalad.cli import main
from mahalad.commands.fit import SECTIONS
from mahalad.files.container import read_header


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Good pictures in ``a`` (24) and ``b`` (12), and an abnormal one."""
    folder = tmp_path_factory.mktemp("parts")
    for name, seeds in (("a", range(24)), ("b", range(50, 62))):
        (folder / name).mkdir()
        for seed in seeds:
            make_picture(seed).save(folder / name / f"{seed:03}.png")
    make_picture(99, spot=True).save(folder / "wrong.png")
    return folder


@pytest.fixture(scope="module")
def fitted(parts, small_weights, tmp_path_factory):
    """Fit to some of the parts by the command line; gives the model file, made once."""
    folder = tmp_path_factory.mktemp("fitted")

    def make(*names: str, more: tuple[str, ...] = ()) -> Path:
        path = folder / "-".join([*names, *more]).replace("/", "_")
        if not path.exists():
            network = ["--backbone", "test_efficientnet", "--weights", small_weights, "--size", 64]
            done = run("fit", *[parts / n for n in names], "-o", path, *network, *more)
            assert done.exit_code == 0, done.output
        return path

    return make


@pytest.fixture
def part(fitted, tmp_path):
    """A model of the pictures in ``a``."""
    return Path(shutil.copy(fitted("a"), tmp_path / "part.mahalad"))


def assert_same(path: Path, wanted: Path, parts: Path) -> None:
    found, want = load(path), load(wanted)
    assert found.n_images_ == want.n_images_
    assert found.threshold_ == pytest.approx(want.threshold_, rel=1e-4)  # float32 sums, any order
    scores = found.anomaly_score(parts / "wrong.png")
    np.testing.assert_allclose(scores, want.anomaly_score(parts / "wrong.png"), rtol=1e-4)


def test_update_is_the_fit_to_all_and_says_what_changed(part, parts, fitted):
    before, was = part.read_bytes(), load(part)
    done = run("update", part, parts / "b")
    assert done.exit_code == 0, done.output
    assert done.stdout == ""
    assert_same(part, fitted("a", "b"), parts)
    assert Path(f"{part}.bak").read_bytes() == before
    now = load(part)
    for line in (
        f"{part}: 24 -> 36 images; the old file is {part}.bak\n",
        f"threshold: {was.threshold_:.4g} -> {now.threshold_:.4g}\n",
        f"bound on the false-positive rate: {100 * was.guarantee_.bound:.1f} % -> "
        f"{100 * now.guarantee_.bound:.1f} %\n",
        f"false-positive rate: {now.guarantee_}\n",
    ):
        assert line in done.stderr
    again = run("remove", part, parts / "b/050.png")
    assert "the old file is" in again.stderr and "(an earlier one is replaced)" in again.stderr
    assert load(f"{part}.bak").n_images_ == 36


def test_what_was_added_can_be_removed(part, parts, fitted):
    assert run("update", part, parts / "wrong.png", parts / "b/050.png").exit_code == 0
    done = run("remove", part, parts / "wrong.png", parts / "b")
    assert done.exit_code == 2  # eleven of b are not in the fit
    assert "is not among the images of the fit" in done.stderr and load(part).n_images_ == 26
    done = run("remove", part, parts / "wrong.png", parts / "b/050.png")
    assert done.exit_code == 0, done.output
    assert f"{part}: 26 -> 24 images" in done.stderr
    assert_same(part, fitted("a"), parts)


def test_images_that_are_there_already_are_named(part, parts, fitted, tmp_path):
    done = run("update", part, parts / "a/003.png")
    assert done.exit_code == 0
    assert "Warning: 2 images are copies or near-copies of each other" in done.stderr
    assert load(part).guarantee_.n_independent == 24
    merged = run("merge", fitted("a"), fitted("a", "b"), "-o", tmp_path / "c")
    assert "Warning: 48 images are copies" in merged.stderr
    assert "copies" not in run("remove", part, parts / "a/003.png").stderr
    assert load(part).n_images_ == 23  # both of them


def test_update_with_groups(part, parts, fitted):
    assert run("update", part, parts / "b", "--group", r"(\d\d)\d\.png").exit_code == 0
    assert load(part).guarantee_.n_independent == 24 + 2
    assert load(part).n_images_ == 36


def test_unreadable_images_are_exit_code_3(part, parts, tmp_path):
    (tmp_path / "text.png").write_text("hello")
    before = part.read_bytes()
    done = run("update", part, tmp_path / "text.png", parts / "b")
    assert done.exit_code == 3
    assert "Warning: left out of the fit:" in done.stderr
    assert load(part).n_images_ == 36
    assert run("update", part, parts / "b/050.png").exit_code == 0  # an old one does not count
    part.write_bytes(before)
    alone = run("update", part, tmp_path / "text.png")
    assert alone.exit_code in (2, 3)
    assert part.read_bytes() == before
    assert run("remove", part, tmp_path / "text.png").exit_code == 2


def test_a_model_keeps_its_weights_as_they_were(parts, fitted, small_weights, tmp_path):
    bare = shutil.copy(fitted("a", more=("--without-weights",)), tmp_path / "bare.mahalad")
    assert run("update", bare, parts / "b").exit_code == 2
    done = run("update", bare, parts / "b", "--weights", small_weights, "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert not read_header(bare)["features"].get("weights_embedded")
    whole = shutil.copy(fitted("a"), tmp_path / "whole.mahalad")
    assert run("remove", whole, parts / "a/000.png").exit_code == 0
    assert read_header(whole)["features"]["weights_embedded"]


def test_merge_is_the_fit_to_all(fitted, parts, tmp_path):
    a, b, both = fitted("a"), fitted("b", more=("--fpr", "0.2")), tmp_path / "both.mahalad"
    before = a.read_bytes(), b.read_bytes()
    done = run("merge", a, b, "-o", both)
    assert done.exit_code == 0, done.output
    assert f"{both}: 36 images ({a} 24, {b} 12)" in done.stderr
    assert "false-positive rate: 5 % asked for" in done.stderr
    assert_same(both, fitted("a", "b"), parts)
    assert (a.read_bytes(), b.read_bytes()) == before
    assert run("merge", a, b, "-o", both).exit_code == 0  # a script that runs again


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("merge {a} -o {tmp}/c", "give two models or more, each once"),
        ("merge {a} {a} -o {tmp}/c", "give two models or more, each once"),
        ("merge {a} {b} -o {a}", "this command uses already"),
        ("merge {a} {b} -o {parts}/wrong.png", "a picture, not a model of `fit`"),
        ("merge {a} {image} -o {tmp}/c", "cannot merge"),
        ("merge {a} {beans} -o {tmp}/c", "holds no detector"),
        ("merge {a} {parts}/none -o {tmp}/c", "no such model file"),
        ("update {beans} {parts}/b", "is a classifier: `mahalad index add`"),
        ("remove {beans} {parts}/b", "is a classifier: `mahalad index add`"),
        ("update {slim} {parts}/b", "features"),
        ("update {parts}/none {parts}/b", "no such model file"),
        ("update {a} {parts}/none", "no such file or folder"),
        ("remove {a} {parts}/wrong.png", "is not among the images of the fit"),
        ("remove {a} {parts}/a", "every image of the fit would be removed"),
        ("update {strange} {parts}/b", "is there already and is a text file"),
    ],
)
def test_what_cannot_be_done_changes_nothing(command, message, fitted, parts, tmp_path):
    files = {
        "a": fitted("a"),
        "b": fitted("b", more=("--fpr", "0.2")),
        "image": fitted("a", more=("--scope", "image")),
        "slim": fitted("a", more=("--without-features", "--scope", "image")),
        "beans": DATA / "format5_classifier.mahalad",
        "strange": fitted("a"),
    }
    files = {name: Path(shutil.copy(path, tmp_path / name)) for name, path in files.items()}
    (tmp_path / "strange.bak").write_text("my notes")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    words = [word.format(**files, parts=parts, tmp=tmp_path) for word in command.split()]
    done = run(*words)
    assert done.exit_code == 2, done.output
    assert message in " ".join(done.stderr.split())
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_failed_write_leaves_the_old_model(part, parts, monkeypatch):
    import mahalad.files.container as container

    before, replace = part.read_bytes(), container.os.replace

    def fail(source, target):
        if str(target) == str(part):
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(container.os, "replace", fail)
    done = run("update", part, parts / "b")
    assert done.exit_code == 2 and "the old file is intact" in done.stderr
    assert part.read_bytes() == before


def test_help_of_fit_has_every_option_in_one_section():
    text = CliRunner().invoke(main, ["fit", "--help"], terminal_width=100).output
    options = [p for p in main.commands["fit"].params if p.param_type_name == "option"]
    assert sorted(n for names in SECTIONS.values() for n in names) == sorted(
        p.name for p in options
    )
    for heading in (*SECTIONS, "Others"):
        assert re.search(rf"^{heading}:$", text, re.MULTILINE)
    for option in options:
        assert len(re.findall(rf"^  (-o, )?{option.opts[-1]}\b(?!-)", text, re.MULTILINE)) == 1
    assert re.search(r"^Others:\n  -h, --help", text, re.MULTILINE)
