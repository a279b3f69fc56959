"""The pages: their examples run, they build without a warning, and they name all there is."""

from __future__ import annotations

import html
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from numpy.random import default_rng
from test_public_names import NAMES

from mahalad import AnomalyDetector, MahalanobisDetector
from mahalad.cli import main
from mahalad.demo.rendered import render_part, write_dataset
from mahalad.images import IMAGE_EXTENSIONS

ROOT = Path(__file__).parents[1]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
}


def blocks(page: str, language: str) -> list[str]:
    """Examples in a page, without those that say why they are not run."""
    fenced = rf"(<!-- not run: [^\n]*-->\n)?^( *)```{language}\n(.*?)^\2```"
    found = re.findall(fenced, PAGES[page], re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(code) for skipped, _, code in found if not skipped]


def commands_in(page: str) -> list[list[str]]:
    """Command lines of mahalad among the examples of a page, without benchmarks."""
    lines = "\n".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
    split = [shlex.split(line, comments=True) for line in lines if line.startswith("mahalad ")]
    return [words[1:] for words in split if words[1] not in ("bench", "demo")]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """What examples find beside them: good, new, fine and labelled images."""
    folder = tmp_path_factory.mktemp("docs")
    made = write_dataset(folder / "parts", n_train=25, n_test_good=2, n_test_per_defect=1, seed=3)
    (made / "train" / "good").rename(folder / "good")
    (made / "test").rename(folder / "new")
    more = write_dataset(folder / "more", n_train=16, n_test_good=0, n_test_per_defect=2, seed=4)
    (folder / "labelled" / "defect").mkdir(parents=True)
    for i, path in enumerate(sorted((more / "test").rglob("*.png"))):
        path.rename(folder / "labelled" / "defect" / f"{i:03}.png")
    (more / "train" / "good").rename(folder / "labelled" / "good")
    (folder / "fine").mkdir()
    for i in range(6):
        render_part(default_rng(100 + i)).save(folder / "fine" / f"{i:03}.png")
    render_part(default_rng(200), "dent").save(folder / "wrong.png")
    return folder


