"""`mahalad update`, `remove` and `merge`: other images in a model of `fit`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from mahalad.commands.editing import change_detector, state_of
from mahalad.commands.embedding_options import output_option
from mahalad.commands.fit import group_option, grouped, say_suspects
from mahalad.commands.gathering import gather, gather_to_fit, only_listed, pages_option, yes_option
from mahalad.commands.options import (
    bits_option,
    decorate,
    max_pixels_option,
    saved_engine_option,
)
from mahalad.commands.paths import check_given, check_output, force_option
from mahalad.commands.progress import with_progress

if TYPE_CHECKING:
    from mahalad.detectors.detector import AnomalyDetector


def _reading_options(command: Any) -> Any:
    return decorate(
        [
            click.option("--weights", metavar="FILE|hub", default=None,
                         help="Weights, for a model saved without them: a file, or `hub` to "
                              "fetch them."),
            click.option("--device", default=None,
                         help="Device to compute on. Default: as at fit."),
            saved_engine_option,
        ],
        command,
    )  # fmt: skip


@click.command()
@click.argument("model", type=click.Path())
@click.argument("images", nargs=-1, required=True)
@bits_option
@max_pixels_option
@pages_option
@yes_option
@group_option
@_reading_options
def update(
    model: str,
    images: tuple[str, ...],
    pages: str,
    yes: bool,
    bits: int | None,
    group: str | None,
    **reading: str | None,
) -> None:
    """Add good IMAGES (folders, globs, files) to a MODEL of `fit`.

    The model is then that of one fit to all images, with a new threshold. The old file is kept as
    MODEL.bak; the new one is written whole or not at all. Exit codes are those of fit.
    """
    from mahalad.features.parameters import ask_for

    check_given(images)
    names = gather_to_fit(images, pages, yes)
    sources, groups = grouped(names, group)
    n_unreadable = 0

    def add(detector: Any) -> None:
        nonlocal n_unreadable
        if bits is not None:
            ask_for(detector, "bits", bits, ("features",))
        n_before = len(detector.unreadable_)
        detector.partial_fit(with_progress(sources, "update"), groups=groups)
        n_unreadable = len(detector.unreadable_) - n_before

    detector, text = change_detector(model, add, names, **reading)
    click.echo(text, err=True)
    _say_copies(detector)
    say_suspects(detector, f"mahalad remove {model} IMAGE takes one out")
    click.echo(f"false-positive rate: {detector.guarantee_}", err=True)
    sys.exit(3 if n_unreadable else 0)


@click.command()
@click.argument("model", type=click.Path())
@click.argument("images", nargs=-1, required=True)
@max_pixels_option
@pages_option
@_reading_options
def remove(model: str, images: tuple[str, ...], pages: str, **reading: str | None) -> None:
    """Take IMAGES (folders, globs, files) out of a MODEL of `fit`.

    They are known by their content, and copies of one go together. The model is then that of a fit
    to the others, with a new threshold. If one is not in the fit, nothing is changed (exit code
    2). The old file is kept as MODEL.bak; the new one is written whole or not at all.
    """
    check_given(images)
    names, code = only_listed(gather(images, pages))
    detector, text = change_detector(
        model, lambda detector: detector.remove(names), names, **reading
    )
    click.echo(text, err=True)
    click.echo(f"false-positive rate: {detector.guarantee_}", err=True)
    sys.exit(code)


@click.command()
@click.argument("models", nargs=-1, required=True, type=click.Path())
@output_option
@_reading_options
@force_option
def merge(models: tuple[str, ...], output: str, force: bool, **reading: str | None) -> None:
    """Merge MODELS of `fit` with the same features and rule into one.

    It is that of one fit to the images of all, at the rate of the first. The files given stay as
    they are.
    """
    from mahalad.detectors.detector import AnomalyDetector
    from mahalad.files.container import read_header

    if len({os.path.realpath(path) for path in models}) < max(len(models), 2):
        raise click.BadParameter("give two models or more, each once", param_hint="MODELS")
    check_output(output, "detector", [*models, reading["weights"]], force=force)
    headers = [read_header(path) for path in models]
    embedded = any((header.get("features") or {}).get("weights_embedded") for header in headers)
    first, *others = [AnomalyDetector.load(path, **reading) for path in models]
    counts = ", ".join(
        f"{path} {one.n_images_}" for path, one in zip(models, [first, *others], strict=True)
    )
    for other in others:
        first.merge(other)
    first.save(output, include_weights=embedded)
    click.echo(f"{output}: {first.n_images_} images ({counts})", err=True)
    for name, value in state_of(first).items():
        click.echo(f"{name}: {value}", err=True)
    _say_copies(first)
    say_suspects(first, f"mahalad remove {output} IMAGE takes one out")
    click.echo(f"false-positive rate: {first.guarantee_}", err=True)


def _say_copies(detector: AnomalyDetector) -> None:
    """Warn of images that are there twice, as a fit does."""
    from mahalad.detectors.copies import describe

    together = detector.copies_ if detector.near_copies == "group" else []
    if together:
        click.echo(f"Warning: {describe(together)}", err=True)
