"""Questions change no scorer; what scorers can do, and how their parts travel to a file."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.pipeline import make_pipeline
from sklearn.svm import OneClassSVM

from mahalad import choices
from mahalad.errors import InputError
from mahalad.scorers.capabilities import (
    Capabilities,
    capabilities_of,
    degrees_of_freedom,
    has_sums,
    map_maxima,
    score_names,
)
from mahalad.scorers.file import sums_of_scorer
from mahalad.scorers.gaussian import LedoitWolfGaussian
from mahalad.scorers.level_sum import SCORERS, LevelSum, make_scorer
from mahalad.scorers.moments import Moments
from mahalad.scorers.positions.gaussians import PatchGaussian
from mahalad.scorers.positions.scorer import PatchScorer
from mahalad.scorers.positions.standards import Standards
from mahalad.scorers.reduction import PrincipalComponents
from mahalad.thresholds.calibration import leave_one_out_scores
from mahalad.thresholds.rules import RULES

N = 20
GROUPS = np.arange(N) // 2
MAPS = {"fine": (8, 8, 3), "coarse": (4, 4, 2), "whole": (5,)}


def maps(n: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=(n, *shape)) for name, shape in MAPS.items()}


def rows(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 4)) + 2


def levels(n: int, seed: int = 0) -> dict[str, np.ndarray]:
    return {"a": rows(n, seed), "b": rows(n, seed + 100)[:, :3]}


def patches(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 6, 3))


def some(X: Any, n: int) -> Any:
    return {name: values[:n] for name, values in X.items()} if isinstance(X, Mapping) else X[:n]


def public(value: Any) -> Any:
    """All that a fitted object shows, as nested dicts, lists and arrays."""
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, Mapping):
        return {name: public(own) for name, own in value.items()}
    if isinstance(value, (list, tuple)):
        return [public(own) for own in value]
    if isinstance(value, (Moments, Standards)):
        return public(vars(value))
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if not hasattr(value, "get_params"):
        return type(value).__name__
    names = [name for name in dir(value) if name.endswith("_") and name[0] != "_"]
    shown: dict[str, Any] = {"params": {k: public(v) for k, v in value.get_params().items()}}
    for name in names:
        try:
            shown[name] = public(getattr(value, name))
        except (AttributeError, InputError):  # what this object has not, such as sums in a slim one
            shown[name] = "none"
    return shown


def merged(X: Any) -> Any:
    return make_scorer("gaussian").fit(X).merge(make_scorer("gaussian").fit(X))


def slim(X: Any) -> PatchScorer:
    return PatchScorer().restore(*PatchScorer().fit(X).state())


LEVEL_SUMS = {name: (lambda X, n=name: make_scorer(n).fit(X), levels) for name in SCORERS}
FITTED: dict[str, tuple[Callable[[Any], Any], Callable[..., Any]]] = {
    **LEVEL_SUMS,
    "npca": (lambda X: make_scorer("gaussian", "npca:0.9").fit(X), levels),
    "merged": (merged, levels),
    "positions": (lambda X: PatchScorer().fit(X), maps),
    "positions shared": (lambda X: PatchScorer(neighbourhood=1, smoothing=1).fit(X), maps),
    "positions slim": (slim, maps),
    "one gaussian": (lambda X: LedoitWolfGaussian().fit(X), rows),
    "gaussians": (lambda X: PatchGaussian().fit(X), patches),
    "components": (lambda X: PrincipalComponents().fit(X), rows),
}  # fmt: skip
FITTED |= {f"bare {name}": (lambda X, s=s: s().fit(X), rows) for name, s in SCORERS.items()}

QUESTIONS = (
    "score_samples",
    "distances",
    "level_score_samples",
    "anomaly_maps",
    "scores_and_maps",
    "transform",
    "apply_precision",
)
OF_FITTED = ("leave_one_out", "leave_one_out_level_scores", "leave_one_out_distances")


@pytest.mark.parametrize("name", FITTED)
def test_questions_change_nothing(name):
    make, data = FITTED[name]
    X, new = data(N), data(7, seed=1)
    scorer = make(X)
    before = public(scorer)
    answers: dict[str, Any] = {}
    for again in (False, True):
        for question in QUESTIONS:
            if hasattr(scorer, question):
                answer = getattr(scorer, question)(new)
                np.testing.assert_equal(
                    public(answer), answers.setdefault(question, public(answer))
                )
        for question in OF_FITTED:
            if hasattr(scorer, question) and name != "positions slim":  # no sums
                ask = getattr(scorer, question)
                for n in (N, N) if "knn" in name else (N, 10):  # that one wants all it keeps
                    ask(some(X, n))
                    ask(some(X, n), GROUPS[:n])
        np.testing.assert_equal(public(scorer), before, err_msg=f"asked again: {again}")


def test_a_question_about_some_images_moves_no_scale():
    """It set the scorer's units by these 10 images alone."""
    X = maps(20)
    scorer = PatchScorer().fit(X)
    scale, scores = scorer.scale_, scorer.score_samples(X)
    _, standards = scorer.leave_one_out(some(X, 10))
    scorer.leave_one_out_level_scores(some(X, 10))
    leave_one_out_scores(scorer, {name: values[:10, None] for name, values in X.items()})
    assert standards.scale != scale
    assert scorer.scale_ == scale
    np.testing.assert_array_equal(scorer.score_samples(X), scores)


