"""What parameters of a classifier by nearest neighbours may be, in a model file as well."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mahalad.checks import (
    FPR,
    MAJORITY,
    SEED,
    Either,
    IsNone,
    Limit,
    OneOf,
    Whole,
    check_parameters,
)
from mahalad.choices import CLASS_WEIGHTS, EMBEDDING_DISTANCES, VOTES
from mahalad.errors import InputError

_LIMITS: Mapping[str, Limit] = {
    "n_neighbors": Whole(1),
    "weights": OneOf(VOTES),
    "class_weight": OneOf(CLASS_WEIGHTS),
    "distance": OneOf((None, *EMBEDDING_DISTANCES)),
    "novelty_fpr": FPR,
    "calibration_folds": Either((Whole(2), IsNone())),
    "self_training": Either((MAJORITY, IsNone())),
    "random_state": SEED,
}


def check_classifier(params: Mapping[str, Any], error: type[Exception] = InputError) -> None:
    """Raise `error` unless all parameters that are given are within their limits."""
    given = {name: limit for name, limit in _LIMITS.items() if name in params}
    check_parameters(given, params, error)
