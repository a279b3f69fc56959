"""The command line: a shell over the library. Results to stdout, messages to stderr.

Exit codes: 0 all fine; 1 unexpected failure, or results that lack something asked for (a map that
could not be written, a precision out of reach); 2 usage error (bad option, folder or model); 3 some
images could not be read; 4 something was flagged (only with --fail-on-anomaly).
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mahalad import __version__, metric_cli
from mahalad.commands.info import info
from mahalad.commands.options import (
    Fpr,
    decorate,
    detector_options,
    fit_options,
    fpr_option,
    make_detector,
    model_options,
    network_options,
    settle,
    threshold_option,
)
from mahalad.commands.paths import check_output, names_of
from mahalad.commands.progress import progress_bar, with_progress
from mahalad.errors import InputError, MahaladError

if TYPE_CHECKING:
    from mahalad.detector import AnomalyDetector
    from mahalad.mapfiles import MapFolder, MapUnits
    from mahalad.result import Result
    from mahalad.rows import Counted, Row


class _Group(click.Group):
    """Turn errors made on purpose into exit code 2 and one line on stderr."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("default")
                warnings.showwarning = _show_warning
                return super().invoke(ctx)
        except BrokenPipeError:  # `mahalad score ... | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(0)
        except MahaladError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(2)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mahalad")
def main() -> None:
    """Find anomalies in images from good images alone.

    Exit codes: 0 fine, 2 usage error, 3 unreadable images, 4 flagged images (with
    --fail-on-anomaly), 1 unexpected failure, or results that lack something asked for.
    """


def _show_warning(message: Any, category: Any, *rest: Any, **options: Any) -> None:
    click.echo(f"Warning: {message}", err=True)


@main.command()
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
    help="Further good images that set the threshold (with --threshold holdout).",
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
    """Fit a detector to good IMAGES (folders, globs, files) and write it to a file."""
    check_output(output)
    detector = make_detector(settle(options), fpr)
    groups = None
    sources: Any = list(images)
    if group is not None:
        from mahalad.datasets import grouping

        group_of = grouping(group)
        sources = names_of(sources)
        groups = [group_of(str(Path(name))) for name in sources]
    _fit(detector, with_progress(sources, "fit"), groups=groups, calibration=calibration)
    detector.save(
        output, include_features=not without_features, include_weights=not without_weights
    )
    n, size = detector.n_images_, Path(output).stat().st_size
    click.echo(f"{output}: fitted to {n} images ({size / 1e6:.1f} MB)", err=True)
    sys.exit(3 if detector.unreadable_ else 0)


