"""What thresholds promise of one fit: bounds against binomial sums, rates of fits by simulation."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import run
from scipy import stats
from sklearn.base import clone

from mahalad import AnomalyDetector, ConformalThreshold, ToleranceThreshold, load
from mahalad.errors import CalibrationError, InputError
from mahalad.scorers.level_sum import make_scorer
from mahalad.scorers.positions.scorer import PatchScorer
from mahalad.thresholds.calibration import leave_one_out_scores
from mahalad.thresholds.guarantee import (
    conformal_rank,
    guarantee_of,
    plan,
    rate_bounds,
    tolerance_needs,
    tolerance_rank,
)

# -- the tolerance rule --------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 30, 59, 100, 999])
@pytest.mark.parametrize("fpr", [0.01, 0.05, 0.1, 0.5])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
def test_ranks_are_those_of_binomial_sums(n, fpr, confidence):
    """P(rate <= fpr) at rank k is P(Bin(n, fpr) >= k): at least k of n scores in the upper tail."""
    holds = stats.binom.sf(np.arange(n), n, fpr) >= confidence
    assert tolerance_rank(n, fpr, confidence) == holds.sum()


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
@pytest.mark.parametrize("fpr", [0.001, 0.01, 0.02, 0.05, 0.1, 0.3, 0.9])
def test_needs_just_enough(fpr, confidence):
    n = tolerance_needs(fpr, confidence)
    assert 1 - (1 - fpr) ** n >= confidence
    assert n == 1 or 1 - (1 - fpr) ** (n - 1) < confidence
    scores = np.arange(n, dtype=float)
    assert ToleranceThreshold(confidence).fit(scores).critical_value(fpr) == n - 1
    if n > 1:
        few = ToleranceThreshold(confidence).fit(scores[1:])
        with pytest.raises(
            CalibrationError, match=rf"needs at least {n} calibration .*has {n - 1}"
        ):
            few.critical_value(fpr)


def test_known_numbers_of_images():
    """Wilks' numbers for 95 %, as every table of tolerance limits has them."""
    assert [tolerance_needs(fpr) for fpr in (0.1, 0.05, 0.02, 0.01)] == [29, 59, 149, 299]


@pytest.mark.parametrize("n", [40, 59, 300])
def test_tolerance_flags_exactly_the_small_p_values(n, rng):
    scores, new = rng.normal(size=n).round(1), rng.normal(size=300).round(1)  # with ties
    threshold = ToleranceThreshold().fit(scores)
    p = threshold.p_values(new)
    at_least = (scores >= new[:, None]).sum(axis=1)
    bounds = [1 if m == n else stats.beta.ppf(0.95, m + 1, n - m) for m in at_least]
    np.testing.assert_allclose(p, bounds, rtol=1e-9)
    assert np.all((p > ConformalThreshold().fit(scores).p_values(new)) | (p == 1))
    for fpr in (0.08, 0.1, 0.3, p[7]):
        np.testing.assert_array_equal(new > threshold.critical_value(fpr), p <= fpr)


@pytest.mark.parametrize("confidence", [0, 1, -1, "0.95", float("nan"), None, True])
def test_confidences_outside_0_1_are_refused(confidence):
    with pytest.raises(InputError, match="confidence must lie between 0 and 1"):
        AnomalyDetector(threshold=ToleranceThreshold(confidence)).fit(np.eye(70))


ASKED, FITS = 0.05, 400
ERROR = np.sqrt(0.95 * 0.05 / FITS)  # standard error of a share of 95 % of the fits


@pytest.mark.parametrize("n", [59, 100])
def test_tolerance_holds_for_single_fits_to_held_out_scores(n):
    """At least 95 % of 400 fits, less 3 standard errors, have a rate of 5 % or less: the theorem.

    The true rate is in closed form: scores are standard normal, whatever made them.
    """
    rng = np.random.default_rng(n)
    draws = [rng.normal(size=n) for _ in range(FITS)]

    def share_of_fits(rule):
        limits = [rule.fit(scores).critical_value(ASKED) for scores in draws]
        return np.mean(stats.norm.sf(limits) <= ASKED)

    assert share_of_fits(ToleranceThreshold()) >= 0.95 - 3 * ERROR
    assert share_of_fits(ConformalThreshold()) < 0.8


