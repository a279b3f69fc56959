"""What a search over parameters tried and chose."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sklearn.base import clone

OF_VOTES = ("n_neighbors", "class_weight")


@dataclass(frozen=True)
class Search:
    """What a search tried, and what it chose.

    Attributes
    ----------
    chosen : dict
        Value of each parameter that was searched.
    validation_f1 : float
        Mean macro F1 of the chosen values on the held-out parts. The best of many, so it is
        higher than what to expect of new images.
    default_f1 : float or None
        The same of the values before; None if they failed.
    candidates : list of dict
        Each with its parameters and "validation_f1" (None where the training failed); first
        the values before.
    """

    chosen: dict[str, Any]
    validation_f1: float
    default_f1: float | None
    candidates: list[dict[str, Any]]


def record_of(search: Search | None, params: Mapping[str, Any]) -> dict[str, Any] | None:
    """Give the search as JSON, if there was one and its choice was not changed afterwards.

    `params` are the classifier's parameters by name.
    """
    if search is None or values_of(search.chosen, params) != search.chosen:
        return None
    return asdict(search)


def values_of(names: Iterable[str], params: Mapping[str, Any]) -> dict[str, Any]:
    """Read parameters of a classifier and its projection by their names in a search.

    A projection need not have all of them: None stands for what it lacks.
    """
    own = {} if params["projection"] is None else params["projection"].get_params(deep=False)
    return {name: (params if name in OF_VOTES else own).get(name) for name in names}


def chosen_params(chosen: Mapping[str, Any], projection: Any) -> dict[str, Any]:
    """Give the parameters that a search chose; the projection is a clone with its values."""
    params = {name: chosen[name] for name in OF_VOTES if name in chosen}
    if projection is not None:
        copy = clone(projection)
        own = copy.get_params(deep=False)
        copy.set_params(**{name: value for name, value in chosen.items() if name in own})
        params["projection"] = copy
    return params
