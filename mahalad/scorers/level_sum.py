"""Scorers over features: sums over levels, and the distances that the paper compares.

All keep scikit-learn's sign: `score_samples` is up = normal, `distances` up = abnormal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.svm import OneClassSVM
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from mahalad.arrays import check_levels
from mahalad.errors import DegenerateDataError, InputError
from mahalad.protocols import Features, Floats
from mahalad.scorers.baselines import MeanDistance, NearestNeighborDistance, StandardizedDistance
from mahalad.scorers.file import NEEDS_FEATURES, restore_sums, sums_of
from mahalad.scorers.gaussian import LedoitWolfGaussian
from mahalad.scorers.neighbors import KthNeighborDistance
from mahalad.scorers.nuisance import Nuisance
from mahalad.scorers.reduction import PrincipalComponents, parse_reduction


def _estimator_has(method: str) -> Any:
    return available_if(lambda self: hasattr(self.estimator, method))


class LevelSum(BaseEstimator):
    """One estimator per level; the score is the sum over levels.

    Parameters
    ----------
    estimator : estimator
        Cloned for every level: anything with `fit` and `score_samples`, also a Pipeline such
        as ``make_pipeline(PrincipalComponents("last"), LedoitWolfGaussian())``.

    Attributes
    ----------
    estimators_ : dict of str to estimator
        The fitted estimator of each level.

    Notes
    -----
    `partial_fit`, `merge` and `leave_one_out_level_scores` are there when the estimator has
    what they need; a Pipeline with a reduction has not, because the reduction was learned from
    the same samples.
    """

    accepts_levels = True
    _changes: Mapping[str, Nuisance] = {}  # replaced, never changed

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator

    def fit(self, X: Features, y: Any = None) -> Self:
        """Fit every level of `X`, a mapping of level name to (n_samples, n_features)."""
        self.estimators_ = {}
        for name, values in X.items():
            with _naming(name):
                self.estimators_[name] = self._new(name).fit(values)
        return self

    @_estimator_has("partial_fit")
    def partial_fit(self, X: Features, y: Any = None) -> Self:
        """Add samples to every level."""
        if not hasattr(self, "estimators_"):
            self.estimators_ = {name: self._new(name) for name in X}
        check_levels(X, self.estimators_)
        for name, values in X.items():
            self.estimators_[name].partial_fit(values)
        return self

    @_estimator_has("merge")
    def merge(self, other: LevelSum) -> Self:
        """Add the samples of another fit."""
        check_is_fitted(self)
        check_is_fitted(other)
        check_levels(other.estimators_, self.estimators_)
        for name, estimator in self.estimators_.items():
            estimator.merge(other.estimators_[name])
        return self

    @_estimator_has("unmerge")
    def unmerge(self, other: LevelSum) -> Self:
        """Take the samples of another fit, which are part of this one, out of it."""
        check_is_fitted(self)
        check_is_fitted(other)
        check_levels(other.estimators_, self.estimators_)
        for name, estimator in self.estimators_.items():
            estimator.unmerge(other.estimators_[name])
        return self

    @_estimator_has("tolerate")
    def tolerating(self, differences: Features, n_images: int) -> Self:
        """Make a scorer, fitted or not as this one, to which harmless changes matter less.

        Both share their sums. `differences`, each level (n_images * n_ways, n_features), are those
        between changed copies of images and these; see `mahalad.scorers.nuisance.Nuisance`.
        """
        other = copy(self)
        other._changes = {name: Nuisance(d, n_images) for name, d in differences.items()}
        if hasattr(self, "estimators_"):
            other.estimators_ = {
                name: copy(estimator).tolerate(other._changes.get(name))
                for name, estimator in self.estimators_.items()
            }
        return other

    def _new(self, level: str) -> Any:
        """An unfitted estimator for a level."""
        estimator = clone(self.estimator)
        return estimator.tolerate(self._changes[level]) if level in self._changes else estimator

    def level_score_samples(self, X: Features) -> Floats:
        """Scores per level, shape (n_samples, n_levels), up = normal."""
        check_is_fitted(self)
        check_levels(X, self.estimators_)
        columns = []
        for name, estimator in self.estimators_.items():
            with _naming(name):
                columns.append(estimator.score_samples(X[name]))
        return np.column_stack(columns)

    def score_samples(self, X: Features) -> Floats:
        """Sum over levels, shape (n_samples,), up = normal."""
        return np.asarray(self.level_score_samples(X).sum(axis=1))

    @_estimator_has("calibration_distances")
    def leave_one_out_level_scores(
        self, X: Features, groups: Any = None, changed: Any = None
    ) -> Floats:
        """Scores of fitted samples that those of new ones can be ranked among.

        Shape (n_samples, n_levels), up = normal: under the fit without the sample (or its group),
        less what the sample does to the scores of others. See
        `LedoitWolfGaussian.calibration_distances`.
        """
        check_is_fitted(self)
        check_levels(X, self.estimators_)
        told = (groups,) if changed is None else (groups, changed)  # others know no changes
        columns = []
        for name, estimator in self.estimators_.items():
            with _naming(name):
                columns.append(-estimator.calibration_distances(X[name], *told))
        return np.column_stack(columns)

    @property
    def degrees_of_freedom_(self) -> int | None:
        """Number of features scored, over all levels; None if not Mahalanobis distances."""
        check_is_fitted(self)
        total = 0
        for estimator in self.estimators_.values():
            last = estimator[-1] if isinstance(estimator, Pipeline) else estimator
            if not isinstance(last, LedoitWolfGaussian):
                return None
            total += last.n_features_in_
        return total

    @property
    def smooth(self) -> bool:
        """Whether scores change smoothly with the samples: the estimator is one of `SCORERS`.

        An estimator from outside may be random (a forest).
        """
        last = self.estimator[-1] if isinstance(self.estimator, Pipeline) else self.estimator
        return isinstance(last, tuple(SCORERS.values()))

    @property
    def keeps_sums(self) -> bool:
        """Whether the estimator is a plain Gaussian, which is made from sums alone."""
        return isinstance(self.estimator, LedoitWolfGaussian)

    def sums(self) -> dict[str, NDArray[Any]]:
        """Sums of every level's Gaussian, as named arrays.

        Raises
        ------
        InputError
            The estimator is not a plain Gaussian: it learns from the samples themselves.
        """
        self._check_keeps_sums()
        check_is_fitted(self)
        return sums_of(self.estimators_)

    def restore(self, levels: Sequence[str], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Become the fit to these levels whose `sums` are given.

        Raises
        ------
        InputError
            The estimator is not a plain Gaussian: it learns from the samples themselves.
        """
        self._check_keeps_sums()
        self.estimators_ = {name: clone(self.estimator) for name in levels}
        restore_sums(self.estimators_, arrays)
        return self

    def summed(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """All that merging needs, as JSON and arrays: the levels, and `sums` of them."""
        return {"levels": list(self.estimators_)}, self.sums()

    def restore_summed(self, about: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Become the fit whose `summed` are given."""
        return self.restore(about["levels"], arrays)

    def _check_keeps_sums(self) -> None:
        if not self.keeps_sums:
            raise InputError(NEEDS_FEATURES)


@contextmanager
def _naming(level: str) -> Iterator[None]:
    """Prefix errors about degenerate data with the level that they are about."""
    try:
        yield
    except DegenerateDataError as error:
        raise DegenerateDataError(f"level {level!r}: {error}") from error


SCORERS = {
    "gaussian": LedoitWolfGaussian,
    "l2": MeanDistance,
    "sed": StandardizedDistance,
    "ocsvm": OneClassSVM,
    "knn": KthNeighborDistance,
    "spade": NearestNeighborDistance,
}
"""Estimators per level by name; `--scorer` takes all but the last."""


def make_scorer(name: str, reduction: str | PrincipalComponents | None = None) -> LevelSum:
    """Make a scorer by name, after an optional reduction per level.

    Parameters
    ----------
    name : {"gaussian", "l2", "sed", "ocsvm", "knn", "spade"}
        The Gaussian; L2; SED; one-class SVM (RBF, gamma="scale"); the distance to the nearest
        neighbour, of standardized features; the mean distance to the 5 nearest ones, of raw ones.
    reduction : str, PrincipalComponents or None
        ``"pca"``, ``"npca"``, ``"npca:0.95"``, or the transformer itself.
    """
    if name not in SCORERS:
        raise InputError(f"unknown scorer {name!r}; one of {', '.join(SCORERS)}")
    return per_level(SCORERS[name](), reduction)


def per_level(estimator: Any, reduction: str | PrincipalComponents | None = None) -> LevelSum:
    """An estimator for each level, after an optional reduction; see `make_scorer`."""
    if isinstance(reduction, str):
        reduction = parse_reduction(reduction)
    if reduction is not None:
        estimator = make_pipeline(clone(reduction), estimator)
    return LevelSum(estimator)
