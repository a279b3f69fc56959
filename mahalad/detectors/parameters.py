"""What a detector's parameters say: whether they can be fitted, and how a fit goes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from sklearn.base import BaseEstimator, clone

from mahalad.checks import (
    N_AUGMENT,
    Either,
    IsNone,
    Limit,
    OneOf,
    Real,
    Some,
    Whole,
    check_parameters,
)
from mahalad.choices import ANY_ORIENTATION, CHANGES, NEAR_COPIES
from mahalad.detectors.state import FitRecipe
from mahalad.errors import InputError
from mahalad.features.copying import copy_extractor
from mahalad.features.parameters import comparable_params
from mahalad.protocols import Threshold
from mahalad.scorers.capabilities import capabilities_of
from mahalad.scorers.level_sum import make_scorer
from mahalad.thresholds.conformal import check_fpr
from mahalad.thresholds.rules import check_threshold, takes_calibration

_LIMITS: dict[str, Limit] = {
    "n_augment": N_AUGMENT,
    "n_folds": Whole(2),
    "holdout_fraction": Real("(0, 1)"),
    "max_stored": Whole(2),
    "random_state": Either((IsNone(), Whole(0, 2**63 - 1))),
    "near_copies": OneOf(NEAR_COPIES),
    "tolerate": Either((OneOf(("auto",)), Some(CHANGES))),
    "any_orientation": OneOf(ANY_ORIENTATION),
}


class FitParameters(BaseEstimator):
    """The parameters that all detectors have, and what follows from them before a fit.

    `AnomalyDetector` says what each is.
    """

    features: Any
    scorer: Any
    threshold: str | Threshold
    fpr: float
    n_augment: int
    n_folds: int
    holdout_fraction: float
    max_stored: int | None
    random_state: int | None
    near_copies: str
    tolerate: str | Sequence[str]
    any_orientation: str | bool = False  # of detectors that have the parameter

    def unfitted_parts(self) -> tuple[Any, Any]:
        """Fresh feature extractor (None where features are given) and scorer, unfitted."""
        return copy_extractor(self.features), self.unfitted_scorer()

    def unfitted_scorer(self) -> Any:
        """A fresh scorer, unfitted."""
        return clone(make_scorer("gaussian") if self.scorer is None else self.scorer)

    def __sklearn_clone__(self) -> Self:
        copy: Self = super().__sklearn_clone__()
        if "features" in self.get_params(deep=False):  # fitted ones stay so: `fit` does not
            copy.features = copy_extractor(self.features)
        return copy

    def most_stored(self) -> int:
        """Most images whose features are kept, with the default where none is given."""
        return 10_000 if self.max_stored is None else self.max_stored

    def _recipe(self) -> FitRecipe:
        holds_out = isinstance(self.threshold, str) and self.threshold == "holdout"
        streams = capabilities_of(self.unfitted_scorer()).mergeable and not holds_out
        return FitRecipe(
            threshold=self.threshold,
            n_folds=self.n_folds,
            holdout_fraction=self.holdout_fraction,
            capacity=self.most_stored() if streams else None,
            salt=self._salt(),
            n_augment=self.n_augment,
            turned=self._turns(),
            near_copies=self.near_copies,
            tolerate=self.tolerated(),
        )

    def _turns(self) -> bool:
        """Whether images are fitted turned, as far as parameters say."""
        return self.any_orientation is True

    def tolerated(self) -> tuple[str, ...]:
        """Kinds of harmless changes that the scorer is told of, in the order of all kinds."""
        return () if self.tolerate == "auto" and self._is_nominal() else self._kinds()

    def _kinds(self) -> tuple[str, ...]:
        """`tolerated` with a calibrated threshold."""
        if self.tolerate == "auto":
            return CHANGES if capabilities_of(self.unfitted_scorer()).tolerates else ()
        return tuple(kind for kind in CHANGES if kind in self.tolerate)

    def _is_nominal(self) -> bool:
        """Whether the threshold is "chi2-nominal", which scorers with maps refuse by themselves."""
        nominal = isinstance(self.threshold, str) and self.threshold == "chi2-nominal"
        return nominal and not capabilities_of(self.unfitted_scorer()).has_maps

    def _knows_changes(self) -> bool:
        return capabilities_of(self.unfitted_scorer()).tolerates and not self._is_nominal()

    def _check_values(self) -> None:
        """Refuse parameters that are out of their limits, of a file's model as well."""
        check_fpr(self.fpr)
        check_threshold(self.threshold)
        given = {name: getattr(self, name) for name in _LIMITS}
        check_parameters(_LIMITS, given | {"max_stored": self.most_stored()})
        if self.tolerate != "auto" and self.tolerated() and not self._knows_changes():
            raise InputError(
                "tolerate is for Gaussians of all features, or standardized distances between "
                "images, and a calibrated threshold: leave out the reduction (or the other scorer "
                "or distance, or threshold='chi2-nominal'), or tolerate nothing: tolerate=(), "
                "in a shell --tolerate none"
            )

    def _check_parameters(self, calibration: Any, calibration_groups: Any = None) -> None:
        """Refuse what cannot be fitted: parameters out of their limits, or at odds."""
        self._check_values()
        if calibration_groups is not None and calibration is None:
            raise InputError("calibration_groups were given without calibration images")
        if calibration is not None and not takes_calibration(self.threshold):
            raise InputError(
                f"calibration images are for threshold='holdout', not {self.threshold!r}: ask for "
                "that rule, or for 'tolerance'"
            )

    def _params_of_fit(self) -> dict[str, Any]:
        """Parameters without those that may change after a fit, in a form to be compared."""
        params: dict[str, Any] = self.get_params(deep=False)
        del params["fpr"]
        # Rules that use the same scores may be exchanged.
        params["threshold"] = ["holdout" if self._recipe().holds_out else "leave-out"]
        if self.tolerated() != self._kinds():
            params["threshold"].append("nothing tolerated")
        if "tolerate" in params and self.tolerate != "auto":  # kinds are named in any order
            kinds = self._kinds()
            params["tolerate"] = "auto" if kinds == CHANGES else kinds
        return comparable_params(params, ("features",))

    def _salt(self) -> int:
        return 0 if self.random_state is None else int(self.random_state)
