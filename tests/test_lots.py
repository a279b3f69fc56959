"""Lots: Benjamini and Hochberg against SciPy, false-discovery rates and shares by simulation."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import run
from scipy import stats

from mahalad import AnomalyDetector, ConformalThreshold, load
from mahalad.errors import CalibrationError, InputError
from mahalad.thresholds.lots import benjamini_hochberg, fewest_found, share_abnormal


@pytest.mark.parametrize("fdr", [0.0097, 0.0497, 0.0993, 0.313])
@pytest.mark.parametrize(("n", "n_bad"), [(1, 0), (1, 1), (40, 5), (200, 100), (300, 0)])
def test_the_procedure_is_scipys(fdr, n, n_bad, rng):
    """Conformal p-values, with many ties; the rates are such that none lies on a limit."""
    rule = ConformalThreshold().fit(rng.normal(size=500))
    p = rule.p_values(np.r_[rng.normal(size=n - n_bad), rng.normal(3, 1, size=n_bad)])
    expected = stats.false_discovery_control(p) <= fdr
    np.testing.assert_array_equal(benjamini_hochberg(p, fdr), expected)


def test_a_p_value_on_the_limit_is_selected():
    p = np.r_[np.full(3, 0.1 * 3 / 10), np.full(7, 0.9)]
    assert benjamini_hochberg(p, 0.1).tolist() == [True] * 3 + [False] * 7
    assert not benjamini_hochberg(p + 1e-6, 0.1).any()
    assert benjamini_hochberg(np.empty(0), 0.1).tolist() == []


@pytest.mark.parametrize("fdr", [0, 1, -0.1, float("nan"), True])
def test_rates_outside_0_1_are_refused(fdr):
    with pytest.raises(InputError, match="fdr must lie between 0 and 1"):
        benjamini_hochberg(np.ones(3), fdr)


@pytest.mark.parametrize("n_calibration", [19, 99, 500])
def test_fewest_that_can_be_found(n_calibration):
    n, fdr = 200, 0.1
    fewest = fewest_found(n, n_calibration, fdr)
    for n_bad, found in ((fewest, True), (fewest - 1, False)):
        p = np.r_[np.full(n_bad, 1 / (n_calibration + 1)), np.ones(n - n_bad)]
        assert benjamini_hochberg(p, fdr).any() == (found and n_bad > 0)


def samples(n, seed=0, shift=0.0):
    return np.random.default_rng(seed).normal(shift, 1, size=(n, 4))


@pytest.mark.parametrize("threshold", ["holdout", "conformal"])
def test_the_false_discovery_rate_holds(threshold):
    """20 of 100 images are bad, 0.2 allowed: 0.16 (the share of good ones, 0.8, times 0.2).

    The theorem for images held out; of leave-one-out scores the same. 3 standard errors.
    """
    proportions, power = [], []
    for seed in range(80):
        options = {"calibration": samples(150, seed + 5000)} if threshold == "holdout" else {}
        detector = AnomalyDetector(threshold=threshold).fit(samples(150, seed), **options)
        lot = np.concatenate([samples(80, seed + 10_000), samples(20, seed + 20_000, shift=2.5)])
        selected = detector.select(lot, fdr=0.2)
        proportions.append(selected[:80].sum() / max(selected.sum(), 1))
        power.append(selected[80:].mean())
    error = np.std(proportions) / np.sqrt(len(proportions))
    assert error < 0.025
    assert np.mean(proportions) <= 0.16 + 3 * error
    assert np.mean(proportions) >= 0.16 - 0.06  # it is used, not just kept
    assert np.mean(power) > 0.8


@pytest.mark.parametrize("share", [0.0, 0.1, 0.4])
def test_the_share_of_abnormal_images(share):
    """Right within its standard error, over 400 lots of 200 with 300 calibration images."""
    rng = np.random.default_rng(7)
    n_bad, found = round(share * 200), []
    for _ in range(400):
        rule = ConformalThreshold().fit(rng.normal(size=300))
        p = rule.p_values(np.r_[rng.normal(size=200 - n_bad), np.full(n_bad, 9.0)])
        found.append(share_abnormal(p, 300))
    shares, errors = np.transpose(found)
    inside = np.abs(shares - share) < 2 * errors
    assert inside.mean() > 0.95 - 3 * np.sqrt(0.95 * 0.05 / 400)
    if share:
        assert shares.mean() == pytest.approx(share, abs=0.02)
        assert errors.mean() == pytest.approx(shares.std(), rel=0.25)


def test_lots_of_a_detector():
    """The rule and rate of the detector play no part; results say what `select` does."""
    lot = np.concatenate([samples(30, 1), samples(30, 2, shift=4)])
    detector = AnomalyDetector().fit(samples(100))
    selected = detector.select(lot)
    for threshold, fpr in (("tolerance", 0.05), ("chi2", 0.001)):
        other = AnomalyDetector(threshold=threshold, fpr=fpr).fit(samples(100))
        np.testing.assert_array_equal(other.select(lot), selected)
    found = detector.judge_lot(lot)
    assert [r.anomaly for r in found.results] == selected.tolist()
    assert [r.score > r.threshold for r in found.results] == selected.tolist()
    assert [r.p_value for r in found.results] == detector.p_values(lot).tolist()
    assert found.share == pytest.approx(0.5, abs=3 * found.share_error)
    none = detector.judge_lot(samples(1, 3)[:1] * 0)
    assert [(r.anomaly, r.threshold) for r in none.results] == [(False, None)]
    with pytest.raises(CalibrationError, match="no calibration scores: fit with"):
        AnomalyDetector(threshold="chi2-nominal").fit(samples(100)).select(lot)


def test_a_lot_on_the_command_line(picture_folder, fit_by_command, tmp_path):
    model = fit_by_command("lot.mahalad")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    new = [picture_folder / "test", tmp_path / "broken.png"]
    done = run("score", *new, "-m", model, "--fdr", "0.2", "--format", "jsonl")
    assert done.exit_code == 3
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    lot = load(model).judge_lot([str(path) for path in new], fdr=0.2)
    assert [row["anomaly"] for row in rows] == [r.anomaly for r in lot.results]
    good = [row["anomaly"] for row in rows if "/good/" in row["path"]]
    bad = [row["anomaly"] for row in rows if "/spot/" in row["path"]]
    assert all(bad) and sum(good) <= 2 and "error" in rows[-1]
    assert done.stderr.splitlines()[-1] == f"--fdr 0.2: {lot}"
    assert "at most 20 % of the flagged images are good, on average over lots; about" in str(lot)


def test_a_lot_of_good_images_on_the_command_line(picture_folder, fit_by_command):
    model = fit_by_command("lot.mahalad")
    done = run("score", picture_folder / "test/good", "-m", model, "--fdr", "0.05")
    assert "8 images scored, 0 flagged" in done.stderr
    assert "none is flagged unless 4 are" in done.stderr  # 8 / 41 / 0.05 = 3.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--fpr", "0.1"], "either --fpr, for each image, or --fdr"),
        (["--maps", "x"], "--maps are written image by image"),
        (["--fdr", "1"], "is not a rate"),
    ],
)
def test_what_does_not_go_with_lots(picture_folder, fit_by_command, options, message):
    model = fit_by_command("lot.mahalad")
    done = run("score", picture_folder / "test", "-m", model, "--fdr", "0.1", *options)
    assert done.exit_code == 2
    assert message in done.stderr
