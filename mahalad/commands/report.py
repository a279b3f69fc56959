"""`mahalad report`: one page that shows what was found."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from mahalad.commands.gathering import gather
from mahalad.commands.judging import (
    check_source,
    gather_normals,
    is_detector,
    read_detector,
    say_summary,
    scores_without,
    shift_of,
)
from mahalad.commands.options import model_options
from mahalad.commands.paths import check_given, check_output, force_option
from mahalad.commands.progress import with_progress
from mahalad.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mahalad.detectors.detector import AnomalyDetector
    from mahalad.metric.classifier import MetricKNNClassifier
    from mahalad.report.maps import MapUnits


@click.command()
@click.argument("images", nargs=-1, required=True)
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False),
              help="HTML file to write (whole or not at all).")  # fmt: skip
@model_options
@click.option("--title", default=None, help="Heading of the page (Anomaly report, or Labels).")
@click.option("--pictures", type=click.IntRange(min=1), default=100, show_default=True,
              metavar="N", help="Images that are shown: mistakes first, then what is flagged, and "
              "of the rest a quarter. The others count.")  # fmt: skip
@force_option
def report(
    images: tuple[str, ...],
    output: str,
    title: str | None,
    pictures: int,
    force: bool,
    **options: Any,
) -> None:
    """Judge IMAGES (folders, globs, files) and write one page that shows them.

    The page needs no other file: what was asked and what came of it, thumbnails with what is
    abnormal in colour, a histogram of the scores with the threshold, and a ROC curve where both
    kinds of images are known. A mask of the flagged image that is shown large is drawn beside it
    if it lies as in MVTec AD (test/KIND/NAME.png, ground_truth/KIND/NAME_mask.png).

    Images below a folder named good (or ok, normal) are good, those in sibling folders of it, or
    below one named bad (or nok, anomaly), are defects of that kind (folders from the given ones
    downwards count); of all others the kind is unknown. Masks beside them (ground_truth, masks)
    are left out.

    With a model of `tune` the page shows labels, the labelled images that voted for them, and a
    table of confusions where images lie in folders named by a label.

    Each image that is shown takes some 50 kB of the page. Exit codes are those of score.
    """
    from mahalad.files.container import write_atomically

    check_source(options)
    check_given(images)
    names = gather(images, options["pages"], leave_masks=True)
    normals = gather_normals(options)
    read = [*names, *normals, options["model"], options["weights"]]
    check_output(output, "page", read, force=force)
    detector, unreadable_normals = read_detector(options, normals, labels=True)
    source = options["model"] or f"fitted to {options['normals']}"
    write = _write_page if is_detector(detector) else _write_labels
    page, summary = write(detector, images, names, title, source, pictures)
    write_atomically(output, page.encode())
    sys.exit(say_summary(unreadable_normals=unreadable_normals, **summary))


def _write_page(
    detector: AnomalyDetector,
    given: Sequence[str],
    names: Sequence[str],
    title: str | None,
    source: str,
    most: int,
) -> tuple[str, dict[str, Any]]:
    """Judge images and write their page; also give what `say_summary` says."""
    from mahalad.images.folders import common_folder, kinds_of
    from mahalad.images.pixels import pixels_of
    from mahalad.report.page import Words, render_report
    from mahalad.report.results import picture_results
    from mahalad.report.words import asked_and_got, facts_of

    units = _units_of_overlays(detector)
    begins = None if units is None else units.threshold
    results = detector.inspect(with_progress(names, "judge"), maps=begins is not None)
    kinds = kinds_of(common_folder(given, names), names)
    shown = picture_results(results, kinds, begins, most, pixels_of(detector.features_))
    judged = [image.result for image in shown.images]
    new = [result.score for result in judged if not result.in_fit and result.score is not None]
    shift = shift_of(detector, new)
    page = render_report(
        shown.images,
        shown.errors,
        Words(
            title or "Anomaly report",
            notice=next((result.remark for result in judged if result.remark), shift),
            summary=asked_and_got(shown.images, detector.guarantee_),
            about=facts_of(detector, units, source),
        ),
        threshold=judged[0].threshold if judged else None,
        fpr=detector.fpr,
        calibration_scores=detector.calibration_scores_,
        spotlight=shown.spotlight,
        most=most,
    )
    return page, {
        "n_scored": len(judged),
        "n_flagged": sum(bool(result.anomaly) for result in judged),
        "unreadable": shown.errors,
        "n_in_fit": sum(result.in_fit for result in judged),
        "left_out": scores_without(detector),
        "shift": shift,
    }


def _write_labels(
    classifier: MetricKNNClassifier,
    given: Sequence[str],
    names: Sequence[str],
    title: str | None,
    source: str,
    most: int,
) -> tuple[str, dict[str, Any]]:
    """Label images and write their page; also give what `say_summary` says."""
    from mahalad.images.folders import common_folder, labels_of
    from mahalad.images.pixels import pixels_of
    from mahalad.report.labels import labels_and_got, render_labels
    from mahalad.report.page import Words
    from mahalad.report.results import picture_results
    from mahalad.report.words import facts_of_classifier, shift_of_labels

    classes = classifier.classes_.astype(str).tolist()
    labels = labels_of(common_folder(given, names), names, classes)
    results = classifier.inspect(with_progress(names, "judge"))
    pixels = pixels_of(classifier.embedding_.encoder)
    shown = picture_results(results, labels, None, most, pixels)
    shift = shift_of_labels(shown.images, classifier)
    page = render_labels(
        shown.images,
        shown.errors,
        Words(
            title or "Labels",
            notice=shift,
            summary=labels_and_got(shown.images, classifier.novelty_fpr),
            about=facts_of_classifier(classifier, source),
        ),
        classes=classes,
        novelty_fpr=classifier.novelty_fpr,
        most=most,
    )
    return page, {
        "n_scored": len(shown.images),
        "n_flagged": sum(image.flagged for image in shown.images),
        "unreadable": shown.errors,
        "shift": shift,
    }


def _units_of_overlays(detector: AnomalyDetector) -> MapUnits | None:
    """Give the units of a detector's maps; None if there are no overlays (stderr says why)."""
    from mahalad.report.maps import units_of

    try:
        units = units_of(detector)
    except InputError as error:
        click.echo(f"no overlays: {error}", err=True)
        return None
    if units.threshold is None:
        click.echo(units.no_threshold, err=True)
    return units
