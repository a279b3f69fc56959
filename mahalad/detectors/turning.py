"""Whether the parts of a fit lie at any angle: some of its images are looked at, turned."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mahalad.arrays import originals
from mahalad.errors import InputError
from mahalad.features.extraction import extract
from mahalad.images.augment import quarter_turns
from mahalad.images.remote import Remote
from mahalad.images.sources import ImageSource, is_stream, iter_sources
from mahalad.protocols import Features
from mahalad.scorers.capabilities import comparing_turned

FEWEST, MOST = 10, 100
"""Images of fits of which some are looked at; more of them have parts at all angles."""

N_SEEN = 20
"""Images that are looked at, at most."""

_log = logging.getLogger(__name__)


def check_orientation(any_orientation: str | bool, features: Any) -> None:
    """Refuse to turn what has no pixels, or a region that does not turn with the image.

    Raises
    ------
    InputError
    """
    if any_orientation is not True:
        return
    if features is None:
        raise InputError("any_orientation turns images; it needs a feature extractor")
    if _has_region(features):
        raise InputError(
            "any_orientation=True does not go with a region of interest, which says where parts "
            "lie: leave out one of them"
        )


def lies_at_any_angle(
    X: Any, features: Any, scorer: Any, groups: Sequence[Any] | None, salt: int
) -> bool:
    """Whether images that are turned are like the others as they are.

    Parameters
    ----------
    X : images
    features : built feature extractor or None
    scorer : unfitted scorer
    groups : sequence of length n_images, optional
        What each image shows: images of one part are not compared.
    salt : int
        Of the images' content hashes.

    Returns
    -------
    bool
        False where that is not looked for: images come from an iterator, or are too few or too
        many; there is a region of interest; or the scorer cannot say.
    """
    comparing = comparing_turned(scorer)
    if features is None or comparing is None or _has_region(features) or is_stream(X):
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the fit says the same
        sources = list(islice(iter_sources(_by_places(X)), MOST + 1))
        if not FEWEST <= len(sources) <= MOST or (
            groups is not None and len(groups) != len(sources)
        ):
            return False
        chosen = np.argsort([_hash(source) for source in sources], kind="stable")[:N_SEEN]
        first = _read([sources[chosen[0]]], features, salt)[1]
        if first and not comparing.tells_turns(first):
            return False  # before all of them are read
        turned, levels, kept = _read([sources[i] for i in chosen], features, salt)
    labels = [str(i if groups is None else groups[chosen[i]]) for i in kept]
    parts = np.unique(labels, return_inverse=True)[1]
    if len(np.unique(parts)) < FEWEST:
        return False
    turns = (_transformed(features, pixels) for pixels in zip(*turned, strict=True))
    found = comparing.turned_alike(levels, turns, parts)
    _log.info("parts lie at %s angle", "any" if found else "one")
    return found


def _by_places(X: Any) -> Any:
    """A sequence's first items, one by one: iterated over, it may show progress."""
    if isinstance(X, str) or not isinstance(X, Sequence):
        return X
    return (X[i] for i in range(min(len(X), MOST + 1)))


def _hash(source: ImageSource) -> int:
    """Hash a file's name, or an image in memory: the same ones are looked at in any order."""
    if source.path is not None:
        content: Any = source.path.name.encode(errors="surrogateescape")
    elif isinstance(source.value, Remote):
        content = source.name.encode()
    else:
        content = np.ascontiguousarray(source.value).tobytes()
    return int.from_bytes(hashlib.blake2b(content, digest_size=7).digest(), "little")


def _read(
    sources: Sequence[ImageSource], features: Any, salt: int
) -> tuple[list[list[NDArray[Any]]], Features, list[int]]:
    """Quarter turns and levels of the images that can be read, and which of them these are."""
    turned: list[list[NDArray[Any]]] = []
    kept: list[int] = []
    batches: list[Features] = []
    n_read = 0
    for images, found in extract(sources, features, salt):
        for i, image in enumerate(images, start=n_read):
            if image.prepared is not None:
                turned.append(quarter_turns(image.prepared, image.stretch))
                kept.append(i)
        n_read += len(images)
        if found:
            batches.append(originals(found))
    return turned, _joined(batches), kept


def _transformed(features: Any, pixels: Sequence[NDArray[Any]]) -> Features:
    size = features.batch_size
    starts = range(0, len(pixels), size)
    return _joined([features.transform(pixels[start : start + size]) for start in starts])


def _joined(batches: Sequence[Features]) -> Features:
    if not batches:
        return {}
    return {name: np.concatenate([one[name] for one in batches]) for name in batches[0]}


def _has_region(features: Any) -> bool:
    return getattr(features, "region_", None) is not None