# -- standards -----------------------------------------------------------------------------


def test_standardized_by_shares_sums_and_leaves_the_scorer_as_it_is():
    X, new = maps(20), maps(5, seed=1)
    fitted = PatchScorer().fit(X)
    _, standards = fitted.leave_one_out(some(X, 10))
    other = fitted.standardized_by(standards)
    assert other.standards_ is standards
    assert other.patch_gaussians_["fine"].moments_ is fitted.patch_gaussians_["fine"].moments_
    wanted = other.score_samples(new), fitted.score_samples(new)
    assert not np.allclose(*wanted)
    np.testing.assert_array_equal(
        wanted[1],
        PatchScorer().partial_fit(X).standardized_by(fitted.standards_).score_samples(new),
    )
    for one, unchanged, scores in ((fitted, other, wanted[0]), (other, None, None)):
        one.partial_fit(maps(8, seed=2))  # an update of one is none of the other
        if unchanged is not None:
            np.testing.assert_array_equal(unchanged.score_samples(new), scores)
            assert unchanged.patch_gaussians_["fine"].n_samples_seen_ == 20
            assert unchanged.image_gaussians_["whole"].n_samples_seen_ == 20
    assert other.patch_gaussians_["fine"].n_samples_seen_ == 28


def test_samples_that_wait_to_be_summed_are_not_shared():
    X = maps(20)
    waiting = PatchScorer().partial_fit(some(X, 10))
    other = waiting.standardized_by(PatchScorer().fit(X).standards_)
    other.partial_fit(maps(6, seed=3))
    assert waiting.patch_gaussians_["fine"].n_samples_seen_ == 10
    assert other.patch_gaussians_["fine"].n_samples_seen_ == 16


def test_added_images_take_the_standards_away():
    X = maps(20)
    for change in (
        lambda scorer: scorer.partial_fit(X),
        lambda scorer: scorer.merge(PatchScorer().fit(X)),
    ):
        scorer = change(PatchScorer().fit(X))
        assert not hasattr(scorer, "standards_")
        for name in ("standard_", "scale_", "map_standards_", "map_maxima_", "n_active_"):
            with pytest.raises(AttributeError, match="standards_"):
                getattr(scorer, name)
        assert map_maxima(scorer) is None


def test_what_standards_hold_can_be_read_and_not_written():
    scorer = PatchScorer().fit(maps(20))
    standards = scorer.standards_
    names = ("scale", "standard", "map_standards", "map_maxima", "n_active", "context_weight")
    for name in names:
        assert getattr(scorer, f"{name}_") is getattr(standards, name)
        with pytest.raises(AttributeError):
            setattr(scorer, f"{name}_", None)
        with pytest.raises(AttributeError):
            setattr(standards, name, None)
    assert scorer.standards_ is standards


def test_standards_of_originals():
    standards = PatchScorer().fit(maps(12)).standards_
    own = standards.of_originals(3)
    np.testing.assert_array_equal(own.map_maxima, standards.map_maxima[[0, 3, 6, 9]])
    assert own.scale == standards.scale
    assert replace(standards, map_maxima=None).of_originals(3).map_maxima is None


def test_leave_one_out_scores_give_the_standards_of_the_images_themselves():
    X, copies = maps(10), maps(10, seed=4)
    both = {name: np.stack([X[name], copies[name]], axis=1) for name in X}
    flat = {name: values.reshape(20, *values.shape[2:]) for name, values in both.items()}
    scorer = PatchScorer().fit(flat)
    scores, standards = leave_one_out_scores(scorer, both)
    levels_, wanted = scorer.leave_one_out(flat, np.repeat(np.arange(10), 2))
    np.testing.assert_allclose(scores, -levels_.sum(axis=1)[::2], rtol=1e-12)
    assert standards is not None
    np.testing.assert_allclose(standards.map_maxima, wanted.map_maxima[::2], rtol=1e-12)
    assert len(scorer.map_maxima_) == 20


