"""CSV and LaTeX of `bench mvtec`: the figures of its report, and what LaTeX would choke on."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from conftest import run

from mahalad.bench import mvtec as bench_mvtec
from mahalad.bench.mvtec_files import as_latex
from mahalad.demo.rendered import write_dataset

SMALL = ["--size", "64", "--levels", "blocks.1,blocks.2", "--tolerate", "none"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    write_dataset(folder / "cog_1", n_train=12, n_test_good=4, n_test_per_defect=1, seed=0, size=64)
    write_dataset(folder / "disc", n_train=9, n_test_good=4, n_test_per_defect=1, seed=1, size=64)
    return folder


def written(root, folder, *options):
    """Report, lines of the CSV file, and LaTeX of one run of the command line."""
    files = {name: folder / f"report.{name}" for name in ("json", "csv", "latex")}
    outputs = [part for name, path in files.items() for part in (f"--{name}", path)]
    found = run("bench", "mvtec", "--root", root, *SMALL, *outputs, *options)
    assert found.exit_code == 0, found.output
    with open(files["csv"], newline="") as file:
        lines = list(csv.DictReader(file))
    return json.loads(files["json"].read_text()), lines, files["latex"].read_text()


def test_csv_has_every_figure_of_the_report(root, tmp_path):
    report, lines, _ = written(root, tmp_path, "--protocol", "paper", "--fpr", "20%")
    (row,) = report["rows"]
    metrics = list(row["mean"])
    by_key = {(line["category"], line["metric"]): line for line in lines}
    assert len(by_key) == len(lines) == 3 * len(metrics)
    for name, result in row["categories"].items():
        for metric in metrics:
            line = by_key[name, metric]
            assert (line["row"], line["n_fits"]) == (row["name"], "5")
            for text, value in (
                (line["value"], result[metric]),
                (line["std_over_fits"], result["spread"][metric]),
            ):
                assert text == ("" if value is None else repr(value))
    for metric in metrics:
        line, mean = by_key["", metric], row["mean"][metric]
        assert line["n_categories"] == str(mean["n"])
        for text, value in zip(
            (line["value"], line["std_over_fits"], line["sem_over_categories"]),
            (mean["mean"], mean["spread"], mean["sem"]),
            strict=True,
        ):
            assert text == ("" if value is None else repr(value))


def test_csv_says_why_there_is_no_figure(root, tmp_path):
    report, lines, _ = written(root, tmp_path, "--shots", "2,7", "--draws", "2")
    two = [line for line in lines if line["row"] == "2 images" and line["category"]]
    assert {line["note"] for line in two} == {"not possible: needs 5"}
    assert {line["value"] for line in two} == {""}
    seven = {
        line["metric"]: line
        for line in lines
        if (line["row"], line["category"]) == ("7 images", "disc")
    }
    assert "needs at least 19 calibration images" in seven["fpr"]["note"]
    assert seven["roc_auc"]["note"] == ""
    assert float(seven["roc_auc"]["value"]) == (report["rows"][1]["categories"]["disc"]["roc_auc"])


def test_latex_has_the_tables_of_the_text(root, tmp_path):
    report, _, latex = written(root, tmp_path, "--protocol", "paper", "--fpr", "20%")
    assert latex.startswith("% mahalad bench mvtec: categories\n")
    assert latex.count(r"\begin{tabular}{lrrrrrrrr}") == 1  # images
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 2  # and pixels
    result = report["rows"][0]["categories"]["cog_1"]
    line = next(line for line in latex.splitlines() if line.startswith(r"cog\_1 & 12 & 4 & 6 &"))
    assert line.endswith(r" \\")
    value, spread = result["roc_auc"], result["spread"]["roc_auc"]
    assert rf"{100 * value:.1f} $\pm$ {100 * spread:.1f} &" in line
    tabular = [line for line in latex.splitlines() if not line.startswith("%")]
    for line in tabular:
        for sign in "%_#":
            assert sign not in line.replace(f"\\{sign}", "")
        if line.endswith(r"\\"):
            assert line.count(" & ") in (8, 4)


def test_latex_escapes_every_special_sign():
    cells = {"name": r"a\b_c&d%e$f#g{h}~^", "not_run": "no weights"}
    report = {
        "parameters": {
            "table": "networks", "shots": (), "protocol": "official", "scorer": "gaussian",
            "scope": "image", "reduction": None, "n_augment": 0, "tolerate": "auto",
            "roots": ["x"],
        },
        "images": {},
        "rows": [cells],
    }  # fmt: skip
    latex = as_latex(report)
    assert (
        r"a\textbackslash{}b\_c\&d\%e\$f\#g\{h\}\textasciitilde{}\textasciicircum{} & not run"
    ) in latex


def test_tables_are_replaced_by_tables_alone(root, tmp_path):
    tables, notes = tmp_path / "figures.csv", tmp_path / "notes.tex"
    command = ["bench", "mvtec", "--root", root, "-C", "disc", *SMALL]
    for _ in range(2):  # a script can run again
        assert run(*command, "--csv", tables).exit_code == 0
    assert tables.read_text().startswith("row,category,n_fits,metric,value")
    notes.write_text("my notes\n")
    refused = run(*command, "--latex", notes)
    assert refused.exit_code == 2
    assert "not a table of `bench`" in refused.stderr
    assert notes.read_text() == "my notes\n"
    refused = run(*command, "--csv", tables, "--latex", tables)
    assert refused.exit_code == 2
    with pytest.raises(ValueError, match="its folder is missing"):
        bench_mvtec.run(roots=[root], latex_file=tmp_path / "missing" / "x.tex")
