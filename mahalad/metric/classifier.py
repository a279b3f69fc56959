"""Labels by majority vote of the nearest labelled images, which may be corrected at any time."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, clone

from mahalad.errors import CalibrationError, InputError
from mahalad.features.copying import copy_extractor
from mahalad.features.parameters import check_unchanged, comparable_params, run_as_asked
from mahalad.files.container import write_model
from mahalad.files.damage import naming
from mahalad.index.address import absolute
from mahalad.index.contract import Neighbors, VectorIndex
from mahalad.metric import corrections, fitting
from mahalad.metric import file as modelfiles
from mahalad.metric.answers import Answers, Novelty, Rule, answers_to, novelty_of
from mahalad.metric.copies import describe_copies
from mahalad.metric.embedding import Embedding, embedding_distance
from mahalad.metric.held_out import held_out_votes
from mahalad.metric.label_arrays import positive_code, repeated_names
from mahalad.metric.operating import Curve, OperatingPoint, choose, precision_recall_curve
from mahalad.metric.parameters import check_classifier
from mahalad.metric.search_record import Search, chosen_params
from mahalad.metric.state import Fitted
from mahalad.metric.votes import HeldOut, Voting
from mahalad.protocols import Floats
from mahalad.result import LabelledResult, Result
from mahalad.thresholds.conformal import ConformalThreshold, check_fpr
from mahalad.unfitted import NotFittedError

_OF_ANSWERS = (
    "n_neighbors", "weights", "class_weight", "index", "positive", "novelty_fpr", "cache",
)  # fmt: skip
"""Parameters that take effect when a fitted classifier is asked, or saved."""


class MetricKNNClassifier(ClassifierMixin, BaseEstimator):
    """Classify images by the labels of their nearest neighbours in an embedding.

    Images go through a frozen `encoder`, are standardised, projected by a `projection` that was
    trained with triplets, and looked up in an index of labelled embeddings. The index is all that
    `add`, `remove` and `relabel` change, so they take effect at once, without a refit.

    Parameters
    ----------
    encoder : BackboneFeatures, fitted Autoencoder or None, default=None
        None: what is given are features already, an array (n, n_features) or a mapping of level
        name to such arrays. Levels are put side by side.
    projection : TripletProjection or None, default=None
        A clone of it is fitted to the labelled images.
    n_neighbors : int, default=5
        How many vote.
    weights : {"uniform", "distance"}, default="uniform"
        ``"distance"``: a vote counts 1/distance.
    class_weight : {None, "balanced"}, default=None
        ``"balanced"``: a vote counts 1 / (number of stored images with that label), which finds
        more of the rare labels. Counted anew after `add`, `remove` and `relabel`; after changes
        that others made to the same store, by `use_index`.
    distance : {"cosine", "euclidean"} or None, default=None
        None: that of the projection, or Euclidean without one.
    index : str or None, default=None
        None: in memory, and saved in the model file. Else as `mahalad.index.opening.open_index`
        takes it: a folder, or ``"qdrant://host:6333/collection"``, empty or new at `fit`, which
        makes the path of a folder absolute. Pickles and files refer to it, copies share it.
    positive : str, int or None, default=None
        The label that is to be found (the defect); `set_operating_point` is about it.
    novelty_fpr : float, default=0.05
        Share of images like the stored ones that may be called novel.
    standardize : bool, default=True
        Subtract the mean of each feature and divide by its standard deviation.
    calibration_folds : int or None, default=5
        Standardise and train the projection so many times more (without a projection, which is
        cheap, at least 20 times), each time without a part of the images, for honest votes on
        that part. None: leave-one-out in the final embedding, far too optimistic.
    self_training : float in (0.5, 1] or None, default=None
        With unlabelled images, and a projection: those that get this share of the votes of their
        labelled neighbours for one label, 0.95 say, train the projection too, with that label;
        three times over, each time as the projection before told them. They are not stored, and
        have no vote.
    cache : str, Path or None, default=None
        Folder in which the encoder's features are kept.
    random_state : int or None, default=None
        Of the split into folds; None is the same as 0.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    embedding_ : Embedding
        The fitted parts: encoder, mean and deviation, projection.
    index_ : VectorIndex
    operating_point_ : OperatingPoint or None
    calibration_method_ : {"cross-fit", "leave-one-out"}
        How images of the fit came to votes that had not seen them. Images that are added later
        were never trained on, and always enter by leave-one-out.
    fit_date_ : str or None
        Day of the fit.
    unreadable_ : list of Result
        Images that `fit` had to leave out.
    n_self_trained_ : int
        Unlabelled images that trained the projection.
    search_ : Search or None
        What `mahalad.metric.search.search_parameters` tried and chose, if it was asked.

    Notes
    -----
    The majority wins; of labels with equally many votes, the one with the nearest neighbour.
    With uniform weights a probability is one of k + 1 values, and so is a threshold on it: take
    distance weights or a larger k where the steps are too coarse.

    Novelty: the p-value is the rank of the distance to the k-th neighbour among those of stored
    images that were held out (`mahalad.thresholds.ConformalThreshold`). The rate is approximate
    with a projection, since those of the folds learn from fewer images: on 200 labelled coffee
    beans 2 to 6 % of new ones were called novel where 5 % were asked for.

    Examples
    --------
    >>> import numpy as np
    >>> F = np.array([[0.0], [0.1], [0.2], [5.0], [5.1], [5.2]])
    >>> knn = MetricKNNClassifier(n_neighbors=1, novelty_fpr=0.2)
    >>> knn.fit(F, ["good"] * 3 + ["bad"] * 3).predict([[2.0]]).tolist()
    ['good']
    >>> ids = knn.add([[2.1]], ["bad"])
    >>> knn.predict([[2.0]]).tolist()
    ['bad']
    """

    operating_point_: OperatingPoint | None
    _fitted: Fitted | None = None
    _searched: Search | None = None  # for the next fit
    _point_for: tuple[str, Voting]
    # Derived from a fitted state, which is kept beside them: of another one they say nothing.
    _counts: tuple[Fitted, NDArray[np.int64]] | None = None
    _held_out: tuple[Fitted, Voting, HeldOut, NDArray[Any]] | None = None

    def __init__(
        self,
        encoder: Any = None,
        projection: Any = None,
        *,
        n_neighbors: int = 5,
        weights: str = "uniform",
        class_weight: str | None = None,
        distance: str | None = None,
        index: str | None = None,
        positive: str | int | None = None,
        novelty_fpr: float = 0.05,
        standardize: bool = True,
        calibration_folds: int | None = 5,
        self_training: float | None = None,
        cache: str | Path | None = None,
        random_state: int | None = None,
    ) -> None:
        self.encoder = encoder
        self.projection = projection
        self.n_neighbors = n_neighbors
        self.weights = weights
        self.class_weight = class_weight
        self.distance = distance
        self.index = index
        self.positive = positive
        self.novelty_fpr = novelty_fpr
        self.standardize = standardize
        self.calibration_folds = calibration_folds
        self.self_training = self_training
        self.cache = cache
        self.random_state = random_state

    # -- fitting and correcting ------------------------------------------------------------

    def fit(
        self, X: Any, y: Any, *, groups: Sequence[Any] | None = None, unlabelled: Any = None
    ) -> Self:
        """Fit to labelled images, forgetting earlier ones.

        Parameters
        ----------
        X : images
            As everywhere (see `mahalad.images.iter_sources`); features where `encoder` is None.
            Arrays have red first, unless the encoder's ``channels="bgr"`` says otherwise. Or what
            `mahalad.distributed.extract` made of them on many machines; `unlabelled` as well.
        y : sequence of str or int, shape (n_images,)
        groups : sequence of length n_images, optional
            What each image shows (a part's serial number, say). Images of one group, and copies
            of one picture, are held out together, so that the operating point and `novelty_fpr`
            hold for parts that were never seen.
        unlabelled : images, optional
            Further images whose mean and deviation standardise the features, instead of those of
            the labelled ones; and that train the projection, with `self_training`.

        Returns
        -------
        self

        Warns
        -----
        UnreadableImageWarning
            For each image that could not be read; it is left out, and so is its label.

        Raises
        ------
        InputError
            One label only, a label with a single image, fewer images than neighbours, an index
            that is not empty, or parameters out of range.
        """
        check_classifier(self.get_params(deep=False))
        self.index = absolute(self.index)  # to be found from any folder later
        recipe = fitting.Recipe(
            encoder=copy_extractor(self.encoder),
            projection=clone(self.projection, safe=False),
            voting=self._voting(),
            distance=embedding_distance(self.distance, self.projection),
            index=self.index,
            positive=self.positive,
            standardize=self.standardize,
            calibration_folds=self.calibration_folds,
            self_training=self.self_training,
            cache=self.cache,
            random_state=self.random_state or 0,
        )
        labels = fitting.checked_labels(recipe, y, unlabelled)
        # What was fitted before goes, with the index that it holds open.
        self._fitted = self._counts = self._held_out = None
        search, self._searched = self._searched, None
        fitted = fitting.fit(recipe, X, labels, groups, unlabelled)
        self._fitted = replace(fitted, search=search, params=self._params_of_fit())
        self.operating_point_ = None
        self.use_index(fitted.index)
        self.warn_if_uncalibrated()
        return self

    def adopt(self, search: Search) -> Self:
        """Take the parameters that a search chose; `search_` keeps it for the next `fit` alone."""
        self.set_params(**chosen_params(search.chosen, self.projection))
        self._searched = search
        return self

    def add(
        self, X: Any, y: Any, paths: Sequence[str] | None = None, *, new_label: bool = False
    ) -> NDArray[np.int64]:
        """Add labelled images; the next answer takes them into account.

        Parameters
        ----------
        X : images
        y : sequence of str or int, shape (n_images,), or one label for all
        paths : sequence of str, shape (n_images,), optional
            What is shown of them as neighbours; else the paths they were read from.
        new_label : bool, default=False
            Allow labels that are not in `classes_` yet.

        Returns
        -------
        ndarray of int64, shape (n_images,)
            Their ids in the index.

        Warns
        -----
        UserWarning
            Images whose embedding is stored already, or that are given twice: they are added all
            the same, and each copy has a vote.

        Raises
        ------
        ImageReadError, ImageValueError
            An image that cannot be read; none is added then.
        InputError
            A label that is not known.
        """
        fitted = self._changing()  # also if the store fails half-way
        labels = corrections.known_labels(fitted, y, new_label=new_label)
        read, F = fitted.embedding.read_strictly(X)
        names, shown = corrections.texts_to_store(read, labels, paths)
        E = fitted.embedding.embed(F)
        copies = describe_copies(fitted.index, E, names)
        ids = fitted.index.add(E, names, shown)
        self._fitted = corrections.after(self._state(), ids, labels)
        if copies:
            warnings.warn(copies, stacklevel=2)
        return ids

    def remove(self, ids: Sequence[int]) -> int:
        """Remove stored images by their ids, and return how many of them there were."""
        n = self._changing().index.remove(ids)
        self._fitted = corrections.after(self._state(), ids)
        return n

    def relabel(self, ids: Sequence[int], labels: Any, *, new_label: bool = False) -> None:
        """Give stored images other labels (one for each id, or one for all).

        Raises
        ------
        InputError
            An id that is not stored, or a label that is not known.
        """
        fitted = self._changing()
        known = corrections.known_labels(fitted, labels, new_label=new_label)
        fitted.index.relabel(ids, repeated_names(known, len(ids)))
        self._fitted = corrections.after(self._state(), labels=known)

    def set_novelty_fpr(self, fpr: float) -> Self:
        """Ask for another rate at which images are called novel; nothing is fitted again.

        A warning says so where the labelled images are too few for it.
        """
        self.set_params(novelty_fpr=fpr)
        self.warn_if_uncalibrated()
        return self

    def use_index(self, index: VectorIndex) -> None:
        """Take an index of the same embedding into use; it may hold labels that are new here."""
        self._fitted = corrections.use_index(self._state(), index)

    def forget_votes(self, ids: Sequence[int]) -> None:
        """Drop the votes that were cast on images with these ids, which others may get now.

        `remove` does it by itself; this is for images that were removed from the index directly.
        """
        self._fitted = corrections.after(self._state(), ids)

    # -- asking ----------------------------------------------------------------------------

    def predict(self, X: Any) -> NDArray[Any]:
        """Tell the label of each image, shape (n,), by the operating point if one is set."""
        codes = self._decide(self.kneighbors(X)).codes
        return np.asarray(self.classes_[codes])

    def predict_proba(self, X: Any) -> Floats:
        """Give shares of the votes, shape (n, n_classes), in the order of `classes_`."""
        return self._decide(self.kneighbors(X)).shares

    def kneighbors(self, X: Any, k: int | None = None) -> Neighbors:
        """Find ids, distances, labels and paths of the k nearest stored images, (n, k) each."""
        E = self.embed(X)
        return self.index_.query(E, self.n_neighbors if k is None else k)

    def embed(self, X: Any) -> NDArray[np.float32]:
        """Compute embeddings of images, shape (n, n_components): what the index compares."""
        embedding = self.embedding_
        return embedding.embed(embedding.read_strictly(X)[1])

    def inspect(
        self, X: Any, *, maps: bool = False, batch_size: int | None = None
    ) -> Iterator[LabelledResult]:
        """Classify images one after the other; an unreadable one is reported, not raised.

        Parameters
        ----------
        X : images
        maps : bool, default=False
            There are no anomaly maps: True is an `InputError`.
        batch_size : int, optional
            Images drawn from X and judged together. None: 1 if X is a stream (an iterator, anything
            without a length); else the encoder's own number.

        Yields
        ------
        LabelledResult
            One for each image, in order.

        Raises
        ------
        Exception
            What drawing from X raises, after the results of what was drawn before.
        """
        if maps:
            raise InputError("a classifier by nearest neighbours has no anomaly maps")
        novelty = self._novelty()
        embedding = self.embedding_
        batches = embedding.read(X, batch_size=batch_size, promptly=True)
        yield from answers_to(batches, embedding.embed, self.index_, self._rule(), novelty)

    @property
    def novelty_threshold_(self) -> float:
        """Distance to the k-th neighbour beyond which an image is novel, at `novelty_fpr`."""
        found = self.held_out()[0]
        threshold = ConformalThreshold().fit(found.distances, weights=found.weights)
        return threshold.critical_value(check_fpr(self.novelty_fpr))

    def held_out(self) -> tuple[HeldOut, NDArray[Any]]:
        """Give answers to stored images by votes that had not seen them, and their labels (n,).

        Images of the fit keep the votes that fits without them cast at `fit`. All others are
        voted on by leave-one-out, without copies of them, among all images that are stored now; so
        are those to which another program that changed the same store gave the id of an image of
        the fit.

        Raises
        ------
        CalibrationError
            No more images are stored than there are neighbours.
        InputError
            After a cross-fit, or a fit with groups, `n_neighbors` or `weights` were changed.
        """
        fitted, asked = self._as_asked(), self._voting()
        cast = fitted.calibration
        then, now = (cast.n_neighbors, cast.weights), (self.n_neighbors, self.weights)
        if len(cast.votes.ids) and now != then:
            raise InputError(
                f"n_neighbors and weights were {then} when the fit cast its votes and are {now} "
                "now: set them back, or fit again"
            )
        known = self._held_out
        if known is None or known[0] is not fitted or known[1] != asked:
            votes = held_out_votes(fitted.index, cast.votes, cast.checksums, fitted.names, asked)
            self._held_out = known = (fitted, asked, *votes)
        return known[2:]

    def precision_recall_curve(self) -> Curve:
        """Compute precision and recall of the positive label at each threshold, from `held_out`."""
        code = positive_code(self.positive, self.classes_)
        if code is None:
            raise InputError(
                "precision and recall are about one label: set_params(positive=...), one of "
                f"{', '.join(map(repr, self.classes_.tolist()))}"
            )
        held_out, labels = self.held_out()
        return precision_recall_curve(
            held_out.probabilities[:, code], labels == str(self.positive), held_out.weights
        )

    def set_operating_point(
        self, precision: float | None = None, recall: float | None = None
    ) -> Self:
        """Set the threshold on the positive label's probability; with neither, the majority's.

        Parameters
        ----------
        precision, recall : float, optional
            What is to be kept, in (0, 1], with as much as possible of the other. What was reached
            is in `operating_point_`, measured on `held_out` votes. It stays when images are
            added: set it again to take them into account.

        Raises
        ------
        InputError
            No positive label, or it cannot be reached; the best that can be is named.
        """
        self._state()
        point = None
        if precision is not None or recall is not None:
            point = choose(self.precision_recall_curve(), precision, recall)
        self.operating_point_, self._point_for = point, (str(self.positive), self._voting())
        return self

    def warn_if_uncalibrated(self) -> None:
        """Warn if too few images are stored to tell at `novelty_fpr` whether one is novel."""
        if self._novelty()[1] is None:
            warnings.warn(
                f"{len(self.index_)} labelled images are too few to tell whether an image is "
                f"novel at novelty_fpr={self.novelty_fpr:g}: label more, or ask for a larger rate",
                stacklevel=3,
            )

    # -- what was fitted -------------------------------------------------------------------

    @property
    def classes_(self) -> NDArray[Any]:
        """Labels there are, shape (n_classes,); new ones stand at the end."""
        return self._state().classes

    @property
    def embedding_(self) -> Embedding:
        """Encoder, mean and deviation, projection."""
        return self._as_asked().embedding

    @property
    def index_(self) -> VectorIndex:
        """The labelled embeddings."""
        return self._state().index

    @property
    def calibration_method_(self) -> str:
        """How images of the fit came to votes that had not seen them."""
        return self._state().calibration.method

    @property
    def fit_date_(self) -> str | None:
        """Day of the fit, ISO 8601 in UTC; None for a model file of before there were dates."""
        return self._state().date

    @property
    def n_self_trained_(self) -> int:
        """Unlabelled images that trained the projection."""
        return self._state().n_self_trained

    @property
    def unreadable_(self) -> list[Result]:
        """Images that `fit` had to leave out."""
        return self._state().unreadable

    @property
    def search_(self) -> Search | None:
        """What chose the parameters of this fit, or of the next; None for parameters as given."""
        return self._searched or (None if self._fitted is None else self._fitted.search)

    def parts_to_ask(self) -> tuple[Rule, HeldOut | None]:
        """Give how neighbours become answers, and answers to stored images: for an export."""
        self._as_asked()
        return self._rule(), self._known_held_out()

    # -- files -----------------------------------------------------------------------------

    def save(self, path: str | Path, *, include_weights: bool = True) -> None:
        """Write the classifier to one file (safetensors with a JSON header), atomically.

        An index in memory is in the file; any other is referred to.

        Parameters
        ----------
        path : str or Path
        include_weights : bool, default=True
            Embed a backbone's weights that came from a file or a hub; see `AnomalyDetector.save`.

        Raises
        ------
        ModelFileError
            The file cannot be written; an older file of that name is then intact.
        """
        fitted, point = self._as_asked(), self._checked_point()
        header, arrays = modelfiles.describe(
            type(self).__name__,
            self.get_params(deep=False),
            fitted,
            point,
            include_weights=include_weights,
        )
        write_model(path, header, arrays)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        weights: str | Path | None = None,
        device: str | None = None,
        engine: str | None = None,
        index: str | None = None,
    ) -> Self:
        """Read a classifier that `save` wrote, and check that it still embeds as it did.

        Parameters
        ----------
        path : str or Path
        weights : str or Path, optional
            Weights file, for a model saved without them; ``"hub"`` to fetch them.
        device : str, optional
            Device to compute on; None for the one that was asked for at fit.
        engine : str, optional
            What computes the network; None for the engine that was asked for at fit.
        index : str, optional
            Where the index is now, if not where it was.

        Raises
        ------
        ModelFileError
            Not such a model, damaged, other weights than at fit, or check inputs that are
            embedded otherwise here.
        InputError
            The index holds embeddings of another model.
        """
        saved = modelfiles.read(path, weights=weights, device=device, engine=engine, index=index)
        with naming(path):
            classifier = cls(**saved.params)
            classifier._fitted = replace(saved.fitted, params=classifier._params_of_fit())
            classifier.operating_point_ = saved.point
            classifier._point_for = str(classifier.positive), classifier._voting()
            classifier.use_index(saved.fitted.index)
        return classifier

    # -- inside ----------------------------------------------------------------------------

    def _state(self) -> Fitted:
        """What was fitted, as it is now."""
        if self._fitted is None:
            raise NotFittedError(
                "this MetricKNNClassifier is not fitted: call fit with labelled images, or load "
                "a model file"
            )
        return self._fitted

    def _as_asked(self) -> Fitted:
        """What was fitted, with the parameters that need no fit as they are now.

        Raises
        ------
        InputError
            Parameters out of their limits, or others that were changed since the fit.
        """
        fitted, params = self._state(), self.get_params()
        check_classifier(params)
        check_unchanged(fitted.params, self._params_of_fit())
        embedding = fitted.embedding
        run_as_asked(embedding.encoder, params, "encoder")
        run_as_asked(embedding.projection, params, "projection")
        embedding.use_cache(self.cache)
        return fitted

    def _params_of_fit(self) -> dict[str, Any]:
        """Parameters that only a fit gives effect, in a form to be compared."""
        params = self.get_params(deep=False)
        own = {name: value for name, value in params.items() if name not in _OF_ANSWERS}
        return comparable_params(own, ("encoder", "projection"))

    def _changing(self) -> Fitted:
        """The fitted state, before its index is changed: nothing derived from it holds any
        longer, whatever comes of the change."""
        self._fitted = fitted = replace(self._as_asked())
        return fitted

    def _voting(self) -> Voting:
        return Voting(int(self.n_neighbors), self.weights, self.class_weight)

    def _checked_point(self) -> OperatingPoint | None:
        """The operating point, if it is for the parameters as they are."""
        now = str(self.positive), self._voting()
        if self.operating_point_ is not None and self._point_for != now:
            raise InputError(
                "the operating point is for positive={!r}, {}, and now there are {!r}, {}: "
                "set_operating_point again".format(*self._point_for, *now)
            )
        return self.operating_point_

    def _decide(self, found: Neighbors) -> Answers:
        return self._rule().decide(found)

    def _rule(self) -> Rule:
        fitted, known = self._state(), self._counts
        if known is None or known[0] is not fitted:
            counts = fitted.index.counts()
            self._counts = known = fitted, np.array([counts.get(n, 0) for n in fitted.names])
        point, code = self._checked_point(), positive_code(self.positive, fitted.classes)
        threshold = None if code is None or point is None else point.threshold
        return Rule(fitted.names, self._voting(), known[1], code, threshold)

    def _novelty(self) -> Novelty:
        fpr = check_fpr(self.novelty_fpr)
        return novelty_of(self._known_held_out(), fpr)

    def _known_held_out(self) -> HeldOut | None:
        """Answers to stored images; None where too few are stored."""
        try:
            return self.held_out()[0]
        except CalibrationError:
            return None

    def __sklearn_is_fitted__(self) -> bool:
        return self._fitted is not None

    def __sklearn_clone__(self) -> Self:
        copy: Self = super().__sklearn_clone__()
        copy.encoder = copy_extractor(self.encoder)  # a fitted one stays so: `fit` does not
        return copy
