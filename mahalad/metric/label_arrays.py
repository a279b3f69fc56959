"""Labels of images as arrays: texts, or whole numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mahalad.errors import InputError


def labels_array(y: Any) -> NDArray[Any]:
    """Turn labels into an array (n,) of str or int."""
    labels = np.asarray(y)
    if labels.dtype == object and all(isinstance(label, str) for label in labels.ravel()):
        labels = labels.astype(str)
    if labels.ndim != 1 or labels.dtype.kind not in "Uiu":
        raise InputError(
            "labels must be one text or whole number per image, got an array of shape "
            f"{labels.shape} and type {labels.dtype}; none may be missing"
        )
    if labels.dtype.kind == "U" and not all(label.strip() for label in labels):
        raise InputError(f"image {int(np.argmin(labels != ''))} has an empty label")
    return labels


def as_type_of(names: list[str], classes: NDArray[Any]) -> NDArray[Any]:
    """Turn names of labels into what the caller has: numbers, if those of `classes` are."""
    if classes.dtype.kind == "U" or not names:
        return np.array(names, dtype=str) if names else classes[:0]
    try:
        return np.array([int(name) for name in names])
    except ValueError as error:
        raise InputError(f"labels are numbers here, got {', '.join(map(repr, names))}") from error


def repeated_names(labels: NDArray[Any], n: int) -> list[str]:
    """Give names of n labels; one for all is repeated."""
    names: list[str] = labels.astype(str).tolist()
    return names * n if len(names) == 1 else names


def positive_code(positive: str | int | None, classes: NDArray[Any]) -> int | None:
    """Give the number of the positive class; None if no label is positive.

    Raises
    ------
    InputError
        It is not one of the classes.
    """
    if positive is None:
        return None
    known: list[str] = classes.astype(str).tolist()
    if str(positive) not in known:
        raise InputError(f"positive={positive!r} is not one of the labels: {', '.join(known)}")
    return known.index(str(positive))
