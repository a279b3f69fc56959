"""README is one page whose links lead somewhere, and examples/ run; test_docs.py runs its code."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from PIL import Image

from mahalad.demo.rendered import write_dataset

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readme")
    write_dataset(folder / "parts", n_train=25, n_test_good=2, n_test_per_defect=1, seed=3)
    (folder / "good").symlink_to(folder / "parts" / "train" / "good")
    (folder / "new").symlink_to(folder / "parts" / "test")
    return folder


def test_readme_is_one_page():
    assert len(README.splitlines()) <= 150


def test_the_picture_is_there_and_small():
    (picture,) = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README)
    assert picture == "docs/demo.png"
    assert 1_000 < (ROOT / picture).stat().st_size < 200_000
    with Image.open(ROOT / picture) as opened:
        opened.verify()


def slug(heading: str) -> str:
    """The anchor of a heading, as mkdocs and GitHub make it."""
    return re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-")


@pytest.mark.parametrize("link", re.findall(r"(?<!!)\[[^\]]+\]\(([^)]+)\)", README))
def test_links_lead_somewhere(link):
    path, _, anchor = link.partition("#")
    text = (ROOT / path).read_text(encoding="utf-8")
    if anchor:
        assert anchor in map(slug, re.findall(r"^#+ (.*)", text, re.MULTILINE))


def test_shell_and_python_write_different_model_files():
    code = {
        language: "".join(re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL))
        for language in ("sh", "python")
    }
    files = {language: set(re.findall(r"\w+\.mahalad", text)) for language, text in code.items()}
    assert files["sh"] and files["python"]
    assert not files["sh"] & files["python"]


def test_ci_runs_the_whole_suite_and_builds_the_documentation():
    assert "make test" in (ROOT / ".ci" / "run").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (extras,) = [x for x in project["optional-dependencies"]["test"] if x.startswith("mahalad[")]
    assert "docs" in extras


def test_feature_arrays_example(capsys):
    runpy.run_path(str(ROOT / "examples" / "feature_arrays.py"), run_name="__main__")
    out = capsys.readouterr().out
    assert "shards equal one fit: True" in out
    rates = [float(rate) for rate in re.findall(r"([\d.]+)% of fresh,", out)]
    assert len(rates) == 3
    assert all(1.5 < rate < 9 for rate in rates)


def test_quickstart_example(parts):
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "quickstart.py", parts / "good", parts / "new"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "fitted to 25 images" in done.stdout
    assert "scratch" in done.stdout and "stain" in done.stdout  # each with its path


def test_label_beans_example(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["label_beans.py"])
    runpy.run_path(str(ROOT / "examples" / "label_beans.py"), run_name="__main__")
    out = capsys.readouterr().out
    assert re.search(r"good/000.png: good 1.00 \(good \d+.png", out)
    assert re.search(r"000.png: good, after a correction \w+", out)
    assert "60 embeddings copied to" in out


def test_examples_are_short():
    for path in (ROOT / "examples").glob("*.py"):
        assert len(path.read_text().splitlines()) < 60, path.name
