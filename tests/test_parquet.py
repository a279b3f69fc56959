"""`score --format parquet`: values and types of the rows; and tables that fit a terminal."""

from __future__ import annotations

import io
import json
import os
import sys

import pytest
from conftest import run

from mahalad.errors import MissingExtraError
from mahalad.files.recognition import Content, recognize
from mahalad.report.parquet import parquet
from mahalad.report.rows import lines, row_of
from mahalad.report.text import columns
from mahalad.result import LabelledResult, Neighbour, Result

GOOD = Result("a/1.png", score=0.1, threshold=1.5, p_value=0.25, anomaly=False, in_fit=True)
BROKEN = Result("a/2.png", error="a/2.png: is empty (0 bytes)")
LABELLED = LabelledResult(
    "a/3.png", score=0.75, anomaly=True, label="crack", probability=0.75, novel=None, distance=2,
    neighbours=(Neighbour(7, "b.png", "crack", 0.5), Neighbour(9, "bytes\udcff.png", "dent", 1)),
)  # fmt: skip


@pytest.fixture(scope="module")
def pa():
    pytest.importorskip("pyarrow", reason="the extra `tables` is not installed")
    import pyarrow
    import pyarrow.parquet

    return pyarrow


@pytest.fixture(scope="module")
def model(fit_by_command):
    return fit_by_command("parquet.mahalad")


def read(pa, content):
    return pa.parquet.read_table(io.BytesIO(content))


def types(table):
    return {field.name: str(field.type) for field in table.schema}


DETECTOR = {
    "path": "string", "score": "double", "threshold": "double", "p_value": "double",
    "anomaly": "bool", "in_fit": "bool", "error": "string",
}  # fmt: skip
CLASSIFIER = {
    "path": "string", "score": "double", "threshold": "double", "p_value": "double",
    "anomaly": "bool", "label": "string", "probability": "double", "novel": "bool",
    "distance": "double",
    "neighbours": "list<element: struct<id: int64, path: string, label: string, distance: double>>",
    "error": "string",
}  # fmt: skip


@pytest.mark.parametrize("results", [[GOOD, BROKEN], [BROKEN], []])
def test_columns_have_their_types_whatever_the_rows_hold(pa, results):
    table = read(pa, parquet(map(row_of, results)))
    assert types(table) == DETECTOR
    wanted = [dict.fromkeys(DETECTOR) | row_of(result) for result in results]
    assert table.to_pylist() == wanted


def test_rows_of_a_classifier_have_lists_of_neighbours(pa):
    broken = LabelledResult("a/4.png", error="no")
    table = read(pa, parquet(map(row_of, [LABELLED, broken])))
    assert types(table) == CLASSIFIER
    first, second = table.to_pylist()
    assert first["neighbours"] == [
        {"id": 7, "path": "b.png", "label": "crack", "distance": 0.5},
        {"id": 9, "path": r"bytes\udcff.png", "label": "dent", "distance": 1.0},
    ]
    assert (first["novel"], first["anomaly"], first["distance"]) == (None, True, 2.0)
    assert second["neighbours"] == [] and second["label"] is None


def test_paths_are_text_with_line_breaks_and_escapes(pa):
    names = ["two\nlines.png", "部品.png", os.fsdecode(b"bytes\xff\xe9.png"), "=1+1"]
    table = read(pa, parquet([row_of(Result(name, score=1.0)) for name in names]))
    assert table["path"].to_pylist() == [*names[:2], r"bytes\udcff\udce9.png", "=1+1"]


def test_the_command_writes_what_the_other_formats_say(pa, picture_folder, model, tmp_path):
    out = tmp_path / "rows.parquet"
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "broken.png").write_bytes(b"no picture")
    given = (picture_folder / "test", tmp_path / "in", "-m", model)
    for _ in range(2):  # an earlier one is replaced
        done = run("score", *given, "--format", "parquet", "-o", out)
        assert done.exit_code == 3 and done.stdout == "", done.output
    rows = [json.loads(s) for s in run("score", *given, "--format", "jsonl").stdout.splitlines()]
    table = pa.parquet.read_table(out)
    assert types(table) == DETECTOR
    assert table.to_pylist() == [dict.fromkeys(DETECTOR) | row for row in rows]
    assert recognize(out) == Content("parquet", "parquet")


