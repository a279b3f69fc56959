"""`mahalad tune`: from labelled images to a model file that labels."""

from __future__ import annotations

import sys
from contextlib import closing
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from mahalad.choices import VOTES
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
from mahalad.commands.gathering import gather, gather_labelled, pages_option
from mahalad.commands.many import check_workers, ray_options
from mahalad.commands.many_labelled import extract_on_ray
from mahalad.commands.options import Fpr, Share, decorate, is_given
from mahalad.commands.paths import check_output, force_option
from mahalad.errors import InputError, MahaladError
from mahalad.index.address import absolute

if TYPE_CHECKING:
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
            click.option("--vote", type=click.Choice(VOTES), default="uniform",
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
@click.option("--self-training", type=Share(0.5, 1, min_open=True), default=None,
              metavar="SHARE",
              help="Images of --unlabelled with this share of their neighbours' votes for one "
                   "label, 0.95 say, train the projection too.")  # fmt: skip
@click.option("--group", metavar="REGEX|FILE.csv", default=None,
              help="Images whose path gives the same match (its first group, if any), or that have "
                   "the same group in a file with the columns path and group, show the same part, "
                   "and are held out together, as copies of a picture always are.")  # fmt: skip
@click.option("--positive", metavar="LABEL", default=None,
              help="The label that is to be found, the defect.")  # fmt: skip
@click.option("--precision", type=Share(0, 1, min_open=True), default=None,
              help="Set the threshold so that this share of what gets the positive label "
                   "has it.")  # fmt: skip
@click.option("--recall", type=Share(0, 1, min_open=True), default=None,
              help="Set the threshold so that this share of what has the positive label "
                   "gets it.")  # fmt: skip
@click.option("--fpr", type=Fpr(), default=0.05, show_default=True, metavar="RATE",
              help="Share of images like the labelled ones that may be called novel.")  # fmt: skip
@click.option("--index", metavar="DIR|URL", default=None,
              help="Keep the embeddings in this folder (embedded Qdrant), or on a server "
                   "(qdrant://host:6333/collection). Default: in the model file.")  # fmt: skip
@ray_options
@seed_option
@pages_option
@force_option
def tune(labelled: str, output: str, force: bool, **options: Any) -> None:
    """Learn to label images like the LABELLED ones, and write a model file.

    LABELLED is a folder with one subfolder for each label, or a CSV file with the columns path
    and label. `mahalad score` labels images with the model, `mahalad index` corrects it.

    If --precision or --recall cannot be reached, the model is written without a threshold (the
    majority decides), and the exit code is 1.
    """
    from mahalad.metric.labelled import draw

    check_workers(options["ray"], options["workers"])
    if options["ray"] is not None and options["cache"] is not None:
        raise click.UsageError("--cache is of this machine: it does not go with --ray")
    wanted = {name: options[name] for name in ("precision", "recall") if options[name]}
    if wanted and options["positive"] is None:
        raise click.UsageError(f"--{next(iter(wanted))} is about one label: give --positive LABEL")
    paths, labels = gather_labelled(labelled, options["pages"])
    if options["unlabelled"] is not None:
        options["unlabelled"] = gather([options["unlabelled"]], options["pages"])
    unlabelled = options["unlabelled"] or []
    read = [labelled, *unlabelled, options["encoder"], options["weights"]]
    check_output(output, "classifier", [*paths, *read], force=force)
    classifier = _make_classifier(options)
    _check_is_empty(options["index"])
    if options["positive"] is not None and options["positive"] not in labels:
        raise InputError(
            f"--positive {options['positive']}: no such label in {labelled}, which has "
            f"{', '.join(sorted(set(labels)))}"
        )
    if options["labels"] is not None:
        rows = draw(labels, options["labels"], options["seed"])
        paths, labels = [paths[i] for i in rows], [labels[i] for i in rows]
    groups = None
    if options["group"] is not None:
        from mahalad.images.mvtec import grouping

        groups = list(map(grouping(options["group"]), paths))
    X: Any = paths
    if options["ray"] is not None:
        told = {"address": options["ray"], "workers": options["workers"]}
        X = extract_on_ray(classifier.encoder, paths, "labelled", **told)
        if unlabelled:
            found = extract_on_ray(classifier.encoder, unlabelled, "unlabelled", **told)
            options["unlabelled"] = found
    with TemporaryDirectory() as folder:
        if options["search"] is not None:
            if classifier.cache is None:  # so that nothing is computed twice
                classifier.set_params(cache=folder)
            _search(classifier, X, labels, groups, options)
        classifier.fit(X, labels, groups=groups, unlabelled=options["unlabelled"])
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
    classifier: MetricKNNClassifier,
    X: Any,
    labels: list[str],
    groups: list[str] | None,
    options: dict[str, Any],
) -> None:
    """Choose the parameters that were not given, and say so."""
    from mahalad.metric.search import SEARCHED, search_parameters

    option_of = {"margin": "margin", "n_neighbors": "neighbors", "class_weight": "balanced"}
    over = [n for n in SEARCHED if n not in option_of or not is_given(option_of[n])]
    found = search_parameters(
        classifier,
        X,
        labels,
        n_candidates=options["search"],
        over=over,
        groups=groups,
        unlabelled=options["unlabelled"],
    )
    values = ", ".join(
        f"{name} {value:g}" if isinstance(value, (int, float)) else f"{name} {value or 'none'}"
        for name, value in found.chosen.items()
    )
    click.echo(f"search: {values}", err=True)
    click.echo(f"search: {describe_search(vars(found))}", err=True)


def _set_point(classifier: MetricKNNClassifier, wanted: dict[str, float]) -> Exception | None:
    """Set the threshold that is wanted, if any; give the error if it fails."""
    try:
        if wanted:
            classifier.set_operating_point(**wanted)
    except MahaladError as error:
        return error
    return None


def _make_classifier(options: dict[str, Any]) -> MetricKNNClassifier:
    """Make the classifier that the options of `tune` describe, not yet fitted."""
    from mahalad.metric.classifier import MetricKNNClassifier

    refuse_unused(options, "encoder", "no_projection")
    encoder = make_encoder(options)
    projection = None
    if not options["no_projection"]:
        from mahalad.metric.triplets.projection import TripletProjection

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
    """Refuse an index that is in use, before anything is trained."""
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
