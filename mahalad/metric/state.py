"""What a fitted classifier by nearest neighbours is: one value, which a correction replaces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mahalad.index.contract import VectorIndex
from mahalad.metric.embedding import Embedding
from mahalad.metric.search_record import Search
from mahalad.metric.votes import HeldOut
from mahalad.result import Result


@dataclass(frozen=True)
class Calibration:
    """Votes on images of the fit by fits that had not seen them.

    Attributes
    ----------
    method : {"cross-fit", "leave-one-out"}
        With "leave-one-out" there are no votes: they are cast when they are asked for. Only votes
        that leave out groups are cast by the fit, which alone knows these.
    votes : HeldOut
        Those of images that were removed meanwhile are gone.
    checksums : ndarray of uint64, shape (n,)
        Of the stored vectors that the votes are on. Another program may have given an id again: its
        vector is another then, and the vote is not on it.
    n_neighbors : int
    weights : str
        How the votes were cast.
    """

    method: str
    votes: HeldOut
    checksums: NDArray[np.uint64]
    n_neighbors: int
    weights: str


@dataclass(frozen=True, eq=False)
class Fitted:
    """What `fit` gives, and every correction gives anew.

    Attributes
    ----------
    embedding : Embedding
        Encoder, mean and deviation, projection.
    index : VectorIndex
        The labelled embeddings. Corrections change it in place: two values may share it.
    classes : ndarray of shape (n_classes,)
        Those that came with corrections stand at the end.
    calibration : Calibration
    n_self_trained : int
        Unlabelled images that trained the projection.
    unreadable : list of Result
        Images that were left out.
    search : Search or None
        That which chose the parameters.
    params : dict
        Parameters of the fit that cannot be changed without another one, in a form that can be
        compared.
    date : str or None
        Day of the fit, ISO 8601 in UTC; None where a file of an older version did not tell.
    """

    embedding: Embedding
    index: VectorIndex
    classes: NDArray[Any]
    calibration: Calibration
    n_self_trained: int
    unreadable: list[Result]
    search: Search | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    date: str | None = None

    @property
    def names(self) -> list[str]:
        """The classes as texts."""
        names: list[str] = self.classes.astype(str).tolist()
        return names
