"""Read, change and write model files again, one process at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mahalad.commands.paths import check_folder, check_output
from mahalad.errors import CalibrationError, ModelFileError

if TYPE_CHECKING:
    from mahalad.detectors.detector import AnomalyDetector
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
            raise _changed(path)
        classifier.save(path)
    finally:
        classifier.index_.close()


BACKUP = ".bak"
"""What the name of a model's last version before a change ends in."""


def change_detector(
    path: str,
    change: Callable[[AnomalyDetector], object],
    images: Sequence[str],
    **reading: str | None,
) -> tuple[AnomalyDetector, str]:
    """Change a detector's file, and keep the old one beside it.

    Parameters
    ----------
    path : str
    change : callable
        Adds images to the detector, or removes some.
    images : sequence of str
        Files that are read, which the backup must not replace.
    **reading
        `weights`, `device` and `engine`, as for `mahalad.load`.

    Returns
    -------
    detector : AnomalyDetector
    text : str
        What has changed. If no image was added or removed, nothing is written.

    Raises
    ------
    ModelFileError
        No detector, or another process changed the file meanwhile.
    InputError
        From `change`; nothing is written.
    """
    from mahalad.files.container import read_header, write_atomically
    from mahalad.loading import is_classifier, load

    check_folder(path, "MODEL")
    backup = path + BACKUP
    check_output(backup, "detector", [path, *images], option="MODEL")
    with _alone(path):
        if is_classifier(path):
            raise ModelFileError(
                f"{path}: is a classifier: `mahalad index add` and `remove` change its images"
            )
        before = _version(path)
        old = Path(path).read_bytes()
        embedded = (read_header(path).get("features") or {}).get("weights_embedded", False)
        detector = load(path, **reading)
        n, was = detector.n_images_, state_of(detector)
        n_scores = len(detector.calibration_scores_)
        change(detector)
        if (detector.n_images_, len(detector.calibration_scores_)) == (n, n_scores):
            return detector, f"{path}: {n} images as before; nothing is written"
        if _version(path) != before:
            raise _changed(path)
        replaced = " (an earlier one is replaced)" if os.path.exists(backup) else ""
        write_atomically(backup, old)
        detector.save(path, include_weights=embedded)
    lines = [f"{path}: {n} -> {detector.n_images_} images; the old file is {backup}{replaced}"]
    for name, value in state_of(detector).items():
        lines.append(f"{name}: {was[name]} -> {value}")
    return detector, "\n".join(lines)


def state_of(detector: AnomalyDetector) -> dict[str, str]:
    """Say what a detector's threshold and bound are, by name."""
    try:
        threshold = f"{detector.threshold_:.4g}"
    except CalibrationError:
        threshold = "none (too few images)"
    bound = detector.guarantee_.bound
    return {
        "threshold": threshold,
        "bound on the false-positive rate": "none" if bound is None else f"{100 * bound:.1f} %",
    }


def _changed(path: str) -> ModelFileError:
    return ModelFileError(
        f"{path}: another process changed the model meanwhile; nothing was written: run the "
        "command again"
    )


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
