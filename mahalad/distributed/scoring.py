"""Scores on many machines: a pool of processes that hold the model, results in parts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from mahalad.detectors.detector import AnomalyDetector
from mahalad.detectors.suspects import n_above_all
from mahalad.distributed.listing import (
    PART_SIZE,
    Part,
    as_table,
    entries_of,
    holds_images,
    is_dataset,
    named_images,
    part_of,
    parts_of,
)
from mahalad.distributed.pool import Pool
from mahalad.distributed.results import STYLES, Folder, Scored, file_of
from mahalad.distributed.session import connect
from mahalad.distributed.working import (
    Answer,
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
    with_less_memory,
)
from mahalad.errors import InputError, ModelFileError
from mahalad.files.classes import class_named
from mahalad.files.container import read_header
from mahalad.files.recognition import is_export
from mahalad.images.manifests import of_split
from mahalad.report.parquet import check_parquet, parquet
from mahalad.report.rows import Counted, lines, row_of

WINDOW = 1000
"""Parts of which the driver has the paths at a time."""


def score(
    model: AnomalyDetector | str | Path,
    dataset: Any,
    output: str | Path,
    *,
    style: str = "parquet",
    fpr: float | None = None,
    split: str | None = None,
    reading: Mapping[str, str | None] | None = None,
    address: str | None = None,
    pool: Pool | None = None,
    part_size: int = PART_SIZE,
    by_path: bool = False,
    progress: Callable[[int], object] = lambda n: None,
) -> Scored:
    """Score images on many machines, into a folder of results that another run can take up.

    Parameters
    ----------
    model : fitted detector, or path of a model file
        Of `fit` or `tune`.
    dataset : path, sequence of paths, or Ray dataset
        As of `fit`.
    output : str or Path
        Folder, or the URL of one, for files with the rows of `mahalad score`. One that has results
        of the same model and images already is completed: only what is missing is scored.
    style : {"parquet", "jsonl"}, default="parquet"
        How rows are written.
    fpr : float, optional
        False-positive rate; None for the model's.
    split : str, optional
        Rows of a manifest that are scored; None for all.
    reading : mapping, optional
        ``weights``, ``device`` and ``engine`` of `mahalad.load`.
    address, pool
        As of `fit`.
    part_size : int, default=1024
        Images of a file of results.
    by_path : bool, default=False
        Whether rows are sorted by path, and not in the order of the data set (a folder's is that
        of its paths). All paths are then in memory.
    progress : callable, optional
        Is told how many further images are done.

    Returns
    -------
    Scored
        Counts, and `Scored.rows` with all rows.

    Raises
    ------
    MissingExtraError
        Ray or pyarrow is not installed.
    ClusterError
        The cluster cannot be reached, has too little, or its machines have other versions.
    InputError
        No images, a folder that has something else in it, or a pool that takes every CPU.

    Notes
    -----
    An image that cannot be read is a row with an error. Where a machine is lost, its parts are
    scored again by another one; each is written once, whole or not at all.
    """
    if style not in STYLES:
        raise InputError(f"style is {style!r}; allowed are {', '.join(STYLES)}")
    if part_size < 1:
        raise InputError(f"part_size is {part_size}: give 1 or more")
    check_parquet()
    ray = connect(address)
    content = _content_of(model)
    reading = dict(reading or {})
    device = reading.get("device") or str(getattr(model, "device", "auto"))
    sized = (pool or Pool()).sized(ray.cluster_resources(), device, reads=is_dataset(dataset))
    about = {
        "model": hashlib.sha256(content).hexdigest(),
        "fpr": fpr,
        "style": style,
        "part_size": part_size,
        "reading": {name: value for name, value in reading.items() if value is not None},
    }
    folder, scored = Folder(output), Scored(str(output))
    there = folder.open(about)
    work = _Work(ray, sized, (ray.put(content), fpr, reading, style), folder, scored, progress)
    if holds_images(dataset):
        if there:
            raise InputError(
                f"{output}: has results already, and the images of a Ray dataset have no names "
                "that tell which are missing: give an empty folder, or a data set of paths"
            )
        work.score(dataset.sort("path") if by_path else dataset, part_size)
        return scored
    entries = entries_of(dataset, keep=of_split(split), say=warn)
    if by_path:
        entries = iter(sorted(entries, key=lambda entry: entry.source.name.split("/")))
    missing = _missing(parts_of(entries, part_size), there, scored, folder, style, progress)
    while (first := next(missing, None)) is not None:
        work.parts(chain([first], islice(missing, WINDOW - 1)))
    return scored


class ScorePart:
    """Hold a model in another process, and score parts of images by it."""

    def __init__(
        self,
        content: Any,
        fpr: float | None,
        reading: Mapping[str, Any],
        style: str,
        setting: Setting,
    ) -> None:
        make = partial(_opened, fpr=fpr, reading=reading)
        self._model, self._failure = started(content, make, "to read the model", setting)
        self._style, self._folder = style, setting.folder

    def __call__(self, batch: Mapping[str, Any]) -> Any:
        """Score a part, a row of a table of parts or a batch of images."""
        return answer_to(batch, self._score, self._failure)

    def _score(self, batch: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
        name = ""
        if "place" in batch:
            part = part_of(batch)
            sources, name = part.sources(self._folder), file_of(part, self._style)
        else:
            sources = named_images(batch)
        size = min(len(sources), self._batch_size())

        def inspected(batch_size: int) -> tuple[Counted, list[dict[str, Any]]]:
            results = Counted(self._model.inspect(sources, batch_size=batch_size))
            return results, [row_of(result) for result in results]

        results, rows = with_less_memory(inspected, size)
        counts = {
            "n_scored": results.n_scored,
            "n_flagged": results.n_flagged,
            "n_in_fit": results.n_in_fit,
            "n_unreadable": len(results.unreadable),
        }
        if isinstance(self._model, AnomalyDetector):
            scores = np.asarray(results.scores, dtype=np.float64)
            counts["n_new"] = len(scores)
            good = self._model.calibration_scores_
            counts["n_above_all"] = int(n_above_all(scores, good)) if len(scores) else 0
        if self._style == "parquet":
            content = parquet(rows)
        else:
            content = "".join(line + "\n" for line in lines(rows, "jsonl")).encode()
        errors = [str(result.error) for result in results.unreadable]
        return {"name": name, "counts": counts, "errors": errors}, content

    def _batch_size(self) -> int:
        params = self._model.get_params()
        sizes = [value for name, value in params.items() if name.split("__")[-1] == "batch_size"]
        return int(sizes[0]) if sizes else 32


class _Work:
    """Score tables of parts by a pool of processes, and write what comes back."""

    def __init__(
        self,
        ray: Any,
        pool: Pool,
        told: tuple[Any, ...],
        folder: Folder,
        scored: Scored,
        progress: Callable[[int], object],
    ) -> None:
        self._ray, self._pool, self._told = ray, pool, told
        self._folder, self._scored, self._progress = folder, scored, progress
        self._style = told[-1]

    def parts(self, parts: Iterable[Part]) -> None:
        """Score parts."""
        tables = [self._ray.put(as_table(part)) for part in parts]
        self.score(self._ray.data.from_arrow_refs(tables), batch_size=1)

    def score(self, dataset: Any, batch_size: int) -> None:
        """Score a Ray dataset of parts, or of images."""
        found = mapped(self._ray, self._pool, dataset, ScorePart, batch_size, self._told)
        with naming_failures():
            for answer in answers_in(found.iter_rows()):
                self._write(answer)

    def _write(self, found: Answer) -> None:
        give_warnings(found.warnings, stacklevel=5)
        name, counts, content = found.about["name"], found.about["counts"], found.content
        if not name:
            digest = hashlib.blake2b(content, digest_size=8).hexdigest()
            name = f"part-{self._scored.n_parts:06}-{digest}.{self._style}"
        self._folder.write(name, content)
        self._scored.count(counts, found.about["errors"])
        self._progress(counts["n_scored"] + counts["n_unreadable"])


def _missing(
    parts: Iterable[Part],
    there: Mapping[int, str],
    scored: Scored,
    folder: Folder,
    style: str,
    progress: Callable[[int], object],
) -> Iterator[Part]:
    """Parts without results, in their order; those of other images are refused."""
    n = 0
    for part in parts:
        n += 1
        if part.place not in there:
            yield part
            continue
        if there[part.place] != file_of(part, style):
            raise InputError(
                f"{folder.where}: {there[part.place]} has results of other images than those that "
                "are given: give the same images in the same order, or another folder"
            )
        scored.n_parts += 1
        scored.n_parts_before += 1
        progress(len(part.names))
    further = sorted(place for place in there if place >= n)
    if further:
        raise InputError(
            f"{folder.where}: has results of more images than are given "
            f"({there[further[0]]}): give the same images, or another folder"
        )


def _content_of(model: AnomalyDetector | str | Path) -> bytes:
    """The bytes of a model file."""
    if isinstance(model, (str, Path)):
        if is_export(model):
            raise InputError(
                f"{model}: an exported model is scored on one machine: give the model that it was "
                "exported from"
            )
        try:
            return Path(model).read_bytes()
        except OSError as error:
            raise ModelFileError(f"{model}: cannot be read ({error.strerror})") from error
    return saved(model)


def _opened(content: bytes, fpr: float | None, reading: Mapping[str, Any]) -> Any:
    """The model of what `_content_of` gave, with another rate if one is given."""

    def load(path: Path) -> Any:
        kind: Any = class_named(str(read_header(path).get("class")))
        return kind.load(path, **reading)

    model = read_saved(content, load)
    if fpr is not None:
        (model.set_fpr if isinstance(model, AnomalyDetector) else model.set_novelty_fpr)(fpr)
    return model
