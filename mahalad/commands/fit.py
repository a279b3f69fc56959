"""`mahalad fit`: from good images to a model file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from mahalad.commands.options import (
    detector_options,
    fit_options,
    fpr_option,
    make_detector,
    network_options,
    settle,
    threshold_option,
)
from mahalad.commands.paths import check_output, names_of
from mahalad.commands.progress import with_progress


@click.command()
@click.argument("images", nargs=-1, required=True)
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False),
              help="Model file to write.")  # fmt: skip
@network_options
@detector_options
@fit_options
@threshold_option
@fpr_option
@click.option(
    "--calibration",
    metavar="IMAGES",
    default=None,
    help="Further good images that set the threshold (with --threshold holdout or tolerance).",
)
@click.option(
    "--group",
    metavar="REGEX|FILE.csv",
    default=None,
    help="Images whose path gives the same match (its first group, if any), or that have the same "
    "group in a file with the columns path and group, show the same part, and are left out "
    "together.",
)
@click.option("--without-weights", is_flag=True, help="Do not embed weights from a file or hub.")
@click.option("--without-features", is_flag=True,
              help="Leave the images' features out: a model that can only score.")  # fmt: skip
def fit(
    images: tuple[str, ...],
    output: str,
    calibration: str | None,
    group: str | None,
    without_weights: bool,
    without_features: bool,
    fpr: float | None,
    **options: Any,
) -> None:
    """Fit a detector to good IMAGES (folders, globs, files) and write it to a file.

    The last line says what the false-positive rate is worth: the rate asked for holds on average
    over fits, and that of this fit is bounded.
    """
    check_output(output)
    detector = make_detector(settle(options), fpr)
    groups = None
    sources: Any = list(images)
    if group is not None:
        from mahalad.images.mvtec import grouping

        group_of = grouping(group)
        sources = names_of(sources)
        groups = [group_of(str(Path(name))) for name in sources]
    detector.fit(
        with_progress(sources, "fit"),
        groups=groups,
        calibration=None if calibration is None else with_progress(calibration, "calibrate"),
    )
    detector.save(
        output, include_features=not without_features, include_weights=not without_weights
    )
    n, size = detector.n_images_, Path(output).stat().st_size
    click.echo(f"{output}: fitted to {n} images ({size / 1e6:.1f} MB)", err=True)
    click.echo(f"false-positive rate: {detector.guarantee_}", err=True)
    sys.exit(3 if detector.unreadable_ else 0)
