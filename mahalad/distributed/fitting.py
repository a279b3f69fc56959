"""A fit on many machines: parts are read there into states, which are merged."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from mahalad.detectors.checkpoints import Checkpoint, read_in_turns
from mahalad.detectors.detector import AnomalyDetector
from mahalad.detectors.fitting import FitReader
from mahalad.detectors.parts import open_reader, pack_reader
from mahalad.detectors.state import Bounds, FitState
from mahalad.distributed.listing import (
    PART_SIZE,
    Part,
    as_table,
    entries_of,
    holds_images,
    named_images,
    part_of,
    parts_of,
)
from mahalad.distributed.merging import Tree
from mahalad.distributed.pool import Pool
from mahalad.distributed.room import SharedRoom
from mahalad.distributed.session import connect
from mahalad.distributed.working import (
    Setting,
    answer_to,
    give_warnings,
    mapped,
    naming_failures,
    started,
    warn,
    with_less_memory,
)
from mahalad.errors import InputError, UnreadableImageWarning
from mahalad.images.manifests import Entry, to_fit

WINDOW = 1_000_000
"""Images of which the driver has the paths at a time."""

_SHOWN = 3

Progress = Callable[[int], object]
"""Is told how many further images are done."""


def fit(
    detector: AnomalyDetector,
    dataset: Any,
    *,
    split: str | None = None,
    address: str | None = None,
    pool: Pool | None = None,
    part_size: int = PART_SIZE,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 100_000,
    progress: Progress = lambda n: None,
) -> AnomalyDetector:
    """Fit a detector to good images on many machines; the result is that of `detector.fit`.

    Parameters
    ----------
    detector : AnomalyDetector
        Its features are of images, and all its parts are of mahalad.
    dataset : path, sequence of paths, or Ray dataset
        A folder, a glob, files, URLs of these (of what fsspec reads), a manifest in CSV or Parquet
        with the columns path and, if wanted, group, label and split; or a Ray dataset with the
        column path, and if wanted image (arrays of shape (H, W, 3)) and group. All machines must
        see the files under the same paths.
    split : str, optional
        Rows of a manifest that are fitted to: those of this split, of "train" if none is named.
        Rows with a label that is no word for good are left out in any case.
    address : str, optional
        Of the cluster; see `mahalad.distributed.session.connect`.
    pool : Pool, optional
        How many processes there are, and what each takes.
    part_size : int, default=1024
        Images that a process reads into one state, rounded up to whole batches.
    checkpoint : str or Path, optional
        File that keeps what is read so far; where it is there, the fit goes on from it.
    checkpoint_every : int, default=100000
        Images after which it is written.
    progress : callable, optional
        Is told how many further images are done.

    Returns
    -------
    AnomalyDetector
        The same detector, fitted.

    Raises
    ------
    MissingExtraError
        Ray is not installed.
    ClusterError
        The cluster cannot be reached, has too little, or its machines have other versions.
    InputError
        What `detector.fit` refuses; a pool that takes every CPU; a checkpoint of another fit.

    Notes
    -----
    Sums add up, and which images are kept is told by their content, so the result does not depend
    on how many machines there are, nor on those that are lost on the way: their parts are read
    again. It is the local fit's up to the order of additions (1e-10) where batches and number of
    threads are the same: `Pool(cpus=n)` has n threads. No images are looked at beforehand: with
    ``any_orientation="auto"`` they are taken as they are, which `detector.fit` also does of more
    than 100.
    """
    ray = connect(address)
    reader = detector.reader()
    sized = (pool or Pool()).sized(
        ray.cluster_resources(), str(getattr(detector, "device", "auto"))
    )
    part_size = reader.whole_batches(max(1, part_size))
    work = _Work(ray, sized, reader, progress)
    if holds_images(dataset):
        if checkpoint is not None:
            raise InputError(
                "checkpoint is for paths, whose order is known: the Ray dataset has images"
            )
        state = work.read(dataset, part_size, None)
    else:
        entries = entries_of(dataset, keep=to_fit(split), say=warn)
        state = _from_entries(
            work, entries, reader, part_size, checkpoint, checkpoint_every, progress
        )
    if state is None:
        raise InputError("no images: the Ray dataset has no rows")
    _warn_of_unreadable(state)
    return detector.fit_state(reader, state)


class ReadPart:
    """Hold a network in another process, and read parts of images into states by it."""

    def __init__(self, content: Any, room: SharedRoom, setting: Setting) -> None:
        self._reader, self._failure = started(content, open_reader, "to make its network", setting)
        self._folder, self._room, self._bounds = setting.folder, room, Bounds()

    def __call__(self, batch: Mapping[str, Any]) -> Any:
        """Read a part, a row of a table of parts or a batch of images, into a state."""
        return answer_to(batch, self._read, self._failure)

    def _read(self, batch: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
        if "place" in batch:
            part = part_of(batch)
            sources: list[Any] = list(part.sources(self._folder))
            groups = part.known_groups
        else:
            sources = named_images(batch)
            groups = [str(group) for group in batch["group"]] if "group" in batch else None

        self._bounds = self._bounds.lowered(self._room.bounds())

        def read(batch_size: int) -> FitState:
            self._reader.features.set_params(batch_size=batch_size)
            return self._reader.read(sources, groups, bounds=self._bounds)

        before = self._reader.features.batch_size
        try:
            state = with_less_memory(read, before)
        finally:
            self._reader.features.set_params(batch_size=before)
        self._bounds = self._bounds.lowered(state.bounds)
        return {}, self._reader.pack(state)


class _Work:
    """Read tables of parts by a pool of processes, and merge the states."""

    def __init__(self, ray: Any, pool: Pool, reader: FitReader, progress: Progress) -> None:
        self._ray, self._pool, self._reader, self._progress = ray, pool, reader, progress
        self._sent = ray.put(pack_reader(reader))
        self._to_merge = ray.put(pack_reader(reader, include_weights=False))
        self._room = SharedRoom(ray, reader.recipe.capacity)

    def parts(self, parts: Iterable[Part], before: FitState | None) -> FitState | None:
        """Read parts into one state; None if there are none."""
        tables, sizes = [], []
        for part in parts:
            tables.append(self._ray.put(as_table(part)))
            sizes.append(len(part.names))
        if not tables:
            return None
        return self.read(self._ray.data.from_arrow_refs(tables), 1, before, sizes)

    def read(
        self, dataset: Any, batch_size: int, before: FitState | None, sizes: Sequence[int] = ()
    ) -> FitState | None:
        """Read a Ray dataset of parts, or of images, into one state, and warn as was warned.

        The state of the images before them, if any, says what there is room for.
        """
        done = iter(sizes)
        self._room.start(before)
        tree = Tree(self._ray, self._reader, self._to_merge, self._room)
        told = self._sent, self._room
        found = mapped(self._ray, self._pool, dataset, ReadPart, batch_size, told)
        with naming_failures():
            for bundle in found.iter_internal_ref_bundles():
                for table in bundle.block_refs:
                    tree.add(table)
                self._progress(sum(islice(done, bundle.num_rows())))
            state, warned = tree.result()
        give_warnings(warned, stacklevel=6)
        return state


def _from_entries(
    work: _Work,
    entries: Iterable[Entry],
    reader: FitReader,
    part_size: int,
    checkpoint: str | Path | None,
    every: int,
    progress: Progress,
) -> FitState:
    """Read images by their paths, window by window, with a checkpoint after each if asked for."""

    def read_window(window: Iterator[Entry], before: FitState | None) -> FitState | None:
        return work.parts(parts_of(window, part_size), before)

    keeps = None
    if checkpoint is not None:
        keeps = Checkpoint(checkpoint, reader.recipe, reader.make_scorer, reader.identity)
    every = WINDOW if keeps is None else every
    every = -(-every // part_size) * part_size
    return read_in_turns(entries, read_window, every, keeps, progress)


def _warn_of_unreadable(state: FitState) -> None:
    """Warn once of all images that could not be read, naming the first."""
    left_out = state.unreadable
    if left_out:
        shown = "; ".join(str(result.error) for result in left_out[:_SHOWN])
        more = f"; and {len(left_out) - _SHOWN:,} more" if len(left_out) > _SHOWN else ""
        warnings.warn(
            f"{len(left_out):,} images are left out of the fit: {shown}{more}",
            UnreadableImageWarning,
            stacklevel=3,
        )
