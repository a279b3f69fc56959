"""Lists of images (CSV, Parquet) that commands are given instead of images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from mahalad.images.manifests import Entry

split_option = click.option(
    "--split", metavar="NAME", default=None,
    help="Of a list of images with a column split: the rows that are used. Default: for a fit "
         "those of the split train, else all.",
)  # fmt: skip


def manifest_in(images: Sequence[str], split: str | None) -> str | None:
    """Give the list of images among what is given, None if there is none.

    Raises
    ------
    click.BadParameter
        There is something else beside it.
    click.UsageError
        A split is asked for of what is no list.
    """
    from mahalad.images.manifests import is_manifest

    found = next((name for name in images if is_manifest(name)), None)
    if found is not None and len(images) > 1:
        raise click.BadParameter(f"{found}: give a list of images alone", param_hint="IMAGES")
    if found is None and split is not None:
        raise click.UsageError("--split is for a list of images (.csv, .parquet)")
    return found


def read_entries(path: str, keep: Callable[[Entry], bool] | None) -> list[Entry]:
    """Read the rows of a list that are wanted, and say on stderr which are not."""
    from mahalad.images.manifests import kept_entries

    found = list(kept_entries(path, keep, lambda text: click.echo(text, err=True)))
    click.echo(f"{len(found):,} images from {path}", err=True)
    return found


def groups_of(entries: Sequence[Entry]) -> list[str] | None:
    """Give what each image shows; None where the list does not say it."""
    from mahalad.images.manifests import check_each_group

    groups = [entry.group for entry in check_each_group(entries)]
    return groups if any(groups) else None
