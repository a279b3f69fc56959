"""`mahalad finetune`: the top of a network, trained on labelled images."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from mahalad.commands.embedding_options import (
    backbone_options,
    labels_option,
    loss_options,
    seed_option,
)
from mahalad.commands.gathering import gather_labelled, pages_option
from mahalad.commands.lists import parse_levels
from mahalad.commands.options import Share
from mahalad.commands.paths import check_output, force_option
from mahalad.commands.progress import progress_bar

if TYPE_CHECKING:
    from mahalad.metric.finetuning.finetuning import FineTuner


@click.command()
@click.argument("labelled", type=click.Path())
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False),
              help="Weights file to write, .safetensors.")  # fmt: skip
@backbone_options
@loss_options
@click.option("--stages", type=click.IntRange(min=1), default=3, show_default=True,
              help="How many of the highest levels are trained, unfrozen one after "
                   "another.")  # fmt: skip
@click.option("--epochs", type=click.IntRange(min=1), default=8, show_default=True,
              help="Passes over the images for each of them.")  # fmt: skip
@click.option("--learning-rate", type=click.FloatRange(min=0, min_open=True), default=5e-4,
              show_default=True, help="Of the network's weights.")  # fmt: skip
@click.option("--any-orientation", is_flag=True,
              help="Parts lie in any orientation: turn and mirror the images at "
                   "random.")  # fmt: skip
@click.option("--validation", "validation_fraction", type=Share(0, 1, max_open=True),
              default=0.0, show_default=True, metavar="SHARE",
              help="Hold out this share of the images and keep the weights after the stage that "
                   "tells them best; 0: the last stage.")  # fmt: skip
@labels_option
@seed_option
@pages_option
@force_option
def finetune(labelled: str, output: str, force: bool, **options: Any) -> None:
    """Train the top of a network on LABELLED images, and write its weights.

    LABELLED is as for `mahalad tune`. The file is for --weights of `tune`, `fit` and `bench`, with
    the same --backbone, --levels and --size. Give those other images than LABELLED: on images that
    trained the network, thresholds and rates come out too optimistic.
    """
    from mahalad.metric.finetuning.finetuning import FineTuner, check_suffix
    from mahalad.metric.labelled import draw

    check_suffix(output)
    paths, labels = gather_labelled(labelled, options["pages"])
    check_output(output, "weights", [*paths, labelled, options["weights"]], force=force)
    if options["labels"] is not None:
        rows = draw(labels, options["labels"], options["seed"])
        paths, labels = [paths[i] for i in rows], [labels[i] for i in rows]
    own = ("backbone", "weights", "device", "bits", "loss", "margin", "stages", "epochs",
           "learning_rate", "any_orientation", "validation_fraction")  # fmt: skip
    tuner = FineTuner(
        levels=parse_levels(options["levels"]),
        input_size=options["size"],
        random_state=options["seed"],
        **{name: options[name] for name in own},
    )
    tuner.fit(paths, labels, progress=progress_bar("finetune"))
    tuner.save_weights(output)
    click.echo(f"{output}: {_outcome(tuner, len(paths) - len(tuner.unreadable_))}", err=True)
    sys.exit(3 if tuner.unreadable_ else 0)


def _outcome(tuner: FineTuner, n: int) -> str:
    """Describe the outcome of a training on n images in a line."""
    what = f"trained on {n} images"
    if tuner.validation_fraction:
        told = ", ".join(f"{stage['validation_f1']:.3f}" for stage in tuner.stages_)
        what += f"; macro F1 of held-out ones before and after each stage {told}"
        what += (
            f"; weights after stage {tuner.best_stage_}"
            if tuner.best_stage_
            else ("; it did not help, these are the weights it began with")
        )
    return what
