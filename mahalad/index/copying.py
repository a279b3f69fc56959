"""Copy all points of one index to another; again after an interruption, only what is missing."""

from __future__ import annotations

from hashlib import blake2b
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from mahalad.errors import InputError
from mahalad.index.checks import check_agreement, some
from mahalad.index.contract import IndexUnavailableError, Records, VectorIndex
from mahalad.progress import Progress

_BATCH = 500


def copy_index(
    source: VectorIndex, target: VectorIndex, *, progress: Progress | None = None
) -> int:
    """Copy all points, with their ids, and check afterwards that they are there.

    Points that the target has already are not sent again, so that an interrupted copy goes on
    where it was. Labels that differ become those of the source. Where points were removed from the
    source since an earlier copy, call `remove_strangers` first.

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
        Other dimension, distance or `about`; or the target has points of its own, which are
        counted and named. Nothing was changed then.
    IndexUnavailableError
        A store failed, or after the copy the target differs: run it again.

    Notes
    -----
    Points are compared by BLAKE2b sums over id, float32 vector, label and path. This can be exact
    since no store changes a vector: those of unit length (cosine) stay as they are, bit for bit.
    """
    lacking, other = _strangers(source, target)
    if len(lacking) + len(other):
        raise InputError(
            f"the target holds {_described(lacking, other)}. They were removed from the source "
            "after an earlier copy, or are the target's own. Nothing was changed: to remove them "
            "from the target, give --mirror (in Python, remove_strangers(source, target)); to keep "
            "them, copy into an empty index"
        )
    total = len(source)
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


def remove_strangers(source: VectorIndex, target: VectorIndex) -> NDArray[np.int64]:
    """Remove the points of the target that a copy of the source would not have.

    Those are points whose id the source does not have, and points that have another vector or
    path there. After `copy_index`, which brings the latter anew, the target mirrors the source.

    Returns
    -------
    ndarray of int64
        Ids of the points that were removed from the target, ascending.

    Raises
    ------
    InputError
        Other dimension, distance or `about`; nothing was removed.
    IndexUnavailableError
        A store failed: call it again.
    """
    ids = np.sort(np.concatenate(_strangers(source, target)))
    for start in range(0, len(ids), _BATCH):
        target.remove(ids[start : start + _BATCH])
    return ids


def checksums(points: Records, *, labels: bool = True) -> NDArray[np.bytes_]:
    """Compute BLAKE2b sums of points, (n,) of 16 bytes: over id, vector, path, perhaps label."""
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


def _strangers(
    source: VectorIndex, target: VectorIndex
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids of the target's points that the source lacks, and of those that are others there."""
    recorded = {
        "format": 1,
        "n_features": target.n_features,
        "distance": target.distance,
        "about": target.about,
    }
    check_agreement(recorded, source.n_features, source.distance, source.about, "target of a copy")
    none = np.empty(0, dtype=np.int64)
    lacking, other = [none], [none]
    for batch in target.records(_BATCH):
        theirs = source.get(batch.ids)
        shared = np.isin(batch.ids, theirs.ids)
        lacking.append(batch.ids[~shared])
        differ = checksums(batch[shared], labels=False) != checksums(theirs, labels=False)
        other.append(theirs.ids[differ])
    return np.concatenate(lacking), np.concatenate(other)


def _described(lacking: NDArray[np.int64], other: NDArray[np.int64]) -> str:
    parts = []
    if len(lacking):
        parts.append(f"{len(lacking)} points that the source does not have (ids {some(lacking)})")
    if len(other):
        parts.append(
            f"{len(other)} other points under ids {some(other)} (another vector or path than there)"
        )
    return " and ".join(parts)


def _copy_batch(batch: Records, target: VectorIndex) -> int:
    """Add what the target lacks of a batch, and set labels that differ."""
    old = target.get(batch.ids)
    mine = batch[np.isin(batch.ids, old.ids)]
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
            f"after the copy the target holds {len(target)} points, the source {len(source)}: "
            "somebody wrote to one of them meanwhile; run the copy again"
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
