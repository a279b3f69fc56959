"""`mahalad report`: one page that shows what was found."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from mahalad.commands.gathering import gather
from mahalad.commands.judging import (
    check_source,
    gather_normals,
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
    from mahalad.detectors.detector import AnomalyDetector
    from mahalad.report.maps import MapUnits


@click.command()
@click.argument("images", nargs=-1, required=True)
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False),
              help="HTML file to write (whole or not at all).")  # fmt: skip
@model_options
@click.option("--title", default="Anomaly report", show_default=True, help="Heading of the page.")
@force_option
def report(images: tuple[str, ...], output: str, title: str, force: bool, **options: Any) -> None:
    """Judge IMAGES (folders, globs, files) and write one page that shows them.

    The page needs no other file: thumbnails with what is abnormal in colour, a histogram of the
    scores with the threshold, and a ROC curve where both kinds of images are known.

    Images below a folder named good (or ok, normal) are good, those in sibling folders of it, or
    below one named bad (or nok, anomaly), are defects of that kind (folders from the given ones
    downwards count); of all others the kind is unknown. Masks beside them (ground_truth, masks)
    are left out.

    Each image takes some 50 kB of the page. Exit codes are those of score.
    """
    from mahalad.files.container import write_atomically
    from mahalad.images.folders import common_folder, kinds_of
    from mahalad.images.pixels import pixels_of
    from mahalad.report.results import facts_of, make_page, picture_results

    check_source(options)
    check_given(images)
    names = gather(images, options["pages"], leave_masks=True)
    normals = gather_normals(options)
    read = [*names, *normals, options["model"], options["weights"]]
    check_output(output, "page", read, force=force)
    detector, unreadable_normals = read_detector(options, normals)
    units = _units_of_overlays(detector)
    threshold = None if units is None else units.threshold
    results = detector.inspect(with_progress(names, "judge"), maps=threshold is not None)
    kinds = kinds_of(common_folder(images, names), names)
    pictured, errors = picture_results(results, kinds, threshold, pixels_of(detector.features_))
    source = options["model"] or f"fitted to {options['normals']}"
    shift = shift_of(detector, [image.score for image in pictured if not image.result.in_fit])
    remark = next(filter(None, (image.result.remark for image in pictured)), shift)
    about = facts_of(detector, units, source) | ({"Warning": remark} if remark else {})
    page = make_page(detector, pictured, errors, title=title, about=about)
    write_atomically(output, page.encode())
    n_flagged = sum(image.flagged for image in pictured)
    n_in_fit = sum(image.result.in_fit for image in pictured)
    sys.exit(
        say_summary(
            len(pictured),
            n_flagged,
            errors,
            unreadable_normals,
            n_in_fit=n_in_fit,
            left_out=scores_without(detector),
            shift=shift,
        )
    )


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
