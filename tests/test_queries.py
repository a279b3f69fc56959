"""A query never changes a model: whatever is asked, its state stays bit for bit what it was."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_picture
from sklearn.base import BaseEstimator
from sklearn.ensemble import IsolationForest

from mahalad import AnomalyDetector, KNNDetector, MahalanobisDetector, PatchScorer
from mahalad.detectors.state import FitRecipe, FitState
from mahalad.scorers.level_sum import make_scorer


def bits(value: Any, seen: tuple[int, ...] = ()) -> Any:
    """Everything that an object is, down to the bytes of its arrays."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, value.tobytes()
    if id(value) in seen:
        return "above"
    seen = (*seen, id(value))
    if isinstance(value, Mapping):
        return {str(key): bits(item, seen) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [bits(item, seen) for item in value]
    if isinstance(value, torch.nn.Module):
        return bits(value.state_dict(), seen)
    if hasattr(value, "__dict__") and not isinstance(value, type) and not callable(value):
        return type(value).__name__, bits(vars(value), seen)
    return repr(value)


def maps(seed: int, n: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    fine, coarse = rng.normal(size=(n, 12, 12, 2)), rng.normal(size=(n, 8, 8, 3))
    return {"fine": fine, "coarse": coarse, "whole": rng.normal(size=(n, 5))}


def rows(seed: int, n: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 6))


def pictures(seed: int, n: int) -> list[Any]:
    return [make_picture(seed + i) for i in range(n)]


def small(weights: Any) -> dict[str, Any]:
    return {"backbone": "test_efficientnet", "weights": weights, "input_size": 64, "fpr": 0.1}


CASES = {
    "positions": (lambda w: AnomalyDetector(scorer=PatchScorer(), fpr=0.1), maps, True),
    "shared positions": (
        lambda w: AnomalyDetector(scorer=PatchScorer(neighbourhood=1), fpr=0.1),
        maps,
        True,
    ),
    "reservoir": (
        lambda w: AnomalyDetector(scorer=PatchScorer(), fpr=0.2, max_stored=15),
        maps,
        True,
    ),
    "levels": (lambda w: AnomalyDetector(fpr=0.1), rows, True),
    "hold-out": (lambda w: AnomalyDetector(threshold="holdout", fpr=0.2), rows, False),
    "npca": (
        lambda w: AnomalyDetector(scorer=make_scorer("gaussian", "npca"), fpr=0.1, n_folds=4),
        rows,
        False,
    ),
    "forest": (
        lambda w: AnomalyDetector(scorer=IsolationForest(random_state=0), fpr=0.1, n_folds=3),
        rows,
        False,
    ),
    "images": (lambda w: MahalanobisDetector(**small(w)), pictures, True),
    "image scope": (lambda w: MahalanobisDetector(scope="image", **small(w)), pictures, True),
    "neighbours": (lambda w: KNNDetector(**small(w)), pictures, False),
}


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_queries_leave_a_detector_as_it_is(name, grouped, small_weights):
    make, images, has_leave_one_out = CASES[name]
    good, new = images(0, 24), images(100, 5)
    detector = make(small_weights)
    detector.fit(good, groups=[i // 2 for i in range(24)] if grouped else None)
    has_maps = name in ("positions", "shared positions", "reservoir", "images", "image scope")
    before = bits(detector)
    asked = [detector.anomaly_score(new).tolist()]
    for query in ("score_samples", "decision_function", "predict", "p_values"):
        getattr(detector, query)(new)
    list(detector.inspect(new))
    for attribute in ("threshold_", "calibration_scores_", "n_images_", "unreadable_"):
        getattr(detector, attribute)
    if has_maps:
        list(detector.inspect(new, maps=True))
        detector.anomaly_map(new)
        detector.explain(new)
    if name not in ("npca", "forest"):
        detector.level_scores(new)
    if has_leave_one_out and images is not pictures:
        part = {k: v[:10] for k, v in good.items()} if isinstance(good, dict) else good[:10]
        scorer = detector.scorer_
        scorer.leave_one_out_level_scores(part if isinstance(part, dict) else {"features": part})
    asked.append(detector.anomaly_score(new).tolist())
    assert asked[0] == asked[1]
    assert bits(detector) == before


def test_states_merge_in_any_order_and_stay_as_they_are():
    detector = AnomalyDetector(scorer=PatchScorer(), fpr=0.1)
    parts = [
        AnomalyDetector(scorer=PatchScorer(), fpr=0.1).fit(maps(seed, n))
        for seed, n in ((1, 12), (2, 9), (3, 15))
    ]
    a, b, c = (part._state for part in parts)
    before = [bits(state) for state in (a, b, c)]
    left, right, turned = a.merge(b).merge(c), a.merge(b.merge(c)), c.merge(a).merge(b)
    assert [bits(state) for state in (a, b, c)] == before
    for state in (left, right, turned):
        assert isinstance(state, FitState)
        assert state.store.n_seen == 36
        assert sorted(state.store.keys.tolist()) == sorted(left.store.keys.tolist())
        for name, gaussian in state.scorer.patch_gaussians_.items():
            want = left.scorer.patch_gaussians_[name].moments_
            np.testing.assert_allclose(gaussian.moments_.mean(), want.mean(), rtol=0, atol=1e-12)
            covariances = gaussian.moments_.covariance(), want.covariance()
            np.testing.assert_allclose(*covariances, rtol=0, atol=1e-12)
    everything = {k: np.concatenate([maps(s, n)[k] for s, n in ((1, 12), (2, 9), (3, 15))])
                  for k in ("fine", "coarse", "whole")}  # fmt: skip
    detector.fit(everything)
    merged = parts[0].merge(parts[1]).merge(parts[2])
    new = maps(9, 4)
    np.testing.assert_allclose(merged.anomaly_score(new), detector.anomaly_score(new), rtol=1e-9)


def test_a_failed_update_changes_nothing():
    detector = AnomalyDetector(scorer=PatchScorer(), fpr=0.1).fit(maps(1, 12))
    before = bits(detector)
    with pytest.raises(ValueError, match="levels"):
        detector.partial_fit({"fine": maps(2, 6)["fine"]})
    other = AnomalyDetector(scorer=PatchScorer(top_fraction=0.5), fpr=0.1).fit(maps(2, 12))
    with pytest.raises(ValueError, match="different scorer"):
        detector.merge(other)
    assert bits(detector) == before


def test_a_recipe_is_a_value():
    recipe = FitRecipe(capacity=10)
    assert recipe.streams and not recipe.holds_out
    assert dataclasses.replace(recipe, threshold="holdout").holds_out
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.salt = 3
    assert isinstance(PatchScorer(), BaseEstimator)
