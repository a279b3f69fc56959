"""README and examples are run; every command and option is written down somewhere."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from mahalad.cli import main
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


def blocks(language: str) -> list[str]:
    found = re.findall(rf"(<!-- not run[^\n]*-->\n)?```{language}\n(.*?)```", README, re.DOTALL)
    return [code for skipped, code in found if not skipped]


def test_python_blocks_run(parts, monkeypatch, capsys):
    monkeypatch.chdir(parts)
    code = "\n".join(blocks("python"))
    exec(compile(code, "README.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == 8
    assert (parts / "part.mahalad").stat().st_size > 10_000


def test_shell_commands_of_the_product_run(parts, monkeypatch):
    monkeypatch.chdir(parts)
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    commands = [line for line in lines if line.startswith("mahalad ") and "bench" not in line]
    assert len(commands) == 4
    for command in commands:
        result = CliRunner().invoke(main, command.split()[1:])
        assert result.exit_code == 0, (command, result.output)
    assert len((parts / "rows.jsonl").read_text().splitlines()) == 8


def test_commands_of_the_benchmarks_parse():
    for command in re.findall(r"^mahalad (bench [^#\n]*)", README, re.MULTILINE):
        arguments = command.replace("mvtec_ad", str(ROOT)).replace("beans", str(ROOT)).split()
        result = CliRunner().invoke(main, arguments)
        missing = "no such folder" if "knn" in command else "no category"
        assert missing in result.output, (command, result.output)


def commands_of(group, path=()):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands_of(command, (*path, name))
        else:
            yield (*path, name), command


@pytest.mark.parametrize(("path", "command"), list(commands_of(main)), ids=str)
def test_every_command_is_in_the_readme_and_every_option_has_help(path, command):
    assert " ".join(path) in README
    text = CliRunner().invoke(main, [*path, "--help"]).output
    for parameter in command.params:
        if parameter.param_type_name == "option":
            assert parameter.help, parameter.name
            assert parameter.opts[0] in text


def test_make_commands_are_the_makefiles():
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for command in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert command in targets
    assert "make test" in (ROOT / ".ci" / "run").read_text()


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
