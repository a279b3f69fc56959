"""What travels between the rooms: levels of features, their rows, copies and order."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mahalad.errors import InputError
from mahalad.protocols import Features


def as_input_of(scorer: Any, features: Features) -> Any:
    """The mapping for a scorer that accepts levels; the levels side by side for any other."""
    if getattr(scorer, "accepts_levels", False):
        return features
    return np.hstack([np.asarray(values, dtype=np.float64) for values in features.values()])


def check_levels(X: Features, known: Collection[str]) -> None:
    """Raise `InputError` unless features are of the levels that a scorer was fitted to."""
    if set(X) != set(known):
        raise InputError(
            f"features of levels {', '.join(X)} given to a scorer of levels {', '.join(known)}"
        )


def take(features: Features, rows: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Rows of every level."""
    return {name: values[rows] for name, values in features.items()}


def joined(parts: Sequence[Features]) -> dict[str, NDArray[Any]]:
    """The levels of all images, of those of some after the other; none of none."""
    if len(parts) == 1:
        return dict(parts[0])
    names = parts[0] if parts else ()
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def in_order(features: Features, level_names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """The levels in the order of the fit, whatever the order they were given in."""
    if set(features) != set(level_names):
        raise InputError(
            f"features of levels {', '.join(features)} given to a detector of levels "
            f"{', '.join(level_names)}"
        )
    return {name: features[name] for name in level_names}


def rows(features: Features) -> dict[str, NDArray[Any]]:
    """All copies of all images as rows: (n, c, ...) to (n * c, ...)."""
    return {name: values.reshape(-1, *values.shape[2:]) for name, values in features.items()}


def originals(features: Features) -> dict[str, NDArray[Any]]:
    """The images themselves, without their copies: (n, c, ...) to (n, ...)."""
    return {name: values[:, 0] for name, values in features.items()}


def below(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Arrays whose name starts with a prefix, without it."""
    return {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}
