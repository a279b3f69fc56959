"""`mahalad index`: the labelled images of a model, corrected, counted and copied."""

from __future__ import annotations

import json
import os
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import click

from mahalad.commands.editing import edited
from mahalad.commands.gathering import gather, only_listed, pages_option
from mahalad.commands.many import check_workers, ray_options
from mahalad.commands.many_labelled import add_on_ray
from mahalad.commands.options import bits_option, max_pixels_option
from mahalad.commands.paths import check_given
from mahalad.commands.progress import progress_bar
from mahalad.errors import InputError
from mahalad.index.address import absolute

if TYPE_CHECKING:
    from mahalad.distributed.adding import Added
    from mahalad.index.contract import VectorIndex


@click.group()
def index() -> None:
    """Correct and inspect the labelled images of a model; move them to another store."""


_MODEL = click.argument("model", type=click.Path())
_IDS = click.argument("ids", nargs=-1, required=True, type=click.IntRange(min=0))
_LABEL = click.option("--label", required=True, help="The right label.")
_NEW_LABEL = click.option("--new-label", is_flag=True,
                          help="Allow a label that the model does not know yet.")  # fmt: skip
_JSON = click.option("--json", "as_json", is_flag=True, help="As one JSON object.")


@index.command("add")
@_MODEL
@click.argument("images", nargs=-1, required=True)
@_LABEL
@_NEW_LABEL
@bits_option
@max_pixels_option
@pages_option
@ray_options
@click.option("--first-id", type=click.IntRange(min=0), default=None, metavar="ID",
              help="With --ray: id of the first image; the others follow. With that of a run which "
                   "was broken off, and the same images, what is missing is added.")  # fmt: skip
def index_add(
    model: str,
    images: tuple[str, ...],
    label: str,
    new_label: bool,
    pages: str,
    bits: int | None,
    ray: str | None,
    workers: int | None,
    first_id: int | None,
) -> None:
    """Add IMAGES with a label to the MODEL; prints their ids.

    The next answer takes them into account; nothing is trained again. An image that the index has
    already is added again, and votes again: a warning says so.

    With --ray, an image that cannot be read is left out with a warning, and the index must be on a
    server.
    """
    from mahalad.features.parameters import ask_for

    check_given(images)
    check_workers(ray, workers)
    if first_id is not None and ray is None:
        raise click.UsageError("--first-id is for --ray")
    names, code = only_listed(gather(images, pages))
    with edited(model) as classifier:
        if bits is not None:
            ask_for(classifier, "bits", bits, ("encoder",))
        if ray is None:
            ids = classifier.add(names, label, new_label=new_label)
        else:
            found = add_on_ray(
                classifier,
                names,
                label,
                first_id,
                address=ray,
                workers=workers,
                new_label=new_label,
            )
    if ray is not None:
        sys.exit(_say_added(model, label, found) or code)
    for number in ids.tolist():
        click.echo(number)
    click.echo(f"{model}: {len(ids)} images added as {label}", err=True)
    sys.exit(code)


def _say_added(model: str, label: str, found: Added) -> int:
    """Say what was added on many machines; the exit code is 3 if images could not be read."""
    for text in found.errors:
        click.echo(f"Warning: left out: {text}", err=True)
    click.echo(
        f"{model}: {found.n_added} images added as {label}, {found.n_there} were there, "
        f"{found.n_unreadable} cannot be read; ids from {found.first_id} on",
        err=True,
    )
    return 3 if found.n_unreadable else 0


@index.command("remove")
@_MODEL
@_IDS
def index_remove(model: str, ids: tuple[int, ...]) -> None:
    """Remove the images with these IDS from the MODEL; unknown ids are left alone."""
    with edited(model) as classifier:
        n = classifier.remove(list(ids))
    click.echo(f"{model}: {n} images removed, of {len(set(ids))} ids given", err=True)


@index.command("relabel")
@_MODEL
@_IDS
@_LABEL
@_NEW_LABEL
def index_relabel(model: str, ids: tuple[int, ...], label: str, new_label: bool) -> None:
    """Give the images with these IDS of the MODEL another label."""
    with edited(model) as classifier:
        classifier.relabel(list(dict.fromkeys(ids)), label, new_label=new_label)
    click.echo(f"{model}: {len(set(ids))} images are {label} now", err=True)


