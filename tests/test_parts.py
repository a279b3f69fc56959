"""Independent parts are what counts: the rate holds for groups, copies and near-copies."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import write_text
from PIL import Image
from promise import ASKED, PARTS, D, rates
from scipy import stats
from sklearn.base import clone

from mahalad import AnomalyDetector, MahalanobisDetector, load
from mahalad.detectors.copies import near_copies, near_copies_of_features, thumbnail
from mahalad.errors import CalibrationError, InputError
from mahalad.files.container import read_model
from mahalad.thresholds.guarantee import conformal_rank
from mahalad.thresholds.ranking import Ranking, shared_weights
from mahalad.thresholds.rules import RULES, ConformalThreshold
from mahalad.thresholds.tolerance import ToleranceThreshold


@pytest.mark.parametrize("name", PARTS)
def test_the_rate_holds_for_new_parts(name):
    """Not above the rate by more than 1 point and 2 standard errors; and at 10 % half is used.

    60 fits. Where there are too few parts for a rate, nothing is judged.
    """
    cell = PARTS[name]
    found = rates(cell.make, 60)
    means, errors = found.mean(axis=0), found.std(axis=0) / np.sqrt(len(found))
    possible = [conformal_rank(cell.n_parts, fpr) > 0 for fpr in ASKED]
    assert np.isfinite(means).tolist() == possible
    assert (means <= np.array(ASKED) + 0.01 + 2 * errors)[possible].all(), (means, errors)
    assert means[-1] >= 0.05 - 2 * errors[-1], (means, errors)


@pytest.mark.parametrize("threshold", ["conformal", "holdout", "tolerance", "chi2"])
def test_single_images_are_judged_as_ever(threshold):
    """Weights of 1 change nothing, to the last digit."""
    rng = np.random.default_rng(1)
    scores, new = rng.gamma(9, size=150), rng.gamma(9, size=50)
    plain, weighted = (RULES[threshold]().fit(scores, None, w) for w in (None, np.ones(150)))
    for fpr in (0.03, 0.05, 0.1):
        assert plain.critical_value(fpr) == weighted.critical_value(fpr)
    assert (plain.p_values(new) == weighted.p_values(new)).all()


def test_weights_are_shared_shares():
    """p-values by the sum over groups, written out; and flagged is a p-value of at most fpr."""
    rng = np.random.default_rng(2)
    groups = rng.integers(0, 12, size=60)
    scores = np.round(rng.normal(size=60), 1)  # with ties
    rule = ConformalThreshold().fit(scores, weights=shared_weights(groups))
    new = np.round(rng.normal(size=200), 1)
    G = len(np.unique(groups))
    shares = [[np.mean(scores[groups == g] >= s) for g in np.unique(groups)] for s in new]
    np.testing.assert_allclose(rule.p_values(new), (1 + np.sum(shares, axis=1)) / (G + 1))
    for fpr in (1 / 13, 0.1, 0.2, 3 / 13, 0.5, 0.9):
        flagged = rule.p_values(new) <= fpr * (1 + 1e-12)
        assert ((new > rule.critical_value(fpr)) == flagged).all()
    assert Ranking.of(scores, shared_weights(groups)).total == G


def test_tolerance_holds_for_parts():
    """At most 5 % of fits exceed the rate: 200 fits to 60 parts of 5 images, 10 % asked for."""
    exceeded = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        between, within = rng.normal(size=60).repeat(5), rng.normal(size=300)
        scores = 0.9 * between + np.sqrt(1 - 0.81) * within
        rule = ToleranceThreshold().fit(scores, weights=shared_weights(np.arange(300) // 5))
        exceeded.append(stats.norm.sf(rule.critical_value(0.1)) > 0.1)
    assert np.mean(exceeded) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 200)


class WithoutWeights:
    """A threshold object from outside that knows two parameters."""

    def fit(self, scores, degrees_of_freedom=None):
        self.highest = scores.max()
        return self

    def statistic(self, scores, level_scores=None):
        return scores

    def p_values(self, statistic):
        return np.where(statistic > self.highest, 0.0, 1.0)

    def critical_value(self, fpr):
        return self.highest


def test_a_threshold_without_weights_is_for_single_images():
    X = np.random.default_rng(0).normal(size=(60, D))
    detector = AnomalyDetector(threshold=WithoutWeights()).fit(X)
    assert detector.predict(X[:2] + 99).tolist() == [-1, -1]
    with pytest.warns(UserWarning, match="knows no weights"):
        AnomalyDetector(threshold=WithoutWeights()).fit(X, groups=np.arange(60) // 2)


def test_calibration_images_of_the_fit_do_not_count():
    rng = np.random.default_rng(4)
    X, new = rng.normal(size=(80, D)), rng.normal(size=(40, D))
    plain = AnomalyDetector(threshold="holdout", fpr=0.1).fit(X, calibration=new)
    mixed = np.concatenate([X[:5], new, X[5:10] + 0.01 * rng.normal(size=(5, D))])
    with pytest.warns(UserWarning, match="10 of 50 calibration images show parts that are in the"):
        detector = AnomalyDetector(threshold="holdout", fpr=0.1).fit(X, calibration=mixed)
    np.testing.assert_array_equal(detector.calibration_scores_, plain.calibration_scores_)
    named = {"groups": np.arange(80), "calibration_groups": np.arange(60, 100)}
    with pytest.warns(UserWarning, match="20 of 40 calibration images show parts that are in the"):
        AnomalyDetector(threshold="holdout", fpr=0.1).fit(X, calibration=new, **named)
    with pytest.raises(CalibrationError, match="every calibration image shows a part that is in"):
        AnomalyDetector(threshold="holdout").fit(X, calibration=X[:20])
    with pytest.raises(InputError, match="calibration_groups were given without calibration"):
        AnomalyDetector(threshold="holdout").fit(X, calibration_groups=[1])
    with pytest.raises(InputError, match="groups has 3 entries, but X has more images"):
        AnomalyDetector(threshold="holdout").fit(X, calibration=new, calibration_groups=[1, 2, 3])


def test_named_groups_are_believed_but_for_exact_copies():
    rng = np.random.default_rng(5)
    X = rng.normal(size=(50, D))
    near = np.concatenate([X, X + 0.01 * rng.normal(size=X.shape)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        detector = AnomalyDetector().fit(near, groups=np.arange(100))
    assert detector.guarantee_.n_independent == 100
    assert detector.copies_ == []
    for options in ({"groups": np.arange(100)}, {}):
        with pytest.warns(UserWarning, match="100 images are copies .* 50 independent ones"):
            detector = AnomalyDetector().fit(X.repeat(2, axis=0), **options)
        assert detector.guarantee_.n_independent == 50
    with pytest.warns(UserWarning, match="50 independent ones.*command line"):
        separate = AnomalyDetector(near_copies="separate").fit(X.repeat(2, axis=0))
    assert separate.guarantee_.n_independent == 50


def test_outliers_and_clusters_make_no_copies():
    """Four samples far from all others; two kinds of parts, and twelve."""
    rng = np.random.default_rng(6)
    far = rng.normal(size=(50, 16))
    far[:4] += 1e3 * rng.normal(size=(4, 16))
    two = rng.normal(size=(100, 16)) + 20 * (np.arange(100) < 50)[:, None]
    twelve = rng.normal(size=(240, 16)) + (100 * rng.normal(size=(12, 16))).repeat(20, axis=0)
    for X in (far, two, twelve):
        assert not len(near_copies_of_features({"a": X}))


def test_a_holdout_split_of_an_older_file_knows_no_near_copies(tmp_path):
    """The images of the fit are those of the time of saving."""
    rng = np.random.default_rng(7)
    X = rng.normal(size=(60, D))
    X = np.concatenate([X, X + 1e-4 * rng.normal(size=X.shape)])
    old = AnomalyDetector(threshold="holdout", fpr=0.1, near_copies="separate").fit(X)
    old.save(tmp_path / "m")
    header, arrays = read_model(tmp_path / "m")
    header["params"]["near_copies"] = "group"  # a version that knew them not would have no such key
    header["calibration"]["n_keys"] = 0
    arrays["calibration/keys"] = np.empty(0, np.uint64)
    write_text(tmp_path / "old", json.dumps(header), arrays)
    new = rng.normal(size=(5, D))
    np.testing.assert_allclose(load(tmp_path / "old").anomaly_score(new), old.anomaly_score(new))


# -- near-copies ---------------------------------------------------------------------------


def scene(seed: int) -> Image.Image:
    """A part: a disc with a mark, somewhat elsewhere each time, on a table with grain."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:256, :256]
    centre, angle = 128 + rng.normal(0, 6, 2), rng.uniform(0, 2 * np.pi)
    disc = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < 80**2
    mark = (x - centre[0] - 50 * np.cos(angle)) ** 2 + (
        y - centre[1] - 50 * np.sin(angle)
    ) ** 2 < 14**2
    grey = 90 + 70 * disc - 60 * mark + rng.normal(0, 5, (256, 256))
    return Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).convert("RGB")


