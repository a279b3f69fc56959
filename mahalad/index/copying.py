"""Copy all points of one index to another; again after an interruption, only what is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import blake2b
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mahalad.errors import InputError
from mahalad.index.checks import check_agreement, some
from mahalad.index.contract import IndexUnavailableError, Records, VectorIndex

_BATCH = 500

Progress = Callable[[Iterable[Any], int], Iterable[Any]]


def copy_index(
    source: VectorIndex, target: VectorIndex, *, progress: Progress | None = None
) -> int:
    """Copy all points, with their ids, and check afterwards that they are there.

    Points that the target has already are not sent again, so that an interrupted copy goes on
    where it was. Labels that differ become those of the source.

    Parameters
    ----------
    source : VectorIndex
    target : VectorIndex
        Empty, or with points of the source only. Nobody may write to either meanwhile.
    progress : callable, optional
        Wraps an iterable of known length: ``progress(items, total)``; an item is a point.

    Returns
    -------
    int
        Number of points that were missing, or labelled otherwise, and are there now.

    Raises
    ------
    InputError
        Other dimension, distance or `about`; or the target has points of its own. Its points are
        left as they are.
    IndexUnavailableError
        A store failed, or after the copy the target differs: run it again.

    Notes
    -----
    Points are compared by BLAKE2b sums over id, float32 vector, label and path. This can be exact
    since no store changes a vector: those of unit length (cosine) stay as they are, bit for bit.
    """
    recorded = {
        "format": 1,
        "n_features": target.n_features,
        "distance": target.distance,
        "about": target.about,
    }
    check_agreement(recorded, source.n_features, source.distance, source.about, "target of a copy")
    total, n_target = len(source), len(target)
    if n_target > total:
        raise InputError(
            f"the target holds {n_target} points, the source {total}; copy into an empty index"
        )
    wrap = progress or (lambda items, _: items)
    ticks = iter(wrap(range(total), total))
    copied = 0
    for batch in source.records(_BATCH):
        copied += _copy_batch(batch, target)
        for _ in islice(ticks, len(batch)):
            pass
    for _ in ticks:
        pass
    target.flush()
    _verify(source, target)
    return copied


def checksums(points: Records, *, labels: bool = True) -> NDArray[np.bytes_]:
    """BLAKE2b sums of points, (n,) of 16 bytes: over id, vector and path, and perhaps label."""
    sums = []
    for number, vector, label, path in zip(
        points.ids, points.vectors.astype("<f4"), points.labels, points.paths, strict=True
    ):
        texts = (path, label) if labels else (path,)
        digest = blake2b(int(number).to_bytes(8, "little") + vector.tobytes(), digest_size=16)
        for text in texts:
            digest.update(len(text.encode()).to_bytes(8, "little") + text.encode())
        sums.append(digest.digest())
    return np.array(sums, dtype="S16")


def _copy_batch(batch: Records, target: VectorIndex) -> int:
    """Add what the target lacks of a batch, and set labels that differ."""
    old = target.get(batch.ids)
    mine = batch[np.isin(batch.ids, old.ids)]
    other = checksums(mine, labels=False) != checksums(old, labels=False)
    if other.any():
        raise InputError(
            f"the target has other points under ids {some(mine.ids[other])} (another vector or "
            "path); they were left as they are. Remove them, or copy into an empty index"
        )
    stale = mine[mine.labels != old.labels]
    if len(stale):
        target.relabel(stale.ids, stale.labels.tolist())
    new = batch[~np.isin(batch.ids, old.ids)]
    if len(new):
        target.add(new.vectors, new.labels.tolist(), new.paths.tolist(), new.ids)
    return len(stale) + len(new)


def _verify(source: VectorIndex, target: VectorIndex) -> None:
    """Read everything back and compare."""
    if len(target) != len(source):
        raise InputError(
            f"after the copy the target holds {len(target)} points, the source {len(source)}: it "
            "had points of its own, or somebody wrote to one of them meanwhile"
        )
    for batch in source.records(_BATCH):
        copy = target.get(batch.ids)
        if len(copy) < len(batch):
            wrong = np.setdiff1d(batch.ids, copy.ids)
        else:
            wrong = batch.ids[checksums(batch) != checksums(copy)]
        if len(wrong):
            raise IndexUnavailableError(
                f"after the copy the points with ids {some(wrong)} differ; run the copy again"
            )
