"""Command lines: paths where nothing is, rates in per cent, tables on a narrow terminal."""

from __future__ import annotations

import inspect
import json
import shutil
from types import SimpleNamespace

import pytest
from conftest import run

from mahalad import MahalanobisDetector, load
from mahalad.commands.bench import bench
from mahalad.commands.fit import fit
from mahalad.report.rows import lines
from mahalad.report.text import columns, shortened


@pytest.fixture(scope="module")
def model(fit_by_command):
    return fit_by_command("part.mahalad")


@pytest.mark.parametrize(
    "command",
    [
        "score {missing} -m {model}",
        "score {good} {missing} -m {model}",  # the others are not scored: it is a typing error
        "score {good} {folder}/*.jpg -m {model}",
        "score {good} {folder}/goo* -m {model}",  # a folder is no file
        "report {good} {missing} -m {model} -o {folder}/x.html",
        "fit {good} {missing} -o {folder}/x",
        "pretrain {good} {missing} -o {folder}/x",
        "index add {model} {missing} --label a",
    ],
)
def test_a_path_where_nothing_is_is_a_usage_error(command, model, picture_folder):
    missing = picture_folder / "good" / "999.png"
    names = {"missing": missing, "folder": picture_folder, "model": model}
    words = [w.format(good=picture_folder / "good", **names) for w in command.split()]
    result = run(*words)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    said = " ".join(result.stderr.split())
    assert "no such file or folder" in said or "no file matches this pattern" in said
    assert not (picture_folder / "x").exists()


def test_a_file_that_is_there_but_no_picture_is_an_unreadable_image(
    model, picture_folder, tmp_path
):
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    result = run("score", picture_folder / "test/good", tmp_path / "link.png", "-m", model)
    assert result.exit_code == 3
    flagged = (load(model).predict(picture_folder / "test/good") < 0).sum()
    assert f"8 images scored, {flagged} flagged, 1 unreadable" in result.stderr


@pytest.mark.parametrize("rate", ["30%", "30 %", "0.3", " 30.0% "])
def test_rates_in_per_cent(rate, model, picture_folder):
    one = picture_folder / "test/good/100.png"
    found = run("score", one, "-m", model, "--format", "jsonl", "--fpr", rate)
    same = run("score", one, "-m", model, "--format", "jsonl", "--fpr", "0.3")
    assert found.stdout == same.stdout and json.loads(found.stdout)["score"]


@pytest.mark.parametrize(
    ("option", "given", "wanted"),
    [
        ("plan --fpr", "1%", 0.01),
        ("plan --fpr 0.05 --confidence", "99%", 0.99),
        ("score --fdr", "10%", 0.1),
        ("tune --precision", "70 %", 0.7),
        ("tune --recall", "90%", 0.9),
        ("tune --self-training", "95%", 0.95),
        ("finetune --validation", "20%", 0.2),
        ("fit --top-fraction", "3%", 0.03),
        ("bench fpr --alpha", "5%", 0.05),
    ],
)
def test_every_share_may_be_in_per_cent(option, given, wanted):
    from mahalad.cli import main

    *path, name = [word for word in option.split() if word.startswith("--") or word.isalpha()]
    command = main
    for word in path:
        command = command if word.startswith("--") else command.commands[word]
    (found,) = (p for p in command.params if name in p.opts)
    assert found.type.convert(given, found, None) == pytest.approx(wanted, rel=1e-12)
    for wrong in ("5x%", "%", "150%"):
        with pytest.raises(Exception, match=r"rate between 0 and 1|not a valid|not in the range"):
            found.type.convert(wrong, found, None)


def test_a_table_fits_the_terminal_and_a_pipe_has_whole_paths(monkeypatch):
    row = {"score": 1.5, "threshold": 2.0, "p_value": 0.5, "anomaly": False, "in_fit": True}
    paths = ["/data/" + 30 * "long/" + "000.png", "/部品/" + 40 * "写真" + ".png", "short.png"]
    rows = [row | {"path": path} for path in paths]
    rows.append({"path": "x", "error": paths[0] + ": cannot be read"})
    whole = list(lines(rows, "table"))
    assert all(path in line for path, line in zip(paths, whole[1:], strict=False))
    for width in (80, 100):
        table = list(lines(rows, "table", width=width))
        assert all(columns(line) <= width for line in table)
        assert table[1].endswith("000.png  (in the fit)") and "  /data/" in table[1]
        assert table[3] == whole[3]
    labelled = row | {"label": "a", "probability": 1.0, "novel": False, "path": paths[0]}
    (_, line) = lines([labelled], "table", width=90)
    assert columns(line) == 90


def test_shortened_texts_keep_both_ends():
    assert shortened("abc", 3) == "abc"
    assert shortened("0123456789abcdef", 10) == "012…abcdef"
    assert columns(shortened(20 * "部", 11)) <= 11


def test_only_a_terminal_has_a_width(model, picture_folder, monkeypatch):
    import mahalad.report.rows as rows

    seen = []
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: SimpleNamespace(columns=66))
    monkeypatch.setattr(
        rows, "lines", lambda *a, width, **o: seen.append(width) or iter(["a line"])
    )
    one = picture_folder / "test/good/100.png"
    run("score", one, "-m", model)
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda stream: True)
    run("score", one, "-m", model)
    assert seen == [None, 66]


PYTHON_NAMES = {"size": "input_size", "augment": "n_augment"}


@pytest.mark.parametrize("command", [fit, *bench.commands.values()], ids=lambda c: c.name)
def test_options_have_the_defaults_of_the_detector(command):
    parameters = inspect.signature(MahalanobisDetector).parameters
    shared = {
        option: parameters[PYTHON_NAMES.get(option.name, option.name)].default
        for option in command.params
        if PYTHON_NAMES.get(option.name, option.name) in parameters
    }
    assert shared
    for option, default in shared.items():
        assert option.default is None or option.default == default, option.name
