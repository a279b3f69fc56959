"""Feature extractors of a model's own: what is done to the one that was given does not reach it."""

from __future__ import annotations

import copy
from typing import Any, Protocol, runtime_checkable

from sklearn.base import clone


@runtime_checkable
class _TellsWhetherFitted(Protocol):
    """An object that says itself whether it is fitted, as scikit-learn asks for it."""

    def __sklearn_is_fitted__(self) -> bool: ...


def copy_extractor(extractor: Any) -> Any:
    """Copy a feature extractor for one model.

    One that is fitted, as an `Autoencoder` is, stays so: it was trained on other images than the
    model's, and no model trains it again. The copy has parameters and learned attributes of its
    own, though these are the same objects until one of the two is fitted anew. Any other is
    cloned as `sklearn.base.clone` does it: parameters without what `build` made.

    Parameters
    ----------
    extractor : feature extractor or None
    """
    return copy.copy(extractor) if is_trained(extractor) else clone(extractor, safe=False)


def is_trained(extractor: Any) -> bool:
    """Whether an extractor learns, and has learned, as a fitted `Autoencoder`."""
    return isinstance(extractor, _TellsWhetherFitted) and extractor.__sklearn_is_fitted__()