@main.command()
@click.argument("images", nargs=-1, required=True)
@model_options
@click.option(
    "--format",
    "style",
    type=click.Choice(["table", "csv", "jsonl"]),
    default="table",
    show_default=True,
    help="How results are written.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False),
    default=None,
    help="Write results to a file (whole or not at all) instead of stdout.",
)
@click.option(
    "--maps",
    type=click.Path(file_okay=False),
    default=None,
    metavar="DIR",
    help="Write for each image where it is abnormal: PATH.overlay.png, the image, with colour "
    "in flagged ones where the map is above its threshold, and PATH.map.png, the raw map. PATH is "
    "as below the folder that was given.",
)
@click.option(
    "--map-format",
    type=click.Choice(["png", "npy"]),
    default="png",
    show_default=True,
    help="Of raw maps. png: 16-bit grey, white = 100 standard deviations of good images, black = "
    "0 or less (models of --scope image: other units, in maps.json). npy: float32, unclipped.",
)
@click.option("--fail-on-anomaly", is_flag=True, help="Exit with 4 when anything is flagged.")
def score(
    images: tuple[str, ...],
    style: str,
    output: str | None,
    maps: str | None,
    map_format: str,
    fail_on_anomaly: bool,
    **options: Any,
) -> None:
    """Score IMAGES (folders, globs, files) and flag those that are not good.

    A row has the path, the anomaly score (up = abnormal), the threshold, the p-value and
    whether it is flagged. An unreadable image is a row with an error and no score.

    With a model of `tune` a row also has the label, its probability and whether the image is
    novel; the p-value is then of novelty (small = unlike all labelled images), not of the label.

    With --maps, rows of csv and jsonl have the paths of both files as well, and DIR/maps.json says
    what a map's values are. A map that cannot be written is reported, and the exit code is 1.
    """
    from mahalad.rows import Counted

    _check_source(options)
    if output is not None:
        check_output(output)
    X: Any = list(images)
    if maps is not None:
        X = names_of(X)
        _check_map_folder(Path(maps), [*images, *filter(None, [options["normals"]])], X)
    detector, unreadable_normals = _read_detector(options, maps is None)
    folder = None if maps is None else _map_folder(detector, Path(maps), map_format, images, X)
    results = Counted(detector.inspect(with_progress(X, "score"), maps=folder is not None))
    _write_rows(_rows(results, folder), style, output, with_maps=folder is not None)
    code = _summary(results.n_scored, results.n_flagged, results.unreadable, unreadable_normals)
    if fail_on_anomaly and code == 0 and results.n_flagged:
        code = 4
    for failure in [] if folder is None else folder.failures:
        click.echo(f"Error: {failure}", err=True)
        code = 1
    sys.exit(code)


@main.command()
@click.argument("images", nargs=-1, required=True)
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False),
              help="HTML file to write (whole or not at all).")  # fmt: skip
@model_options
@click.option("--title", default="Anomaly report", show_default=True, help="Heading of the page.")
def report(images: tuple[str, ...], output: str, title: str, **options: Any) -> None:
    """Judge IMAGES (folders, globs, files) and write one page that shows them.

    The page needs no other file: thumbnails with what is abnormal in colour, a histogram of the
    scores with the threshold, and a ROC curve where both kinds of images are known.

    Images below a folder named good are good, those in sibling folders of it are defects of that
    kind (folders from the given ones downwards count); of all others the kind is unknown.

    Each image takes some 50 kB of the page. Exit codes are those of score.
    """
    from mahalad.layout import common_folder, kinds_of
    from mahalad.modelfile import write_atomically
    from mahalad.reporting import facts_of, make_page, picture_results

    _check_source(options)
    check_output(output)
    names = names_of(list(images))
    if os.path.realpath(output) in map(os.path.realpath, names):
        raise click.BadParameter(f"{output} is one of the images", param_hint="-o")
    detector, unreadable_normals = _read_detector(options, False)
    units = _units_of_overlays(detector)
    threshold = None if units is None else units.threshold
    results = detector.inspect(with_progress(names, "judge"), maps=threshold is not None)
    kinds = kinds_of(common_folder(images, names), names)
    pictured, errors = picture_results(results, kinds, threshold)
    source = options["model"] or f"fitted to {options['normals']}"
    about = facts_of(detector, units, source)
    page = make_page(detector, pictured, errors, title=title, about=about)
    write_atomically(output, page.encode())
    n_flagged = sum(image.flagged for image in pictured)
    sys.exit(_summary(len(pictured), n_flagged, errors, unreadable_normals))


@main.command()
@click.option("-o", "--output", type=click.Path(file_okay=False), default="demo",
              show_default=True, help="Folder for the images and the page.")  # fmt: skip
def demo(output: str) -> None:
    """Render parts with defects, find them, and write a page that shows the result."""
    from mahalad.demo import run_demo

    click.echo(run_demo(Path(output), progress=progress_bar("demo")))


@main.group()
def bench() -> None:
    """Benchmark on images in the layout of MVTec AD, on your own disk."""


