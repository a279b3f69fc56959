"""Tests of the benchmarks on small rendered sets, against direct computations."""

from __future__ import annotations

import json
import math
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
from click.testing import CliRunner
from conftest import make_picture
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupShuffleSplit, KFold

from mahalad import AnomalyDetector, BackboneFeatures, MahalanobisDetector
from mahalad.bench import experiments
from mahalad.bench import fpr as bench_fpr
from mahalad.bench import mvtec as bench_mvtec
from mahalad.bench.evaluation import Recipe, Target, evaluate
from mahalad.bench.features import CategoryImages, extract_categories
from mahalad.bench.pixels import compare_maps, read_truth
from mahalad.cli import main
from mahalad.demo.rendered import write_dataset
from mahalad.detectors.reservoir import own_groups
from mahalad.errors import InputError, WeightsError
from mahalad.evaluation.pixels import pixel_figures, resize_map
from mahalad.images.mvtec import Category, find_categories
from mahalad.progress import no_progress
from mahalad.report.tables import format_table
from mahalad.scorers.level_sum import make_scorer
from mahalad.thresholds.rules import RULES

LEVELS = ["stem", "blocks.0"]
NETWORK: dict[str, Any] = {"levels": LEVELS, "input_size": 64}
IMAGE: dict[str, Any] = {"scope": "image", **NETWORK}
POSITIONS: dict[str, Any] = {"levels": ["blocks.1", "blocks.2"], "input_size": 64}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two categories: 24 + 6 good images and 12 bad, and 22 + 4 good and 6 bad."""
    folder = tmp_path_factory.mktemp("sets")
    write_dataset(folder / "cog", n_train=24, n_test_good=6, n_test_per_defect=2, seed=0, size=64)
    write_dataset(folder / "disc", n_train=22, n_test_good=4, n_test_per_defect=1, seed=1, size=64)
    return folder


def run_mvtec(root: Path, folder: Path, **options: Any) -> tuple[dict[str, Any], str]:
    """Run `bench mvtec`; return what it wrote as JSON, and its text."""
    file = folder / "report.json"
    text = bench_mvtec.run(roots=[root], json_file=file, **(IMAGE | options))
    return json.loads(file.read_text()), text


def labels_of(category: Category) -> NDArray[np.bool_]:
    return np.array([kind != "good" for kind in category.kinds])


def detector_fit(X: Any, **options: Any) -> MahalanobisDetector:
    with warnings.catch_warnings():  # too few images for some rates
        warnings.simplefilter("ignore")
        return MahalanobisDetector(**(IMAGE | options)).fit(X)


def test_official_protocol_is_the_detector_on_all_of_train(root: Path, tmp_path: Path) -> None:
    report, text = run_mvtec(root, tmp_path, fpr=0.1)
    (row,) = report["rows"]
    for category in find_categories([root]):
        detector = detector_fit(list(category.train), fpr=0.1)
        scores = detector.anomaly_score(list(category.test))
        flagged = detector.predict(list(category.test)) == -1
        is_bad = labels_of(category)
        result = row["categories"][category.name]
        (fold,) = result["folds"]
        np.testing.assert_allclose(fold["scores"], scores, rtol=1e-5)
        assert fold["threshold"] == pytest.approx(detector.threshold_, rel=1e-5)
        assert fold["n_fitted"] == len(category.train)
        assert result["roc_auc"] == pytest.approx(roc_auc_score(is_bad, scores))
        assert result["fpr"] == pytest.approx(flagged[~is_bad].mean())
        assert result["tpr"] == pytest.approx(flagged[is_bad].mean())
        assert f"{100 * result['roc_auc']:.1f}" in text
    aurocs = [row["categories"][name]["roc_auc"] for name in ("cog", "disc")]
    mean = row["mean"]["roc_auc"]
    assert mean["mean"] == pytest.approx(np.mean(aurocs))
    assert mean["sem"] == pytest.approx(abs(aurocs[0] - aurocs[1]) / 2)
    assert mean["n"] == 2


def test_paper_protocol_is_the_mean_over_five_folds(root: Path, tmp_path: Path) -> None:
    report, text = run_mvtec(root, tmp_path, protocol="paper", fpr=0.1, categories=["disc"])
    (category,) = find_categories([root], ["disc"])
    train, is_bad = np.array(sorted(category.train)), labels_of(category)
    aurocs, false_positives = [], []
    for fitted, _ in KFold(5, shuffle=True, random_state=0).split(train):
        detector = detector_fit(list(train[fitted]), fpr=0.1)
        scores = detector.anomaly_score(list(category.test))
        aurocs.append(roc_auc_score(is_bad, scores))
        false_positives.append(np.mean((scores > detector.threshold_)[~is_bad]))
    result = report["rows"][0]["categories"]["disc"]
    assert [fold["roc_auc"] for fold in result["folds"]] == pytest.approx(aurocs)
    assert result["roc_auc"] == pytest.approx(np.mean(aurocs))
    assert result["fpr"] == pytest.approx(np.mean(false_positives))
    assert [fold["n_fitted"] for fold in result["folds"]] == [17, 17, 18, 18, 18]
    mean = report["rows"][0]["mean"]["roc_auc"]
    assert mean["sem"] is None  # one category has none
    assert result["spread"]["roc_auc"] == pytest.approx(np.std(aurocs, ddof=1))
    assert mean["spread"] == pytest.approx(np.std(aurocs, ddof=1))
    assert f"{100 * np.mean(aurocs):.1f} ± {100 * np.std(aurocs, ddof=1):.1f}" in text
    assert "± over folds" in text
    assert "5 folds, fit on 80 %" in text
    assert "mean over 1 category" in text


def test_report_holds_all_that_is_needed_to_redraw(root: Path, tmp_path: Path) -> None:
    report, text = run_mvtec(root, tmp_path, reduction="npca", fpr=0.2, seed=3)
    assert (
        report["parameters"] | {"reduction": "npca", "fpr": 0.2, "seed": 3, **IMAGE}
        == (report["parameters"])
    )
    assert report["versions"]["timm"] == timm.__version__
    network = report["rows"][0]["network"]
    assert (network["backbone"], network["input_size"]) == ("tf_efficientnet_lite0", 64)
    assert len(network["weights_sha256"]) == 64
    for category in find_categories([root]):
        about = report["images"][category.name]
        assert about["test"] == [str(path) for path in category.test]
        assert about["is_anomaly"] == labels_of(category).tolist()
        scores = report["rows"][0]["categories"][category.name]["folds"][0]["scores"]
        assert len(scores) == len(category.test)
    for stated in ("official", "tf_efficientnet_lite0 at 64 px", "gaussian", "npca", str(root)):
        assert stated in text
    assert "F1-max is tuned on the test labels" in text
    assert "mean over 2 categories" in text
    assert max(map(len, text.splitlines())) <= max(100, len(str(root)) + 12)


def test_levels_are_detectors_on_one_level(root: Path, tmp_path: Path) -> None:
    report, _ = run_mvtec(root, tmp_path, table="levels", categories=["cog"], fpr=0.1)
    assert [row["name"] for row in report["rows"]] == [*LEVELS, "sum of levels"]
    (category,) = find_categories([root], ["cog"])
    for row, levels in zip(report["rows"], [["stem"], ["blocks.0"], LEVELS], strict=True):
        detector = detector_fit(list(category.train), levels=levels, fpr=0.1)
        (fold,) = row["categories"]["cog"]["folds"]
        expected = detector.anomaly_score(list(category.test))
        np.testing.assert_allclose(fold["scores"], expected, rtol=1e-5)
        assert fold["threshold"] == pytest.approx(detector.threshold_, rel=1e-5)


def test_distances_are_the_paper_s_scorers(root: Path, tmp_path: Path) -> None:
    report, text = run_mvtec(root, tmp_path, table="distances", categories=["cog"], fpr=0.1)
    names = ["L2", "SED", "Mahalanobis", "one-class SVM", "nearest neighbour"]
    assert [row["name"] for row in report["rows"]] == names
    (category,) = find_categories([root], ["cog"])
    for row, scorer in zip(report["rows"], ["l2", "sed", "gaussian", "ocsvm", "knn"], strict=True):
        detector = AnomalyDetector(BackboneFeatures(**NETWORK), make_scorer(scorer), fpr=0.1)
        detector.fit(list(category.train))
        expected = detector.anomaly_score(list(category.test))
        (fold,) = row["categories"]["cog"]["folds"]
        np.testing.assert_allclose(fold["scores"], expected, rtol=1e-4)
        assert all(name in text for name in names)


def test_thresholds_table_has_every_rule_and_rate(root: Path, tmp_path: Path) -> None:
    report, text = run_mvtec(root, tmp_path, table="thresholds", categories=["cog"], fpr=0.2)
    targets = [(row["target"]["rule"], row["target"]["fpr"]) for row in report["rows"]]
    assert targets == [(rule, fpr) for rule in RULES for fpr in (0.01, 0.05, 0.1, 0.2)]
    extractor = BackboneFeatures(**NETWORK).build()
    (images,) = extract_categories(find_categories([root], ["cog"]), extractor, True, no_progress)
    is_bad = images.is_anomaly[24:]
    for row in report["rows"]:
        rule, fpr = row["target"]["rule"], row["target"]["fpr"]
        result = row["categories"]["cog"]
        if result["fpr"] is None:
            # 30 % of 24 images are 7.
            assert fpr < {"conformal": 1 / 25, "holdout": 1 / 8, "tolerance": 0.118}[rule]
            continue
        detector = AnomalyDetector(images.extractor, threshold=rule, fpr=fpr, tolerate="auto")
        detector.fit(images.select(np.arange(24)))
        flagged = detector.predict(images.select(np.arange(24, 42))) == -1
        assert result["fpr"] == pytest.approx(flagged[~is_bad].mean())
        assert result["tpr"] == pytest.approx(flagged[is_bad].mean())
    assert "n/a (needs 99)" in text


def test_augmented_copies_are_fitted_as_the_detector_fits_them(root: Path, tmp_path: Path) -> None:
    options = {"n_augment": 2, "fpr": 0.2, "seed": 1}
    report, text = run_mvtec(root, tmp_path, categories=["disc"], **options)
    (category,) = find_categories([root], ["disc"])
    detector = detector_fit(list(category.train), n_augment=2, fpr=0.2, random_state=1)
    (fold,) = report["rows"][0]["categories"]["disc"]["folds"]
    expected = detector.anomaly_score(list(category.test))
    np.testing.assert_allclose(fold["scores"], expected, rtol=1e-4)
    assert fold["threshold"] == pytest.approx(detector.threshold_, rel=1e-4)
    assert "2 augmented copies" in text


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A hub that cannot be reached; the list has the networks that were asked of it."""
    asked: list[str] = []
    create = timm.create_model

    def without_hub(name: str, pretrained: bool = False, **options: Any) -> Any:
        if pretrained:
            asked.append(name)
            raise OSError("hub out of reach")
        return create(name, pretrained=False, **options)

    monkeypatch.setattr("mahalad.features.backbones.timm.create_model", without_hub)
    return asked