@pytest.mark.parametrize("n", [59, 100])
def test_tolerance_holds_for_single_fits_by_leave_one_out(n):
    """The same of leave-one-out scores, for which there is no theorem, by 8,000 new samples."""
    rng = np.random.default_rng(n)
    new = {"level": rng.normal(size=(8_000, 8))}
    rates = {ToleranceThreshold: [], ConformalThreshold: []}
    for _ in range(FITS):
        X = rng.normal(size=(n, 8))
        scorer = make_scorer("gaussian").fit({"level": X})
        scores, _ = leave_one_out_scores(scorer, {"level": X[:, None]})
        found = np.sort(-scorer.score_samples(new))
        for rule, of_rule in rates.items():
            limit = rule().fit(scores).critical_value(ASKED)
            of_rule.append(1 - np.searchsorted(found, limit, side="right") / len(found))
    held = {rule: np.mean(np.array(of_rule) <= ASKED) for rule, of_rule in rates.items()}
    assert held[ToleranceThreshold] >= 0.95 - 3 * ERROR
    assert held[ConformalThreshold] < 0.8
    bound = rate_bounds(n, np.arange(n))[conformal_rank(n, ASKED) - 1]
    within = np.mean(np.array(rates[ConformalThreshold]) <= bound)
    assert 0.95 - 3 * ERROR <= within <= 0.95 + 3 * ERROR


# -- what it is worth ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "bound"), [(20, 0.139), (60, 0.101), (100, 0.089), (200, 0.077), (1000, 0.062)]
)
def test_bounds_of_conformal_thresholds_at_5_percent(n, bound):
    found = guarantee_of("conformal", "holdout", n, 0.05)
    assert found.bound == pytest.approx(bound, abs=0.0005)
    k = int(0.05 * (n + 1))
    assert found.bound == pytest.approx(stats.beta.ppf(0.95, k, n + 1 - k), rel=1e-9)
    assert guarantee_of({"class": "ConformalThreshold", "params": {}}, "holdout", n, 0.05) == found


@pytest.mark.parametrize(
    ("threshold", "method", "n", "sentence"),
    [
        ("conformal", "leave-one-out", 100, "5 % asked for, threshold conformal from 100 good "
         "images: 5 % on average over fits, at most 8.9 % for this fit (95 % confidence)"),
        ("holdout", "holdout", 100, "5 % asked for, threshold holdout from 100 held-out good "
         "images: 5 % on average over fits, at most 8.9 % for this fit (95 % confidence)"),
        ("tolerance", "cross-fit", 100, "5 % asked for, threshold tolerance from 100 good "
         "images: at most 4.7 % for this fit (95 % confidence)"),
        ({"class": "ToleranceThreshold", "params": {"confidence": 0.99}}, "cross-fit", 100,
         "5 % asked for, threshold tolerance from 100 good images: at most 4.5 % for this fit "
         "(99 % confidence)"),
        ("conformal", "leave-one-out", 18, "5 % asked for, threshold conformal from 18 good "
         "images: too few to judge images, 19 are needed"),
        ("tolerance", "leave-one-out", 58, "5 % asked for, threshold tolerance from 58 good "
         "images: too few to judge images, 59 are needed"),
        ("chi2", "leave-one-out", 50, "5 % asked for, threshold chi2 from 50 good images: about "
         "that on average over fits where tails are light; no bound for this fit"),
        ("chi2-nominal", "none", 0, "5 % asked for, threshold chi2-nominal: does not hold (it "
         "supposes that mean and covariance are known)"),
        ({"custom": "Mine()"}, "leave-one-out", 50, "5 % asked for, threshold from outside from "
         "50 good images: nothing is known of this rule"),
    ],
)  # fmt: skip
def test_a_guarantee_is_a_sentence(threshold, method, n, sentence):
    found = guarantee_of(threshold, method, n, 0.05)
    assert str(found) == sentence
    assert (found.bound is None) == (found.reason != "")


