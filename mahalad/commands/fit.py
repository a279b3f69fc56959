"""`mahalad fit`: from good images to a model file."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mahalad.commands.gathering import gather_to_fit, pages_option, yes_option
from mahalad.commands.making import make_detector
from mahalad.commands.manifests import groups_of, manifest_in, read_entries, split_option
from mahalad.commands.many import check_workers, fit_on_ray, ray_options
from mahalad.commands.options import (
    detector_options,
    fit_options,
    fpr_option,
    network_options,
    settle,
    threshold_option,
)
from mahalad.commands.paths import check_given, check_output, force_option
from mahalad.commands.progress import with_progress
from mahalad.commands.sections import SectionedCommand
from mahalad.errors import CalibrationError

if TYPE_CHECKING:
    from mahalad.detectors.detector import AnomalyDetector
    from mahalad.images.manifests import Entry
    from mahalad.images.sources import ImageSource


group_option = click.option(
    "--group",
    metavar="REGEX|FILE.csv",
    default=None,
    help="Images whose path gives the same match (its first group, if any), or that have the same "
    "group in a file with the columns path and group, show the same part: they are left out "
    "together and count as one. For --calibration as well.",
)

SECTIONS = {
    "Images": (
        "roi", "bits", "group", "near_copies", "left_out", "augment", "pages", "split", "yes",
        "max_pixels",
    ),
    "Network": ("backbone", "weights", "levels", "size", "resize", "tiles"),
    "Scores": (
        "preset", "scope", "tolerate", "any_orientation", "neighbourhood", "image_weight",
        "top_fraction", "scorer", "reduction",
    ),
    "False-positive rate": ("fpr", "threshold", "calibration", "seed"),
    "Model file": ("output", "force", "without_weights", "without_features"),
    "Computation": ("device", "engine", "batch_size", "checkpoint", "ray", "workers"),
}  # fmt: skip
"""Headings of `mahalad fit --help`, and the options below each."""


@click.command(cls=SectionedCommand, sections=SECTIONS)
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
@group_option
@click.option("--without", "left_out", multiple=True, metavar="IMAGE|LIST.txt",
              help="Leave out an image, or those of a text file with a path on each line, as the "
                   "list of images that do not fit the others names them.")  # fmt: skip
@click.option("--without-weights", is_flag=True, help="Do not embed weights from a file or hub.")
@click.option("--without-features", is_flag=True,
              help="Leave the images' features out: a model that can only score.")  # fmt: skip
@click.option("--checkpoint", type=click.Path(dir_okay=False), default=None,
              help="Keep what is read so far here, now and then; if the file is there, go on from "
                   "it. The result is that of a run that was not broken off.")  # fmt: skip
@ray_options
@split_option
@pages_option
@yes_option
@force_option
def fit(
    images: tuple[str, ...],
    output: str,
    force: bool,
    pages: str,
    yes: bool,
    calibration: str | None,
    group: str | None,
    left_out: tuple[str, ...],
    without_weights: bool,
    without_features: bool,
    checkpoint: str | None,
    ray: str | None,
    workers: int | None,
    split: str | None,
    fpr: float | None,
    **options: Any,
) -> None:
    """Fit a detector to good IMAGES (folders, globs, files, URLs) and write it to a file.

    A list of images, a CSV or Parquet file with the columns path and if wanted group, label and
    split, may stand for them: of it, rows with a label that is no word for good are left out.

    Images that do not fit the others are listed, and kept unless --without leaves them out. The
    last line says what the false-positive rate is worth: the rate asked for holds on average over
    fits, and that of this fit is bounded.

    Of a folder, what is used and what is left out is said. Images in folders that are called like
    those of defects, tests or masks are a question, which --yes answers.
    """
    check_given(images)
    may_be_files = [options["weights"], options["roi"], group, *left_out]  # or `hub`, or a pattern
    read = list(filter(os.path.isfile, filter(None, may_be_files)))
    check_output(output, "detector", read, force=force)
    check_workers(ray, workers)
    if ray is not None and calibration is not None:
        raise click.UsageError("--calibration is read on this machine: it does not go with --ray")
    manifest = manifest_in(images, split)
    if manifest is not None:
        _check_with_manifest(group, left_out)
        names, sources, groups = _rows_to_fit(manifest, split, streamed=ray is not None)
    else:
        choose = partial(_without, left_out=left_out) if left_out else None
        names = gather_to_fit(images, pages, yes, choose=choose)
        sources, groups = grouped(names, group)
    given = None if calibration is None else gather_to_fit([calibration], pages, yes)
    used = [*names, *(given or []), *read, manifest]
    if checkpoint is not None:  # which is read, too: no other file will do
        check_output(checkpoint, "fit checkpoint", [*used, output], option="--checkpoint")
    check_output(output, "detector", [*used, checkpoint], force=force)
    detector = make_detector(settle(options), fpr)
    if ray is not None:
        fit_on_ray(
            detector,
            manifest or _as_entries(names, groups),
            None if manifest else len(names),
            address=ray,
            workers=workers,
            split=split,
            checkpoint=checkpoint,
        )
    else:
        further, of_further = grouped(given, group)
        detector.fit(
            with_progress(sources, "fit"),
            groups=groups,
            calibration=None if further is None else with_progress(further, "calibrate"),
            calibration_groups=of_further,
            checkpoint=checkpoint,
        )
    detector.save(
        output, include_features=not without_features, include_weights=not without_weights
    )
    n, size = detector.n_images_, Path(output).stat().st_size
    click.echo(f"{output}: fitted to {n} images ({size / 1e6:.1f} MB)", err=True)
    say_turned(detector)
    say_suspects(detector, "--without IMAGE leaves one out")
    click.echo(f"false-positive rate: {detector.guarantee_}", err=True)
    sys.exit(3 if detector.unreadable_ else 0)


def grouped(names: list[str] | None, group: str | None) -> tuple[Any, list[str] | None]:
    """The images, and what each shows where a rule says it."""
    if group is None or names is None:
        return names, None
    from mahalad.images.mvtec import grouping

    group_of = grouping(group)
    # A folder among them is one that cannot be listed.
    return names, [n if os.path.isdir(n) else group_of(str(Path(n))) for n in names]


def _as_entries(names: Sequence[str], groups: Sequence[str] | None) -> list[Entry]:
    """Give images with their groups, as rows of a list would."""
    from mahalad.images.manifests import Entry
    from mahalad.images.sources import source_of

    told = [""] * len(names) if groups is None else groups
    pairs = zip(names, told, strict=True)
    return [Entry(source_of(name), i, group) for i, (name, group) in enumerate(pairs, start=1)]


def _rows_to_fit(
    manifest: str, split: str | None, *, streamed: bool
) -> tuple[list[str], list[ImageSource], list[str] | None]:
    """Names, images and groups of a list; of one that is read as the work goes on, nothing."""
    from mahalad.images.manifests import open_manifest, to_fit

    if streamed:
        open_manifest(manifest)  # a wrong one is refused now
        return [], [], None
    entries = read_entries(manifest, to_fit(split))
    sources = [entry.source for entry in entries]
    return [source.name for source in sources], sources, groups_of(entries)


def _check_with_manifest(group: str | None, left_out: Sequence[str]) -> None:
    """Refuse options that a list of images answers itself."""
    if group is not None:
        raise click.UsageError("--group: a list of images has its own column group")
    if left_out:
        raise click.UsageError("--without: take the rows out of the list of images")


def _without(names: list[str], left_out: Sequence[str]) -> list[str]:
    """The images but for those that are named, or listed in text files.

    Raises
    ------
    click.BadParameter
        A list that cannot be read, a name that is none of the images, or nothing is left.
    """
    unwanted: list[str] = []
    for name in left_out:
        if name.lower().endswith(".txt"):
            try:
                text = Path(name).read_text(encoding="utf-8", errors="surrogateescape")
            except OSError as error:
                raise click.BadParameter(
                    f"{name}: cannot be read ({error.strerror})", param_hint="--without"
                ) from error
            lines = text.splitlines()
            unwanted += [line.strip() for line in lines if line.strip()]
        else:
            unwanted.append(name)
    from mahalad.images.pages import split_page

    # Of a file with several pages: one of them, or all by the file's own name.
    gone = {os.path.realpath(name) for name in unwanted}
    known = {name: {os.path.realpath(n) for n in (name, split_page(name)[0])} for name in names}
    strange = gone.difference(*known.values()) if known else gone
    if strange:
        raise click.BadParameter(f"{min(strange)} is none of the images", param_hint="--without")
    rest = [name for name in names if not known[name] & gone]
    if not rest:
        raise click.BadParameter("no image is left", param_hint="--without")
    click.echo(f"{len(names) - len(rest)} of {len(names)} images left out", err=True)
    return rest


def say_turned(detector: AnomalyDetector) -> None:
    """Say that images count in their quarter turns, where that was found out."""
    if detector.any_orientation_ and detector.any_orientation == "auto":
        click.echo(
            "the parts lie at any angle: each image counts in its four quarter turns "
            "(--any-orientation no fits to it as it is)",
            err=True,
        )


def say_suspects(detector: AnomalyDetector, advice: str) -> None:
    """List the images that do not fit the others, and say how to leave them out."""
    from mahalad.detectors.suspects import describe

    try:
        found = [(result.name, result.score or 0.0) for result in detector.suspects_]
    except CalibrationError:  # `fit` has said why
        return
    if found:
        click.echo(f"{describe(found)}: {advice}", err=True)
