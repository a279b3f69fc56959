"""`mahalad score`: rows, and maps if they are wanted, of images."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mahalad.choices import MAP_FORMATS, ROW_STYLES
from mahalad.commands.gathering import gather
from mahalad.commands.judging import (
    check_source,
    gather_normals,
    is_detector,
    read_detector,
    say_summary,
    scores_without,
    shift_in,
    shift_of,
)
from mahalad.commands.manifests import manifest_in, read_entries, split_option
from mahalad.commands.many import check_workers, ray_options, score_on_ray
from mahalad.commands.options import Fpr, model_options
from mahalad.commands.paths import check_given, check_output, force_option
from mahalad.commands.progress import with_progress
from mahalad.commands.streams import NAME_ERRORS

if TYPE_CHECKING:
    from mahalad.detectors.detector import AnomalyDetector
    from mahalad.report.maps import MapFolder
    from mahalad.report.rows import Counted, Row


_FILES = {"xlsx": "workbook", "parquet": "parquet"}
"""Formats that are no text, and what the file is."""
NO_LOT = "--fdr is for models of `fit`: classifiers judge image by image"


@click.command()
@click.argument("images", nargs=-1, required=True)
@model_options
@click.option(
    "--format",
    "style",
    type=click.Choice(ROW_STYLES),
    default=None,
    help="How results are written. xlsx (a workbook of Excel) and parquet: with -o (pip install "
    "'mahalad[tables]'). Default: as the file of -o is called (rows.csv), else table.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    default=None,
    help="Write results to a file (whole or not at all) instead of stdout. With --ray: a folder, "
    "or the URL of one, for files of Parquet (or jsonl); a second run does only what is missing.",
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
    type=click.Choice(MAP_FORMATS),
    default="png",
    show_default=True,
    help="Of raw maps. png: 16-bit grey, white = 100 standard deviations of good images, black = "
    "0 or less (models of --scope image: other units, in maps.json). npy: float32, unclipped.",
)
@click.option(
    "--fdr",
    type=Fpr(),
    default=None,
    metavar="RATE",
    help="Judge all images together, as one lot, and flag them so that at most this share of the "
    "flagged ones is good, on average over lots, e.g. 0.1; instead of --fpr.",
)
@click.option("--fail-on-anomaly", is_flag=True, help="Exit with 4 when anything is flagged.")
@split_option
@ray_options
@force_option
def score(
    images: tuple[str, ...],
    style: str | None,
    output: str | None,
    maps: str | None,
    map_format: str,
    fdr: float | None,
    fail_on_anomaly: bool,
    split: str | None,
    ray: str | None,
    workers: int | None,
    force: bool,
    **options: Any,
) -> None:
    """Score IMAGES (folders, globs, files, URLs) and flag those that are not good.

    A list of images, a CSV or Parquet file with the column path, may stand for them.

    A row has the path, the anomaly score (up = abnormal), the threshold, the p-value, whether it is
    flagged, and whether it is an image of the fit (then scored without itself). An unreadable image
    is a row with an error and no score.

    With a model of `tune` a row also has the label, its probability and whether the image is
    novel; the p-value is then of novelty (small = unlike all labelled images), not of the label.

    With --fdr, rows come when all images are scored, and the summary says which share of the lot
    is abnormal, as far as p-values tell. Exact with models of --threshold holdout.

    With --maps, rows of csv and jsonl have the paths of both files as well, and DIR/maps.json says
    what a map's values are. A map that cannot be written is reported, and the exit code is 1.
    """
    from mahalad.report.rows import Counted

    check_source(options)
    check_given(images)
    manifest = manifest_in(images, split)
    check_workers(ray, workers)
    if ray is not None:
        wanted = _on_ray(options, style, output, maps, fdr)
        dataset = manifest or gather(images, options["pages"])
        flagged, code = _score_on_ray(options, dataset, *wanted, ray, workers, split)
        sys.exit(4 if fail_on_anomaly and code == 0 and flagged else code)
    if fdr is not None:
        _check_lot(options, maps)
    if output is not None and os.path.isdir(output):
        raise click.BadParameter(f"File {output!r} is a directory.", param_hint="-o")
    style = style or _style_of(output)
    if style in _FILES:
        _check_file(style, output)
    X, sources = _gathered(images, options["pages"], manifest, split)
    normals = gather_normals(options)
    own = [options["model"], options["weights"]]
    if output is not None:
        check_output(output, _FILES.get(style, "rows"), [*X, *normals, *own, manifest], force=force)
    if maps is not None:
        _check_map_folder(Path(maps), [*images, *filter(None, [options["normals"]])], X)
    detector, unreadable_normals = read_detector(options, normals, labels=maps is None)
    if fdr is not None and not is_detector(detector):
        raise click.UsageError(NO_LOT)
    folder = None
    if maps is not None:
        folder = _map_folder(detector, Path(maps), map_format, images, X)
        folder.prepare(detector.fpr, [*own, output, *normals], force=force)
    images_shown = with_progress(sources, "score")
    lot = None if fdr is None else detector.judge_lot(images_shown, fdr=fdr)
    results = Counted(
        detector.inspect(images_shown, maps=folder is not None) if lot is None else lot.results
    )
    _write_rows(_rows(results, folder), style, output, with_maps=folder is not None)
    judges_lots = lot is None and is_detector(detector)
    code = say_summary(
        results.n_scored,
        results.n_flagged,
        results.unreadable,
        unreadable_normals,
        n_in_fit=results.n_in_fit,
        left_out=results.n_in_fit == 0 or scores_without(detector),
        shift=shift_of(detector, results.scores) if judges_lots else "",
    )
    if lot is not None:
        click.echo(f"--fdr {fdr:g}: {lot}", err=True)
    if fail_on_anomaly and code == 0 and results.n_flagged:
        code = 4
    for failure in [] if folder is None else folder.failures:
        click.echo(f"Error: {failure}", err=True)
        code = 1
    sys.exit(code)


def _gathered(
    images: Sequence[str], pages: str, manifest: str | None, split: str | None
) -> tuple[list[str], Any]:
    """Names of the images, and these."""
    if manifest is None:
        names = gather(images, pages)
        return names, names
    from mahalad.images.manifests import of_split

    sources = [entry.source for entry in read_entries(manifest, of_split(split))]
    return [source.name for source in sources], sources


def _on_ray(
    options: dict[str, Any], style: str | None, output: str | None, maps: str | None, fdr: Any
) -> tuple[str, str]:
    """Style and folder of results on many machines, after what does not go with them is refused."""
    given = {"--maps": maps, "--fdr": fdr, "--normals": options["normals"]}
    for name, value in given.items():
        if value is not None:
            raise click.UsageError(f"{name} does not go with --ray")
    if style not in (None, "parquet", "jsonl"):
        raise click.UsageError(f"--format {style}: with --ray it is parquet or jsonl")
    if output is None:
        raise click.UsageError("--ray writes files of rows: give a folder for them, -o DIR")
    if os.path.isfile(output):
        raise click.BadParameter(f"{output}: is a file: with --ray give a folder", param_hint="-o")
    return style or "parquet", output


def _score_on_ray(
    options: dict[str, Any],
    dataset: Any,
    style: str,
    output: str,
    address: str,
    workers: int | None,
    split: str | None,
) -> tuple[int, int]:
    """Score on many machines; give how many are flagged, and the exit code."""
    from mahalad.detectors.detector import AnomalyDetector
    from mahalad.result import Result

    model, _ = read_detector(options, [], labels=True)  # what is wrong with it shows here
    reading: dict[str, str | None] = {}
    judges = isinstance(model, AnomalyDetector)
    if not judges:
        reading = {name: options[name] for name in ("weights", "device", "engine")}
        model = options["model"]
    scored = score_on_ray(
        model,
        dataset,
        output,
        None if isinstance(dataset, str) else len(dataset),
        address=address,
        workers=workers,
        style=style,
        split=split,
        fpr=options["fpr"],
        reading=reading,
    )
    if scored.n_parts_before:
        click.echo(
            f"{output}: {scored.n_parts_before} of {scored.n_parts} files were there already; "
            "what follows is of the others",
            err=True,
        )
    code = say_summary(
        scored.n_scored,
        scored.n_flagged,
        [Result("", error=error) for error in scored.errors],
        0,
        n_in_fit=scored.n_in_fit,
        left_out=scored.n_in_fit == 0 or scores_without(model),
        shift=shift_in(model, scored.n_above_all, scored.n_new) if judges else "",
    )
    if scored.n_unreadable > len(scored.errors):
        click.echo(f"  and {scored.n_unreadable - len(scored.errors):,} more", err=True)
    click.echo(f"{output}: {scored.n_parts} files of rows", err=True)
    return scored.n_flagged, code


def _style_of(output: str | None) -> str:
    """How rows are written to a file of this name, if nobody says so."""
    extension = Path(output or "").suffix.lower().removeprefix(".")
    return extension if extension in ROW_STYLES else "table"


def _check_file(style: str, output: str | None) -> None:
    """Refuse a file that goes nowhere, or that cannot be written, before the work."""
    from mahalad.report.parquet import check_parquet
    from mahalad.report.workbook import check_workbook

    if output is None:
        raise click.UsageError(f"--format {style} is no text: give a file, -o rows.{style}")
    {"xlsx": check_workbook, "parquet": check_parquet}[style]()


def _check_lot(options: dict[str, Any], maps: str | None) -> None:
    """Refuse what does not go with `--fdr`."""
    from mahalad.loading import is_classifier

    if options["fpr"] is not None:
        raise click.UsageError("give either --fpr, for each image, or --fdr, for the whole lot")
    if maps is not None:
        raise click.UsageError("--maps are written image by image: they do not go with --fdr")
    if options["model"] is not None and is_classifier(options["model"]):
        raise click.UsageError(NO_LOT)


def _check_map_folder(folder: Path, given: Sequence[str], names: Sequence[str]) -> None:
    """Refuse a folder that holds images, or that cannot be made or written to, before the work."""
    from mahalad.images.folders import check_apart

    nearest = folder.absolute()
    while not nearest.exists():
        nearest = nearest.parent
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        what = "not writable" if nearest.is_dir() else "a file, not a folder"
        raise click.BadParameter(f"{folder}: {nearest} is {what}", param_hint="--maps")
    check_apart(folder, given, names)


def _map_folder(
    detector: AnomalyDetector, folder: Path, style: str, given: Sequence[str], names: Sequence[str]
) -> MapFolder:
    """Prepare a folder for the maps of images, and check everything that can be checked."""
    from mahalad.images.folders import common_folder, stems_below
    from mahalad.images.pixels import pixels_of
    from mahalad.report.maps import MapFolder, units_of

    _ = detector.threshold_  # too few calibration images: better before anything is written
    units = units_of(detector)
    stems = stems_below(common_folder(given, names), names)
    maps = MapFolder(folder, stems, units, style, pixels_of(detector.features_))
    if units.threshold is None:
        click.echo(units.no_threshold, err=True)
    return maps


def _rows(results: Counted, folder: MapFolder | None) -> Iterator[Row]:
    """Turn results into rows, and write their maps as they come."""
    from mahalad.report.rows import row_of

    for result in results:
        yield row_of(result) | ({} if folder is None else folder.write(result))


def _write_rows(rows: Iterator[Row], style: str, output: str | None, *, with_maps: bool) -> None:
    from mahalad.files.container import write_atomically
    from mahalad.report.rows import lines

    more = ("map", "overlay") if with_maps else ()
    if style in _FILES:
        from mahalad.report.parquet import parquet
        from mahalad.report.workbook import workbook

        content = {"xlsx": workbook, "parquet": parquet}[style](rows, more)
        write_atomically(str(output), content)
        return
    on_screen = output is None and sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if on_screen else None
    text = lines(rows, style, more=more, width=width)
    if output is None:
        for line in text:  # click.echo would strip what looks like a terminal's codes
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
        return
    whole = "".join(line + "\n" for line in text)
    write_atomically(output, whole.encode("utf-8", NAME_ERRORS))