def _root_options(command: Any) -> Any:
    return decorate(
        [
            click.option("--root", "roots", multiple=True, required=True,
                         type=click.Path(exists=True, file_okay=False),
                         help="Folder of categories (each with train/good and test); repeatable."),
            click.option("--category", "-C", "categories", multiple=True,
                         help="Only this category; repeatable. Default: all that are there."),
            click.option("--json", "json_file", type=click.Path(dir_okay=False), default=None,
                         help="Write all figures to a JSON file."),
            click.option("--plot", "plot_file", type=click.Path(dir_okay=False), default=None,
                         help="Write the curves to a picture (PNG, SVG, PDF)."),
        ],
        command,
    )  # fmt: skip


@bench.command("mvtec")
@_root_options
@network_options
@detector_options
@threshold_option
@fpr_option
@click.option(
    "--protocol",
    type=click.Choice(["paper", "official"]),
    default="official",
    show_default=True,
    help="paper: 5 folds, fit on 80 % of train/good; official: all of train/good.",
)
@click.option(
    "--table",
    type=click.Choice(["categories", "levels", "distances", "networks", "sizes", "thresholds"]),
    default="categories",
    show_default=True,
    help="Which experiment. distances compares all scorers (instead of --scorer), networks and "
    "sizes the networks of --network (instead of --backbone), thresholds all rules; levels and "
    "distances imply --scope image.",
)
@click.option("--network", "networks", multiple=True, metavar="NAME[=WEIGHTS]",
              help="Network for --table networks/sizes; repeatable.")  # fmt: skip
def bench_mvtec(**options: Any) -> None:
    """Accuracy: AUROC, average precision, F1-max, and FPR/TPR at the threshold."""
    from mahalad.bench_mvtec import run

    click.echo(run(progress=progress_bar("features"), **_bench_arguments(options)))


@bench.command("fpr")
@_root_options
@network_options
@detector_options
@click.option(
    "--alpha",
    "alphas",
    multiple=True,
    type=Fpr(),
    default=(0.01, 0.05, 0.1),
    show_default=True,
    help="Target rate; repeatable.",
)
@click.option(
    "--splits",
    type=click.IntRange(min=2),
    default=40,
    show_default=True,
    help="Random re-splits of the pooled good images.",
)
@click.option("--group", "groups", multiple=True, metavar="[CATEGORY=]REGEX|FILE.csv",
              help="Images whose path gives the same match (its first group, if any), or that "
                   "have the same group in a file with the columns path and group, show the "
                   "same part: kept on one side of every split, and left out together in "
                   "calibration. For all categories, or for one; repeatable.")  # fmt: skip
def bench_fpr(**options: Any) -> None:
    """Validity: asked against achieved false-positive rate, for every threshold rule."""
    from mahalad.bench_fpr import run

    click.echo(run(progress=progress_bar("features"), **_bench_arguments(options)))


def _bench_arguments(options: dict[str, Any]) -> dict[str, Any]:
    """Rename and parse command-line options into the benchmarks' arguments."""
    options = settle(options)
    options["input_size"] = options.pop("size")
    options["n_augment"] = options.pop("augment")
    if "fpr" in options and options["fpr"] is None:
        options["fpr"] = 0.05
    return options


def _fit(detector: AnomalyDetector, images: Any, **options: Any) -> None:
    """Fit, with unreadable images reported on stderr as they are met."""
    calibration = options.get("calibration")
    if calibration is not None:
        options["calibration"] = with_progress(calibration, "calibrate")
    detector.fit(images, **options)


def _check_map_folder(folder: Path, given: Sequence[str], names: Sequence[str]) -> None:
    """Refuse a folder that holds images, or could not be made or written to, before the work."""
    from mahalad.layout import check_apart

    nearest = folder.absolute()
    while not nearest.exists():
        nearest = nearest.parent
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        what = "not writable" if nearest.is_dir() else "a file, not a folder"
        raise click.BadParameter(f"{folder}: {nearest} is {what}", param_hint="--maps")
    check_apart(folder, given, names)


