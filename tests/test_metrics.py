"""Tests of the figures of merit, against loops that follow their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from mahalad.errors import InputError
from mahalad.evaluation.images import (
    average_precision,
    f1_max,
    mean_and_deviation,
    mean_and_sem,
    rates_at,
    roc_auc,
)

Case = tuple[NDArray[np.float64], NDArray[np.bool_]]


def make_case(seed: int, *, ties: bool) -> Case:
    rng = np.random.default_rng(seed)
    is_anomaly = rng.permutation([True] * 9 + [False] * 14)
    scores = rng.normal(size=23) + is_anomaly
    return (np.round(scores) if ties else scores), is_anomaly


CASES = [make_case(seed, ties=ties) for seed in range(4) for ties in (False, True)]


def loop_roc_auc(scores: NDArray[np.float64], is_anomaly: NDArray[np.bool_]) -> float:
    """Share of (good, bad) pairs in the right order, ties counted half."""
    points = [
        1.0 if bad > good else 0.5 if bad == good else 0.0
        for good in scores[~is_anomaly]
        for bad in scores[is_anomaly]
    ]
    return sum(points) / len(points)


def loop_operating_points(
    scores: NDArray[np.float64], is_anomaly: NDArray[np.bool_]
) -> list[tuple[float, float]]:
    """Precision and recall when everything at or above each score is flagged, highest first."""
    points = []
    for threshold in sorted(set(scores), reverse=True):
        flagged = [score >= threshold for score in scores]
        hits = sum(f and a for f, a in zip(flagged, is_anomaly, strict=True))
        points.append((hits / sum(flagged), hits / sum(is_anomaly)))
    return points


@pytest.mark.parametrize("case", CASES)
def test_roc_auc_is_the_share_of_pairs_in_order(case: Case) -> None:
    assert roc_auc(*case) == pytest.approx(loop_roc_auc(*case), abs=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_average_precision_sums_precision_over_steps_of_recall(case: Case) -> None:
    expected, reached = 0.0, 0.0
    for precision, recall in loop_operating_points(*case):
        expected += (recall - reached) * precision
        reached = recall
    assert average_precision(*case) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_f1_max_is_the_best_over_all_thresholds(case: Case) -> None:
    expected = max(2 * p * r / (p + r) if p + r else 0.0 for p, r in loop_operating_points(*case))
    assert f1_max(*case) == pytest.approx(expected, abs=1e-12)


def test_perfect_and_reversed_order() -> None:
    is_anomaly = np.array([False, False, True])
    scores = np.array([1.0, 2.0, 3.0])
    assert roc_auc(scores, is_anomaly) == average_precision(scores, is_anomaly) == 1
    assert f1_max(scores, is_anomaly) == 1
    assert roc_auc(-scores, is_anomaly) == 0
    assert f1_max(-scores, is_anomaly) == pytest.approx(0.5)  # everything flagged


def test_scores_are_used_raw() -> None:
    """A common factor and shift change nothing, and nothing is scaled per call."""
    scores, is_anomaly = CASES[0]
    for metric in (roc_auc, average_precision, f1_max):
        assert metric(1000 * scores + 7, is_anomaly) == metric(scores, is_anomaly)


@pytest.mark.parametrize("seed", range(3))
def test_rates_match_counts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    is_anomaly, flagged = rng.random(30) < 0.4, rng.random(30) < 0.5
    pairs = list(zip(is_anomaly, flagged, strict=True))
    false_positives = sum(1 for a, f in pairs if f and not a) / sum(1 for a, _ in pairs if not a)
    true_positives = sum(1 for a, f in pairs if f and a) / sum(1 for a, _ in pairs if a)
    assert rates_at(is_anomaly, flagged) == pytest.approx((false_positives, true_positives))


def test_rates_of_a_missing_kind_are_nan() -> None:
    fpr, tpr = rates_at(np.array([False, False]), np.array([True, False]))
    assert fpr == 0.5
    assert math.isnan(tpr)


def test_mean_and_spread() -> None:
    values = [0.9, 0.7, 0.8, 1.0]
    mean = sum(values) / 4
    deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / 3)
    assert mean_and_deviation(values) == pytest.approx((mean, deviation))
    assert mean_and_sem(values) == pytest.approx((mean, deviation / 2))


def test_one_value_has_no_spread_and_none_has_no_mean() -> None:
    assert mean_and_sem([0.5])[0] == 0.5
    assert math.isnan(mean_and_sem([0.5])[1])
    assert all(math.isnan(value) for value in mean_and_sem([]))


@pytest.mark.parametrize("metric", [roc_auc, average_precision, f1_max])
def test_unusable_input_is_refused(metric: object) -> None:
    assert callable(metric)
    with pytest.raises(InputError, match="both needed, got 2 good of 2"):
        metric(np.array([1.0, 2.0]), np.array([False, False]))
    with pytest.raises(InputError, match=r"shapes \(3,\) and \(2,\)"):
        metric(np.array([1.0, 2.0, 3.0]), np.array([False, True]))
    with pytest.raises(ValueError, match="must be finite; 1 are not"):
        metric(np.array([1.0, np.nan]), np.array([False, True]))


def test_rates_of_different_lengths_are_refused() -> None:
    with pytest.raises(InputError, match=r"same length, got shapes \(2,\) and \(3,\)"):
        rates_at(np.array([False, True]), np.array([True, True, True]))
