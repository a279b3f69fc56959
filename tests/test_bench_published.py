"""PaDiM and PatchCore as baselines of `bench mvtec`, against loops over tiny arrays."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import run

from mahalad.bench import fpr as bench_fpr
from mahalad.bench import mvtec as bench_mvtec
from mahalad.bench.features import FeatureOptions, extract_categories
from mahalad.bench.padim import Padim
from mahalad.bench.patchcore import PatchCore, select_greedily
from mahalad.demo.rendered import write_dataset
from mahalad.errors import InputError
from mahalad.images.mvtec import find_categories
from mahalad.progress import no_progress

SMALL: dict[str, Any] = {"levels": ["blocks.1", "blocks.2", "blocks.3"], "input_size": 64}


@pytest.fixture
def tiny(rng):
    """Features of 12 images: maps of 4 x 4 and 2 x 2 positions, and a pooled level beside them."""
    return {
        "maps/fine": rng.normal(size=(12, 4, 4, 3)).astype(np.float32),
        "maps/coarse": (2 + rng.normal(size=(12, 2, 2, 2))).astype(np.float32),
        "head": rng.normal(size=(12, 5)).astype(np.float32),
    }


def rows_of(X, rows):
    return {name: values[rows] for name, values in X.items()}


@pytest.mark.parametrize("n_dims", [None, 3, 100])
def test_padim_is_a_gaussian_per_position(tiny, n_dims):
    coarse = tiny["maps/coarse"].repeat(2, axis=1).repeat(2, axis=2)
    stacked = np.concatenate([tiny["maps/fine"], coarse], axis=-1).astype(float)
    padim = Padim(n_dims, random_state=3).fit(rows_of(tiny, slice(0, 9)))
    assert len(set(padim.columns_)) == (3 if n_dims == 3 else 5)
    maps = padim.anomaly_maps(rows_of(tiny, slice(9, 12)))
    for i in range(3):
        for row in range(4):
            for column in range(4):
                good = stacked[:9, row, column][:, padim.columns_]
                covariance = np.cov(good, rowvar=False) + 0.01 * np.eye(good.shape[1])
                z = stacked[9 + i, row, column, padim.columns_] - good.mean(axis=0)
                want = math.sqrt(z @ np.linalg.solve(covariance, z))
                assert maps[i, row, column] == pytest.approx(want, rel=1e-5)
    scores = padim.score_samples(rows_of(tiny, slice(9, 12)))
    np.testing.assert_allclose(scores, [-one.max() for one in maps])


def test_padim_draws_features_by_its_seed(tiny):
    drawn = [Padim(3, random_state=seed).fit(tiny).columns_.tolist() for seed in (0, 0, 1, 2, 3)]
    assert drawn[0] == drawn[1]
    assert len({tuple(columns) for columns in drawn}) > 1
    with pytest.raises(InputError, match="need at least 2 images, and has 1"):
        Padim().fit(rows_of(tiny, slice(0, 1)))
    with pytest.raises(InputError, match="no feature maps"):
        Padim().fit({"head": tiny["head"]})


def test_a_seed_that_draws_one_level_alone_keeps_the_finest_grid(tiny):
    found = [Padim(2, random_state=seed).fit(tiny) for seed in range(20)]
    alone = [padim for padim in found if min(padim.columns_) >= 3]  # of the coarser level
    assert alone
    assert all(padim.anomaly_maps(tiny).shape == (12, 4, 4) for padim in alone)


def test_the_coreset_takes_the_farthest_patch_each_time(rng):
    X = rng.normal(size=(40, 3)).astype(np.float32)
    chosen = [7]
    while len(chosen) < 10:
        to_chosen = [min(math.dist(x, X[c]) for c in chosen) for x in X]
        chosen.append(int(np.argmax(to_chosen)))
    assert select_greedily(X, 10, 7).tolist() == chosen
    copies = np.ones((4, 2), np.float32)
    assert sorted(select_greedily(copies, 4, 2)) == [0, 1, 2, 3]


def bilinear(values, side):
    """Enlarge maps (n, h, w, D): centres of positions, edges repeated; loops."""
    n, h, _, width = values.shape
    found = np.empty((n, side, side, width))
    places = np.clip((np.arange(side) + 0.5) * h / side - 0.5, 0, h - 1)
    for i, y in enumerate(places):
        for j, x in enumerate(places):
            top, left = min(int(y), h - 2), min(int(x), h - 2)
            b, a = y - top, x - left
            found[:, i, j] = (
                (1 - b) * ((1 - a) * values[:, top, left] + a * values[:, top, left + 1])
                + b * ((1 - a) * values[:, top + 1, left] + a * values[:, top + 1, left + 1])
            )  # fmt: skip
    return found


@pytest.mark.parametrize("n_neighbors", [1, 4, 500])
def test_patchcore_is_the_distance_to_the_nearest_patch_reweighted(tiny, n_neighbors):
    stacked = np.concatenate(
        [tiny["maps/fine"], bilinear(tiny["maps/coarse"].astype(float), 4)], axis=-1
    )
    core = PatchCore(0.1, n_neighbors=n_neighbors).fit(rows_of(tiny, slice(0, 9)))
    good = stacked[:9].reshape(-1, 5)
    assert core.bank_.shape == (14, 5)  # 10 % of 144 patches
    for kept in core.bank_:
        assert np.abs(good - kept).max(axis=1).min() < 1e-5
    bank = core.bank_.astype(float)
    tested = rows_of(tiny, slice(9, 12))
    maps, scores = core.anomaly_maps(tested), core.score_samples(tested)
    for i in range(3):
        patches = stacked[9 + i].reshape(-1, 5)
        distances = np.array([[math.dist(x, m) for m in bank] for x in patches])
        np.testing.assert_allclose(maps[i].ravel(), distances.min(axis=1), rtol=1e-5)
        x = int(distances.min(axis=1).argmax())
        m = int(distances[x].argmin())
        around = sorted(range(14), key=lambda k: math.dist(bank[k], bank[m]))[:n_neighbors]
        weight = 1 - math.exp(distances[x, m]) / sum(math.exp(distances[x, k]) for k in around)
        want = distances[x, m] * (weight if n_neighbors > 1 else 1.0)
        assert -scores[i] == pytest.approx(want, rel=1e-4)


def test_patchcore_selects_in_a_random_projection(rng):
    X = {"maps/a": rng.normal(size=(4, 5, 5, 40)).astype(np.float32)}
    core = PatchCore(0.2, n_projected=8, random_state=1).fit(X)
    again = PatchCore(0.2, n_projected=8, random_state=1).fit(X)
    other = PatchCore(0.2, n_projected=8, random_state=2).fit(X)
    assert core.bank_.shape == (20, 40)  # the features themselves
    np.testing.assert_array_equal(core.bank_, again.bank_)
    assert not np.array_equal(core.bank_, other.bank_)
    np.testing.assert_allclose(core.anomaly_maps(X).min(), 0.0, atol=1e-6)


# -- in the benchmark ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    write_dataset(folder / "cog", n_train=12, n_test_good=4, n_test_per_defect=1, seed=0, size=64)
    return folder


@pytest.mark.parametrize(("scorer", "method"), [("padim", Padim), ("patchcore", PatchCore)])
def test_a_row_is_the_method_on_the_detector_s_maps(root, tmp_path, scorer, method):
    file, plot = tmp_path / "report.json", tmp_path / "plot.png"
    text = bench_mvtec.run(
        roots=[root], scorer=scorer, seed=4, json_file=file, plot_file=plot, **SMALL
    )
    result = json.loads(file.read_text())["rows"][0]["categories"]["cog"]
    options = FeatureOptions(
        "tf_efficientnet_lite0",
        None,
        "positions",
        SMALL["levels"],
        64,
        "squash",
        1,
        "auto",
        "torch",
        32,
    )
    found = find_categories([root])
    (images,) = extract_categories(found, options.extractor().build(), False, no_progress)
    fitted = method(random_state=4).fit(images.select(np.arange(12)))
    want = -fitted.score_samples(images.select(np.arange(12, 22)))
    np.testing.assert_allclose(result["folds"][0]["scores"], want, rtol=1e-4)
    assert result["pixel_roc_auc"] > 0.5
    assert result["fpr"] is None
    assert f"n/a: {scorer} has no threshold" in text
    assert "published form over these maps" in text
    assert "threshold for 5.0 %" not in text
    assert plot.stat().st_size > 1000


def test_few_images_of_published_methods(root, tmp_path):
    file = tmp_path / "report.json"
    options = {"shots": [1, 3], "draws": 2, "json_file": file, **SMALL}
    bench_mvtec.run(roots=[root], scorer="padim", **options)
    one, three = json.loads(file.read_text())["rows"]
    assert one["categories"]["cog"]["not_possible"] == "needs 2"
    assert len(three["categories"]["cog"]["folds"]) == 2
    bench_mvtec.run(roots=[root], scorer="patchcore", **options)
    one, _ = json.loads(file.read_text())["rows"]
    assert one["categories"]["cog"]["not_possible"] is None


@pytest.mark.parametrize(
    "option",
    [
        {"scope": "image"},
        {"neighbourhood": 1},
        {"reduction": "npca"},
        {"n_augment": 2},
        {"resize": "pad"},
        {"tolerate": ("noise",)},
        {"any_orientation": True},
        {"table": "thresholds"},
    ],
)
def test_what_published_methods_do_not_have_is_refused(root, option):
    (name,) = option
    with pytest.raises(InputError, match=f"{name}=.* does not go with scorer='patchcore'"):
        bench_mvtec.run(roots=[root], scorer="patchcore", **option)


def test_published_methods_are_of_bench_mvtec_alone(root):
    with pytest.raises(InputError, match="'padim' is a baseline of bench mvtec alone"):
        bench_fpr.run(roots=[root], scorer="padim")
    small = ["--root", root, "--size", "64", "--levels", "blocks.2"]
    for command in ("fpr", "robust"):
        refused = run("bench", command, *small, "--scorer", "padim")
        assert refused.exit_code == 2
        assert "'padim' is not one of" in refused.stderr
    found = run("bench", "mvtec", *small, "--scorer", "patchcore")
    assert found.exit_code == 0, found.output
    assert "PatchCore, published form over these maps" in found.stdout