def test_maps_are_columns(pa, picture_folder, model, tmp_path):
    options = ("--maps", tmp_path / "maps", "--format", "parquet", "-o", tmp_path / "rows")
    assert run("score", picture_folder / "test/spot", "-m", model, *options).exit_code == 0
    table = pa.parquet.read_table(tmp_path / "rows")
    assert table.column_names == [*list(DETECTOR)[:-1], "map", "overlay", "error"]
    assert all(os.path.isfile(path) for path in table["map"].to_pylist())


def test_a_lot_is_written_too(pa, picture_folder, model, tmp_path):
    options = ("--fdr", 0.1, "--format", "parquet", "-o", tmp_path / "rows")
    assert run("score", picture_folder / "test", "-m", model, *options).exit_code == 0
    assert types(pa.parquet.read_table(tmp_path / "rows")) == DETECTOR


def test_a_parquet_file_needs_a_file_and_its_extra(picture_folder, model, tmp_path, monkeypatch):
    command = ("score", picture_folder / "test", "-m", model, "--format", "parquet")
    nowhere = run(*command)
    assert nowhere.exit_code == 2 and "give a file, -o rows.parquet" in nowhere.stderr
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    missing = run(*command, "-o", tmp_path / "x.parquet")
    assert missing.exit_code == 2 and "--format parquet needs pyarrow" in missing.stderr
    assert 'pip install "mahalad[tables]"' in missing.stderr
    assert not (tmp_path / "x.parquet").exists()
    with pytest.raises(MissingExtraError, match="needs pyarrow"):
        parquet([])


def test_other_files_are_not_replaced(pa, picture_folder, model, tmp_path):
    foreign, text = tmp_path / "foreign.parquet", tmp_path / "notes.txt"
    pa.parquet.write_table(pa.table({"a": [1]}), foreign)
    text.write_text("mine")
    command = ("score", picture_folder / "test", "-m", model, "--format", "parquet", "-o")
    refused = run(*command, foreign)
    assert refused.exit_code == 2
    assert "is a Parquet file, not a Parquet file of `score`: --force" in refused.stderr
    assert run(*command, text, "--force").exit_code == 2 and text.read_text() == "mine"
    assert run(*command, foreign, "--force").exit_code == 0
    csv = run("score", picture_folder / "test", "-m", model, "--format", "csv", "-o", foreign)
    assert csv.exit_code == 2 and "is a Parquet file of `score`, not rows" in csv.stderr


@pytest.mark.parametrize(
    "content", [b"PAR1", b"PAR1PAR1", b"PAR1" + b"\xff" * 4 + b"PAR1", b"PAR1\0\0"]
)
def test_what_only_begins_like_parquet_is_unknown(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    found = recognize(tmp_path / "file")
    assert found is not None and found.product is None


# -- tables on a terminal --------------------------------------------------------------------

LONG = "/data/line 4/a folder with a long name/and another one/0000000000000000123.png"
ODD = [
    Result(LONG, score=-1.2345e-10, threshold=1.5, p_value=0.25, anomaly=True, in_fit=True),
    Result("部品" * 40, score=12345678.9, threshold=-1.5e10, p_value=0.0, anomaly=False),
    Result("a", error=f"{LONG}: is empty (0 bytes)"),
    Result("two\nlines" * 20, score=0.0, threshold=None, p_value=1.0, anomaly=False),
]
LABELS = ["ok", "a label that is much longer than its column", "部品の不良品の名前がとても長い場合"]
OF_LABELS = [
    LabelledResult(
        LONG, score=0.5, anomaly=True, label=label, probability=1.0, novel=True, p_value=0.01
    )
    for label in LABELS
]


@pytest.mark.parametrize("width", [70, 80, 120])
@pytest.mark.parametrize("results", [ODD, OF_LABELS], ids=["scores", "labels"])
def test_tables_fit_the_terminal(results, width):
    table = list(lines(map(row_of, results), "table", width=width))
    assert len(table) == len(results) + 1
    assert max(map(columns, table)) <= width
    assert any("…" in line for line in table)
    whole = list(lines(map(row_of, results), "table"))
    assert not any("…" in line for line in whole)


def test_columns_of_a_table_are_below_each_other():
    table = list(lines(map(row_of, OF_LABELS), "table", width=100))
    starts = {columns(line[: line.index("1.000")]) for line in table[1:]}
    assert len(starts) == 1
