"""What `score` and `report` share: the detector that judges, and the summary at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from mahalad.commands.gathering import gather_to_fit
from mahalad.commands.progress import with_progress
from mahalad.errors import InputError

if TYPE_CHECKING:
    from mahalad.detectors.detector import AnomalyDetector
    from mahalad.metric.classifier import MetricKNNClassifier
    from mahalad.result import Result


def check_source(options: dict[str, Any]) -> None:
    """Refuse options that name both a model and good images, or neither."""
    if (options["model"] is None) == (options["normals"] is None):
        raise click.UsageError("give either a model (-m FILE) or good images (--normals DIR)")


def gather_normals(options: dict[str, Any]) -> list[str]:
    """Find the good images that `model_options` name; none where they name a model."""
    if options["normals"] is None:
        return []
    return gather_to_fit([options["normals"]], options["pages"], options["yes"])


def read_detector(
    options: dict[str, Any], normals: list[str], *, labels: bool = False
) -> tuple[Any, int]:
    """Read or fit the detector that `model_options` ask for; also count its unreadable images.

    `normals` are the images of `gather_normals`. With `labels`, it may be a classifier, which has
    no maps.
    """
    reading = {name: options[name] for name in ("weights", "device", "engine")}
    fpr = options["fpr"]
    if options["model"] is not None:
        from mahalad.loading import is_classifier, load
        from mahalad.runtime.classifier import OnnxClassifier

        if is_classifier(options["model"]):
            _check_no_maps(options["model"], labels)
            classifier = _read_classifier(options["model"], reading, fpr)
            _say_bits(classifier, options["bits"], "encoder")
            return classifier, 0
        detector = load(options["model"], **reading)
        if isinstance(detector, OnnxClassifier):
            _check_no_maps(options["model"], labels)
            bits = {} if options["bits"] is None else {"bits": options["bits"]}
            asked = {} if fpr is None else {"novelty_fpr": fpr}
            return detector.set_params(**bits, **asked), 0
        _say_bits(detector, options["bits"], "features")
        if fpr is not None:
            detector.set_fpr(fpr)
        return detector, 0
    from mahalad.detectors.mahalanobis import MahalanobisDetector

    detector = MahalanobisDetector(
        weights=options["weights"],
        bits=options["bits"],
        device=options["device"] or "auto",
        engine=options["engine"] or "torch",
        fpr=0.05 if fpr is None else fpr,
    )
    detector.fit(with_progress(normals, "fit"))
    if detector.any_orientation_:
        click.echo("the parts lie at any angle: each good image counts in quarter turns", err=True)
    return detector, len(detector.unreadable_)


def is_detector(model: Any) -> bool:
    """Whether a model judges by scores of good images, and not by labels."""
    from mahalad.detectors.detector import AnomalyDetector
    from mahalad.runtime.detector import OnnxDetector

    return isinstance(model, (AnomalyDetector, OnnxDetector))


def _check_no_maps(path: str, labels: bool) -> None:
    if not labels:
        raise InputError(
            f"{path}: a classifier by nearest neighbours has no anomaly maps: `mahalad score` "
            "without --maps gives its labels"
        )


def _say_bits(model: Any, bits: int | None, part: str) -> None:
    """Tell a model how many bits of 16 are used, if the user has said it."""
    from mahalad.features.parameters import ask_for

    if bits is not None:
        ask_for(model, "bits", bits, (part,))


def scores_without(detector: AnomalyDetector) -> bool:
    """Whether images of the fit are scored by the fit without them."""
    from mahalad.detectors.state import LEFT_OUT

    return detector.calibration_method_ in LEFT_OUT


def shift_of(detector: AnomalyDetector, scores: Sequence[float]) -> str:
    """Say whether nearly all images, scored anew, are above all good ones; else nothing."""
    from mahalad.detectors.suspects import n_above_all

    return shift_in(
        detector, n_above_all(np.asarray(scores), detector.calibration_scores_), len(scores)
    )


def shift_in(detector: AnomalyDetector, n_above: int, n_images: int) -> str:
    """Say what `shift_of` does of images of which so many are above all good ones."""
    from mahalad.detectors.suspects import describe_shift, is_shifted

    if not is_shifted(n_above, n_images, detector.guarantee_.n_independent):
        return ""
    return describe_shift(n_above, n_images)


def _read_classifier(
    path: str, reading: dict[str, str | None], fpr: float | None
) -> MetricKNNClassifier:
    """Read the classifier that `mahalad score` uses."""
    from mahalad.metric.classifier import MetricKNNClassifier

    classifier = MetricKNNClassifier.load(path, **reading)
    click.get_current_context().call_on_close(classifier.index_.close)
    if fpr is not None:
        classifier.set_novelty_fpr(fpr)
    return classifier


def say_summary(
    n_scored: int,
    n_flagged: int,
    unreadable: Sequence[Result],
    unreadable_normals: int,
    *,
    n_in_fit: int = 0,
    left_out: bool = True,
    shift: str = "",
) -> int:
    """Say on stderr what happened; return the exit code.

    `n_in_fit` images are of the fit, with scores by the fit without them if they are `left_out`;
    `shift` says what is odd about all images together.
    """
    from mahalad.report.text import printable

    text = f"{n_scored} image{'' if n_scored == 1 else 's'} scored, {n_flagged} flagged"
    if n_in_fit:
        how = "scored as if they were not" if left_out else "and score too low: they were seen"
        text += f" ({n_in_fit} in the fit, {how})"
    if unreadable:
        text += f", {len(unreadable)} unreadable:"
    click.echo(text, err=True)
    for result in unreadable:
        click.echo(f"  {printable(result.error or '')}", err=True)
    if shift:
        click.echo(f"Warning: {shift}", err=True)
    return 3 if unreadable or unreadable_normals else 0
