"""Rows as text: UTF-8 in pipes and files, one row an image whatever its name is."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner
from conftest import make_picture, run

from mahalad.cli import main

NAMES = (
    "部品.png",
    "two\nlines.png",
    "carriage\rreturn.png",
    'quoted "here", and a comma.png',
    "\x1b[31mred.png",
    "Müller\u2028.png",
    os.fsdecode(b"bytes\xff\xe9.png"),
)


@pytest.fixture(scope="module")
def model(fit_by_command):
    return fit_by_command("part.mahalad")


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """A folder of pictures with names that are hard to write."""
    folder = tmp_path_factory.mktemp("odd")
    try:
        for seed, name in enumerate(NAMES):
            make_picture(seed + 300).save(folder / name, format="PNG")
        (folder / "bro\nken.png").write_text("no picture")
    except OSError as error:
        pytest.skip(f"this file system has no such names: {error}")
    return folder


def score(*arguments: object, encoding: str = "cp1252") -> subprocess.CompletedProcess[bytes]:
    """Run `mahalad score` with pipes of another encoding."""
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    command = [sys.executable, "-c", "from mahalad.cli import main; main()", "score"]
    words = [os.fsencode(str(argument)) for argument in arguments]
    return subprocess.run([*command, *words], capture_output=True, check=False, env=environment)


def wanted(folder) -> set[bytes]:
    return {os.fsencode(path) for path in folder.iterdir()}


def paths_in_csv(content: bytes) -> set[bytes]:
    text = content.decode("utf-8", "surrogateescape")
    rows = csv.DictReader(_lines(text))
    return {row["path"].encode("utf-8", "surrogateescape") for row in rows}


def _lines(text: str):
    """Lines as a file opened with newline="" gives them."""
    return [line + "\n" for line in text.split("\n")[:-1]]


@pytest.mark.parametrize("encoding", ["cp1252", "utf-8"])
def test_every_image_has_its_row_on_a_pipe_of_any_encoding(encoding, odd, model):
    done = score(odd, "-m", model, "--format", "csv", encoding=encoding)
    assert done.returncode == 3, done.stderr
    assert b"Traceback" not in done.stderr
    assert paths_in_csv(done.stdout) == wanted(odd)
    assert "7 images scored" in done.stderr.decode()


def test_json_escapes_what_is_no_text(odd, model, tmp_path):
    out = tmp_path / "rows"
    assert run("score", odd, "-m", model, "--format", "jsonl", "-o", out).exit_code == 3
    rows = [json.loads(line) for line in out.read_bytes().splitlines()]
    assert {os.fsencode(row["path"]) for row in rows} == wanted(odd)
    assert rb"bytes\udcff\udce9.png" in out.read_bytes()


def test_a_row_of_a_table_is_one_line(odd, model):
    words = ["score", str(odd), "-m", str(model)]
    done = CliRunner(charset="cp1252").invoke(main, words)
    lines = done.stdout_bytes.split(b"\n")
    assert len(lines) == len(NAMES) + 3  # the head, the broken one, and the end
    for name in (
        "部品.png".encode(),
        rb"two\nlines.png",
        rb"\x1b[31mred.png",
        b"bytes\xff\xe9.png",
    ):
        assert name in done.stdout_bytes
    assert rb"carriage\rreturn.png" in done.stdout_bytes and b"\x1b" not in done.stdout_bytes
    assert rb"  " + os.fsencode(odd) + rb"/bro\nken.png: " in done.stderr_bytes


def test_text_in_csv_is_quoted_always_and_numbers_are_not(picture_folder, model):
    text = run("score", picture_folder / "test", "-m", model, "--format", "csv").stdout
    head, first = text.splitlines()[:2]
    assert head.startswith('"path","score","threshold","p_value","anomaly","in_fit","error"')
    assert first.startswith(f'"{picture_folder}/test/good/100.png",')
    assert first.count('"') == 2 and first.endswith(",False,")


def test_a_file_has_the_bytes_of_a_path_and_messages_are_utf8_too(odd, model, tmp_path):
    out = tmp_path / "rows"
    assert run("score", odd, "-m", model, "--format", "csv", "-o", out).exit_code == 3
    assert paths_in_csv(out.read_bytes()) == wanted(odd)
    missing = score(tmp_path / "無い", "-m", model)
    assert missing.returncode == 2
    assert "無い" in missing.stderr.decode()


def test_a_workbook_has_the_values_of_csv(odd, model, tmp_path):
    openpyxl = pytest.importorskip("openpyxl", reason="the extra `tables` is not installed")
    book, text = tmp_path / "rows.xlsx", tmp_path / "rows.csv"
    for _ in range(2):  # an earlier one is replaced
        done = run("score", odd, "-m", model, "--format", "xlsx", "-o", book)
        assert done.exit_code == 3, done.output
    assert run("score", odd, "-m", model, "--format", "csv", "-o", text).exit_code == 3
    head, *found = openpyxl.load_workbook(book).active.iter_rows(values_only=True)
    with open(text, newline="", encoding="utf-8", errors="surrogateescape") as stream:
        rows = list(csv.DictReader(stream))
    assert list(head) == list(rows[0])
    for values, row in zip(found, rows, strict=True):
        score = values[1]  # with 16 digits
        assert score == pytest.approx(float(row["score"]), rel=1e-15) if row["score"] else not score
        assert str(values[4] if values[4] is not None else "") == row["anomaly"]
    paths = {values[0].rpartition("/")[2] for values in found}
    assert {"部品.png", r"two\nlines.png", r"bytes\udcff\udce9.png"} <= paths
    (tmp_path / "notes.txt").write_text("mine")
    other = run(
        "score", odd, "-m", model, "--format", "xlsx", "-o", tmp_path / "notes.txt", "--force"
    )
    assert other.exit_code == 2


def test_text_of_a_workbook_is_no_formula():
    openpyxl = pytest.importorskip("openpyxl", reason="the extra `tables` is not installed")
    from mahalad.report.workbook import workbook

    row = {"path": "=1+1", "score": 0.1, "threshold": 1.0, "p_value": 0.5, "anomaly": False}
    sheet = openpyxl.load_workbook(io.BytesIO(workbook([row]))).active
    assert (sheet["A2"].value, sheet["A2"].data_type) == ("=1+1", "s")
    assert (sheet["B2"].value, sheet["E2"].value) == (0.1, False)


def test_a_workbook_needs_a_file_and_its_extra(picture_folder, model, tmp_path, monkeypatch):
    command = ("score", picture_folder / "test", "-m", model, "--format", "xlsx")
    nowhere = run(*command)
    assert nowhere.exit_code == 2 and "give a file, -o rows.xlsx" in nowhere.stderr
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    missing = run(*command, "-o", tmp_path / "x.xlsx")
    assert missing.exit_code == 2 and 'pip install "mahalad[tables]"' in missing.stderr


@pytest.mark.parametrize(
    ("name", "begins"),
    [
        ("rows.csv", b'"path","score"'),
        ("ROWS.JSONL", b'{"path": '),
        ("rows.xlsx", b"PK\x03\x04"),
        ("rows.parquet", b"PAR1"),
        ("rows.txt", b"     score   threshold"),
        ("csv", b"     score   threshold"),
    ],
)
def test_a_file_is_written_as_its_name_says(picture_folder, model, tmp_path, name, begins):
    if name == "rows.xlsx":
        pytest.importorskip("openpyxl", reason="the extra `tables` is not installed")
    if name == "rows.parquet":
        pytest.importorskip("pyarrow", reason="the extra `tables` is not installed")
    done = run("score", picture_folder / "test/spot", "-m", model, "-o", tmp_path / name)
    assert done.exit_code == 0, done.output
    assert (tmp_path / name).read_bytes().startswith(begins)


def test_a_format_that_is_asked_for_goes_before_the_name(picture_folder, model, tmp_path):
    command = ("score", picture_folder / "test/spot", "-m", model, "-o", tmp_path / "rows.csv")
    assert run(*command, "--format", "jsonl").exit_code == 0
    assert (tmp_path / "rows.csv").read_bytes().startswith(b'{"path": ')
