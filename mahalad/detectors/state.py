"""What a fit holds, as values: how it is to be made, what was read, what calibration made of it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mahalad.arrays import as_input_of, rows
from mahalad.detectors.reservoir import FeatureStore
from mahalad.errors import InputError
from mahalad.protocols import Floats
from mahalad.result import Result

MakeScorer = Callable[[], Any]
"""Makes a fresh, unfitted scorer."""


@dataclass(frozen=True)
class FitRecipe:
    """How images become a calibrated scorer: the parameters of a fit.

    Attributes
    ----------
    threshold : str or threshold object
        The rule that the calibration is for: "holdout" holds images out, "chi2-nominal" needs none.
    n_folds : int
        Of the cross-fitting of a scorer without a closed-form leave-one-out.
    holdout_fraction : float
        Share of the images that "holdout" keeps from the fit.
    capacity : int or None
        Most images whose features are kept; None for all. Only a scorer that sums batch by batch
        can do with fewer than all: a number says that it does.
    salt : int
        Of the hashes that decide folds, hold-out split, reservoir and augmentation.
    n_augment : int
        Slightly changed copies of each image.
    """

    threshold: Any = "conformal"
    n_folds: int = 40
    holdout_fraction: float = 0.3
    capacity: int | None = None
    salt: int = 0
    n_augment: int = 0

    @property
    def holds_out(self) -> bool:
        """Whether images are kept from the fit for the threshold."""
        return isinstance(self.threshold, str) and self.threshold == "holdout"

    @property
    def streams(self) -> bool:
        """Whether the scorer sums batch by batch, so that features need not all be kept."""
        return self.capacity is not None


@dataclass(frozen=True)
class FitState:
    """Good images as a fit holds them. Two states of one recipe merge into that of all images.

    Attributes
    ----------
    store : FeatureStore
        Features of the images, all of them or a reservoir.
    held_out : FeatureStore
        Features of images that only set the threshold; empty where none were given.
    scorer : fitted scorer or None
        The sums over all images, of a scorer that sums batch by batch; None where it does not, or
        where they can be summed anew from a complete store (`with_sums`).
    levels : dict of str to list of int
        Shape of each level, (n_features,) or (h, w, n_features), in the order of the fit.
    grouped : bool
        Whether groups were given, rather than every image (and its exact copies) being its own.
    unreadable : tuple of Result
        Images that were left out.
    params : dict
        Parameters of the fit by name, in a form that can be compared: a detector with others
        cannot go on with it.
    """

    store: FeatureStore = field(default_factory=FeatureStore)
    held_out: FeatureStore = field(default_factory=FeatureStore)
    scorer: Any = None
    levels: Mapping[str, Sequence[int]] = field(default_factory=dict)
    grouped: bool = False
    unreadable: tuple[Result, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)

    def merge(self, other: FitState) -> FitState:
        """The state of all images of both; neither of the two changes.

        The result does not depend on the order, but for the order in which images are kept and
        rounding in the last digits of the sums.

        Raises
        ------
        InputError
            The other state has other levels, or a scorer that cannot be merged.
        """
        if self.levels and other.levels and set(self.levels) != set(other.levels):
            raise InputError(
                f"cannot merge fits to the levels {', '.join(self.levels)} and "
                f"{', '.join(other.levels)}"
            )
        return replace(
            self,
            store=self.store.merged(other.store),
            held_out=self.held_out.merged(other.held_out),
            scorer=_merged(self, other),
            levels=self.levels or other.levels,
            grouped=self.grouped or other.grouped,
            unreadable=(*self.unreadable, *other.unreadable),
            params=self.params or other.params,
        )

    def with_sums(self, make_scorer: MakeScorer) -> FitState:
        """The same with sums, taken anew from the features where a model file had only these."""
        if self.scorer is not None or self.store.is_empty:
            return self
        scorer = make_scorer()
        return replace(
            self, scorer=scorer.partial_fit(as_input_of(scorer, rows(self.store.features)))
        )

    @property
    def only_scores(self) -> bool:
        """True for a fit read from a file without features: it cannot be updated."""
        return self.store.is_empty and self.store.n_seen > 0


def _merged(mine: FitState, other: FitState) -> Any:
    """The sums of both; those of one where the other has no images."""
    if not other.store.n_seen:
        return mine.scorer
    if not mine.store.n_seen:
        return other.scorer
    if mine.scorer is None or other.scorer is None:
        return None
    return copy.deepcopy(mine.scorer).merge(other.scorer)  # sums are values: they are not copied


@dataclass(frozen=True)
class Calibrated:
    """A scorer fitted to all images of a state, and honest scores of good images.

    Attributes
    ----------
    scorer : fitted scorer
    method : {"leave-one-out", "cross-fit", "holdout", "none"}
        How the scores were made.
    scores : ndarray of shape (n_calibration,)
        Anomaly scores of good images by fits that have not seen them, up = abnormal.
    """

    scorer: Any
    method: str
    scores: Floats
