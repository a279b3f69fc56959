"""The first half of a fit: read images into a state, all of them or in parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from mahalad.arrays import as_input_of, in_order, rows
from mahalad.checks import Whole, check_parameters
from mahalad.detectors.changes import Pictures
from mahalad.detectors.copies import thumbnail
from mahalad.detectors.given import column_names
from mahalad.detectors.reservoir import FeatureStore, Kept, own_groups
from mahalad.detectors.state import Bounds, FitRecipe, FitState, MakeScorer
from mahalad.detectors.state_file import describe_state, restore_state
from mahalad.errors import InputError
from mahalad.features.extraction import extract
from mahalad.files.container import packed, unpacked
from mahalad.images.listing import warn_of_folders
from mahalad.images.reading import depths_of, left_out
from mahalad.result import Result

NO_BOUNDS = Bounds()

_KIND = "part of a fit"


def read(
    X: Any,
    features: Any,
    make_scorer: MakeScorer,
    recipe: FitRecipe,
    *,
    groups: Sequence[Any] | None = None,
    levels: Sequence[str] = (),
    bounds: Bounds = NO_BOUNDS,
    to_fit: bool = True,
    stacklevel: int = 3,
) -> FitState:
    """Read good images into a state of their own.

    Parameters
    ----------
    X : images, or features where `features` is None
    features : built feature extractor or None
    make_scorer : callable
        Makes the scorer that sums the features, if the recipe says that it does.
    recipe : FitRecipe
    groups : sequence of length n_images, optional
        What each image shows, a part's serial number for instance.
    levels : sequence of str, optional
        Names of the levels in the order of the fit that the images are added to.
    bounds : Bounds
        Of the fit that the images are added to, which has no room for all.
    to_fit : bool, default=True
        Whether good images are wanted, so that folders called otherwise are warned of.
    stacklevel : int, default=3
        Of the warnings: 3 blames the caller of the function that calls this one.

    Raises
    ------
    InputError
        `groups` and `X` differ in length, or the levels are not those of the fit.

    Warns
    -----
    UnreadableImageWarning
        For each image that could not be read.
    DoubtfulFolderWarning
        Images lie in folders that are called like those of defects, tests or masks.
    """
    if to_fit and features is not None:
        warn_of_folders(X, stacklevel=stacklevel + 1)
    store = FeatureStore(recipe.capacity, recipe.salt, bounds.kept)
    sums = make_scorer() if recipe.streams else None
    shapes: dict[str, list[int]] = {}
    unreadable: list[Result] = []
    depths: dict[str, str] = {}
    n_read = 0
    pictures = Pictures(bounds.changed)
    kinds = () if features is None else recipe.tolerate
    for images, found in extract(X, features, recipe.salt, recipe.n_augment, turned=recipe.turned):
        good = [i for i, image in enumerate(images, start=n_read) if image.error is None]
        readable = [image for image in images if image.error is None]
        keys = [image.key for image in readable]
        depths = depths_of(readable) | depths
        n_read += len(images)
        if groups is not None and n_read > len(groups):
            raise InputError(f"groups has {len(groups)} entries, but X has more images")
        labels = own_groups(keys) if groups is None else [str(groups[i]) for i in good]
        unreadable += left_out(images, stacklevel=stacklevel + 1)
        if good:
            ordered = in_order(found, levels or tuple(shapes) or tuple(found))
            shapes = shapes or {name: list(F.shape[2:]) for name, F in ordered.items()}
            store.add(
                Kept(
                    ordered,
                    np.array(keys, np.uint64),
                    np.array(labels),
                    np.array([image.source.name for image in readable], dtype=object),
                    np.stack([thumbnail(image.prepared) for image in readable]),
                )
            )
            for i, image in enumerate(readable if kinds else ()):
                own = {name: F[i, 0] for name, F in ordered.items()}
                pictures.see(image.key, image.prepared, own)
            if sums is not None:
                sums.partial_fit(as_input_of(sums, rows(ordered)))
    if groups is not None and n_read != len(groups):
        raise InputError(f"groups has {len(groups)} entries, but X has {n_read} images")
    return FitState(
        store,
        scorer=sums if store.n_seen else None,
        levels=shapes,
        turned=recipe.turned,
        grouped=groups is not None,
        unreadable=tuple(unreadable),
        columns=column_names(X) if features is None else (),
        depths=depths,
        changes=pictures.changes(features, kinds),
    )


@dataclass(frozen=True)
class FitReader:
    """Read good images into states, as a detector would to be fitted to them.

    `AnomalyDetector.reader` makes one, and `AnomalyDetector.fit_state` takes the merged state.

    Attributes
    ----------
    detector : str
        Class of the detector.
    params : dict
        Its parameters, as JSON.
    features : built feature extractor or None
    make_scorer : callable
        Makes a fresh scorer.
    recipe : FitRecipe
    identity : dict
        Parameters and features as JSON, in a form to be compared: what another reader must have in
        common for its states to go together with those of this one. That of features is None
        where they were made from a description.
    """

    detector: str
    params: Mapping[str, Any]
    features: Any
    make_scorer: MakeScorer
    recipe: FitRecipe
    identity: Mapping[str, Any]

    def read(
        self,
        X: Any,
        groups: Sequence[Any] | None = None,
        *,
        bounds: Bounds = NO_BOUNDS,
        to_fit: bool = False,
        stacklevel: int = 3,
    ) -> FitState:
        """Read a part of the images into a state of their own.

        The parameters are those of `read`; with `to_fit`, folders that
        are not called like those of good images are warned of.
        """
        return read(
            X,
            self.features,
            self.make_scorer,
            self.recipe,
            groups=groups,
            bounds=bounds,
            to_fit=to_fit,
            stacklevel=stacklevel + 1,
        )

    def whole_batches(self, n_images: int) -> int:
        """Round a number of images up to whole batches, so that parts have those of the whole.

        Raises
        ------
        InputError
            It is less than 1, or features are given instead of images.
        """
        check_parameters({"images of a part": Whole(1)}, {"images of a part": n_images})
        if self.features is None:
            raise InputError("only images are read in parts: features are there already")
        size: int = self.features.batch_size
        return -(-n_images // size) * size

    def pack(self, state: FitState) -> bytes:
        """Make a state ready to be sent."""
        header, arrays = describe_state(state)
        return packed({"kind": _KIND, **header}, arrays)

    def unpack(self, content: bytes) -> FitState:
        """Read a state that was sent."""
        return restore_state(*unpacked(content, _KIND), self.recipe, self.make_scorer)


def merged_states(states: Iterable[FitState]) -> FitState:
    """Merge states in their order; the result is that of all their images in this order."""
    return reduce(FitState.merge, states)
