"""What is possible with few images: what an error advises works with the images that there are."""

from __future__ import annotations

import re
import warnings
from functools import cache

import numpy as np
import pytest

from mahalad import AnomalyDetector, MahalanobisDetector
from mahalad.errors import MahaladError
from mahalad.possible import lowest_fpr, more_images, other_rules
from mahalad.thresholds.guarantee import conformal_needs, conformal_rank
from mahalad.thresholds.rules import ChiSquareThreshold, ConformalThreshold
from mahalad.thresholds.tolerance import ToleranceThreshold


def images(n: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (64, 64, 3)).astype(np.uint8) for _ in range(n)]


@cache
def judged(n: int, scope: str, threshold: str, fpr: float) -> str:
    """Fit to n images and judge one: what was said, or nothing if all went well."""
    detector = MahalanobisDetector(
        input_size=64, levels=["blocks.1"], scope=scope, threshold=threshold, fpr=fpr
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            detector.fit(images(n)).predict(images(1))
    except MahaladError as error:
        return str(error)
    return ""


def advised(text: str, n: int, options: dict) -> list[tuple[int, dict]]:
    """Numbers of images and options that a message says to take."""
    ways = []
    if more := re.findall(r"at least (\d+)", text):
        ways.append((int(more[-1]), options))
    if "or use the image-level detector (scope='image')" in text:
        ways.append((n, options | {"scope": "image"}))
    if few := re.search(r"\((\d+) are enough for scope='image'\)", text):
        ways.append((int(few[1]), options | {"scope": "image"}))
    if rate := re.search(r"fpr >= ([\d.]+) with threshold='conformal'", text):
        ways.append((n, options | {"fpr": float(rate[1]), "threshold": "conformal"}))
    if rate := re.search(r"'conformal', which with \d+ of them has rates from ([\d.]+)", text):
        ways.append((n, options | {"fpr": float(rate[1]), "threshold": "conformal"}))
    if "use threshold='chi2'" in text:
        ways.append((n, options | {"threshold": "chi2"}))
    if "use threshold='conformal'," in text and "has rates" not in text:
        ways.append((n, options | {"threshold": "conformal"}))
    return ways


def follow(n: int, options: dict, said: tuple[str, ...] = ()) -> None:
    """Do all that is said, until nothing is: soon, and never in a circle."""
    text = judged(n, **options)
    assert text not in said, (*said, text)
    assert len(said) < 4, said
    ways = advised(text, n, options)
    assert ways or not text, text
    for more, changed in ways:
        follow(more, changed, (*said, text))


@pytest.mark.parametrize("scope", ["positions", "image"])
@pytest.mark.parametrize("threshold", ["conformal", "chi2", "tolerance"])
@pytest.mark.parametrize("n", range(1, 7))
def test_advice_of_errors_leads_to_a_verdict(n, scope, threshold):
    follow(n, {"scope": scope, "threshold": threshold, "fpr": 0.2})


def test_lowest_rates_are_possible():
    for n in range(1, 3000):
        rate = lowest_fpr(n)
        assert conformal_rank(n, rate) >= 1
        assert 1 / (n + 1) - 1e-12 <= rate < 1.01 / (n + 1)


def test_rules_advise_only_what_their_scores_allow():
    few, enough = np.arange(1, 5.0), np.arange(1, 11.0)
    for scores, wanted in ((few, False), (enough, True), (enough - 5, False), (enough * 0, False)):
        with pytest.raises(MahaladError) as error:
            ConformalThreshold().fit(scores).critical_value(0.01)
        assert ("use threshold='chi2'" in str(error.value)) == wanted
        if wanted:
            ChiSquareThreshold().fit(scores).critical_value(0.01)
    for n, wanted in ((9, False), (19, True)):
        with pytest.raises(MahaladError) as error:
            ToleranceThreshold().fit(np.arange(n, dtype=float)).critical_value(0.05)
        assert ("use threshold='conformal', which needs 19" in str(error.value)) == wanted
    assert other_rules(0, ranked=conformal_needs(0.1)) == "give more good images"
    assert more_images(3) == "give at least 5 (4 are enough for scope='image')"


def test_arrays_of_two_and_three_rows_say_how_many_are_needed():
    X = np.random.default_rng(0).normal(size=(4, 8))
    with pytest.raises(MahaladError, match=r"needs 3 samples, one more .* give at least 4"):
        AnomalyDetector(fpr=0.2).fit(X[:2])
    with pytest.raises(MahaladError, match=r"leaves 2: .* so give at least 4"):
        AnomalyDetector(fpr=0.2).fit(X[:3])
    assert AnomalyDetector(fpr=0.2).fit(X).predict(X[:1]).shape == (1,)
