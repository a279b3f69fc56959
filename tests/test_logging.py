"""What is logged, under which names, and that nothing is shown unless somebody asks for it."""

from __future__ import annotations

import ast
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import make_picture, run

import mahalad
from mahalad import AnomalyDetector, MahalanobisDetector, load
from mahalad.features.cache import CachedFeatures

PACKAGE = Path(mahalad.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    for seed in range(20):
        make_picture(seed).save(folder / f"{seed:02}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


def said(caplog, module):
    name = f"mahalad.{module}"
    return [r.getMessage() for r in caplog.records if r.name == name]


@pytest.mark.filterwarnings("ignore::mahalad.errors.UnreadableImageWarning")
def test_what_is_read_fitted_chosen_and_written(folder, small_weights, tmp_path, caplog):
    caplog.set_level(logging.DEBUG, "mahalad")
    network = {"weights": small_weights, "input_size": 64}
    detector = MahalanobisDetector("test_efficientnet", **network).fit(folder)
    assert said(caplog, "features.backbones")[0].startswith(
        "network test_efficientnet, weights from file"
    )
    read = said(caplog, "images.reading")
    assert f"{folder / '00.png'}: read (8-bit)" in read
    assert any("broken.png: " in line and "not an image" in line for line in read)
    assert read[-1].startswith("21 images read, 1 not readable; ")
    (line,) = said(caplog, "detectors.calibrating")
    assert "fitted to 20 images; calibrated by leave-one-out: 20 scores of 20 indep" in line
    assert said(caplog, "detectors.detector") == [
        "MahalanobisDetector: threshold conformal, fpr 0.05"
    ]
    detector.save(tmp_path / "model")
    load(tmp_path / "model")
    written, loaded = said(caplog, "files.container")
    assert written.startswith(f"{tmp_path / 'model'}: written (")
    assert loaded == f"{tmp_path / 'model'}: read; of mahalad {mahalad.__version__}"


def test_changes_of_a_fit_are_logged(rng, caplog):
    caplog.set_level(logging.INFO, "mahalad")
    detector = AnomalyDetector().fit(rng.normal(size=(30, 4)))
    other = AnomalyDetector().fit(rng.normal(size=(20, 4)))
    new = rng.normal(size=(5, 4))
    detector.partial_fit(new).merge(other).remove(new[:2])
    lines = said(caplog, "detectors.detector")[2:]
    assert lines == ["5 images added to 30", "20 images joined with 35", "53 images left of 55"]


def test_the_cache_says_what_it_has(caplog):
    class Means:
        batch_size = 4

        def transform(self, prepared):
            return {"mean": np.stack([image.mean(axis=(0, 1)) for image in prepared])}

    caplog.set_level(logging.DEBUG, "mahalad")
    cached = CachedFeatures(Means())
    images = [np.full((2, 2, 3), i, np.uint8) for i in range(3)]
    cached.transform(images[:2])
    cached.transform(images)
    assert said(caplog, "features.cache") == [
        "0 of 2 images are in the cache",
        "2 of 3 images are in the cache",
    ]


def test_nothing_is_shown_unless_asked_for(folder):
    code = (
        "import logging, numpy as np\n"
        "from mahalad import AnomalyDetector\n"
        "AnomalyDetector().fit(np.random.default_rng(0).normal(size=(30, 4)))\n"
        "print([type(h).__name__ for h in logging.getLogger('mahalad').handlers],"
        " logging.getLogger('mahalad').level, logging.getLogger().handlers)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['NullHandler'] 0 []"
    assert done.stderr == ""


def calls_of(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func)


def test_modules_print_nothing_and_log_under_their_names():
    odd = []
    for path in MODULES:
        is_shell = path.parent.name == "commands" or path.name == "cli.py"
        for node, name in calls_of(ast.parse(path.read_text(encoding="utf-8"))):
            shows = name in ("print", "pprint", "sys.stdout.write", "sys.stderr.write")
            if not is_shell and (shows or name.startswith("click.")):
                odd.append((path.name, name))
            if name == "logging.getLogger" and not is_shell:
                odd += [(path.name, a) for a in map(ast.unparse, node.args) if a != "__name__"]
            if name in ("logging.basicConfig", "logging.info", "logging.warning"):
                odd.append((path.name, name))
    assert len(MODULES) > 100 and odd == []


# -- the command line ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("switch", "level"), [("-v", "INFO"), ("--verbose", "INFO"), ("-vv", "DEBUG")]
)
def test_verbose_commands_say_it_on_stderr(fit_by_command, folder, switch, level):
    model = fit_by_command("verbose.mahalad")
    good = folder / "01.png"
    plain = run("score", good, "-m", model)
    assert "mahalad.images.reading" not in plain.stderr
    result = run(switch, "score", good, "-m", model)
    assert result.exit_code == 0 and result.stdout == plain.stdout
    assert "INFO mahalad.images.reading: 1 images read, 0 not readable; " in result.stderr
    assert f"INFO mahalad.files.container: {model}: read" in result.stderr
    assert ("DEBUG mahalad" in result.stderr) == (level == "DEBUG")
    logger = logging.getLogger("mahalad")
    assert logger.level == logging.NOTSET
    assert [type(handler) for handler in logger.handlers] == [logging.NullHandler]


def test_a_line_break_in_a_path_stays_in_its_line(fit_by_command, tmp_path):
    model = fit_by_command("verbose.mahalad")
    path = tmp_path / "two\nlines.png"
    make_picture(300).save(path)
    result = run("-vv", "score", path, "-m", model)
    assert result.exit_code == 0, result.output
    assert "two\\nlines.png: read (8-bit)" in result.stderr


def test_commands_that_log_nothing_take_the_option(tmp_path):
    assert run("-v", "plan", "--fpr", "0.05").exit_code == 0
    assert "--verbose" in run("--help").stdout
