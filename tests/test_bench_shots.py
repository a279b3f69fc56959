"""`bench mvtec --shots`: few good images, drawn at random, against fits to the same ones."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import run
from sklearn.metrics import roc_auc_score

from mahalad import MahalanobisDetector, possible
from mahalad.bench import mvtec as bench_mvtec
from mahalad.bench.fits import draw_images, why_not
from mahalad.demo.rendered import write_dataset
from mahalad.errors import InputError
from mahalad.images.mvtec import find_categories

SMALL: dict[str, Any] = {"levels": ["blocks.1", "blocks.2"], "input_size": 64, "tolerate": ()}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    write_dataset(folder / "cog", n_train=12, n_test_good=4, n_test_per_defect=1, seed=0, size=64)
    write_dataset(folder / "disc", n_train=9, n_test_good=4, n_test_per_defect=1, seed=1, size=64)
    return folder


@pytest.fixture(scope="module")
def report(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    folder = tmp_path_factory.mktemp("report")
    text = bench_mvtec.run(
        roots=[root], shots=[8, 2, 6], draws=3, seed=5, fpr=0.15, **SMALL,
        json_file=folder / "shots.json", plot_file=folder / "shots.png",
    )  # fmt: skip
    assert (folder / "shots.png").stat().st_size > 1000
    return json.loads((folder / "shots.json").read_text()), text


def test_rows_are_fits_to_images_drawn(root, report):
    found, _ = report
    assert [row["name"] for row in found["rows"]] == ["2 images", "6 images", "8 images"]
    for category in find_categories([root]):
        is_bad = np.array([kind != "good" for kind in category.kinds])
        for row, n in zip(found["rows"][1:], (6, 8), strict=True):
            result = row["categories"][category.name]
            aurocs = []
            for fold, rows in zip(
                result["folds"], draw_images(category, n, 3, seed=5), strict=True
            ):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # too few images for the usual rate
                    detector = MahalanobisDetector(random_state=5, **SMALL)
                    detector.fit([category.train[i] for i in rows])
                scores = detector.anomaly_score(list(category.test))
                np.testing.assert_allclose(fold["scores"], scores, rtol=1e-4, atol=1e-5)
                assert fold["n_fitted"] == n
                aurocs.append(roc_auc_score(is_bad, scores))
            assert result["roc_auc"] == pytest.approx(np.mean(aurocs))
            assert result["spread"]["roc_auc"] == pytest.approx(np.std(aurocs, ddof=1))


def test_means_have_a_spread_over_categories_and_one_over_draws(report):
    found, text = report
    for row in found["rows"][1:]:
        by_draw = np.array(
            [[fold["roc_auc"] for fold in r["folds"]] for r in row["categories"].values()]
        )
        mean = row["mean"]["roc_auc"]
        assert by_draw.shape == (2, 3)
        assert mean["mean"] == pytest.approx(by_draw.mean())
        assert mean["sem"] == pytest.approx(by_draw.mean(axis=1).std(ddof=1) / 2**0.5)
        assert mean["spread"] == pytest.approx(by_draw.mean(axis=0).std(ddof=1))
        cells = [
            f"{100 * mean['mean']:.1f} ± {100 * mean['sem']:.1f}",
            f"{100 * mean['spread']:.1f}",
        ]
        line = next(line for line in text.splitlines() if line.startswith(row["name"]))
        assert line.split("  ")[-1].strip() == cells[1]
        assert cells[0] in line
    assert "drawn at random 3 times" in text


def test_too_few_images_are_a_row_that_says_how_many_are_needed(report):
    found, text = report
    for result in found["rows"][0]["categories"].values():
        assert result["not_possible"] == f"needs {possible.POSITIONS}"
        assert result["roc_auc"] is None
        assert result["folds"] == []
    assert found["rows"][0]["mean"]["roc_auc"]["n"] == 0
    assert f"2 images  not possible: needs {possible.POSITIONS}" in text
    assert "6 images" in text and "n/a (needs" not in text.split("FPR")[0]


def test_other_reasons_than_their_number_are_given_in_full():
    assert why_not(5, 4, InputError("x")) == "needs 5"
    assert why_not(5, 5, InputError("all images are alike")) == "all images are alike"


def test_draws_are_seeded_nested_and_without_repeats(root):
    cog, disc = find_categories([root])
    first = draw_images(cog, 5, 4, seed=1)
    assert all(len(set(rows)) == 5 for rows in first)
    assert len({tuple(rows) for rows in first}) == 4
    for rows, more, again in zip(
        first, draw_images(cog, 8, 4, seed=1), draw_images(cog, 5, 9, seed=1), strict=False
    ):
        assert set(rows) < set(more)
        assert rows.tolist() == again.tolist()
    assert [r.tolist() for r in draw_images(cog, 5, 4, seed=2)] != [r.tolist() for r in first]
    assert [r.tolist() for r in draw_images(disc, 5, 4, seed=1)] != [r.tolist() for r in first]
    assert draw_images(disc, 9, 1, seed=0)[0].tolist() == list(range(9))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shots": [10]}, "shots=10: category disc has 9 training images"),
        ({"shots": [0]}, "shots must be a whole number >= 1, got 0"),
        ({"shots": [2], "draws": 0}, "draws must be a whole number >= 1, got 0"),
        ({"shots": [2], "protocol": "paper"}, "an experiment of its own: leave out .*'paper'"),
        ({"shots": [2], "table": "networks"}, "an experiment of its own: leave out .*'networks'"),
    ],
)
def test_shots_that_cannot_be_are_refused_before_the_work(root, options, message):
    with pytest.raises(InputError, match=message):
        bench_mvtec.run(roots=[root], **options)


def test_the_command_line_has_shots(root, tmp_path):
    small = ["--root", root, "-C", "disc", "--size", "64", "--scope", "image", "--levels", "0"]
    found = run("bench", "mvtec", *small, "--shots", "2,5", "--draws", "2")
    assert found.exit_code == 0, found.output
    assert "not possible: needs 4" in found.stdout
    assert "5 images" in found.stdout
    for given, message in (
        (["--shots", "2,x"], "'2,x': whole numbers from 1"),
        (["--shots", "0"], "'0': whole numbers from 1"),
        (["--draws", "2"], "--draws is for --shots"),
    ):
        refused = run("bench", "mvtec", *small, *given)
        assert refused.exit_code == 2
        assert message in refused.stderr