def saved(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(io.BytesIO(file.getvalue())).convert("RGB")


def noisy(image: Image.Image) -> Image.Image:
    values = np.asarray(image) + np.random.default_rng(5).normal(0, 5, np.shape(image))
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


AGAIN: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG": lambda image: saved(image, 75),
    "low quality": lambda image: saved(image, 40),
    "thumbnail": lambda image: image.resize((96, 96)),
    "next frame": noisy,
    "brighter": lambda image: image.point(lambda value: min(255, round(value * 1.03))),
}


def looks(images: list[Image.Image], side: int = 160) -> Any:
    return np.stack([thumbnail(np.asarray(image.resize((side, side)))) for image in images])


@pytest.mark.parametrize("again", AGAIN)
def test_pictures_saved_again_are_near_copies(again):
    images = [scene(seed) for seed in range(20)]
    pairs = near_copies(looks([*images, *map(AGAIN[again], images)]))
    assert sorted(map(tuple, pairs.tolist())) == [(i, i + 20) for i in range(20)]
    assert not len(near_copies(looks(images)))


@pytest.mark.parametrize("again", ["JPEG", "thumbnail"])
@pytest.mark.parametrize("category", ["mvtec_ad/pill", "mvtec_ad/bottle", "dobot_cubes/cubes"])
def test_real_pictures_saved_again_are_near_copies(category, again, shared):
    paths = sorted((shared / "data" / category / "train" / "good").iterdir())[::2][:40]
    images = [Image.open(path).convert("RGB") for path in paths]
    assert not len(near_copies(looks(images, 320)))
    pairs = near_copies(looks([*images, *map(AGAIN[again], images)], 320))
    assert sorted(map(tuple, pairs.tolist())) == [(i, i + 40) for i in range(40)]


