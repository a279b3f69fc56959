"""What happens in other processes: answers, failures as values, memory that is short, warnings."""

from __future__ import annotations

import json
import logging
import os
import platform
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from mahalad import errors
from mahalad.distributed.listing import span_of
from mahalad.distributed.pool import MOST_RESTARTS, Pool
from mahalad.errors import ClusterError, MahaladError, UnreadableImageWarning
from mahalad.features.short_memory import is_out_of_memory
from mahalad.index.contract import IndexUnavailableError

MOST_WARNINGS = 50
"""Different warnings that are kept."""

_DIED = ("The actor is dead because", "Task was killed due to")
_LONGEST = 400

_log = logging.getLogger(__name__)

Found = TypeVar("Found")


@dataclass(frozen=True)
class Setting:
    """What other processes take over of this one.

    Attributes
    ----------
    n_threads : int
        Threads of a network.
    folder : str
        Where paths start.
    max_pixels : int or None
        Pillow's limit of the pixels of an image.
    """

    n_threads: int
    folder: str
    max_pixels: int | None

    @classmethod
    def here(cls, n_threads: int) -> Setting:
        """Describe this process."""
        return cls(n_threads, os.getcwd(), Image.MAX_IMAGE_PIXELS)

    def take_over(self) -> None:
        """Make it so in this process."""
        import torch

        torch.set_num_threads(self.n_threads)
        Image.MAX_IMAGE_PIXELS = self.max_pixels


@dataclass(frozen=True)
class Answer:
    """What came of a part of the images, or of several.

    Attributes
    ----------
    about : dict
        What is said of it, as JSON allows.
    content : bytes
        What was made of it: a state, say.
    warnings : dict of str to int
        What was warned of, and how often.
    failure : str
        See `raise_failure`; where there is one, all else is empty.
    """

    about: Mapping[str, Any] = field(default_factory=dict)
    content: bytes = b""
    warnings: Mapping[str, int] = field(default_factory=dict)
    failure: str = ""

    def as_table(self) -> Any:
        """Make a table with one row of it."""
        import pyarrow as pa

        columns = {
            "about": pa.array([json.dumps(dict(self.about))]),
            "content": pa.array([self.content], pa.large_binary()),
            "warnings": pa.array([json.dumps(dict(self.warnings))]),
            "failure": pa.array([self.failure]),
        }
        return pa.table(columns)


def answers_in(rows: Iterable[Mapping[str, Any]]) -> Iterator[Answer]:
    """Read rows of tables, each from `Answer.as_table`.

    Raises
    ------
    MahaladError
        One is a failure.
    """
    for row in rows:
        raise_failure(row["failure"])
        texts = json.loads(row["warnings"])
        yield Answer(json.loads(row["about"]), bytes(row["content"]), texts)


def started(
    sent: Any, make: Callable[[bytes], Found], doing: str, setting: Setting
) -> tuple[Found, str]:
    """Make what a process holds, of a reference to bytes; or say what failed (None is made)."""
    import ray

    setting.take_over()
    content = ray.get(sent)
    try:
        return make(content), ""
    except Exception as error:
        nothing: Any = None
        return nothing, failure_of(error, doing)


def answer_to(
    batch: Mapping[str, Any],
    work: Callable[[Mapping[str, Any]], tuple[Mapping[str, Any], bytes]],
    failure: str,
) -> Any:
    """Give the table of the answer to a row of a table of parts, or to a batch of images.

    It is what work makes of it, or why there is nothing: the failure of the start, if any.
    """
    found: tuple[Mapping[str, Any], bytes] = {}, b""
    texts: Counter[str] = Counter()
    if not failure:
        try:
            with warnings_as(texts):
                found = work(batch)
        except Exception as error:
            failure = failure_of(error, f"on {span_of(batch)}")
    return Answer(*found, texts, failure).as_table()


def saved(model: Any) -> bytes:
    """Give the content of the file that a model is saved to."""
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model")
        return (Path(folder) / "model").read_bytes()


