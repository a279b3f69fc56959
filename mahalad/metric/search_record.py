"""What a search over parameters tried and chose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mahalad.metric.classifier import MetricKNNClassifier


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


def record_of(classifier: MetricKNNClassifier) -> dict[str, Any] | None:
    """The search as JSON, if there was one and its choice was not changed afterwards."""
    search: Search | None = getattr(classifier, "search_", None)
    if search is None:
        return None
    now = values_of(classifier, list(search.chosen))
    return asdict(search) if now == search.chosen else None


def values_of(classifier: MetricKNNClassifier, names: Sequence[str]) -> dict[str, Any]:
    """Parameters of the classifier and its projection, by their names in a search."""
    return {
        name: getattr(classifier if name in OF_VOTES else classifier.projection, name, None)
        for name in names
    }