def test_network_without_weights_is_reported_as_not_run(
    root: Path, tmp_path: Path, no_hub: list[str]
) -> None:
    names = ["tf_efficientnet_lite0", "resnet18.tv_in1k", "tf_efficientnetv2_b0=missing.pth"]
    report, text = run_mvtec(
        root,
        tmp_path,
        table="networks",
        networks=names,
        levels=[0],
        categories=["cog"],
        plot_file=tmp_path / "networks.png",
    )
    ran, hub, file = report["rows"]
    assert ran["not_run"] is None
    assert ran["mean"]["roc_auc"]["mean"] > 0
    assert "hub out of reach" in hub["not_run"]
    assert "missing.pth: no such weights file" in file["not_run"]
    assert "categories" not in hub
    assert "not run: resnet18.tv_in1k: " in text
    assert "not run: tf_efficientnetv2_b0: missing.pth" in text
    assert no_hub == ["resnet18.tv_in1k"]  # one attempt


def test_default_networks_start_with_the_backbone(root: Path, no_hub: list[str]) -> None:
    for table, more in (("networks", experiments.NETWORKS), ("sizes", experiments.SIZES)):
        found = experiments.networks_of(table, (), "resnet18.tv_in1k", "w.pth")
        assert found[0] == ("resnet18.tv_in1k", "w.pth")
        assert found[1:] == [(name, None) for name in more if name != "resnet18.tv_in1k"]
    known = set(timm.list_pretrained())
    assert {*experiments.NETWORKS, *experiments.SIZES} <= known


