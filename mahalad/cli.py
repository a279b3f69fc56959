"""The command line: a shell over the library. Results to stdout, messages to stderr.

Exit codes: 0 all fine; 1 unexpected failure; 2 usage error (bad option, folder or model);
3 some images could not be read; 4 something was flagged (only with --fail-on-anomaly).
"""

from __future__ import annotations

import csv
import io
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mahalad import __version__
from mahalad.errors import MahaladError

if TYPE_CHECKING:
    from mahalad.detector import AnomalyDetector
    from mahalad.result import Result

THRESHOLDS = ("conformal", "chi2", "holdout", "chi2-nominal")
SCORERS = ("gaussian", "l2", "sed", "ocsvm", "knn")


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


class _Fpr(click.ParamType[float]):
    name = "rate"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        try:
            rate = float(value)
        except (TypeError, ValueError):
            rate = -1.0
        if not 0 < rate < 1:
            self.fail(f"{value!r} is not a rate between 0 and 1 (exclusive), for example 0.05")
        return rate


def _apply(options: Iterable[Callable[[Any], Any]], command: Any) -> Any:
    for option in reversed(list(options)):
        command = option(command)
    return command


def network_options(command: Any) -> Any:
    """Options that say which features are extracted."""
    return _apply(
        [
            click.option("--backbone", default="tf_efficientnet_lite0", show_default=True,
                         help="Any timm network, with a tag if wanted."),
            click.option("--weights", metavar="FILE|hub", default=None,
                         help="Weights file (.safetensors, .pth), or 'hub' for timm's. "
                              "Default: from the backbone's package, else timm's hub."),
            click.option("--levels", default="all", show_default=True,
                         help="Names or indices, separated by commas."),
            click.option("--size", type=click.IntRange(min=8), default=None,
                         help="Squash images to this square. Default: the network's own size."),
            click.option("--device", default="auto", show_default=True,
                         help="auto (CUDA where there is one), cpu, cuda, cuda:1, ..."),
            click.option("--batch-size", type=click.IntRange(min=1), default=32,
                         show_default=True, help="Images per pass through the network."),
        ],
        command,
    )  # fmt: skip


def detector_options(command: Any) -> Any:
    """Options that say how features are scored and judged."""
    return _apply(
        [
            click.option("--reduction", default=None, metavar="pca|npca[:SHARE]",
                         help="Keep the first (pca) or last (npca) principal components."),
            click.option("--scorer", type=click.Choice(SCORERS), default="gaussian",
                         show_default=True, help="Distance to the good images, per level."),
            click.option("--augment", type=click.IntRange(min=0), default=0, show_default=True,
                         help="Slightly changed copies of each image to fit as well."),
            click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True,
                         help="Salt of the splits that calibration draws."),
        ],
        command,
    )  # fmt: skip


threshold_option = click.option(
    "--threshold", type=click.Choice(THRESHOLDS), default="conformal", show_default=True,
    help="Rule that turns the rate into a threshold.",
)  # fmt: skip
fpr_option = click.option(
    "--fpr", type=_Fpr(), default=None, metavar="RATE",
    help="Share of good images that may be flagged, e.g. 0.05 (of images that come as those "
         "of the fit came)."
)  # fmt: skip


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mahalad")
def main() -> None:
    """Find anomalies in images from good images alone.

    Exit codes: 0 fine, 2 usage error, 3 unreadable images, 4 flagged images (with
    --fail-on-anomaly), 1 unexpected failure.
    """


def _show_warning(message: Any, category: Any, *rest: Any, **options: Any) -> None:
    click.echo(f"Warning: {message}", err=True)


@main.command()
@click.argument("images", nargs=-1, required=True)
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False),
              help="Model file to write.")  # fmt: skip
