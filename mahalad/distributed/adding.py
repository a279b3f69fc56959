"""Labelled images added to an index on a server by many machines, under ids known beforehand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mahalad.distributed.listing import (
    Part,
    as_table,
    entries_of,
    is_dataset,
    part_of,
    parts_of,
)
from mahalad.distributed.pool import Pool
from mahalad.distributed.results import MOST_ERRORS
from mahalad.distributed.session import connect
from mahalad.distributed.working import (
    Setting,
    answer_to,
    answers_in,
    give_warnings,
    mapped,
    naming_failures,
    read_saved,
    saved,
    started,
    warn,
)
from mahalad.errors import InputError
from mahalad.images.manifests import Entry, of_split
from mahalad.metric.classifier import MetricKNNClassifier

PART_SIZE = 256
"""Images of a part."""

_WINDOW = 1000  # parts of which the driver has the paths at a time


@dataclass
class Added:
    """What was added to an index.

    Attributes
    ----------
    first_id : int
        Id of the first image; the others follow in the order of the data set.
    n_added, n_there, n_unreadable : int
        Images that were added in this run; that were there under the same id, perhaps with another
        label by now; and that cannot be read, whose ids stay free.
    errors : list of str
        Why images could not be read, the first 1,000.
    """

    first_id: int
    n_added: int = 0
    n_there: int = 0
    n_unreadable: int = 0
    errors: list[str] = field(default_factory=list)

    @property
    def n_images(self) -> int:
        """All of these."""
        return self.n_added + self.n_there + self.n_unreadable

    def count(self, found: Mapping[str, Any]) -> None:
        """Add what came of a part."""
        self.n_added += int(found["n_added"])
        self.n_there += int(found["n_there"])
        self.n_unreadable += len(found["errors"])
        self.errors += found["errors"][: MOST_ERRORS - len(self.errors)]


def add(
    classifier: MetricKNNClassifier,
    dataset: Any,
    label: str | None = None,
    *,
    first_id: int | None = None,
    split: str | None = None,
    new_label: bool = False,
    address: str | None = None,
    pool: Pool | None = None,
    part_size: int = PART_SIZE,
    progress: Callable[[int], object] = lambda n: None,
) -> Added:
    """Add labelled images to the index of a classifier, which is on a Qdrant server.

    Parameters
    ----------
    classifier : fitted MetricKNNClassifier
        All machines must reach its server by the same address; an API key is in the environment of
        each.
    dataset : path, or sequence of paths
        As of `mahalad.distributed.fit`; of a manifest, the column label counts.
    label : str, optional
        Of all images, where no manifest says it.
    first_id : int, optional
        Id of the first image. None: above all ids that there are. A run that was broken off is
        completed by another one with the same first id and the same images: what is there is not
        computed again, and none is there twice.
    split : str, optional
        Rows of a manifest that are added; None for all.
    new_label : bool, default=False
        Allow labels that the classifier does not know.
    address, pool, part_size, progress
        As of `mahalad.distributed.fit`.

    Returns
    -------
    Added
        Counts. The classifier knows the new labels; save it to keep them.

    Raises
    ------
    MissingExtraError
        Ray is not installed.
    ClusterError
        The cluster cannot be reached, has too little, or its machines have other versions.
    InputError
        An index that is not on a server, images without a label or with one that is not known, ids
        of other images, no images, or a pool that takes every CPU.

    Notes
    -----
    A worker waits until the server has stored a batch before it computes the next one, so the
    server is never asked for more than a batch of each worker. Of copies, nothing is said.
    """
    where = classifier.index
    if where is None or "://" not in where:
        raise InputError(
            f"the index of this classifier is {'in its file' if where is None else where}, where "
            "other machines cannot write: copy it to a server (mahalad index copy MODEL "
            "qdrant://host:6333/collection --switch)"
        )
    if is_dataset(dataset):
        raise InputError("a Ray dataset has no labels: give paths and a label, or a manifest")
    ray = connect(address)
    sized = (pool or Pool()).sized(
        ray.cluster_resources(), str(getattr(classifier.encoder, "device", "auto"))
    )
    # Read twice: an unknown label is refused before anything is added.
    _check_known(classifier, _labelled(dataset, label, split, lambda text: None), new_label)
    found = Added(classifier.index_.next_id() if first_id is None else first_id)
    told = (ray.put(saved(classifier)), found.first_id, part_size)
    parts = parts_of(_labelled(dataset, label, split, warn), part_size)
    with naming_failures():
        while window := [ray.put(as_table(part)) for part in islice(parts, _WINDOW)]:
            tables = ray.data.from_arrow_refs(window)
            rows = mapped(ray, sized, tables, AddPart, 1, told).iter_rows()
            for answer in answers_in(rows):
                give_warnings(answer.warnings)
                before = found.n_images
                found.count(answer.about)
                progress(found.n_images - before)
    classifier.use_index(classifier.index_)
    return found


class AddPart:
    """Hold a classifier in another process, and add parts of labelled images to its index."""

    def __init__(self, content: Any, first_id: int, part_size: int, setting: Setting) -> None:
        self._classifier, self._failure = started(content, _opened, "to read the model", setting)
        self._first_id, self._part_size, self._folder = first_id, part_size, setting.folder

    def __call__(self, batch: Mapping[str, Any]) -> Any:
        """Add the images of a row of a table of parts, but those that are there."""
        return answer_to(batch, self._add, self._failure)

    def _add(self, batch: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
        part = part_of(batch)
        first = self._first_id + part.place * self._part_size
        ids = np.arange(first, first + len(part.names), dtype=np.int64)
        new = self._missing(part, ids)
        sources, places = part.sources(self._folder), np.flatnonzero(new).tolist()
        embedding, index = self._classifier.embedding_, self._classifier.index_
        errors: list[str] = []
        n_added = 0
        done = iter(places)
        for images, F in embedding.read([sources[i] for i in places]) if places else ():
            pairs = list(zip(islice(done, len(images)), images, strict=True))
            errors += [str(image.error) for _, image in pairs if image.error is not None]
            good = [i for i, image in pairs if image.error is None]
            if good:
                labels, names = ([of[i] for i in good] for of in (part.groups, part.names))
                index.add(embedding.embed(F), labels, names, ids[good])
            n_added += len(good)
        return {"n_added": n_added, "n_there": int((~new).sum()), "errors": errors}, b""

    def _missing(self, part: Part, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which images are not there under their ids; a label that was corrected stays.

        Raises
        ------
        InputError
            An id is that of another image.
        """
        stored = self._classifier.index_.get(ids)
        there = np.isin(ids, stored.ids)
        wanted = np.array(part.names, dtype=object)[there]
        other = np.flatnonzero(stored.paths != wanted)
        if len(other):
            first = other[0]
            raise InputError(
                f"id {stored.ids[first]} is that of {stored.paths[first]}, and {wanted[first]} was "
                f"to have it: with first_id={self._first_id}, give the images of the run which was "
                "broken off, in the same order; or leave it out"
            )
        return ~there


def _labelled(
    dataset: Any, label: str | None, split: str | None, say: Callable[[str], object]
) -> Iterator[Entry]:
    """Entries of a data set, with their labels as groups, which parts have.

    Raises
    ------
    InputError
        An image without a label.
    """
    for entry in entries_of(dataset, keep=of_split(split), say=say):
        own = entry.label or label
        if not own:
            raise InputError(
                f"{entry.source.origin or entry.source.name}: has no label: give one for all "
                "images, or a list of images with the column label"
            )
        yield replace(entry, group=own)


def _check_known(
    classifier: MetricKNNClassifier, entries: Iterator[Entry], new_label: bool
) -> None:
    """Refuse labels that are not known."""
    known = list(map(str, classifier.classes_))
    unknown = sorted({entry.group for entry in entries} - set(known))
    if unknown and not new_label:
        raise InputError(
            f"unknown label {', '.join(map(repr, unknown))}; known are "
            f"{', '.join(map(repr, known))} (new_label=True, or --new-label, allows new ones)"
        )


def _opened(content: bytes) -> MetricKNNClassifier:
    return read_saved(content, MetricKNNClassifier.load)
