"""The command line: a shell over the library. Results to stdout, messages to stderr.

Exit codes: 0 all fine; 1 unexpected failure, or results that lack something asked for (a map that
could not be written, a precision out of reach); 2 usage error (bad option, folder or model); 3 some
images could not be read; 4 something was flagged (only with --fail-on-anomaly).
"""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any

import click

from mahalad import __version__, metric_cli
from mahalad.commands.demo import demo
from mahalad.commands.fit import fit
from mahalad.commands.info import info
from mahalad.commands.options import (
    Fpr,
    decorate,
    detector_options,
    fpr_option,
    network_options,
    settle,
    threshold_option,
)
from mahalad.commands.progress import progress_bar
from mahalad.commands.report import report
from mahalad.commands.score import score
from mahalad.errors import MahaladError


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


@click.group()
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


for command in (fit, score, report, info, demo, bench):
    main.add_command(command)
for command in (metric_cli.pretrain, metric_cli.finetune, metric_cli.tune, metric_cli.index):
    main.add_command(command)
bench.add_command(metric_cli.bench_knn)