@network_options
@detector_options
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
    metavar="REGEX",
    default=None,
    help="Images whose path gives the same match (its first group, if any) show the "
    "same part, and are left out together.",
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
    folder = Path(output).parent
    if not os.access(folder, os.W_OK):
        raise click.BadParameter(f"folder {folder} is missing or not writable", param_hint="-o")
    detector = _make_detector(options, fpr)
    groups = None
    sources: Any = list(images)
    if group is not None:
        from mahalad.datasets import group_of
        from mahalad.images import iter_sources

        sources = [source.path for source in iter_sources(sources)]
        groups = [group_of(str(path), group) for path in sources]
    _fit(detector, _with_progress(sources, "fit"), groups=groups, calibration=calibration)
    detector.save(
        output, include_features=not without_features, include_weights=not without_weights
    )
    n, size = detector.n_images_, Path(output).stat().st_size
    click.echo(f"{output}: fitted to {n} images ({size / 1e6:.1f} MB)", err=True)
    sys.exit(3 if detector.unreadable_ else 0)


@main.command()
@click.argument("images", nargs=-1, required=True)
@click.option("-m", "--model", type=click.Path(), default=None, help="Model file of `fit`.")
@click.option(
    "--normals",
    metavar="IMAGES",
    default=None,
    help="Good images to fit to first, instead of a model file.",
)
@fpr_option
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
@click.option("--fail-on-anomaly", is_flag=True, help="Exit with 4 when anything is flagged.")
@click.option(
    "--weights", metavar="FILE", default=None, help="Weights file, for a model saved without them."
)
@click.option("--device", default=None, help="Device to score on. Default: as at fit.")  # fmt: skip
def score(
    images: tuple[str, ...],
    model: str | None,
    normals: str | None,
    fpr: float | None,
    style: str,
    output: str | None,
    fail_on_anomaly: bool,
    weights: str | None,
    device: str | None,
) -> None:
    """Score IMAGES (folders, globs, files) and flag those that are not good.

    A row has the path, the anomaly score (up = abnormal), the threshold, the p-value and
    whether it is flagged. An unreadable image is a row with an error and no score.
    """
    if (model is None) == (normals is None):
        raise click.UsageError("give either a model (-m FILE) or good images (--normals DIR)")
    if output is not None and not os.access(Path(output).parent, os.W_OK):
        raise click.BadParameter(f"folder of {output} is missing or not writable", param_hint="-o")
    unreadable_normals = 0
    if model is not None:
        from mahalad.mahalanobis import load

        detector = load(model, weights=weights, device=device)
    else:
        from mahalad.mahalanobis import MahalanobisDetector

        detector = MahalanobisDetector(
            weights=weights, device=device or "auto", fpr=0.05 if fpr is None else fpr
        )
        _fit(detector, _with_progress(normals, "fit"))
        unreadable_normals = len(detector.unreadable_)
    if fpr is not None:
        detector.set_fpr(fpr)
    results = _Counted(detector.inspect(_with_progress(list(images), "score")))
    _write_rows(results, style, output)
    sys.exit(_summary(results, unreadable_normals, fail_on_anomaly))


@main.command()
@click.argument("model", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="The whole header as JSON.")
def info(model: str, as_json: bool) -> None:
    """Show what a model file holds."""
    from mahalad.persistence import info as read_info

    header = read_info(model)
    if as_json:
        click.echo(json.dumps(header, indent=2))
        return
    features, calibration = header["features"] or {}, header["calibration"]
    lines = {
        "file": f"{header['path']} ({header['size'] / 1e6:.2f} MB, "
        f"format {header['format_version']})",
        "detector": header["class"],
        "images": f"{header['fit']['n_images']} (features of {header['fit']['n_stored']} kept)",
        "unreadable": len(header["fit"]["unreadable"]) or None,
        "backbone": features.get("backbone"),
        "weights": features
        and f"{features['weights_source']}: {features['weights_origin']} "
        f"(sha256 {features['weights_sha256'][:16]}, licence {features['licence']}, "
        f"{'embedded' if features.get('weights_embedded') else 'not embedded'})",
        "input": features and f"{features['input_size']} px, {features['resize']}",
        "levels": ", ".join(f"{n} ({size})" for n, size in header["fit"]["levels"].items()),
        "reduction": header["params"].get("reduction"),
        "threshold": header["params"]["threshold"],
        "fpr": header["params"]["fpr"],
        "calibration": f"{calibration['method']}, {calibration['n']} scores",
        "made with": ", ".join(f"{n} {v}" for n, v in header["versions"].items()),
    }
    for name, value in lines.items():
        if value not in (None, {}, ""):
            click.echo(f"{name:12} {value}")