@pytest.mark.parametrize("name", ["positions", "gaussian", "gaussians"])
def test_a_deep_copy_shares_what_nobody_changes(name):
    make, data = FITTED[name]
    X, new = data(N), data(5, seed=1)
    scorer = make(X)
    wanted = scorer.score_samples(new)
    for other in (copy.deepcopy(scorer), pickle.loads(pickle.dumps(scorer))):
        np.testing.assert_array_equal(other.score_samples(new), wanted)
        other.partial_fit(X)
        np.testing.assert_array_equal(scorer.score_samples(new), wanted)
    moments = Moments.from_samples(rows(9))
    assert copy.deepcopy({"one": [moments]})["one"][0] is moments


# -- capabilities --------------------------------------------------------------------------

ALL = dict.fromkeys(Capabilities.__dataclass_fields__, False)


@pytest.mark.parametrize(
    ("scorer", "can"),
    [
        (IsolationForest(), ()),
        (OneClassSVM(), ()),
        (make_pipeline(PCA(2), IsolationForest()), ()),
        (
            make_scorer("gaussian"),
            (
                "mergeable",
                "unmergeable",
                "leaves_one_out",
                "has_levels",
                "keeps_sums",
                "tolerates",
                "travels",
                "smooth",
            ),
        ),
        (make_scorer("gaussian", "npca"), ("has_levels", "smooth")),
        (make_scorer("knn"), ("leaves_one_out", "has_levels", "tolerates", "smooth")),
        (make_scorer("ocsvm"), ("has_levels", "smooth")),
        (make_scorer("l2"), ("has_levels", "smooth")),
        (LevelSum(IsolationForest()), ("has_levels",)),
        (LevelSum(make_pipeline(PCA(2), IsolationForest())), ("has_levels",)),
        (LedoitWolfGaussian(), ("mergeable", "unmergeable")),
        (
            PatchScorer(),
            (
                "mergeable",
                "unmergeable",
                "leaves_one_out",
                "has_levels",
                "has_maps",
                "scores_with_maps",
                "standardizes",
                "keeps_sums",
                "tolerates",
                "travels",
            ),
        ),
    ],
)
def test_capabilities(scorer, can):
    assert capabilities_of(scorer) == Capabilities(**ALL | dict.fromkeys(can, True))


def test_what_fitted_scorers_say():
    gaussian, forest = (
        make_scorer("gaussian").fit(levels(N)),
        IsolationForest(n_estimators=3).fit(rows(N)),
    )
    positions = PatchScorer().fit(maps(N))
    assert score_names(gaussian, ("a", "b")) == ("a", "b")
    assert score_names(positions, ("a", "b")) == ("positions", "image")
    assert degrees_of_freedom(gaussian) == 7
    assert degrees_of_freedom(make_scorer("knn").fit(levels(N))) is None
    assert [degrees_of_freedom(s) for s in (forest, positions)] == [None, None]
    assert [has_sums(s) for s in (gaussian, forest, positions)] == [True, True, True]
    assert not has_sums(slim(maps(N)))
    assert map_maxima(gaussian) is None
    np.testing.assert_array_equal(map_maxima(positions), positions.map_maxima_)


def test_names_are_those_of_the_command_line():
    assert set(SCORERS) == set(choices.SCORERS)
    assert set(RULES) == set(choices.THRESHOLDS)


# -- sums ----------------------------------------------------------------------------------


def test_sums_make_the_fit():
    X, new = levels(N), levels(5, seed=1)
    scorer = make_scorer("gaussian").fit(X)
    restored = make_scorer("gaussian").restore(["a", "b"], scorer.sums())
    np.testing.assert_array_equal(restored.score_samples(new), scorer.score_samples(new))
    assert restored.partial_fit(X).estimators_["a"].n_samples_seen_ == 2 * N
    positions, slimmed = PatchScorer().fit(maps(N)), slim(maps(N))
    slimmed.restore_sums(positions.sums())
    assert slimmed.has_sums_
    answers = [one.score_samples(maps(5, seed=1)) for one in (slimmed, positions)]
    np.testing.assert_array_equal(*answers)


@pytest.mark.parametrize(
    "scorer", [make_scorer("knn"), make_scorer("gaussian", "pca"), IsolationForest(n_estimators=3)]
)
def test_scorers_without_sums_say_so(scorer):
    message = "this scorer learns from the features themselves"
    with pytest.raises(InputError, match=message):
        sums_of_scorer(scorer)
    if isinstance(scorer, LevelSum):
        with pytest.raises(InputError, match=message):
            scorer.sums()
        with pytest.raises(InputError, match=message):
            scorer.restore(["a"], {})
