"""`mahalad bench`: accuracy, validity, robustness, and few labels, on your own images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from typing import Any

import click

from mahalad.checks import DRAWS, SPLITS
from mahalad.choices import BENCH_PROTOCOLS, BENCH_TABLES, PUBLISHED, THRESHOLDS
from mahalad.commands.embedding_options import encoder_options, make_encoder, refuse_unused
from mahalad.commands.lists import Counts
from mahalad.commands.options import (
    Fpr,
    decorate,
    detector_options,
    fpr_option,
    is_given,
    network_options,
    settle,
    threshold_option,
    whole_range,
)
from mahalad.commands.paths import check_output, force_option, names_in
from mahalad.commands.progress import progress_bar


@click.group()
def bench() -> None:
    """Benchmark on labelled sets (MVTec AD, BTAD, VisA and the like), on your own disk."""


def _root_options(command: Any) -> Any:
    return decorate(
        [
            click.option("--root", "roots", multiple=True, required=True,
                         type=click.Path(exists=True, file_okay=False),
                         help="Folder of categories, or one of them: train/good and test/KIND "
                              "(MVTec AD, LOCO, BTAD), VisA, or good beside bad; repeatable."),
            click.option("--category", "-C", "categories", multiple=True,
                         help="Only this category; repeatable. Default: all that are there."),
            click.option("--json", "json_file", type=click.Path(dir_okay=False), default=None,
                         help="Write all figures to a JSON file."),
            click.option("--plot", "plot_file", type=click.Path(dir_okay=False), default=None,
                         help="Write the curves to a picture (PNG, SVG, PDF)."),
            force_option,
        ],
        command,
    )  # fmt: skip


_cache_option = click.option(
    "--cache", type=click.Path(file_okay=False), default=None, metavar="DIR",
    help="Keep the network's features here, and compute none twice: another scorer over the same "
         "images takes seconds. A folder of its own; some 1 MB an image.",
)  # fmt: skip


@bench.command("mvtec")
@_root_options
@click.option("--csv", "csv_file", type=click.Path(dir_okay=False), default=None,
              help="Write each figure as a line of a CSV file.")  # fmt: skip
@click.option("--latex", "latex_file", type=click.Path(dir_okay=False), default=None,
              help="Write the tables as LaTeX.")  # fmt: skip
@_cache_option
@network_options
@partial(detector_options, published=PUBLISHED)
@threshold_option
@fpr_option
@click.option(
    "--protocol",
    type=click.Choice(BENCH_PROTOCOLS),
    default="official",
    show_default=True,
    help="paper: 5 folds, fit on 80 % of train/good; official: all of train/good.",
)
@click.option(
    "--table",
    type=click.Choice(BENCH_TABLES),
    default="categories",
    show_default=True,
    help="Which experiment. distances compares all scorers (instead of --scorer), networks and "
    "sizes the networks of --network (instead of --backbone), thresholds all rules; levels and "
    "distances imply --scope image.",
)
@click.option("--network", "networks", multiple=True, metavar="NAME[=WEIGHTS]",
              help="Network for --table networks/sizes; repeatable.")  # fmt: skip
@click.option("--shots", type=Counts(), default=(), metavar="N,...",
              help="How few good images will do: fits to so many, drawn at random.")  # fmt: skip
@click.option("--draws", type=whole_range(DRAWS), default=5, show_default=True,
              help="Draws of each number of images of --shots.")  # fmt: skip
def bench_mvtec(**options: Any) -> None:
    """Accuracy: AUROC, average precision, F1-max, and FPR/TPR at the threshold."""
    from mahalad.bench.mvtec import run

    if is_given("draws") and not options["shots"]:
        raise click.UsageError("--draws is for --shots: say how many images, as --shots 1,2,4,8")
    click.echo(run(progress=progress_bar("features"), **_bench_arguments(options)))


@bench.command("fpr")
@_root_options
@_cache_option
@network_options
@detector_options
@click.option("--threshold", "thresholds", type=click.Choice(THRESHOLDS), multiple=True,
              help="Only this rule; repeatable. Default: all (holdout and chi2-nominal cost a fit "
                   "of their own in every split).")  # fmt: skip
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
    type=whole_range(SPLITS),
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
    """Validity: asked against achieved false-positive rate, for threshold rules."""
    from mahalad.bench.fpr import run

    click.echo(run(progress=progress_bar("features"), **_bench_arguments(options)))


@bench.command("robust")
@_root_options
@network_options
@detector_options
@threshold_option
@fpr_option
def bench_robust(**options: Any) -> None:
    """Harmless changes: what light, noise, JPEG, shift, rotation and blur make of test images."""
    from mahalad.bench.robust import run

    click.echo(run(progress=progress_bar("robust"), **_bench_arguments(options)))


@bench.command("knn")
@click.option("--root", required=True, type=click.Path(exists=True, file_okay=False),
              help="Folder with train/CLASS and test/CLASS.")  # fmt: skip
@encoder_options
@click.option("--labels", default="50,100,200,500", show_default=True, metavar="N,...",
              help="How many labels are drawn from train.")  # fmt: skip
@click.option("--seeds", type=whole_range(DRAWS), default=5, show_default=True,
              help="Draws of each number of labels.")  # fmt: skip
@click.option("--positive", default="defect", show_default=True, metavar="CLASS",
              help="The class that is to be found among the others.")  # fmt: skip
@click.option("--json", "json_file", type=click.Path(dir_okay=False), default=None,
              help="Write all figures to a JSON file.")  # fmt: skip
@click.option("--plot", "plot_file", type=click.Path(dir_okay=False), default=None,
              help="Write F1 against labels, and the embeddings in 2-D, to a picture "
                   "(PNG, SVG, PDF).")  # fmt: skip
@force_option
def bench_knn(root: str, labels: str, **options: Any) -> None:
    """F1 from few labels: neighbours by each triplet loss, logistic regression, all labels."""
    from mahalad.bench.knn import run

    refuse_unused(options, "encoder")
    _check_outputs(options, [root], [options["weights"], options["encoder"]])
    try:
        counts = [int(number) for number in labels.split(",")]
    except ValueError as error:
        raise click.BadParameter(f"{labels!r}: numbers separated by commas",
                                 param_hint="--labels") from error  # fmt: skip
    text = run(
        root,
        labels=counts,
        encoder=make_encoder(options).build(),
        progress=progress_bar("knn"),
        **{
            name: options[name] for name in ("seeds", "positive", "cache", "json_file", "plot_file")
        },
    )
    click.echo(text)


def _bench_arguments(options: dict[str, Any]) -> dict[str, Any]:
    """Rename and parse command-line options into the benchmarks' arguments."""
    networks = [name.partition("=")[2] for name in options.get("networks", ())]
    groups = [rule.rpartition("=")[2] for rule in options.get("groups", ())]
    _check_outputs(options, options["roots"], [options["weights"], *networks, *groups])
    options = settle(options)
    del options["force"]
    options["input_size"] = options.pop("size")
    options["n_augment"] = options.pop("augment")
    if "fpr" in options and options["fpr"] is None:
        options["fpr"] = 0.05
    return options


def _check_outputs(
    options: dict[str, Any], roots: Sequence[str], inputs: Sequence[str | None]
) -> None:
    """Refuse outputs that would replace what they must not."""
    products = {"json": "figures", "plot": "picture", "csv": "table", "latex": "table"}
    given: dict[str, str] = {
        option: options[f"{option}_file"] for option in products if options.get(f"{option}_file")
    }
    images = names_in(*roots) if any(map(os.path.exists, given.values())) else []
    taken = [*images, *filter(os.path.isfile, filter(None, inputs))]
    for option, path in given.items():
        check_output(path, products[option], taken, force=options["force"], option=f"--{option}")
        taken.append(path)
