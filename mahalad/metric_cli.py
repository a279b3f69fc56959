"""Commands of the metric-learning path: pretrain, finetune, tune and index.

They are found by `mahalad.cli` and follow its rules: results to stdout, messages to stderr, the
same exit codes. What they need is imported when they run.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from mahalad.commands.descriptions import describe_search
from mahalad.commands.embedding_options import (
    encoder_options,
    labels_option,
    loss_options,
    make_encoder,
    output_option,
    refuse_unused,
    seed_option,
)
from mahalad.commands.options import Fpr, decorate, is_given
from mahalad.commands.paths import absolute, check_output
from mahalad.commands.progress import progress_bar
from mahalad.errors import InputError, MahaladError, ModelFileError

if TYPE_CHECKING:
    from mahalad.index.contract import VectorIndex
    from mahalad.metric.classifier import MetricKNNClassifier


def _learning_options(command: Any) -> Any:
    return decorate(
        [
            loss_options,
            click.option("--hidden", type=click.IntRange(min=0), default=0, show_default=True,
                         help="Width of a hidden layer of the projection; 0 for none."),
            click.option("--no-projection", is_flag=True,
                         help="Compare standardised features as they are; trains nothing."),
            click.option("--neighbors", type=click.IntRange(min=1), default=5, show_default=True,
                         help="Neighbours that vote."),
            click.option("--vote", type=click.Choice(["uniform", "distance"]), default="uniform",
                         show_default=True, help="distance: a vote counts 1/distance."),
            click.option("--balanced/--not-balanced", default=False, show_default=True,
                         help="A vote counts less the more images have its label: finds more of "
                              "the rare labels."),
        ],
        command,
    )  # fmt: skip


@click.command()
@click.argument("labelled", type=click.Path())
@output_option
@encoder_options
@_learning_options
@click.option("--search", type=click.IntRange(min=1), default=None, metavar="N",
              help="Try N further settings of the projection (margin, dropout, width, learning "
                   "rate), of --neighbors and --balanced on held-out parts of the labelled images, "
                   "and take the best. --margin, --neighbors and --balanced stay if they are "
                   "given.")  # fmt: skip
@labels_option
@click.option("--unlabelled", metavar="IMAGES", default=None,
              help="Further images that standardise the features, and can train the projection "
                   "(--self-training).")  # fmt: skip
@click.option("--self-training", type=click.FloatRange(0.5, 1, min_open=True), default=None,
              metavar="SHARE",
              help="Images of --unlabelled on whose label this share of neighbours agree, 0.95 "
                   "say, train the projection too.")  # fmt: skip
@click.option("--positive", metavar="LABEL", default=None,
              help="The label that is to be found, the defect.")  # fmt: skip
@click.option("--precision", type=click.FloatRange(0, 1, min_open=True), default=None,
              help="Set the threshold so that this share of what gets the positive label "
                   "has it.")  # fmt: skip
@click.option("--recall", type=click.FloatRange(0, 1, min_open=True), default=None,
              help="Set the threshold so that this share of what has the positive label "
                   "gets it.")  # fmt: skip
@click.option("--fpr", type=Fpr(), default=0.05, show_default=True, metavar="RATE",
              help="Share of images like the labelled ones that may be called novel.")  # fmt: skip
@click.option("--index", metavar="DIR|URL", default=None,
              help="Keep the embeddings in this folder (embedded Qdrant), or on a server "
                   "(qdrant://host:6333/collection). Default: in the model file.")  # fmt: skip
@seed_option
def tune(labelled: str, output: str, **options: Any) -> None:
    """Learn to label images like the LABELLED ones, and write a model file.

    LABELLED is a folder with one subfolder for each label, or a CSV file with the columns path
    and label. `mahalad score` labels images with the model, `mahalad index` corrects it.

    If --precision or --recall cannot be reached, the model is written without a threshold (the
    majority decides), and the exit code is 1.
    """
    from mahalad.metric.labelled import draw, read_labelled

    check_output(output)
    wanted = {name: options[name] for name in ("precision", "recall") if options[name]}
    if wanted and options["positive"] is None:
        raise click.UsageError(f"--{next(iter(wanted))} is about one label: give --positive LABEL")
    classifier = _make_classifier(options)
    _check_is_empty(options["index"])
    paths, labels = read_labelled(labelled)
    if options["positive"] is not None and options["positive"] not in labels:
        raise InputError(
            f"--positive {options['positive']}: no such label in {labelled}, which has "
            f"{', '.join(sorted(set(labels)))}"
        )
    if options["labels"] is not None:
        rows = draw(labels, options["labels"], options["seed"])
        paths, labels = [paths[i] for i in rows], [labels[i] for i in rows]
    with TemporaryDirectory() as folder:
        if options["search"] is not None:
            if classifier.cache is None:  # so that nothing is computed twice
                classifier.set_params(cache=folder)
            _search(classifier, paths, labels, options)
        classifier.fit(paths, labels, unlabelled=options["unlabelled"])
    with closing(classifier.index_):
        failure = _set_point(classifier, wanted)
        classifier.save(output)  # in any case: the training may have taken long
        _say_tuned(classifier, output)
    if failure is not None:
        click.echo(
            f"Error: {failure}. {output} is written without a threshold: the majority decides",
            err=True,
        )
        sys.exit(1)
    sys.exit(3 if classifier.unreadable_ else 0)


def _search(
    classifier: MetricKNNClassifier, paths: list[str], labels: list[str], options: dict[str, Any]
) -> None:
    """Choose the parameters that were not given, and say so."""
    from mahalad.metric.search import SEARCHED, search_parameters

    option_of = {"margin": "margin", "n_neighbors": "neighbors", "class_weight": "balanced"}
    over = [n for n in SEARCHED if n not in option_of or not is_given(option_of[n])]
    found = search_parameters(
        classifier,
        paths,
        labels,
        n_candidates=options["search"],
        over=over,
        unlabelled=options["unlabelled"],
    )
    values = ", ".join(
        f"{name} {value:g}" if isinstance(value, (int, float)) else f"{name} {value or 'none'}"
        for name, value in found.chosen.items()
    )
    click.echo(f"search: {values}", err=True)
    click.echo(f"search: {describe_search(vars(found))}", err=True)


def _set_point(classifier: MetricKNNClassifier, wanted: dict[str, float]) -> Exception | None:
    """Set the threshold that is wanted, if any; what it failed by."""
    try:
        if wanted:
            classifier.set_operating_point(**wanted)
    except MahaladError as error:
        return error
    return None


def _make_classifier(options: dict[str, Any]) -> MetricKNNClassifier:
    """The unfitted classifier that options of `tune` describe."""
    from mahalad.metric.classifier import MetricKNNClassifier

    refuse_unused(options, "encoder", "no_projection")
    encoder = make_encoder(options)
    projection = None
    if not options["no_projection"]:
        from mahalad.metric.projection import TripletProjection

        projection = TripletProjection(
            loss=options["loss"],
            margin=options["margin"],
            hidden=options["hidden"],
            n_neighbors=options["neighbors"],
            random_state=options["seed"],
        )
    return MetricKNNClassifier(
        encoder,
        projection,
        n_neighbors=options["neighbors"],
        weights=options["vote"],
        class_weight="balanced" if options["balanced"] else None,
        index=absolute(options["index"]),
        positive=options["positive"],
        novelty_fpr=options["fpr"],
        self_training=options["self_training"],
        cache=options["cache"],
        random_state=options["seed"],
    )


def _check_is_empty(where: str | None) -> None:
    """An index that is in use is refused before anything is trained."""
    if where is None:
        return
    from mahalad.index.opening import open_index

    try:
        found = open_index(where, create=False)
    except InputError:
        return  # there is none; what else may be wrong shows when it is made
    with closing(found):
        if len(found):
            raise InputError(
                f"--index {where}: holds {len(found)} vectors already; name a new or empty one"
            )


def _say_tuned(classifier: MetricKNNClassifier, output: str) -> None:
    counts = classifier.index_.counts()
    listed = ", ".join(f"{name} {n}" for name, n in counts.items())
    click.echo(f"{output}: {sum(counts.values())} labelled images ({listed})", err=True)
    if classifier.self_training is not None:
        n = classifier.n_self_trained_
        click.echo(f"{n} unlabelled images trained the projection too", err=True)
    point = classifier.operating_point_
    if point is not None:
        click.echo(
            f"threshold {point.threshold:.3g} on the probability of {classifier.positive}: "
            f"precision {point.precision:.3f}, recall {point.recall:.3f} "
            f"({classifier.calibration_method_})",
            err=True,
        )


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
def index_add(model: str, images: tuple[str, ...], label: str, new_label: bool) -> None:
    """Add IMAGES with a label to the MODEL; prints their ids.

    The next answer takes them into account; nothing is trained again. An image that the index has
    already is added again, and votes again: a warning says so.
    """
    with _edited(model) as classifier:
        ids = classifier.add(list(images), label, new_label=new_label)
    for number in ids.tolist():
        click.echo(number)
    click.echo(f"{model}: {len(ids)} images added as {label}", err=True)


@index.command("remove")
@_MODEL
@_IDS
def index_remove(model: str, ids: tuple[int, ...]) -> None:
    """Remove the images with these IDS from the MODEL; unknown ids are left alone."""
    with _edited(model) as classifier:
        n = classifier.remove(list(ids))
    click.echo(f"{model}: {n} images removed, of {len(set(ids))} ids given", err=True)


@index.command("relabel")
@_MODEL
@_IDS
@_LABEL
@_NEW_LABEL
def index_relabel(model: str, ids: tuple[int, ...], label: str, new_label: bool) -> None:
    """Give the images with these IDS of the MODEL another label."""
    with _edited(model) as classifier:
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
        with _edited(target) as classifier, closing(_index_at(source)) as origin:
            # Their votes go whatever comes after: other images may get their ids.
            classifier._forget(_remove_strangers(origin, classifier.index_, target, mirror))
            if classifier.index is not None:  # else what was removed is in no file yet
                classifier.save(target)
            _copy(origin, classifier.index_, target)
            classifier.use_index(classifier.index_)
        return
    from mahalad.index.opening import open_index

    if switch:
        with _edited(source) as classifier:
            origin = classifier.index_
            with closing(origin):
                copy = open_index(
                    target,
                    n_features=origin.n_features,
                    distance=origin.distance,
                    about=origin.about,
                )
                _remove_strangers(origin, copy, target, mirror)
                _copy(origin, copy, target)
            classifier.set_params(index=absolute(target))
            classifier.use_index(copy)
        click.echo(f"{source}: uses {target} from now on", err=True)
        return
    with (
        closing(_index_at(source)) as origin,
        closing(
            open_index(
                target, n_features=origin.n_features, distance=origin.distance, about=origin.about
            )
        ) as copy,
    ):
        _remove_strangers(origin, copy, target, mirror)
        _copy(origin, copy, target)


def _remove_strangers(
    origin: VectorIndex, copy: VectorIndex, target: str, mirror: bool
) -> list[int]:
    """Remove what the copy alone has, if that is wanted, and say so; gives its ids."""
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
    """The index of a model file, in a folder, or on a server."""
    from mahalad.index.opening import open_index

    if not _is_model(where):
        return open_index(where, create=False)
    from mahalad.metric.modelfiles import read_index

    return read_index(where)


@contextmanager
def _edited(path: str) -> Iterator[MetricKNNClassifier]:
    """A model that is saved again at the end, unless another process changed it meanwhile."""
    check_output(path)
    with _alone(path):
        yield from _edit(path)


def _edit(path: str) -> Iterator[MetricKNNClassifier]:
    from mahalad.metric.classifier import MetricKNNClassifier

    before = _version(path)
    classifier = MetricKNNClassifier.load(path)
    try:
        in_file = classifier.index is None
        yield classifier
        # An index elsewhere has the change already.
        if in_file and _version(path) != before:
            raise ModelFileError(
                f"{path}: another process changed the model meanwhile; nothing was written: run "
                "the command again"
            )
        classifier.save(path)
    finally:
        classifier.index_.close()


@contextmanager
def _alone(path: str) -> Iterator[None]:
    """Wait for other commands that edit models of the same folder, where the system can lock it."""
    try:
        import fcntl
    except ImportError:  # Windows: the check of `_edit` remains
        yield
        return
    folder = os.open(os.path.dirname(os.path.realpath(path)), os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _version(path: str) -> tuple[int, int] | None:
    """What changes when a file is replaced; None if it is not there."""
    if not os.path.exists(path):
        return None
    status = os.stat(path)
    return status.st_ino, status.st_mtime_ns