@index.command("stats")
@click.argument("where", metavar="MODEL|DIR|URL")
@_JSON
def index_stats(where: str, as_json: bool) -> None:
    """Show what an index holds: of a model file, in a folder, or on a server."""
    with closing(_index_at(where)) as found:
        counts = found.counts()
        stats = {
            "index": where,
            "images": sum(counts.values()),
            "labels": counts,
            "n_features": found.n_features,
            "distance": found.distance,
            "about": found.about,
        }
    if as_json:
        click.echo(json.dumps(stats))
        return
    for name in ("index", "images", "n_features", "distance"):
        click.echo(f"{name:12} {stats[name]}")
    for name, value in found.about.items():
        click.echo(f"{name:12} {value}")
    for label, n in counts.items():
        click.echo(f"{n:>8}  {label}")


@index.command("copy")
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.option("--switch", is_flag=True,
              help="If FROM is a model file: it uses TO from now on.")  # fmt: skip
@click.option("--mirror", is_flag=True,
              help="Remove images from TO that FROM does not have, or has otherwise under the same "
                   "id. Without it, such images are an error.")  # fmt: skip
def index_copy(source: str, target: str, switch: bool, mirror: bool) -> None:
    """Copy an index FROM one place TO another: model files, folders or URLs.

    Run again after an interruption, it copies what is missing; after removals at FROM it needs
    --mirror. Afterwards the number of images and the checksums of their vectors are compared.
    """
    if switch and not (_is_model(source) and not _is_model(target)):
        raise click.UsageError("--switch is for FROM a model file TO a folder or URL")
    if target.endswith(".mahalad") and not _is_model(target):
        raise InputError(
            f"{target}: no such model file; copy to a model that is there, or a folder"
        )
    if _is_model(target):
        _copy_to_model(source, target, mirror)
    elif switch:
        _copy_and_switch(source, target, mirror)
    else:
        with closing(_index_at(source)) as origin, closing(_open_like(origin, target)) as copy:
            _remove_strangers(origin, copy, target, mirror)
            _copy(origin, copy, target)


def _copy_to_model(source: str, target: str, mirror: bool) -> None:
    with edited(target) as classifier, closing(_index_at(source)) as origin:
        # Their votes go whatever comes after: other images may get their ids.
        classifier.forget_votes(_remove_strangers(origin, classifier.index_, target, mirror))
        if classifier.index is not None:  # else what was removed is in no file yet
            classifier.save(target)
        _copy(origin, classifier.index_, target)
        classifier.use_index(classifier.index_)


def _copy_and_switch(source: str, target: str, mirror: bool) -> None:
    """Copy the index of a model, and let the model use the copy from then on."""
    with edited(source) as classifier:
        origin = classifier.index_
        with closing(origin):
            copy = _open_like(origin, target)
            _remove_strangers(origin, copy, target, mirror)
            _copy(origin, copy, target)
        classifier.set_params(index=absolute(target))
        classifier.use_index(copy)
    click.echo(f"{source}: uses {target} from now on", err=True)


def _open_like(origin: VectorIndex, target: str) -> VectorIndex:
    """Open the index at the target, for vectors like the origin's; make it if there is none."""
    from mahalad.index.opening import open_index

    return open_index(
        target, n_features=origin.n_features, distance=origin.distance, about=origin.about
    )


def _remove_strangers(
    origin: VectorIndex, copy: VectorIndex, target: str, mirror: bool
) -> list[int]:
    """Remove what the copy alone has, if that is wanted, say so, and give its ids."""
    from mahalad.index.copying import remove_strangers

    removed: list[int] = remove_strangers(origin, copy).tolist() if mirror else []
    if removed:
        click.echo(f"{target}: {len(removed)} images removed", err=True)
    return removed


def _copy(origin: VectorIndex, copy: VectorIndex, target: str) -> None:
    """Copy, and say so."""
    from mahalad.index.copying import copy_index

    n = copy_index(origin, copy, progress=progress_bar("copy"))
    click.echo(f"{target}: {n} images copied, {len(copy)} there, checksums compared", err=True)


def _is_model(where: str) -> bool:
    return "://" not in where and os.path.isfile(where)


def _index_at(where: str) -> VectorIndex:
    """Open the index of a model file, in a folder, or on a server."""
    from mahalad.index.opening import open_index

    if not _is_model(where):
        return open_index(where, create=False)
    from mahalad.metric.file import read_index

    return read_index(where)
