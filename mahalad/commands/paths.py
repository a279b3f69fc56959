"""Paths that commands are given: images by name, outputs that can be written and replace nothing.

An output is never one of the inputs. A file that is there is replaced if a command like this one
wrote it, so that a script can run again; one of another origin but the same form (a model by a
model, text by text) with --force only; any other file never.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from mahalad.files.recognition import recognize

_PRODUCTS = {
    "detector": ("model", "a model of `fit`"),
    "classifier": ("model", "a model of `tune`"),
    "autoencoder": ("model", "a model of `pretrain`"),
    "checkpoint": ("model", "a checkpoint of `pretrain`"),
    "fit checkpoint": ("model", "a checkpoint of `fit`"),
    "weights": ("weights", "weights of `finetune`"),
    "rows": ("text", "rows of `score`"),
    "workbook": ("workbook", "a workbook of `score`"),
    "parquet": ("parquet", "a Parquet file of `score`"),
    "page": ("page", "a page of `report`"),
    "figures": ("JSON", "figures of `bench`"),
    "table": ("text", "a table of `bench`"),
    "picture": ("picture", "a picture of mahalad"),
    "export": ("ONNX", "a model of `export`"),
}
"""Product to its form and what it is called."""
_FORMS = {
    "model": "a mahalad model of another kind",
    "weights": "a file of weights",
    "text": "a text file",
    "workbook": "a workbook",
    "parquet": "a Parquet file",
    "page": "an HTML page",
    "JSON": "a JSON file",
    "picture": "a picture",
    "ONNX": "an ONNX model",
    "unknown": "a file of another kind",
}

force_option = click.option(
    "--force", is_flag=True,
    help="Replace a file that is of the same kind (a model by a model, text by text) but not of "
         "an earlier run of this command, which is replaced anyway. An input, or a file of "
         "another kind, is never replaced.",
)  # fmt: skip


def names_of(X: Any) -> list[str]:
    """List the paths in `X` as results write them."""
    from mahalad.images.sources import iter_sources

    return [source.name for source in iter_sources(X)]


def check_given(images: Iterable[str]) -> None:
    """Refuse a path on the command line where nothing is, and a pattern that matches no file.

    A file that goes later, or a link to nothing, is an unreadable image.
    """
    from mahalad.images.sources import describe_missing, is_missing

    for name in images:
        if is_missing(name):
            raise click.BadParameter(describe_missing(name), param_hint="IMAGES")


def names_in(*given: Any) -> list[str]:
    """List the paths in several inputs, each as `names_of` takes it; None is left out."""
    return [name for X in given if X is not None for name in names_of(X)]


def check_folder(path: str, option: str = "-o") -> None:
    """Refuse a file in a folder that is missing or not writable, before the work."""
    folder = Path(os.path.realpath(path)).parent
    is_special = os.path.exists(path) and not os.path.isfile(path)  # a pipe, /dev/stdout
    if not is_special and not os.access(folder, os.W_OK):
        raise click.BadParameter(f"folder {folder} is missing or not writable", param_hint=option)


def check_output(
    path: str,
    product: str,
    inputs: Iterable[str | None] = (),
    *,
    force: bool = False,
    option: str = "-o",
) -> None:
    """Refuse an output that cannot be written, or that would replace what it must not.

    Parameters
    ----------
    path : str
    product : str
        What is written: a key of `_PRODUCTS`.
    inputs : iterable of (str or None)
        Files that the command reads, and other ones that it writes.
    force : bool
        Whether a file of the same form but of another origin may be replaced.
    option : str
        Name of the option, for the message.

    Raises
    ------
    click.BadParameter
    """
    check_folder(path, option)
    same = _same_as(path, inputs)
    if same is not None:
        raise click.BadParameter(
            f"{path}: is {'' if same == path else f'the same file as {same}, '}a file that this "
            "command uses already; give another one",
            param_hint=option,
        )
    try:
        found = recognize(path)
    except OSError as error:
        raise click.BadParameter(
            f"{path}: cannot be read ({error.strerror}), so it is not replaced", param_hint=option
        ) from error
    form, name = _PRODUCTS[product]
    if found is None or found.product == product or (force and found.form == form):
        return
    what = _FORMS[found.form] if found.product is None else _name(found.product)
    allowed = "--force replaces it" if found.form == form else "give another name"
    raise click.BadParameter(
        f"{path}: is there already and is {what}, not {name}: {allowed}", param_hint=option
    )


def _name(product: str) -> str:
    return _PRODUCTS[product][1] if product in _PRODUCTS else "a file of `score --maps`"


def _same_as(path: str, inputs: Iterable[str | None]) -> str | None:
    """Find the input that is a file: by its path without links, or by the file itself.

    The latter finds hard links, and other cases of the letters where the system ignores them.
    """
    from mahalad.images.pages import split_page

    real = os.path.realpath(path)
    status = os.stat(path) if os.path.exists(path) else None
    # Of a page, the file that it is in.
    for name in (split_page(name)[0] for name in inputs if name):
        if os.path.realpath(name) == real:
            return name
        if status is not None and os.path.exists(name) and os.path.samestat(os.stat(name), status):
            return name
    return None
