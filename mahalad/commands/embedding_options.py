"""Options that commands of the metric-learning path share, and the encoder that they describe."""

from __future__ import annotations

from typing import Any

import click

from mahalad.checks import BATCH_SIZE, INPUT_SIZE, SEED_NUMBER
from mahalad.choices import LOSSES, ORIENTATIONS
from mahalad.commands.lists import parse_levels
from mahalad.commands.options import (
    bits_option,
    decorate,
    engine_option,
    is_given,
    max_pixels_option,
    whole_range,
)

_NETWORK = ("backbone", "weights", "levels", "size", "orientations", "engine")
_LEARNING = ("loss", "margin", "hidden", "self_training")

output_option = click.option("-o", "--output", required=True, type=click.Path(dir_okay=False),
                             help="Model file to write.")  # fmt: skip
device_option = click.option("--device", default="auto", show_default=True,
                             help="auto (CUDA where there is one), cpu, cuda, "
                                  "cuda:1, ...")  # fmt: skip
seed_option = click.option("--seed", type=whole_range(SEED_NUMBER), default=0,
                           show_default=True,
                           help="Of everything that is drawn at random.")  # fmt: skip
labels_option = click.option("--labels", type=click.IntRange(min=1), default=None, metavar="N",
                             help="Use N of the labelled images, drawn at random, "
                                  "each label in proportion.")  # fmt: skip


def backbone_options(command: Any) -> Any:
    """Add options that say which network is used."""
    return decorate(
        [
            click.option("--backbone", default="tf_efficientnet_lite0", show_default=True,
                         help="Any timm network, with a tag if wanted."),
            click.option("--weights", metavar="FILE|hub", default=None,
                         help="Weights file (.safetensors, .pth), or 'hub' for timm's. "
                              "Default: from the backbone's package, else timm's hub."),
            click.option("--levels", default=None,
                         help="Names or indices, separated by commas. Default: all."),
            click.option("--size", type=whole_range(INPUT_SIZE), default=None,
                         help="Squash images to this square. Default: the network's own size."),
            device_option,
            bits_option,
            max_pixels_option,
        ],
        command,
    )  # fmt: skip


def encoder_options(command: Any) -> Any:
    """Add options that say what makes the features: a network, or an autoencoder."""
    return decorate(
        [
            click.option("--encoder", type=click.Path(), default=None, metavar="FILE",
                         help="Model file of `pretrain`, instead of a backbone."),
            backbone_options,
            engine_option,
            click.option("--orientations", type=click.Choice([*map(str, ORIENTATIONS)]),
                         default="1", show_default=True,
                         help="For things that lie anyhow: means of features over the image "
                              "turned (4) and mirrored too (8), in as many times the time."),
            click.option("--batch-size", type=whole_range(BATCH_SIZE), default=32,
                         show_default=True, help="Images per pass through the network."),
            click.option("--cache", type=click.Path(file_okay=False), default=None, metavar="DIR",
                         help="Keep the network's features here, and compute none twice."),
        ],
        command,
    )  # fmt: skip


def loss_options(command: Any) -> Any:
    """Add options that say which loss is trained with."""
    return decorate(
        [
            click.option("--loss", type=click.Choice(LOSSES), default=LOSSES[0],
                         show_default=True, help="Triplet loss that is trained with."),
            click.option("--margin", type=click.FloatRange(min=0, min_open=True), default=0.2,
                         show_default=True,
                         help="By how much other labels are to be farther away than the own."),
        ],
        command,
    )  # fmt: skip


def make_encoder(options: dict[str, Any]) -> Any:
    """Make the backbone (not built) or the autoencoder that `encoder_options` describe."""
    from mahalad.features.extractor import BackboneFeatures

    if options["encoder"] is not None:
        from mahalad.metric.autoencoder.autoencoder import Autoencoder

        encoder = Autoencoder.load(options["encoder"], device=options["device"])
        bits = {} if options["bits"] is None else {"bits": options["bits"]}
        return encoder.set_params(batch_size=options["batch_size"], **bits)
    return BackboneFeatures(
        options["backbone"],
        weights=options["weights"],
        levels=parse_levels(options["levels"]),
        input_size=options["size"],
        orientations=int(options["orientations"]),
        bits=options["bits"],
        batch_size=options["batch_size"],
        device=options["device"],
        engine=options["engine"],
    )


def refuse_unused(options: dict[str, Any], *switches: str) -> None:
    """Refuse options that have no effect because of another one."""
    for switch in switches:
        names = {"encoder": _NETWORK, "no_projection": _LEARNING}[switch]
        given = [name for name in names if is_given(name)]
        if options[switch] and given:
            raise click.UsageError(
                f"--{given[0]} has no effect with --{switch.replace('_', '-')}: leave one out"
            )
