"""A fit as values: how it is made, what it read, and what calibration made of that."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mahalad.arrays import as_input_of, rows
from mahalad.detectors.changes import Changes
from mahalad.detectors.reservoir import FeatureStore, lower
from mahalad.errors import InputError
from mahalad.images.augment import N_TURNS
from mahalad.protocols import Floats
from mahalad.result import Result

LEFT_OUT = ("leave-one-out", "cross-fit")
"""Ways of calibration that score the images of the fit, by fits without them."""

MakeScorer = Callable[[], Any]
"""Makes a fresh, unfitted scorer."""


@dataclass(frozen=True)
class FitRecipe:
    """How images become a calibrated scorer: the parameters of a fit.

    Attributes
    ----------
    threshold : str or threshold object
        The rule that the calibration serves. "holdout" keeps images from the fit; "chi2-nominal"
        needs no calibration.
    n_folds : int
        Folds of the cross-fitting that calibrates a scorer without a closed-form leave-one-out.
    holdout_fraction : float
        Share of the images that "holdout" keeps from the fit.
    capacity : int or None
        The fit keeps the features of at most this many images; None keeps all. A number says that
        the scorer sums batch by batch, and so can do without the rest.
    salt : int
        Salt of the hashes that decide folds, hold-out split, reservoir and augmentation.
    n_augment : int
        Number of slightly changed copies of each image that the fit uses as well.
    turned : bool
        Whether the fit uses each image in its four quarter turns.
    near_copies : {"group", "separate"}
        Whether near-copies of a picture count as one part with it, where no groups were given.
    tolerate : tuple of str
        Kinds of harmless changes that the scorer is to tolerate; none for features without images.
    """

    threshold: Any = "conformal"
    n_folds: int = 40
    holdout_fraction: float = 0.3
    capacity: int | None = None
    salt: int = 0
    n_augment: int = 0
    turned: bool = False
    near_copies: str = "group"
    tolerate: tuple[str, ...] = ()

    @property
    def holds_out(self) -> bool:
        """Whether images are kept from the fit for the threshold."""
        return isinstance(self.threshold, str) and self.threshold == "holdout"

    @property
    def streams(self) -> bool:
        """Whether the scorer sums batch by batch, so that features need not all be kept."""
        return self.capacity is not None


@dataclass(frozen=True)
class Bounds:
    """What a fit has no room for any more, after some of its images.

    Attributes
    ----------
    kept : int or None, default=None
        Features of groups of this hash and larger ones need not be kept (`FeatureStore.limit`).
        None: there is room for all.
    changed : int or None, default=None
        Images of this rank and higher ones need not be changed (`Changes.limit`).
    """

    kept: int | None = None
    changed: int | None = None

    def lowered(self, other: Bounds) -> Bounds:
        """Return those of a fit to the images of both: the lower ones."""
        return Bounds(lower(self.kept, other.kept), lower(self.changed, other.changed))


@dataclass(frozen=True)
class FitState:
    """Hold good images as a fit needs them.

    Two states that were read by one recipe merge into the state of all their images.

    Attributes
    ----------
    store : FeatureStore
        It keeps the features of all images, or of a reservoir.
    held_out : FeatureStore
        It keeps the features of images that only set the threshold; empty if there are none.
    scorer : fitted scorer or None
        It holds the sums over all images. None for a scorer that does not sum batch by batch, and
        where `with_sums` can take the sums anew from a complete store.
    levels : dict of str to list of int
        Shape of each level, (n_features,) or (h, w, n_features), in the order of the fit.
    turned : bool
        Whether the features of an image are followed by those of its quarter turns.
    grouped : bool
        True if the user gave groups; False if every image, with its exact copies, is its own.
    unreadable : tuple of Result
        The images that could not be read.
    columns : tuple of str
        Names of the features, if these were given as a data frame.
    depths : dict of str to str, or None
        How images are stored (`mahalad.images.pixels`), each with the name of one; those held out
        as well. None: it is not known, in a model of an older version. Empty for features.
    changes : Changes
        What harmless changes do to features of some of the images.
    params : dict
        Parameters of the fit by name, in a form that can be compared. A detector whose parameters
        differ cannot go on with it.
    """

    store: FeatureStore = field(default_factory=FeatureStore)
    held_out: FeatureStore = field(default_factory=FeatureStore)
    scorer: Any = None
    levels: Mapping[str, Sequence[int]] = field(default_factory=dict)
    turned: bool = False
    grouped: bool = False
    unreadable: tuple[Result, ...] = ()
    columns: tuple[str, ...] = ()
    depths: Mapping[str, str] | None = field(default_factory=dict)
    changes: Changes = field(default_factory=Changes)
    params: Mapping[str, Any] = field(default_factory=dict)

    def merge(self, other: FitState) -> FitState:
        """Return the state of the images of both. Neither of the two changes.

        The order of merging only decides the order in which images are kept, and the last digits
        of the sums.

        Raises
        ------
        InputError
            The other state has other levels, or a scorer that cannot be merged, or only one of the
            two has turned images.
        """
        if self.turned != other.turned and self.store.n_seen and other.store.n_seen:
            raise InputError(
                "cannot merge images in four quarter turns with images as they are: fit both with "
                "any_orientation=True, or both with False"
            )
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
            turned=self.turned or other.turned,
            grouped=self.grouped or other.grouped,
            unreadable=(*self.unreadable, *other.unreadable),
            columns=self.columns or other.columns,
            depths=joined_depths(self.depths, other.depths),
            changes=self.changes.merged(other.changes),
            params=self.params or other.params,
        )

    def as_they_are(self) -> FitState:
        """Return the state of the same images without their quarter turns, and without sums.

        Raises
        ------
        InputError
            Not all features are kept.
        """
        if not self.turned or self.store.is_empty:
            return replace(self, turned=False)
        if not self.store.is_complete:
            raise InputError(
                "cannot merge a fit to images in four quarter turns, not all of which are kept, "
                "with one to images as they are: fit both with any_orientation=True, or with False"
            )
        n_copies = next(iter(self.store.features.values())).shape[1]
        store = self.store.with_copies([0, *range(1 + N_TURNS, n_copies)])
        return replace(self, store=store, scorer=None, turned=False)

    def with_sums(self, make_scorer: MakeScorer) -> FitState:
        """Return the state with sums, taken from the features if a file held only these."""
        if self.scorer is not None or self.store.is_empty:
            return self
        scorer = make_scorer()
        return replace(
            self, scorer=scorer.partial_fit(as_input_of(scorer, rows(self.store.features)))
        )

    @property
    def bounds(self) -> Bounds:
        """What further images need not bring."""
        return Bounds(self.store.limit, self.changes.limit)

    @property
    def counted(self) -> FeatureStore:
        """The images that the threshold is set on: those held out, or those of the fit."""
        return self.held_out if self.held_out.n_seen else self.store

    def left_out(self, calibrated: Calibrated) -> tuple[NDArray[np.uint64], Floats]:
        """Hashes of images of the fit, (n,), and their scores by fits without them, (n,).

        NaN where images are held out, so that there are no such scores. Images that were not kept
        are not among them.
        """
        if calibrated.method in LEFT_OUT and len(calibrated.keys):
            return calibrated.keys, calibrated.scores
        keys = np.empty(0, np.uint64) if self.store.is_empty else self.store.keys
        keys = keys[~np.isin(keys, calibrated.keys)]
        return keys, np.full(len(keys), np.nan)

    @property
    def only_scores(self) -> bool:
        """True for a fit from a file without features, which cannot be updated."""
        return self.store.is_empty and self.store.n_seen > 0


def joined_depths(
    mine: Mapping[str, str] | None, other: Mapping[str, str] | None
) -> Mapping[str, str] | None:
    """How images of either are stored; None if it is not known of one of the two."""
    return None if mine is None or other is None else {**mine, **other, **mine}


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
    """Hold a scorer that is fitted to all images of a state, and honest scores of good images.

    Attributes
    ----------
    scorer : fitted scorer
    method : {"leave-one-out", "cross-fit", "holdout", "none"}
        How the scores were made.
    scores : ndarray of shape (n_calibration,)
        Anomaly scores of good images by fits that have not seen them, up = abnormal.
    weights : ndarray of shape (n_calibration,)
        The images of one part share the weight 1.
    keys : ndarray of uint64, shape (n_calibration,)
        Hashes of these images' content; empty where a file of an older format did not tell them.
    counts_parts : bool
        False for a fit of an older version, which counted the images of a part one by one.
    date : str or None
        Day of it, ISO 8601 in UTC; None where a file of an older version did not tell.
    """

    scorer: Any
    method: str
    scores: Floats
    weights: Floats
    keys: NDArray[np.uint64]
    counts_parts: bool = True
    date: str | None = None
