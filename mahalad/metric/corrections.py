"""Corrections of a fitted classifier: what is checked before, and what is known afterwards.

The state is a value: each correction gives another one, with the labels that are new, and without
the votes on images that are no longer the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mahalad.errors import InputError
from mahalad.index.contract import VectorIndex
from mahalad.metric.label_arrays import as_type_of, labels_array, repeated_names
from mahalad.metric.state import Fitted
from mahalad.metric.votes import HeldOut


def after(
    fitted: Fitted, ids: Sequence[int] | NDArray[np.int64] = (), labels: ArrayLike = ()
) -> Fitted:
    """Give the state after the index was changed.

    Parameters
    ----------
    fitted : Fitted
        As it is once the index is changed: others may have changed it meanwhile.
    ids : sequence of int, shape (n,)
        Images that were added or removed. Votes that were cast on images with these ids are
        dropped: a store may give the ids of removed images again.
    labels : array of the type of the classes, shape (n,)
        Those that were given to images. New ones become classes, after all others: votes that are
        kept have the old order.
    """
    cast = fitted.calibration
    votes = cast.votes
    kept = ~np.isin(votes.ids, np.asarray(ids, dtype=np.int64))
    left = HeldOut(votes.ids[kept], votes.probabilities[kept], votes.distances[kept])
    classes, given = fitted.classes, np.asarray(labels)
    if given.size:
        classes = np.concatenate([classes, np.setdiff1d(given, classes)])
    cast = replace(cast, votes=left, checksums=cast.checksums[kept])
    return replace(fitted, classes=classes, calibration=cast)


def use_index(fitted: Fitted, index: VectorIndex) -> Fitted:
    """Take another index of the same embedding, and learn the labels in it."""
    known = set(fitted.names)
    found = [name for name in index.counts() if name not in known]
    return after(replace(fitted, index=index), labels=as_type_of(found, fitted.classes))


def known_labels(fitted: Fitted, y: Any, *, new_label: bool) -> NDArray[Any]:
    """Give labels of images, or one for all, as an array of the type of the classes.

    Raises
    ------
    InputError
        A label that is not among the classes, unless `new_label` allows it.
    """
    labels = labels_array([y] if isinstance(y, (str, int, np.integer)) else y)
    known = fitted.names
    unknown = sorted(set(labels.astype(str).tolist()) - set(known))
    if unknown and not new_label:
        raise InputError(
            f"unknown label {', '.join(map(repr, unknown))}; known are "
            f"{', '.join(map(repr, known))} (new_label=True, or --new-label, allows new ones)"
        )
    return as_type_of(labels.astype(str).tolist(), fitted.classes)


def texts_to_store(
    read: Sequence[str], labels: NDArray[Any], paths: Sequence[str] | None
) -> tuple[list[str], list[str]]:
    """Give the label of each image to add, and the path that is shown of it: the one given, or
    else that it was read from.

    Raises
    ------
    InputError
        Not one label and one path for each image.
    """
    shown = list(read) if paths is None else [str(path) for path in paths]
    names = repeated_names(labels, len(read))
    if not len(names) == len(shown) == len(read):
        raise InputError(f"{len(read)} images, {len(names)} labels and {len(shown)} paths to add")
    return names, shown