def test_no_network_at_all_is_an_error(root: Path, no_hub: list[str]) -> None:
    with pytest.raises(WeightsError, match=r"resnet18\.tv_in1k.*hub out of reach"):
        bench_mvtec.run(roots=[root], backbone="resnet18.tv_in1k", scope="image")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"networks": ["resnet18"]}, "networks are for table='networks'"),
        ({"networks": ["a"], "weights": "w.pth", "table": "networks"}, "NAME=WEIGHTS"),
        ({"protocol": "mine"}, "protocol must be one of paper, official, got 'mine'"),
        ({"table": "mine"}, r"table must be one of categories.*got 'mine'"),
        ({"scope": "mine"}, "scope must be one of positions, image, got 'mine'"),
        ({"scope": "positions", "table": "levels"}, "'levels' .* needs scope='image'"),
        ({"scope": "positions", "table": "distances"}, "'distances' .* needs scope='image'"),
        ({"scope": "positions", "threshold": "chi2-nominal"}, "chi2-nominal.* scope='image'"),
        ({"threshold": "mine"}, r"threshold must be one of conformal.*got 'mine'"),
        ({"fpr": 1.0}, r"fpr must lie between 0 and 1, got 1.0"),
        ({"n_augment": -1}, "n_augment must be a whole number >= 0, got -1"),
        ({"seed": -1}, "seed must be a whole number from 0 to 4294967295, got -1"),
        ({"categories": ["nut"]}, "no category nut"),
        ({"plot_file": "plot.gif"}, r"plot.gif: a plot is written as \.png, \.svg, \.pdf"),
        ({"json_file": "missing/report.json"}, "missing/report.json: its folder is missing"),
    ],
)
def test_usage_errors_come_before_the_work(
    root: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        bench_mvtec.run(roots=[root], **(IMAGE | options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"splits": 1}, "splits must be a whole number >= 2, got 1"),
        ({"alphas": [0.1, 0.0]}, r"alphas must lie between 0 and 1, got 0.0"),
    ],
)
def test_usage_errors_of_rates_come_before_the_work(
    root: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        bench_fpr.run(roots=[root], **(IMAGE | options))


@pytest.mark.parametrize("run", [bench_mvtec.run, bench_fpr.run])
@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"scorer": "knn"}, "scorer='knn' is for features pooled .* scope='image'"),
        ({"reduction": "npca"}, "reduction='npca' is for features pooled .* scope='image'"),
    ],
)
def test_positions_have_one_scorer(
    root: Path, run: Any, option: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run(roots=[root], **option)


def test_unreadable_images_are_named_not_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "cog"
    write_dataset(folder, n_train=4, n_test_good=1, n_test_per_defect=1, seed=0, size=64)
    for name in ("train/good/001.png", "test/good/000.png"):
        (folder / name).write_bytes(b"no image")
    with pytest.raises(InputError, match=r"2 of 11 .*001\.png.*test/good/000\.png"):
        bench_mvtec.run(roots=[folder], **IMAGE)


def test_category_without_good_test_images_is_refused(tmp_path: Path) -> None:
    folder = write_dataset(
        tmp_path / "cog", n_train=4, n_test_good=0, n_test_per_defect=1, seed=0, size=64
    )
    with pytest.raises(InputError, match="cog: 0 of its 6 test images are good"):
        bench_mvtec.run(roots=[folder], **IMAGE)


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two categories of pictures; "spots" has masks, one of them empty, and "bare" has none."""
    folder = tmp_path_factory.mktemp("marked")
    for k, name in enumerate(("bare", "spots")):
        for i in range(18):
            kind = "train/good" if i < 10 else "test/good" if i < 14 else "test/spot"
            file = folder / name / kind / f"{i:02}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            # Not square: a mask is compared in the image's own size.
            make_picture(100 * k + i, spot=i >= 14).resize((96, 80)).save(file)
    truth = folder / "spots" / "ground_truth" / "spot"
    truth.mkdir(parents=True)
    for i in range(14, 18):
        mask = np.zeros((80, 96), np.uint8)
        mask[26:40, 31:48] = 0 if i == 16 else 255  # the spot of `make_picture`, stretched
        Image.fromarray(mask).save(truth / f"{i:02}_mask.png")
    return folder


def fit_by_hand(X: Any, **options: Any) -> AnomalyDetector:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return MahalanobisDetector(**(POSITIONS | options)).fit(X)


def pixel_figures_by_hand(category: Category, detector: AnomalyDetector) -> dict[str, float]:
    """Every map at once, from the scorer's own grid; without the image that has no mask."""
    extractor = detector.features_
    maps, masks = [], []
    for path, mask in zip(category.test, category.masks, strict=True):
        if path.stem == "16":
            continue
        features = extractor.transform([extractor.prepare(Image.open(path).convert("RGB"))])
        (values,) = detector.scorer_.anomaly_maps(features)
        maps.append(resize_map(values, (80, 96)))
        masks.append(None if mask is None else np.asarray(Image.open(mask)) > 0)
    found = pixel_figures(maps, masks, fpr_limit=0.3)
    names = ("pixel_roc_auc", "pixel_aupro", "pixel_f1_max")
    return dict(zip(names, (found.roc_auc, found.aupro, found.f1_max), strict=True))


def test_positions_are_the_detector_and_its_maps(marked: Path, tmp_path: Path) -> None:
    plot = tmp_path / "plot.png"
    options = {"scope": "positions", "fpr": 0.2, "plot_file": plot, **POSITIONS}
    report, text = run_mvtec(marked, tmp_path, **options)
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert report["parameters"]["scope"] == "positions"
    (row,) = report["rows"]
    assert row["network"]["maps"] == POSITIONS["levels"]
    for category in find_categories([marked]):
        detector = fit_by_hand(list(category.train), fpr=0.2)
        (fold,) = row["categories"][category.name]["folds"]
        expected = detector.anomaly_score(list(category.test))
        np.testing.assert_allclose(fold["scores"], expected, rtol=1e-5)
        assert fold["threshold"] == pytest.approx(detector.threshold_, rel=1e-5)
    spots = row["categories"]["spots"]
    expected = pixel_figures_by_hand(category, detector)
    assert {name: spots[name] for name in expected} == pytest.approx(expected, abs=1e-5)
    assert spots["pixel_roc_auc"] > 0.8
    assert all(row["categories"]["bare"][name] is None for name in expected)
    for name, value in expected.items():
        mean = {"mean": pytest.approx(value, abs=1e-5), "sem": None, "spread": None, "n": 1}
        assert row["mean"][name] == mean
    assert (report["images"]["spots"]["n_masks"], report["images"]["bare"]["n_masks"]) == (3, None)
    assert "scope positions" in text
    assert "pixels: spots: 1 of 4 bad images left out, because their masks mark nothing" in text
    assert "spot/16.png" in text.splitlines()[-1]
    lines = [line.split() for line in text.splitlines() if line.startswith(("bare", "spots"))]
    assert lines[2] == ["bare", "-", "-", "-", "-"]
    assert lines[3] == ["spots", "3", *(f"{100 * value:.1f}" for value in expected.values())]


def test_pixel_figures_of_the_paper_protocol_are_means(marked: Path, tmp_path: Path) -> None:
    options = {"scope": "positions", "protocol": "paper", "categories": ["spots"], **POSITIONS}
    report, _ = run_mvtec(marked, tmp_path, **options)
    (category,) = find_categories([marked], ["spots"])
    train = np.array(category.train)
    result = report["rows"][0]["categories"]["spots"]
    assert len(result["folds"]) == 5
    (fitted, _), *_ = KFold(5, shuffle=True, random_state=0).split(train)
    expected = pixel_figures_by_hand(category, fit_by_hand(list(train[fitted])))
    for name, value in expected.items():
        values = [fold[name] for fold in result["folds"]]
        assert values[0] == pytest.approx(value, abs=1e-5)
        assert result[name] == pytest.approx(np.mean(values))


def test_without_usable_masks_there_are_no_pixel_figures(marked: Path, tmp_path: Path) -> None:
    _, text = run_mvtec(marked, tmp_path, scope="image")
    assert "AUPRO" not in text
    _, text = run_mvtec(marked, tmp_path, scope="positions", categories=["bare"], **POSITIONS)
    assert "AUPRO" not in text
    for name in ("spots", "bare"):
        (category,) = find_categories([marked], [name])
        only = tuple(m for m in category.masks if m is None or m.stem == "16_mask")
        truth = read_truth(replace(category, test=category.test[: len(only)], masks=only))
        assert truth is None or compare_maps(truth, None, {}, np.arange(len(only))) is None
        assert (truth is None) == (name == "bare")


def test_damaged_mask_comes_before_the_work(marked: Path, tmp_path: Path) -> None:
    shutil.copytree(marked / "spots", tmp_path / "spots")
    (tmp_path / "spots/ground_truth/spot/15_mask.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"15_mask\.png: cannot be read as a mask"):
        bench_mvtec.run(roots=[tmp_path], weights="missing.pth")


def test_thresholds_of_positions(marked: Path, tmp_path: Path) -> None:
    report, text = run_mvtec(
        marked, tmp_path, scope="positions", table="thresholds", categories=["spots"], **POSITIONS
    )
    (category,) = find_categories([marked], ["spots"])
    detector = fit_by_hand(list(category.train), fpr=0.1, threshold="chi2")
    flagged = detector.predict(list(category.test)) == -1
    results = {row["name"]: row["categories"]["spots"] for row in report["rows"]}
    is_bad = labels_of(category)
    assert results["chi2 at 10 %"]["fpr"] == pytest.approx(flagged[~is_bad].mean())
    assert results["chi2 at 10 %"]["tpr"] == pytest.approx(flagged[is_bad].mean())
    assert results["chi2-nominal at 10 %"]["fpr"] is None
    assert "is for Mahalanobis distances" in results["chi2-nominal at 10 %"]["reason"]
    assert "AUPRO" not in text


def test_nominal_rule_alone_is_not_available_for_positions(rng: np.random.Generator) -> None:
    images = synthetic(20, 5, 5)
    images = replace(images, features={"maps/a": rng.normal(size=(30, 2, 2, 3))})
    found = evaluate(
        images, np.arange(20), np.arange(20, 30), Recipe(), [Target("chi2-nominal", 0.1)]
    )
    (judged,) = found.values()
    assert judged.flagged is None
    assert "is for Mahalanobis distances" in str(judged.reason)


def test_rates_of_positions_hold(marked: Path, tmp_path: Path) -> None:
    report, text = run_fpr(
        marked, tmp_path, scope="positions", splits=2, alphas=[0.2], categories=["spots"],
        **POSITIONS,
    )  # fmt: skip
    assert report["parameters"]["scope"] == "positions"
    rates = {result["rule"]: result for result in report["categories"]["spots"]["results"]}
    (category,) = find_categories([marked], ["spots"])
    detector = fit_by_hand(list(category.train), fpr=0.2)
    flagged = detector.predict(list(category.test)) == -1
    is_bad = labels_of(category)
    assert rates["conformal"]["official_fpr"] == pytest.approx(flagged[~is_bad].mean())
    assert rates["conformal"]["official_tpr"] == pytest.approx(flagged[is_bad].mean())
    assert rates["chi2-nominal"]["fpr"] is None
    assert "scope positions" in text


def run_fpr(root: Path, folder: Path, **options: Any) -> tuple[dict[str, Any], str]:
    """Run `bench fpr`; return what it wrote as JSON, and its text."""
    file = folder / "fpr.json"
    text = bench_fpr.run(roots=[root], json_file=file, **(IMAGE | options))
    return json.loads(file.read_text()), text


def test_fpr_of_one_rule_is_what_it_is_beside_the_others(root: Path, tmp_path: Path) -> None:
    some = {"splits": 2, "alphas": [0.2], "categories": ["cog"]}
    every, _ = run_fpr(root, tmp_path, **some)
    one, text = run_fpr(root, tmp_path, **some, thresholds=["holdout"])
    wanted = [r for r in every["categories"]["cog"]["results"] if r["rule"] == "holdout"]
    assert one["categories"]["cog"]["results"] == wanted
    assert one["parameters"]["thresholds"] == ["holdout"]
    assert "holdout: calibrated on" in text
    assert "chi2" not in text
    with pytest.raises(InputError, match="thresholds"):
        bench_fpr.run(roots=[root], thresholds=["bogus"], **IMAGE)


def test_fpr_over_splits_matches_detectors_fitted_directly(root: Path, tmp_path: Path) -> None:
    report, text = run_fpr(root, tmp_path, splits=3, alphas=[0.1, 0.2], categories=["cog"], seed=5)
    extractor = BackboneFeatures(**NETWORK).build()
    (images,) = extract_categories(find_categories([root], ["cog"]), extractor, True, no_progress)
    good = np.flatnonzero(~images.is_anomaly)
    bad = np.flatnonzero(images.is_anomaly)
    splits = list(
        GroupShuffleSplit(3, test_size=0.3, random_state=5).split(
            good, groups=np.array(own_groups(images.keys))[good]
        )
    )
    splits.append((np.arange(24), np.arange(24, 30)))  # official: train/good, test/good
    assert [len(tested) for _, tested in splits] == [9, 9, 9, 6]
    for result in report["categories"]["cog"]["results"]:
        false_positives, true_positives = [], []
        for fitted, tested in splits:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                detector = AnomalyDetector(
                    images.extractor,
                    threshold=result["rule"],
                    fpr=result["alpha"],
                    random_state=5,
                    tolerate="auto",
                ).fit(images.select(good[fitted]))
            if result["fpr"] is None:
                assert result["rule"] in ("holdout", "tolerance")  # of 7 and of 24 images
                assert result["alpha"] == 0.1
                break
            false_positives.append(np.mean(detector.predict(images.select(good[tested])) == -1))
            true_positives.append(np.mean(detector.predict(images.select(bad)) == -1))
        else:
            assert result["fpr_splits"] == pytest.approx(false_positives[:3])
            assert result["fpr"] == pytest.approx(np.mean(false_positives[:3]))
            assert result["fpr_std"] == pytest.approx(np.std(false_positives[:3], ddof=1))
            assert result["tpr"] == pytest.approx(np.mean(true_positives[:3]))
            assert result["official_fpr"] == pytest.approx(false_positives[3])
            assert result["official_tpr"] == pytest.approx(true_positives[3])
    assert "n/a (needs 9)" in text  # 30 % of 21 images are 6
    assert "3 random splits" in text


@pytest.mark.parametrize("prefix", ["", "cog="])
def test_groups_stay_on_one_side_and_reach_calibration(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    calls: dict[str, list[Any]] = {"cog": [], "disc": []}

    def spy(images: Any, fitted: Any, tested: Any, *rest: Any) -> Any:
        calls[images.category.name].append((images, fitted, tested, rest[-1]))
        return evaluate(images, fitted, tested, *rest)

    monkeypatch.setattr(bench_fpr, "evaluate", spy)
    # The last digit of the number is the part; bad images need not match.
    group = prefix + r"good/\d\d(\d)"
    report, text = run_fpr(root, tmp_path, splits=4, alphas=[0.3], groups=[group])
    assert len(calls["cog"]) == 5  # and the official split
    for images, fitted, tested, groups in calls["cog"][:4]:
        digits = [path.stem[-1] for path in images.paths]
        on_one_side = {digits[i] for i in fitted}
        on_the_other = {digits[i] for i in tested if not images.is_anomaly[i]}
        assert not on_one_side & on_the_other
        assert list(groups) == [digits[i] for i in fitted]
    assert report["categories"]["cog"]["n_groups"] == 10
    assert "24 + 6 good, in 10 groups; 12 bad" in text
    assert report["categories"]["disc"]["n_groups"] == (None if prefix else 10)
    assert all((call[3] is None) == bool(prefix) for call in calls["disc"])


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (["nut=(\\d+)"], "no category 'nut'; one of cog, disc"),
        (["cog=tile_(\\d+)"], "does not match .*000.png"),
        (["(\\d"], "is not a regular expression"),
    ],
)
def test_unusable_groups_are_refused(root: Path, groups: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        bench_fpr.run(roots=[root], groups=groups, **IMAGE)


def synthetic(n_train: int, n_good: int, n_bad: int, seed: int = 0) -> CategoryImages:
    """Gaussian features without images; variances fall as 1/i, as real ones do."""
    rng = np.random.default_rng(seed)
    n = n_train + n_good + n_bad
    paths = tuple(Path(f"{i:03d}.png") for i in range(n))
    kinds = ("good",) * n_good + ("bad",) * n_bad
    features = {
        name: rng.normal(size=(n, size)) / np.sqrt(np.arange(1, size + 1))
        for name, size in (("a", 4), ("b", 60))
    }
    for values in features.values():
        values[n_train + n_good :] += 3
    category = Category("synthetic", paths[:n_train], paths[n_train:], kinds)
    return CategoryImages(category, features, tuple(range(n)))


def test_asked_rate_is_achieved_on_average() -> None:
    """200 good images, 40 splits: the mean's own error is below 1.5 %."""
    targets = [Target(rule, 0.1) for rule in RULES]
    measured = bench_fpr._measure(synthetic(150, 50, 20), None, Recipe("image"), targets, 40)
    achieved = {result["rule"]: result["fpr"] for result in measured["results"]}
    for rule in ("conformal", "chi2", "holdout"):
        assert achieved[rule] == pytest.approx(0.1, abs=0.04)
    assert achieved["chi2-nominal"] > 0.15  # it does not hold
    assert all(len(r["fpr_splits"]) == len(r["tpr_splits"]) == 40 for r in measured["results"])
    assert all(r["tpr"] == 1 for r in measured["results"])


def test_other_test_normals_show_in_the_official_split() -> None:
    images = synthetic(150, 50, 20)
    for values in images.features.values():
        values[150:200] += 1.5
    (result,) = bench_fpr._measure(images, None, Recipe("image"), [Target("conformal", 0.1)], 20)[
        "results"
    ]
    assert result["fpr"] == pytest.approx(0.1, abs=0.05)
    assert result["official_fpr"] > 0.8


def test_the_same_picture_twice_stays_on_one_side(monkeypatch: pytest.MonkeyPatch) -> None:
    images = synthetic(30, 10, 5)
    images = CategoryImages(images.category, images.features, (*([7] * 20), *range(100, 125)))
    sides = []

    def spy(images: Any, fitted: Any, tested: Any, *rest: Any) -> Any:
        sides.append((set(fitted), set(tested)))
        return evaluate(images, fitted, tested, *rest)

    monkeypatch.setattr(bench_fpr, "evaluate", spy)
    bench_fpr._measure(images, None, Recipe("image"), [Target("chi2", 0.1)], 10)
    twins = set(range(20))
    assert all(twins <= fitted or twins <= tested for fitted, tested in sides[:-1])


def test_without_bad_images_there_is_no_tpr() -> None:
    measured = bench_fpr._measure(
        synthetic(30, 10, 0), None, Recipe("image"), [Target("chi2", 0.1)], 3
    )
    (result,) = measured["results"]
    assert math.isnan(result["tpr"])
    assert 0 <= result["fpr"] <= 1


def test_too_few_good_images_are_refused() -> None:
    with pytest.raises(InputError, match="3 independent good images"):
        bench_fpr._measure(synthetic(2, 1, 1), None, Recipe("image"), [Target("chi2", 0.1)], 3)


def test_rule_that_a_scorer_has_not_is_not_available() -> None:
    images = synthetic(30, 10, 5)
    rows = np.arange(30), np.arange(30, 45)
    found = evaluate(images, *rows, Recipe("image", "l2"), [Target("chi2-nominal", 0.1)])
    (judged,) = found.values()
    assert judged.flagged is None
    assert judged.reason is not None
    assert "is for Mahalanobis distances" in judged.reason


@pytest.mark.parametrize("table", ["categories", "distances", "thresholds"])
def test_plots_are_written(root: Path, tmp_path: Path, table: str) -> None:
    file = tmp_path / f"{table}.png"
    bench_mvtec.run(roots=[root], table=table, plot_file=file, fpr=0.1, **IMAGE)
    assert file.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [file]


def test_command_line(root: Path, tmp_path: Path) -> None:
    network = ["--root", str(root), "-C", "cog", "--size", "64"]
    network += ["--scope", "image", "--levels", "stem,1"]
    file = tmp_path / "plot.svg"
    fpr = CliRunner().invoke(
        main,
        ["bench", "fpr", *network, "--splits", "2", "--alpha", "0.2", "--plot", str(file),
         "--group", r"cog=(\d+)\.png", "--group", "(.*)"],
    )  # fmt: skip
    assert fpr.exit_code == 0, fpr.output
    assert "FPR at 20 %" in fpr.output
    assert "<svg" in file.read_text()
    accuracy = CliRunner().invoke(main, ["bench", "mvtec", *network, "--protocol", "paper"])
    assert accuracy.exit_code == 0, accuracy.output
    assert "AUROC" in accuracy.output
    wrong = CliRunner().invoke(main, ["bench", "mvtec", *network, "--plot", "plot.bmp"])
    assert wrong.exit_code == 2
    assert "plot.bmp" in wrong.output


def test_wide_table_continues_below_with_the_same_keys() -> None:
    header = ["name", *(f"column {i:02d}" for i in range(20))]
    text = format_table(header, [["first", *map(str, range(20))], ["second", *["1"] * 20]])
    blocks = [block.splitlines() for block in text.split("\n\n")]
    assert len(blocks) == 3
    assert all(len(line) <= 100 for block in blocks for line in block)
    assert all(block[2].startswith("first ") for block in blocks)
    words = [word for block in blocks for word in block[2].split() if word != "first"]
    assert words == [str(i) for i in range(20)]


def test_columns_that_belong_together_are_not_parted() -> None:
    header = ["name", *(f"{kind} number {i}" for i in range(4) for kind in "abc")]
    first, second = format_table(header, [["row", *["1"] * 12]], n_together=3).split("\n\n")
    assert first.split("\n")[0].split("  ")[-1].strip() == "c number 1"
    assert second.split("\n")[0].split()[:4] == ["name", "a", "number", "2"]


def test_pattern_that_joins_nothing_is_said(root: Path, tmp_path: Path) -> None:
    _, text = run_fpr(
        root, tmp_path, splits=2, alphas=[0.3], categories=["cog"], groups=[r"(\w+/good/\d+)"]
    )
    assert "in 30 groups (each image its own: --group joins nothing)" in text
