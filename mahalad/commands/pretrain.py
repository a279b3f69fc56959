"""`mahalad pretrain`: an autoencoder from images without labels."""

from __future__ import annotations

import sys

import click

from mahalad.commands.embedding_options import device_option, output_option, seed_option
from mahalad.commands.gathering import gather_to_fit, pages_option, yes_option
from mahalad.commands.options import bits_option, max_pixels_option
from mahalad.commands.paths import check_given, check_output, force_option
from mahalad.commands.progress import progress_bar


@click.command()
@click.argument("unlabelled", nargs=-1, required=True)
@output_option
@click.option("--epochs", type=click.IntRange(min=1), default=15, show_default=True,
              help="Passes over the images.")  # fmt: skip
@click.option("--size", type=click.IntRange(min=32), default=128, show_default=True,
              help="Squash images to this square, a multiple of 32.")  # fmt: skip
@click.option("--width", type=click.IntRange(min=1), default=32, show_default=True,
              help="Channels of the first stage; 64 is ResNet-18.")  # fmt: skip
@click.option("--batch-size", type=click.IntRange(min=2), default=32, show_default=True,
              help="Images per step of the training.")  # fmt: skip
@click.option("--checkpoint", type=click.Path(dir_okay=False), default=None,
              help="Keep the state of the training here after every epoch; if the file is there, "
                   "go on from it.")  # fmt: skip
@device_option
@seed_option
@bits_option
@max_pixels_option
@pages_option
@yes_option
@click.option("--grid", type=click.Path(dir_okay=False), default=None,
              help="Picture to write: images above their reconstructions.")  # fmt: skip
@force_option
def pretrain(
    unlabelled: tuple[str, ...],
    output: str,
    epochs: int,
    size: int,
    width: int,
    batch_size: int,
    checkpoint: str | None,
    device: str,
    seed: int,
    pages: str,
    yes: bool,
    bits: int | None,
    grid: str | None,
    force: bool,
) -> None:
    """Train an autoencoder on UNLABELLED images (folders, globs, files).

    Its encoder is for `mahalad tune --encoder`. No labels are needed.
    """
    from mahalad.metric.autoencoder.autoencoder import Autoencoder

    check_given(unlabelled)
    names = gather_to_fit(unlabelled, pages, yes, masks_only=True)
    check_output(output, "autoencoder", names, force=force)
    if checkpoint is not None:  # which is read, too: no other file will do
        check_output(checkpoint, "checkpoint", [*names, output], option="--checkpoint")
    if grid is not None:
        taken = [*names, output, checkpoint]
        check_output(grid, "picture", taken, force=force, option="--grid")
    autoencoder = Autoencoder(
        input_size=size,
        width=width,
        epochs=epochs,
        batch_size=batch_size,
        device=device,
        random_state=seed,
        bits=bits,
    )
    autoencoder.fit(names, checkpoint=checkpoint, progress=progress_bar("pretrain"))
    autoencoder.save(output)
    click.echo(
        f"{output}: trained on {autoencoder.n_images_} images, loss "
        f"{autoencoder.history_[-1]['loss']:.4g}",
        err=True,
    )
    if grid is not None:
        left_out = {result.name for result in autoencoder.unreadable_}
        autoencoder.reconstruction_grid([n for n in names if n not in left_out], grid)
        click.echo(f"{grid}: images above their reconstructions", err=True)
    sys.exit(3 if autoencoder.unreadable_ else 0)