@pytest.fixture
def beside(pictures, tmp_path, monkeypatch):
    """A folder with them, in which examples run at a small size."""
    shutil.copytree(pictures, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mahalad.detectors.mahalanobis.POSITIONS_SIZE", 64)
    return tmp_path


LINES = {"README.md": 8, "docs/python.md": 8 + 2 + 1}
"""Page to the number of lines that its Python prints, one an image or a lot; others print none."""


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_python_examples_run(page, beside, capsys):
    exec(compile("\n".join(blocks(page, "python")), page, "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == LINES.get(page, 0)


@pytest.mark.parametrize("page", [page for page in PAGES if commands_in(page)])
def test_shell_examples_run(page, beside):
    for command in commands_in(page):
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 0, (command, result.output)


def test_the_pages_have_examples_of_both_kinds():
    assert len(commands_in("README.md")) >= 5
    assert len(commands_in("docs/shell.md")) >= 8
    assert blocks("docs/python.md", "python")
    assert blocks("docs/faq.md", "python")


def test_benchmarks_in_the_pages_parse():
    found = 0
    for page in PAGES:
        for command in re.findall(r"^mahalad (bench [^#\n]*)", PAGES[page], re.MULTILINE):
            arguments = command.replace("mvtec_ad", str(ROOT)).replace("beans", str(ROOT)).split()
            result = CliRunner().invoke(main, arguments)
            missing = "no such folder" if "knn" in command else "no category"
            assert missing in result.output, (command, result.output)
            found += 1
    assert found >= 3


def test_scripts_and_targets_that_the_pages_name_are_there():
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for page, text in PAGES.items():
        for target in re.findall(r"(?:^|`)make (\w+)", text, re.MULTILINE):
            assert target in targets, (page, target)
        for script in re.findall(r"(?:python |`)((?:benchmarks|examples)/\w+\.py)", text):
            assert (ROOT / script).is_file(), (page, script)


def commands_of(group: click.Command, path: tuple[str, ...] = ()):
    for name, command in getattr(group, "commands", {}).items():
        yield (*path, name), command
        yield from commands_of(command, (*path, name))


COMMANDS = dict(commands_of(main))
OPTIONS = {
    path: {"--help", "-h"} | {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
    for path, command in [*COMMANDS.items(), ((), main)]
}


@pytest.mark.parametrize("page", list(PAGES))
def test_commands_and_options_in_a_page_exist(page):
    prose = re.sub(r"^ *```.*?^ *```", "", PAGES[page], flags=re.DOTALL | re.MULTILINE)
    for code in re.findall(r"`([^`]+)`", prose):
        words = re.sub(r"^mahalad -vv?\b", "mahalad", code).split()
        named = words[0] == "mahalad"
        path: tuple[str, ...] = ()
        for word in words[named:]:
            if (*path, word) not in OPTIONS:
                break
            path = (*path, word)
        assert path or not named or words[1:2] in ([], ["--help"], ["--version"], ["COMMAND"]), code
        known = OPTIONS[path] if path else set().union(*OPTIONS.values())
        if named or path or words[0].startswith("--"):
            asked = [word for word in words if word.startswith("--")]
            assert set(asked) <= known | {"--version"}, code


@pytest.mark.parametrize("page", list(PAGES))
def test_attributes_of_a_detector_in_a_page_exist(page):
    for name in re.findall(r"\bdetector\.(?!mahalad)([a-z_]+)", PAGES[page]):
        assert hasattr(AnomalyDetector, name) or hasattr(MahalanobisDetector, name), name


def test_extensions_of_images_are_those_that_are_searched_for():
    listed = re.search(r"subfolders for (.*?)\. ", PAGES["docs/images.md"], re.DOTALL)
    assert listed and set(IMAGE_EXTENSIONS) <= set(listed[1].split())


# The site


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The documentation, built strictly: every warning, of a dead link say, is an error."""
    for module in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(module, reason="the documentation is not built: pip install '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder


def read(site: Path, page: str) -> str:
    return (site / page).read_text(encoding="utf-8")


def test_all_public_names_are_in_the_reference(site):
    page = read(site, "reference/python.html") + read(site, "reference/errors.html")
    for module in NAMES:
        names = importlib.import_module(module).__all__
        missing = [
            name
            for name in names
            if not re.search(rf'id="(mahalad|mahalad\.errors|{module})\.{name}"', page)
        ]
        assert not missing, module


def test_all_errors_are_in_the_reference(site):
    import mahalad.errors

    page = read(site, "reference/errors.html")
    for name in vars(mahalad.errors):
        if name.endswith(("Error", "Warning")):
            assert f'id="mahalad.errors.{name}"' in page, name


def test_defaults_of_the_reference_are_those_of_the_signature(site):
    """Several parameters in one entry each have their own default, not that of the first."""
    text = re.sub(r"<[^>]+>|\s+", " ", read(site, "reference/python.html"))
    text = re.sub(" +", " ", html.unescape(text))
    assert re.search(r"top_fraction \( float , default: 0\.03", text)
    assert re.search(r"image_weight \( float , default: 0\.1\b", text)
    assert re.search(r"weights \( str, Path or None , default: None", text)


@pytest.mark.parametrize("path", list(COMMANDS), ids=" ".join)
def test_every_command_and_option_is_in_the_reference_and_has_help(path, site):
    page, command = read(site, "reference/commands.html"), COMMANDS[path]
    heading = "mahalad-" + "-".join(path)
    assert f'id="{heading}"' in page
    section = page.split(f'id="{heading}"')[1].split("<h2")[0].split("<h3")[0]
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name
            assert max(parameter.opts, key=len) in section, parameter.opts


def test_help_in_the_reference_is_whole(site):
    page = html.unescape(read(site, "reference/commands.html"))
    assert "Render parts with defects, find them, and write a page that shows the result." in page
    assert "--near-copies [group|separate]" in page
    assert "for --scope positions." in page
    assert "..." not in re.sub(
        r"\[ARGS\]\.\.\.|[A-Z]+\.\.\.|cuda:1, \.\.\.|N,\.\.\.", "", text_of(page)
    )


def text_of(page: str) -> str:
    article = re.search(r"<article.*?</article>", page, re.DOTALL)
    return re.sub(r"<[^>]+>", "", article[0]) if article else ""


def test_the_site_fetches_nothing(site):
    loaded = re.compile(r'(?:<script[^>]*src|<img[^>]*src|<link[^>]*href)="?(?:https?:)?//[^" >]*')
    pages = list(site.rglob("*.html"))
    assert len(pages) > 12
    for page in pages:
        assert not loaded.findall(page.read_text(encoding="utf-8")), page.name


def test_no_mark_of_markdown_is_left_in_the_site(site):
    for page in site.rglob("*.html"):
        text = re.sub(r"<(pre|code)\b.*?</\1>", "", page.read_text("utf-8"), flags=re.DOTALL)
        assert not re.search(r"\*\*\w|^:::|```|\]\(|\|---", text_of(text), re.MULTILINE), page.name
