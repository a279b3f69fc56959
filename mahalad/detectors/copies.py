"""Near-copies: pictures that are another picture saved again, not another part.

The same picture in two formats, thumbnails, frames of a camera that stands still: a fit that leaves
one out still has the other, so the scores of both say nothing of new images. Independent parts
differ by more than that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mahalad.files.layouts import N_PIXELS
from mahalad.protocols import Features, Floats

SIDE = 16
"""Side of the thumbnails that are compared, in pixels: they have N_PIXELS numbers."""

LIMIT = 1.0
"""Largest difference of near-copies, in grey levels of 255: root mean square over the thumbnails,
after brightness and contrast were brought together. On eight sets of parts, pictures saved as JPEG
(quality 75), at half or a third of the size, or with noise of 8 grey levels differ by 0.2 to 0.9,
nearest independent pictures by 1.15 or more, but for two plain tiles (0.76)."""

SHARE = 0.25
"""Largest difference of near-copies, as a share of what most pairs of pictures differ by."""

_SHARE_OF_FEATURES = 0.1  # the same for features that are given: nothing is known of their units
_EXPECTED = 0.01  # pairs of independent samples as near as near-copies, in a fit
_MOST = 0.9  # quantile that stands for most pairs: copies may be up to 95 % of the images
_NEIGHBOURS = 10
_BLOCK = 1024
_SHOWN = 3


def thumbnail(prepared: Any) -> NDArray[np.uint8]:
    """Make the thumbnail of a prepared image, (N_PIXELS,); black of what is no picture.

    Parameters
    ----------
    prepared : ndarray of shape (H, W, 3), uint8 or float in [0, 1]
    """
    if not isinstance(prepared, np.ndarray) or prepared.ndim != 3 or prepared.shape[2] != 3:
        return np.zeros(N_PIXELS, np.uint8)
    if prepared.dtype != np.uint8:
        prepared = np.clip(np.rint(prepared * 255.0), 0, 255).astype(np.uint8)
    small = Image.fromarray(prepared).resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(small).reshape(-1)


def near_copies(looks: NDArray[np.uint8], *, turned: bool = False) -> NDArray[np.intp]:
    """Find pairs of near-copies among thumbnails (n, N_PIXELS); a black one is like no other.

    Parameters
    ----------
    looks : ndarray of shape (n, N_PIXELS)
    turned : bool, default=False
        Whether pictures that are others in a quarter turn are near-copies, too.

    Returns
    -------
    ndarray of shape (n_pairs, 2)
        Places i < j.
    """
    grey = looks.astype(np.float32).reshape(len(looks), -1, 3)
    grey -= grey.mean(axis=1, keepdims=True)
    flat = grey.reshape(len(looks), -1)
    contrast = np.sqrt(np.square(flat).mean(axis=1))
    known = np.count_nonzero(looks, axis=1) > 0
    unit = flat / np.maximum(contrast, 1e-6)[:, None] / np.sqrt(flat.shape[1])
    grid = unit.reshape(-1, SIDE, SIDE, 3)

    def squares_of(k: int) -> Squares:
        other = np.rot90(grid, k, axes=(1, 2)).reshape(unit.shape)

        def squares(rows: NDArray[np.intp]) -> Floats:
            # |x - y|^2 of pictures that differ by brightness and contrast alone is 0.
            apart = np.maximum(2 - 2 * unit[rows] @ other.T, 0) * contrast[rows, None] * contrast
            return np.where(known[rows, None] & known, apart, np.inf)

        return squares

    squares = squares_of(0)
    limit = min(LIMIT, SHARE * _typical(squares, len(looks)))
    turns = [squares, *(squares_of(k) for k in (1, 2, 3) if turned)]
    return np.concatenate([_pairs(own, len(looks), limit) for own in turns])


def near_copies_of_features(features: Features) -> NDArray[np.intp]:
    """Find pairs of near-copies among features, each level (n, ..., n_features).

    Returns
    -------
    ndarray of shape (n_pairs, 2)
        Places i < j.

    Notes
    -----
    Standardized samples, and levels of equal weight. Near is at most a tenth of the way to the
    10th nearest sample (of more than 200, to the one after 5 % of them): so neither outliers nor
    clusters make copies of independent samples, and larger groups of near-copies are not found. How
    near independent ones come is extrapolated from the lower half of the distances, as a power of
    them; where it is expected of more than 0.01 pairs, as in few dimensions, nothing is a copy.
    """
    parts = []
    for values in features.values():
        flat = values.reshape(len(values), -1, values.shape[-1]).mean(axis=1, dtype=np.float64)
        scale = flat.std(axis=0)
        varies = scale > 1e-9 * np.abs(flat).max(axis=0, initial=1e-300)
        if varies.any():
            z = (flat[:, varies] - flat[:, varies].mean(axis=0)) / scale[varies]
            parts.append(z / np.sqrt(z.shape[1] * len(features)))
    if not parts:
        return np.empty((0, 2), np.intp)
    z = np.hstack(parts)
    norms = np.square(z).sum(axis=1)

    def squares(rows: NDArray[np.intp]) -> Floats:
        return np.asarray(np.maximum(norms[rows, None] + norms - 2 * z[rows] @ z.T, 0))

    limit = _SHARE_OF_FEATURES * _local(squares, len(z))
    return _pairs(squares, len(z), _safe(limit, squares, len(z)))


def joined(groups: NDArray[Any], pairs: NDArray[np.intp]) -> NDArray[np.intp]:
    """Number the groups of images that are left when the groups of every pair are one.

    Parameters
    ----------
    groups : ndarray of shape (n,)
    pairs : ndarray of shape (n_pairs, 2)
        Places of images.

    Returns
    -------
    ndarray of shape (n,)
    """
    names, group_of = np.unique(groups, return_inverse=True)
    first, second = group_of[pairs].T
    graph = coo_array((np.ones(len(pairs)), (first, second)), shape=(len(names), len(names)))
    return np.asarray(connected_components(graph, directed=False)[1][group_of], dtype=np.intp)


def describe(together: Sequence[Sequence[str]]) -> str:
    """Say which images look the same, each with the names of a part's images."""
    n = sum(map(len, together))
    shown = "; ".join(f"{names[0]} = {_some(names[1:])}" for names in together[:_SHOWN])
    more = f"; and {len(together) - _SHOWN} more" if len(together) > _SHOWN else ""
    return (
        f"{n} images are copies or near-copies of each other and count as {len(together)} "
        f"independent ones ({shown}{more}). If they show different parts, say so: "
        "near_copies='separate' (--near-copies separate on the command line), or groups (exact "
        "copies are one part in any case)"
    )


