"""Read, change and write model files again, one process at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mahalad.commands.paths import check_folder
from mahalad.errors import ModelFileError

if TYPE_CHECKING:
    from mahalad.metric.classifier import MetricKNNClassifier


@contextmanager
def edited(path: str) -> Iterator[MetricKNNClassifier]:
    """Read a model and save it again at the end, unless another process changed it meanwhile."""
    check_folder(path, "MODEL")
    with _alone(path):
        yield from _edit(path)


def _edit(path: str) -> Iterator[MetricKNNClassifier]:
    from mahalad.metric.classifier import MetricKNNClassifier

    before = _version(path)
    classifier = MetricKNNClassifier.load(path)
    try:
        in_file = classifier.index is None
        yield classifier
        # An index elsewhere has the change already.
        if in_file and _version(path) != before:
            raise ModelFileError(
                f"{path}: another process changed the model meanwhile; nothing was written: run "
                "the command again"
            )
        classifier.save(path)
    finally:
        classifier.index_.close()


@contextmanager
def _alone(path: str) -> Iterator[None]:
    """Wait for other commands that edit models of the same folder, where the system can lock it."""
    try:
        import fcntl
    except ImportError:  # Windows: the check of `_edit` remains
        yield
        return
    folder = os.open(os.path.dirname(os.path.realpath(path)), os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _version(path: str) -> tuple[int, int] | None:
    """Give what changes when a file is replaced; None if the file is not there."""
    if not os.path.exists(path):
        return None
    status = os.stat(path)
    return status.st_ino, status.st_mtime_ns
