"""Images that commands are given: found once, with a word of what is used and what is left out."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import click

from mahalad.choices import PAGES
from mahalad.errors import InputError

if TYPE_CHECKING:
    from mahalad.images.listing import ImageListing

Choose = Callable[[list[str]], list[str]]

pages_option = click.option(
    "--pages", type=click.Choice(PAGES), default="first", show_default=True,
    help="Of files with several pages (TIFFs, animations). first: one image of each file. all: "
         "each page is an image, called scan.tif#1, scan.tif#2 and so on.",
)  # fmt: skip
yes_option = click.option(
    "--yes", is_flag=True,
    help="Fit to all images, also those of folders called like defects, tests or masks (such as "
         "bad, NG, test, ground_truth): else that is a question, and an error in a pipe.",
)  # fmt: skip


def gather(images: Iterable[str], pages: str, *, leave_masks: bool = False) -> list[str]:
    """Find images for a command, and say where they are from and what is left out.

    Parameters
    ----------
    images : iterable of str
        Folders, glob patterns, files, and pages by their names.
    pages : {"first", "all"}
    leave_masks : bool
        Whether the masks of a set, whose folders tell good images from defects, are left out.

    Returns
    -------
    list of str
        Names that the library takes.
    """
    from mahalad.images.listing import describe_counts
    from mahalad.images.words import MASK

    listing = _find(images, pages)
    if leave_masks:
        kept = listing.without_masks()
        masks = listing.only(set(listing.names) - set(kept.names))
        if masks.sources:
            click.echo(f"left out as masks: {describe_counts(masks.counts())}", err=True)
        listing = kept
    found = listing.doubtful(MASK)
    if found:
        click.echo(
            f"Warning: {describe_counts(found)}: taken as images, though such folders hold masks",
            err=True,
        )
    return listing.names


def gather_to_fit(
    images: Iterable[str],
    pages: str,
    yes: bool,
    *,
    choose: Choose | None = None,
    masks_only: bool = False,
) -> list[str]:
    """Find images to fit to; ask where their folders are not called like those of good images.

    Parameters
    ----------
    images, pages
        As of `gather`.
    yes : bool
        The answer, given beforehand.
    choose : callable, optional
        Gives those of the names that are wanted. Of the others nothing is asked.
    masks_only : bool
        Defects and test images are welcome, masks are not.

    Raises
    ------
    InputError
        The answer is no, or nobody is there to answer.
    """
    from mahalad.images.listing import describe_counts
    from mahalad.images.words import MASK

    listing = _find(images, pages)
    if choose is not None:
        listing = listing.only(choose(listing.names))
    doubtful = listing.doubtful(MASK) if masks_only else listing.doubtful()
    if doubtful and not yes:
        what = "masks" if masks_only else "defects, test images or masks, not good images to fit to"
        text = f"{describe_counts(doubtful)}: folders called or lying like these hold {what}"
        if not can_answer():
            raise InputError(f"{text}: give other folders, or --yes to take these")
        if not click.confirm(f"{text}. Take them all the same?", err=True):
            raise InputError("nothing is done: give other folders")
    return listing.names


def only_listed(names: list[str]) -> tuple[list[str], int]:
    """Leave out the folders that cannot be listed, for what takes all images or none.

    Returns
    -------
    names : list of str
    code : int
        3 if something is left out, else 0: the exit code.
    """
    kept = [name for name in names if not os.path.isdir(name)]
    return kept, 0 if len(kept) == len(names) else 3


def gather_labelled(labelled: str, pages: str) -> tuple[list[str], list[str]]:
    """Find labelled images as `read_labelled` does: their names and labels."""
    from mahalad.metric.labelled import read_labelled

    return read_labelled(labelled, pages=pages, on_listing=_say)


def can_answer() -> bool:
    """Whether somebody sits there who can answer a question."""
    return sys.stdin is not None and sys.stdin.isatty()


def _say(listing: ImageListing) -> None:
    """Say on stderr where images are from and what was left out."""
    from mahalad.report.text import printable

    for line in listing.lines():
        click.echo(printable(line), err=True)


def _find(images: Iterable[str], pages: str) -> ImageListing:
    from mahalad.images.listing import find_images

    listing = find_images(list(images), pages=pages)
    _say(listing)
    return listing