def read_saved(content: bytes, load: Callable[[Path], Found]) -> Found:
    """Read what `saved` gave by a function that reads files."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.mahalad"
        path.write_bytes(content)
        return load(path)


def failure_of(error: Exception, doing: str = "") -> str:
    """Describe an error as text, for `raise_failure` in another process.

    One that mahalad does not raise on purpose becomes a `ClusterError`, with what was being done.
    """
    if isinstance(error, MahaladError):
        return json.dumps([type(error).__name__, str(error)])
    _log.error("%s", doing, exc_info=error)
    text = f"a worker on {platform.node()} failed {doing}: {type(error).__name__}: {error}"
    return json.dumps(["ClusterError", text])


def raise_failure(failure: str) -> None:
    """Raise the error that was described, unless the text is empty."""
    if failure:
        name, text = json.loads(failure)
        known = {**vars(errors), "IndexUnavailableError": IndexUnavailableError}
        raise known.get(name, MahaladError)(text)


@contextmanager
def naming_failures() -> Iterator[None]:
    """Raise what Ray says of a worker that failed as an error of mahalad's, in a few words.

    Raises
    ------
    ClusterError
        A worker could not be started, or was lost again and again.
    """
    import ray

    try:
        yield
    except ray.exceptions.RayError as error:
        raise ClusterError(
            f"a worker failed for good (what is lost is started again {MOST_RESTARTS} times): "
            f"{_reason(str(error))}"
        ) from error


def _reason(text: str) -> str:
    """What Ray says of a process that died, else the last line of the error that it raised."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    died = [line for line in lines if line.startswith(_DIED)]
    found = died[0] if died else lines[-1] if lines else "no reason is known"
    return found if len(found) <= _LONGEST else found[:_LONGEST] + " ..."


def with_less_memory(work: Callable[[int], Found], batch_size: int) -> Found:
    """Do work with images in batches; where memory is short, in batches of half the size.

    Raises
    ------
    MemoryError, RuntimeError
        There is not enough for a single image.
    """
    while True:
        try:
            return work(batch_size)
        except (MemoryError, RuntimeError) as error:
            if batch_size == 1 or not is_out_of_memory(error):
                raise
        batch_size = batch_size // 2
        warnings.warn(
            f"memory was short: images were read in batches of {batch_size}, which changes the "
            "last digits of their features",
            stacklevel=2,
        )


@contextmanager
def warnings_as(texts: Counter[str]) -> Iterator[None]:
    """Count the warnings within by their texts; those of single unreadable images are left out."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for one in caught:
        if issubclass(one.category, UserWarning) and not issubclass(
            one.category, UnreadableImageWarning
        ):
            texts[str(one.message)] += 1


def joined_warnings(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Add up counts of warnings; of many different ones, the most frequent are kept."""
    total: Counter[str] = Counter()
    for one in counts:
        total.update(one)
    return dict(total.most_common(MOST_WARNINGS))


def give_warnings(counts: Mapping[str, int], stacklevel: int = 3) -> None:
    """Warn here of what was warned of elsewhere."""
    for text, n in counts.items():
        again = f" ({n} times)" if n > 1 else ""
        warnings.warn(f"{text}{again}", stacklevel=stacklevel)


def warn(text: str) -> None:
    """Warn of what a manifest says."""
    warnings.warn(text, stacklevel=4)


def mapped(ray: Any, pool: Pool, dataset: Any, work: Any, batch_size: int, told: Any) -> Any:
    """Give the Ray dataset of what a pool makes of another one; `told` is what it is made with."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*ray_remote_args")  # there is no other way to restarts
        return quietly(
            quietly(dataset).map_batches(
                work,
                batch_size=batch_size,
                batch_format="numpy",
                fn_constructor_args=(*told, Setting.here(pool.n_threads)),
                **pool.options(ray),
            )
        )


def quietly(dataset: Any) -> Any:
    """Make a Ray dataset that keeps its order and writes no bars of progress."""
    dataset.context.enable_progress_bars = False
    dataset.context.execution_options.preserve_order = True
    dataset.context.execution_options.verbose_progress = False
    return dataset