def _some(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} others"


Squares = Callable[[NDArray[np.intp]], Floats]
"""Rows, (m,), to the squares of their distances to all n, (m, n)."""


def _sample(squares: Squares, n: int) -> Floats:
    """Distances of pairs, those of about 500 samples to all others."""
    rows = np.arange(0, n, max(1, n // 500))
    found = squares(rows)
    found[np.arange(len(rows)), rows] = np.inf
    return np.asarray(np.sqrt(found[np.isfinite(found)]))


def _typical(squares: Squares, n: int) -> float:
    """What most pairs differ by, if not nearly all are copies; 0 without a pair."""
    distances = _sample(squares, n)
    return float(np.quantile(distances, _MOST)) if len(distances) else 0.0


def _local(squares: Squares, n: int) -> float:
    """How far it is from half of the samples to the 10th nearest, or to that after 5 % of all."""
    rows = np.arange(0, n, max(1, n // 500))
    place = min(max(_NEIGHBOURS, n // 20), n - 1)
    return float(np.sqrt(np.median(np.partition(squares(rows), place, axis=1)[:, place])))


def _safe(limit: float, squares: Squares, n: int) -> float:
    """A limit that hardly any pair of independent samples comes below."""
    distances = _sample(squares, n)
    distances = distances[distances > limit]
    if not len(distances):
        return 0.0
    low, middle = np.quantile(distances, [0.1, 0.5])
    if low == middle:
        return limit
    power = np.log(5) / np.log(middle / low)
    allowed = _EXPECTED / (0.1 * n * (n - 1) / 2)
    return float(min(limit, low * allowed ** (1 / power)))


def _pairs(squares: Squares, n: int, limit: float) -> NDArray[np.intp]:
    """Pairs of places i < j whose distance is below a limit, (n_pairs, 2)."""
    found = [np.empty((0, 2), np.intp)]
    for start in range(0, n, _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, n))
        i, j = np.nonzero(squares(rows) < limit**2)
        found.append(np.column_stack([rows[i], j])[rows[i] < j])
    return np.concatenate(found)