@main.command()
@click.option("-o", "--output", type=click.Path(file_okay=False), default="demo",
              show_default=True, help="Folder for the images and the page.")  # fmt: skip
def demo(output: str) -> None:
    """Render parts with defects, find them, and write a page that shows the result."""
    from mahalad.demo import run_demo

    click.echo(run_demo(Path(output), progress=_bar("demo")))


@main.group()
def bench() -> None:
    """Benchmark on images in the layout of MVTec AD, on your own disk."""


def _root_options(command: Any) -> Any:
    return _apply(
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
    "sizes the networks of --network (instead of --backbone), thresholds all rules.",
)
@click.option("--network", "networks", multiple=True, metavar="NAME[=WEIGHTS]",
              help="Network for --table networks/sizes; repeatable.")  # fmt: skip
def bench_mvtec(**options: Any) -> None:
    """Accuracy: AUROC, average precision, F1-max, and FPR/TPR at the threshold."""
    from mahalad.bench_mvtec import run

    click.echo(run(progress=_bar("features"), **_bench_arguments(options)))


@bench.command("fpr")
@_root_options
@network_options
@detector_options
@click.option(
    "--alpha",
    "alphas",
    multiple=True,
    type=_Fpr(),
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
@click.option("--group", "groups", multiple=True, metavar="[CATEGORY=]REGEX",
              help="Images whose path gives the same match (its first group, if any) show the "
                   "same part: kept on one side of every split, and left out together in "
                   "calibration. For all categories, or for one; repeatable.")  # fmt: skip
def bench_fpr(**options: Any) -> None:
    """Validity: asked against achieved false-positive rate, for every threshold rule."""
    from mahalad.bench_fpr import run

    click.echo(run(progress=_bar("features"), **_bench_arguments(options)))


def _bench_arguments(options: dict[str, Any]) -> dict[str, Any]:
    """Rename and parse command-line options into the benchmarks' arguments."""
    options["levels"] = _parse_levels(options["levels"])
    options["input_size"] = options.pop("size")
    options["n_augment"] = options.pop("augment")
    if "fpr" in options and options["fpr"] is None:
        options["fpr"] = 0.05
    return options


def _make_detector(options: dict[str, Any], fpr: float | None) -> AnomalyDetector:
    """A detector from the command line's options."""
    from mahalad.detector import AnomalyDetector
    from mahalad.features import BackboneFeatures
    from mahalad.mahalanobis import MahalanobisDetector
    from mahalad.scorers import make_scorer

    network: dict[str, Any] = {
        "weights": options["weights"],
        "levels": _parse_levels(options["levels"]),
        "input_size": options["size"],
        "device": options["device"],
        "batch_size": options["batch_size"],
    }
    rule: dict[str, Any] = {
        "threshold": options["threshold"],
        "fpr": 0.05 if fpr is None else fpr,
        "n_augment": options["augment"],
        "random_state": options["seed"],
    }
    if options["scorer"] == "gaussian":
        return MahalanobisDetector(
            options["backbone"], reduction=options["reduction"], **network, **rule
        )
    return AnomalyDetector(
        BackboneFeatures(options["backbone"], **network),
        make_scorer(options["scorer"], options["reduction"]),
        **rule,
    )


def _parse_levels(text: str) -> list[str | int] | None:
    if text.strip() == "all":
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    return [int(name) if name.lstrip("-").isdigit() else name for name in names]


def _fit(detector: AnomalyDetector, images: Any, **options: Any) -> None:
    """Fit, with unreadable images reported on stderr as they are met."""
    calibration = options.get("calibration")
    if calibration is not None:
        options["calibration"] = _with_progress(calibration, "calibrate")
    detector.fit(images, **options)


def _bar(label: str) -> Callable[[Iterable[Any], int], Iterable[Any]]:
    """Wrap an iterable of known length into a progress bar on a terminal's stderr."""

    def wrap(items: Iterable[Any], total: int) -> Iterable[Any]:
        from tqdm import tqdm

        bar: Iterable[Any] = tqdm(
            items, total=total, desc=label, unit="img", disable=not sys.stderr.isatty()
        )
        return bar

    return wrap


def _with_progress(X: Any, label: str) -> Any:
    """The sources in `X` as an iterator under a progress bar."""
    if not sys.stderr.isatty():
        return X
    from mahalad.images import iter_sources

    paths = [source.path for source in iter_sources(X)]
    return iter(_bar(label)(paths, len(paths)))


class _Counted:
    """Results as they come, counted."""

    def __init__(self, results: Iterator[Result]) -> None:
        self._results = results
        self.n_scored = self.n_flagged = 0
        self.unreadable: list[Result] = []

    def __iter__(self) -> Iterator[Result]:
        for result in self._results:
            if result.error is not None:
                self.unreadable.append(result)
            else:
                self.n_scored += 1
                self.n_flagged += bool(result.anomaly)
            yield result


def _row(result: Result) -> dict[str, Any]:
    row: dict[str, Any] = {
        "path": result.name,
        "score": result.score,
        "threshold": result.threshold,
        "p_value": result.p_value,
        "anomaly": result.anomaly,
    }
    if result.error is not None:
        row["error"] = result.error
    return row


def _lines(results: Iterable[Result], style: str) -> Iterator[str]:
    """Results as lines of text, one at a time; none at all if there is no first result."""
    results = iter(results)
    results = chain([next(results)], results)
    if style == "jsonl":
        for result in results:
            yield json.dumps(_row(result))
        return
    columns = ["path", "score", "threshold", "p_value", "anomaly", "error"]
    if style == "csv":
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, columns, lineterminator="")
        writer.writeheader()
        yield buffer.getvalue()
        for result in results:
            buffer.seek(0)
            buffer.truncate()
            writer.writerow({**_row(result), "error": result.error})
            yield buffer.getvalue()
        return
    yield f"{'score':>10}  {'threshold':>10}  {'p-value':>8}  {'verdict':<10}  path"
    for result in results:
        if result.error is not None:
            yield f"{'-':>10}  {'-':>10}  {'-':>8}  {'UNREADABLE':<10}  {result.error}"
            continue
        limit = "-" if result.threshold is None else f"{result.threshold:.4g}"
        verdict = "ANOMALY" if result.anomaly else "good"
        yield (
            f"{result.score:>10.4g}  {limit:>10}  {result.p_value:>8.4f}  {verdict:<10}  "
            f"{result.name}"
        )


def _write_rows(results: Iterable[Result], style: str, output: str | None) -> None:
    if output is None:
        for line in _lines(results, style):
            click.echo(line)
        return
    from mahalad.modelfile import write_atomically

    text = "".join(line + "\n" for line in _lines(results, style))
    write_atomically(output, text.encode(errors="surrogateescape"))


def _summary(results: _Counted, unreadable_normals: int, fail_on_anomaly: bool) -> int:
    """Say on stderr what happened; return the exit code."""
    n_unreadable = len(results.unreadable)
    text = f"{results.n_scored} images scored, {results.n_flagged} flagged"
    if n_unreadable:
        text += f", {n_unreadable} unreadable:"
    click.echo(text, err=True)
    for result in results.unreadable:
        click.echo(f"  {result.error}", err=True)
    if n_unreadable or unreadable_normals:
        return 3
    return 4 if fail_on_anomaly and results.n_flagged else 0