@pytest.mark.parametrize(("fpr", "n", "k"), [(0.05, 100, 5), (0.01, 500, 5), (0.1, 20, 2)])
def test_a_plan_has_the_bounds_of_every_rule(fpr, n, k):
    (found,) = plan(fpr, 0.9, counts=[n]).bounds
    assert found["conformal"] == pytest.approx(stats.beta.ppf(0.9, k, n + 1 - k), rel=1e-9)
    holds = stats.binom.sf(np.arange(n), n, fpr) >= 0.9
    if not holds.any():
        assert found["tolerance"] is None
        return
    own = holds.sum()
    assert found["tolerance"] == pytest.approx(stats.beta.ppf(0.9, own, n + 1 - own), rel=1e-9)
    assert found["tolerance"] <= fpr < found["conformal"]


def test_plan_as_table_and_json():
    done = run("plan", "--fpr", "0.01", "--json")
    assert done.exit_code == 0
    found = json.loads(done.output)
    assert found == dataclasses.asdict(plan(0.01))
    assert found["needs"] == {"conformal": 99, "holdout": 99, "tolerance": 299, "chi2": 5}
    rows = {row["n_images"]: row for row in found["bounds"]}
    assert set(rows) >= {20, 50, 99, 100, 200, 299, 500, 1000, 2000}
    assert rows[50] == {"n_images": 50, "conformal": None, "tolerance": None}
    assert rows[99]["conformal"] == pytest.approx(1 - 0.05 ** (1 / 99), rel=1e-9)
    text = run("plan", "--fpr", "0.05", "--confidence", "0.99").output
    lines = [line.split() for line in text.splitlines()]
    assert ["tolerance", "90", "the", "rate", "of", "this", "fit,"] in [line[:7] for line in lines]
    assert ["50", "12.6", "%", "-"] in lines  # the 99 % quantile of Beta(2, 49)
    assert max(map(len, text.splitlines())) <= 100
    assert "is not a rate" in run("plan", "--fpr", "5").output


def test_plan_is_light():
    code = (
        "import sys; from click.testing import CliRunner; from mahalad.cli import main; "
        "assert CliRunner().invoke(main, ['plan', '--fpr', '0.01']).exit_code == 0; "
        "print({'torch', 'timm', 'sklearn'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# -- in a detector -------------------------------------------------------------------------


def samples(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 5))


def map_samples(n, seed=0):
    return {"a": np.random.default_rng(seed).normal(size=(n, 4, 4, 3)).astype(np.float32)}


def test_tolerance_takes_the_scores_of_conformal():
    plain, bounded = AnomalyDetector().fit(samples(100)), AnomalyDetector(threshold="tolerance")
    bounded.fit(samples(100))
    np.testing.assert_array_equal(bounded.calibration_scores_, plain.calibration_scores_)
    assert bounded.calibration_method_ == "leave-one-out"
    assert bounded.threshold_ == np.sort(plain.calibration_scores_)[-2]  # P(Bin(100, 5 %) >= 2)
    assert plain.set_params(threshold="tolerance").threshold_ == bounded.threshold_
    new = samples(50, seed=1) * 2
    np.testing.assert_array_equal(bounded.p_values(new) <= 0.05, bounded.predict(new) == -1)