def _check_source(options: dict[str, Any]) -> None:
    if (options["model"] is None) == (options["normals"] is None):
        raise click.UsageError("give either a model (-m FILE) or good images (--normals DIR)")


def _read_detector(options: dict[str, Any], labels: bool) -> tuple[Any, int]:
    """The detector that `model_options` ask for, and how many of its images were unreadable.

    It may be a classifier where `labels` will do: it has neither maps nor a report.
    """
    weights, device, fpr = options["weights"], options["device"], options["fpr"]
    if options["model"] is not None:
        from mahalad.mahalanobis import load
        from mahalad.metric.modelfiles import is_classifier

        if is_classifier(options["model"]):
            if not labels:
                raise InputError(
                    f"{options['model']}: a classifier by nearest neighbours has no anomaly maps, "
                    "and no report: `mahalad score` without --maps gives its labels"
                )
            return metric_cli.read_classifier(options["model"], weights, device, fpr), 0
        detector = load(options["model"], weights=weights, device=device)
        if fpr is not None:
            detector.set_fpr(fpr)
        return detector, 0
    from mahalad.mahalanobis import MahalanobisDetector

    detector = MahalanobisDetector(
        weights=weights, device=device or "auto", fpr=0.05 if fpr is None else fpr
    )
    _fit(detector, with_progress(options["normals"], "fit"))
    return detector, len(detector.unreadable_)


def _map_folder(
    detector: AnomalyDetector, folder: Path, style: str, given: Sequence[str], names: Sequence[str]
) -> MapFolder:
    """A folder that is ready for the maps of images, with everything checked that can be."""
    from mahalad.layout import common_folder, stems_below
    from mahalad.mapfiles import MapFolder, units_of

    _ = detector.threshold_  # too few calibration images: better before anything is written
    units = units_of(detector)
    maps = MapFolder(folder, stems_below(common_folder(given, names), names), units, style)
    maps.prepare(detector.fpr)
    if units.threshold is None:
        click.echo(units.no_threshold, err=True)
    return maps


def _units_of_overlays(detector: AnomalyDetector) -> MapUnits | None:
    """Units of a detector's maps, or None; why there are no overlays goes to stderr."""
    from mahalad.mapfiles import units_of

    try:
        units = units_of(detector)
    except InputError as error:
        click.echo(f"no overlays: {error}", err=True)
        return None
    if units.threshold is None:
        click.echo(units.no_threshold, err=True)
    return units


def _rows(results: Counted, folder: MapFolder | None) -> Iterator[Row]:
    """Results as rows; their maps are written as they come."""
    from mahalad.rows import row_of

    for result in results:
        yield row_of(result) | ({} if folder is None else folder.write(result))


def _write_rows(rows: Iterator[Row], style: str, output: str | None, *, with_maps: bool) -> None:
    from mahalad.rows import lines

    text = lines(rows, style, more=("map", "overlay") if with_maps else ())
    if output is None:
        for line in text:
            click.echo(line)
        return
    from mahalad.modelfile import write_atomically

    whole = "".join(line + "\n" for line in text)
    write_atomically(output, whole.encode(errors="surrogateescape"))


def _summary(
    n_scored: int, n_flagged: int, unreadable: Sequence[Result], unreadable_normals: int
) -> int:
    """Say on stderr what happened; return the exit code."""
    text = f"{n_scored} images scored, {n_flagged} flagged"
    if unreadable:
        text += f", {len(unreadable)} unreadable:"
    click.echo(text, err=True)
    for result in unreadable:
        click.echo(f"  {result.error}", err=True)
    return 3 if unreadable or unreadable_normals else 0


main.add_command(info)
for command in (metric_cli.pretrain, metric_cli.finetune, metric_cli.tune, metric_cli.index):
    main.add_command(command)
bench.add_command(metric_cli.bench_knn)