@pytest.mark.parametrize(("n_features", "found"), [(2, False), (20, True), (500, True)])
def test_near_copies_of_features(n_features, found):
    """In two dimensions independent samples are as near as copies: nothing is taken for one."""
    rng = np.random.default_rng(3)
    X = rng.normal(size=(60, n_features)) * np.geomspace(1, 100, n_features)
    assert not len(near_copies_of_features({"a": X}))
    twice = np.concatenate([X, X + 0.03 * X.std(axis=0) * rng.normal(size=X.shape)])
    assert len(near_copies_of_features({"a": twice})) == (60 if found else 0)


def folder_with_thumbnails(tmp_path):
    for seed in range(20):
        scene(seed).save(tmp_path / f"{seed:02d}.png")
        scene(seed).resize((96, 96)).save(tmp_path / f"{seed:02d}-small.png")
    return tmp_path


def test_a_folder_with_thumbnails(tmp_path, small_weights):
    folder = folder_with_thumbnails(tmp_path)
    make = MahalanobisDetector("test_efficientnet", weights=small_weights, input_size=64, fpr=0.1)
    with pytest.warns(UserWarning, match="40 images are copies .* count as 20 independent ones"):
        detector = make.fit(folder)
    assert detector.guarantee_.n_independent == 20
    assert [str(folder / "00-small.png"), str(folder / "00.png")] in detector.copies_
    new = [scene(seed) for seed in range(1000, 1100)]
    grouped = np.mean(detector.predict(new) == -1)
    detector.save(tmp_path / "m.mahalad")
    loaded = load(tmp_path / "m.mahalad")
    assert (loaded.guarantee_, loaded.copies_) == (detector.guarantee_, detector.copies_)
    separate = clone(make).set_params(near_copies="separate").fit(folder)
    assert separate.guarantee_.n_independent == 40
    assert grouped <= 0.25 < np.mean(separate.predict(new) == -1)