@pytest.mark.parametrize(
    ("scorer", "make"), [(None, samples), (PatchScorer(), map_samples)], ids=["plain", "positions"]
)
def test_tolerance_with_images_given_to_calibrate(scorer, make, tmp_path):
    """The scorer is that of the other images alone, and scores of those given set the threshold."""
    detector = AnomalyDetector(scorer=scorer, threshold="tolerance", fpr=0.1)
    detector.fit(make(60), calibration=make(40, seed=1))
    plain = clone(detector).fit(make(60))
    assert (detector.calibration_method_, detector.n_images_) == ("holdout", 60)
    np.testing.assert_allclose(
        detector.calibration_scores_, plain.anomaly_score(make(40, seed=1)), rtol=1e-9
    )
    holdout = clone(detector).set_params(threshold="holdout")
    holdout.fit(make(60), calibration=make(40, seed=1))
    np.testing.assert_allclose(holdout.calibration_scores_, detector.calibration_scores_, rtol=1e-9)
    detector.save(tmp_path / "part.mahalad")
    loaded = load(tmp_path / "part.mahalad")
    assert loaded.threshold_ == detector.threshold_
    assert loaded.partial_fit(make(20, seed=2)).calibration_method_ == "holdout"
    with pytest.raises(
        CalibrationError, match=r"'conformal' needs another calibration .*fit again"
    ):
        _ = loaded.set_params(threshold="conformal").threshold_


def test_another_confidence_is_in_the_model_file(tmp_path):
    detector = AnomalyDetector(threshold=ToleranceThreshold(0.99), fpr=0.1).fit(samples(80))
    usual = AnomalyDetector(threshold="tolerance", fpr=0.1).fit(samples(80))
    assert detector.threshold_ > usual.threshold_
    detector.save(tmp_path / "part.mahalad")
    loaded = load(tmp_path / "part.mahalad")
    assert loaded.threshold.confidence == 0.99
    assert loaded.threshold_ == detector.threshold_
    assert usual.set_params(threshold=ToleranceThreshold(0.99)).threshold_ == detector.threshold_


def test_detectors_say_what_their_rate_is_worth():
    detector = AnomalyDetector().fit(samples(100))
    assert detector.guarantee_ == guarantee_of("conformal", "leave-one-out", 100, 0.05)
    assert detector.set_fpr(0.1).guarantee_.bound == pytest.approx(stats.beta.ppf(0.95, 10, 91))
    detector.set_params(threshold="tolerance")
    assert detector.guarantee_.bound == pytest.approx(stats.beta.ppf(0.95, 5, 96))
    with pytest.raises(InputError, match="threshold changed by set_params after the fit"):
        _ = detector.set_params(threshold="holdout").guarantee_


def test_the_bound_is_that_of_independent_parts(tmp_path):
    """100 images of 50 parts are not 100 independent ones; nor are copies of a picture."""
    fifty = AnomalyDetector().fit(samples(50)).guarantee_
    with pytest.warns(UserWarning, match="100 images are copies .* count as 50 independent"):
        copied = AnomalyDetector().fit(samples(50).repeat(2, axis=0)).guarantee_
    grouped = AnomalyDetector().fit(samples(100), groups=np.arange(100) // 2)
    for found in (copied, grouped.guarantee_):
        assert (found.n_calibration, found.n_independent) == (100, 50)
        assert found.bound > fifty.bound  # between scores of weight 1/2 there is no rounding down
        assert "from 100 good images of 50 independent parts" in str(found)
    grouped.save(tmp_path / "slim.mahalad", include_features=False)
    assert load(tmp_path / "slim.mahalad").guarantee_ == grouped.guarantee_
    assert "of 50 independent parts" in run("info", tmp_path / "slim.mahalad").output
    apart = AnomalyDetector().fit(samples(100), groups=np.arange(100))
    assert apart.guarantee_.n_independent == 100


def test_commands_say_what_the_rate_is_worth(
    picture_folder, small_weights, fit_by_command, tmp_path
):
    model = fit_by_command("promise.mahalad")
    promise = str(load(model).guarantee_)
    assert "threshold conformal from 40 good images: 5 % on average" in promise
    assert promise in run("info", model).output
    page = tmp_path / "page.html"
    assert run("report", picture_folder / "test", "-m", model, "-o", page).exit_code == 0
    assert promise in page.read_text()
    network = ["--backbone", "test_efficientnet", "--weights", small_weights, "--size", "64"]
    fitted = run("fit", picture_folder / "good", "-o", tmp_path / "again.mahalad", *network)
    assert fitted.output.splitlines()[-1] == f"false-positive rate: {promise}"
