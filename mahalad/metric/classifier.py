"""Labels by majority vote of the nearest labelled images, which may be corrected at any time."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, clone

from mahalad.errors import CalibrationError, InputError
from mahalad.index.contract import Distance, Neighbors, VectorIndex
from mahalad.index.opening import open_index
from mahalad.metric import file as modelfiles
from mahalad.metric.answers import Answers, decide
from mahalad.metric.copies import describe_copies
from mahalad.metric.embedding import Embedding, about
from mahalad.metric.held_out import HeldOut, cross_fit, draw_folds, held_out_votes, train
from mahalad.metric.label_arrays import as_type_of, labels_array, repeated_names
from mahalad.metric.labelled import check_labels
from mahalad.metric.operating import Curve, OperatingPoint, choose, precision_recall_curve
from mahalad.metric.search_record import Search
from mahalad.metric.triplets.self_training import check_confidence
from mahalad.metric.votes import CLASS_WEIGHTS, DISTANCES, WEIGHTS, Voting, label_codes
from mahalad.protocols import Floats
from mahalad.result import LabelledResult, Result
from mahalad.thresholds.rules import ConformalThreshold, check_fpr
from mahalad.unfitted import NotFittedError

CHEAP_FOLDS = 20
"""Folds where there is nothing to train."""


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
        takes it: a folder, or ``"qdrant://host:6333/collection"``, empty or new at `fit`.
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
    unreadable_ : list of Result
        Images that `fit` had to leave out.
    n_self_trained_ : int
        Unlabelled images that trained the projection.
    search_ : Search
        Only after `mahalad.metric.search.search_parameters`: what it tried and chose.

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

    classes_: NDArray[Any]
    embedding_: Embedding
    index_: VectorIndex
    operating_point_: OperatingPoint | None
    calibration_method_: str
    unreadable_: list[Result]
    n_self_trained_: int
    search_: Search
    _search_is_new: bool
    _cross_fitted: HeldOut
    _point_for: tuple[str, Voting]
    _cross_fitted_for: tuple[int, str]
    _held_out: tuple[Voting, HeldOut, NDArray[Any]] | None
    _counts: NDArray[np.int64] | None

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

    def fit(self, X: Any, y: Any, *, unlabelled: Any = None) -> Self:
        """Fit to labelled images, forgetting earlier ones.

        Parameters
        ----------
        X : images
            As everywhere (see `mahalad.images.iter_sources`); features where `encoder` is None.
        y : sequence of str or int, shape (n_images,)
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
        self._check_parameters()
        if self.self_training is not None and (unlabelled is None or self.projection is None):
            raise InputError("self_training needs unlabelled images, and a projection to train")
        y = labels_array(y)
        if not self.__dict__.pop("_search_is_new", False):
            self.__dict__.pop("search_", None)  # it was for another fit
        self.__dict__.pop("index_", None)  # a failed fit leaves no half-fitted classifier
        encoder = clone(self.encoder, safe=False)
        projection = clone(self.projection, safe=False)
        embedding = Embedding(None if encoder is None else encoder.build(), projection, self.cache)
        images, F = embedding.read_all(X)
        if len(images) != len(y):
            raise InputError(f"{len(y)} labels given for {len(images)} images")
        readable = [image.error is None for image in images]
        names = y[readable].astype(str)
        check_labels(names.tolist(), "labels of the images")
        if self.n_neighbors > len(names):
            raise InputError(
                f"n_neighbors={self.n_neighbors}, but there are {len(names)} labelled images"
            )
        self.unreadable_ = [
            Result(image.source.name, error=str(image.error)) for image in images if image.error
        ]
        self.classes_ = np.unique(y[readable])
        self._positive_code()
        self.embedding_ = embedding
        further = self._standardize(F, unlabelled, {image.key for image in images})
        Z = embedding.standardized(F)
        self.n_self_trained_ = 0
        if projection is not None:
            self.n_self_trained_ = train(
                projection, Z, names, further, self.self_training, self.class_weight
            )
        own = self.standardize and unlabelled is None
        probabilities, distances = self._cross_fit(F, names, own, further)
        E = embedding.project(Z)
        index = self._new_index(E.shape[1])
        paths = [image.source.name for image in images if image.error is None]
        ids = index.add(E, names.tolist(), paths)
        self._cross_fitted = HeldOut(ids[: len(distances)], probabilities, distances)
        self._cross_fitted_for = self.n_neighbors, self.weights
        self.operating_point_ = None
        self.use_index(index)
        self._warn_if_uncalibrated()
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
        self._check_fitted()
        labels = self._known_labels(y, new_label)
        read, F = self.embedding_.read_strictly(X)
        names = repeated_names(labels, len(read))
        shown = read if paths is None else [str(path) for path in paths]
        if not len(names) == len(shown) == len(read):
            raise InputError(
                f"{len(read)} images, {len(names)} labels and {len(shown)} paths to add"
            )
        E = self.embedding_.embed(F)
        copies = describe_copies(self.index_, E, names)
        self._index_changed()  # also if the store fails half-way
        ids = self.index_.add(E, names, shown)
        self._forget(ids)  # a store may give the ids of removed images again
        self._index_changed(labels)
        if copies:
            warnings.warn(copies, stacklevel=2)
        return ids

    def remove(self, ids: Sequence[int]) -> int:
        """Remove stored images by their ids; returns how many of them there were."""
        self._check_fitted()
        self._index_changed()
        n = self.index_.remove(ids)
        self._forget(ids)
        self._index_changed()
        return n

    def relabel(self, ids: Sequence[int], labels: Any, *, new_label: bool = False) -> None:
        """Give stored images other labels (one for each id, or one for all).

        Raises
        ------
        InputError
            An id that is not stored, or a label that is not known.
        """
        self._check_fitted()
        known = self._known_labels(labels, new_label)
        self._index_changed()
        self.index_.relabel(ids, repeated_names(known, len(ids)))
        self._index_changed(known)

    def set_novelty_fpr(self, fpr: float) -> Self:
        """Ask for another rate at which images are called novel; nothing is fitted again.

        A warning says so where the labelled images are too few for it.
        """
        self.set_params(novelty_fpr=fpr)
        self._warn_if_uncalibrated()
        return self

    def use_index(self, index: VectorIndex) -> None:
        """Take an index of the same embedding into use; it may hold labels that are new here."""
        self.index_ = index
        known = set(self.classes_.astype(str))
        found = [name for name in index.counts() if name not in known]
        self._index_changed(as_type_of(found, self.classes_))

    # -- asking ----------------------------------------------------------------------------

    def predict(self, X: Any) -> NDArray[Any]:
        """Label of each image, shape (n,), by the operating point if one is set."""
        codes = self._decide(self.kneighbors(X)).codes
        return np.asarray(self.classes_[codes])

    def predict_proba(self, X: Any) -> Floats:
        """Shares of the votes, shape (n, n_classes), in the order of `classes_`."""
        return self._decide(self.kneighbors(X)).shares

    def kneighbors(self, X: Any, k: int | None = None) -> Neighbors:
        """Ids, distances, labels and paths of the k nearest stored images, (n, k) each."""
        E = self.embed(X)
        return self.index_.query(E, self.n_neighbors if k is None else k)

    def embed(self, X: Any) -> NDArray[np.float32]:
        """Embeddings of images, shape (n, n_components): what the index compares."""
        self._check_fitted()
        return self.embedding_.embed(self.embedding_.read_strictly(X)[1])

    def inspect(self, X: Any, *, maps: bool = False) -> Iterator[LabelledResult]:
        """Classify images one after the other; an unreadable one is reported, not raised.

        Parameters
        ----------
        X : images
        maps : bool, default=False
            There are no anomaly maps: True is an `InputError`.

        Yields
        ------
        LabelledResult
            One for each image, in order.
        """
        if maps:
            raise InputError("a classifier by nearest neighbours has no anomaly maps")
        self._check_fitted()
        novelty = self._novelty()
        for images, F in self.embedding_.read(X):
            good: Iterator[LabelledResult] = iter(())
            names = [image.source.name for image in images if image.error is None]
            if names:
                found = self.index_.query(self.embedding_.embed(F), self.n_neighbors)
                good = self._decide(found).results(names, *novelty)
            for image in images:
                if image.error is None:
                    yield next(good)
                else:
                    yield LabelledResult(image.source.name, error=str(image.error))

    @property
    def novelty_threshold_(self) -> float:
        """Distance to the k-th neighbour beyond which an image is novel, at `novelty_fpr`."""
        threshold = ConformalThreshold().fit(self.held_out()[0].distances)
        return threshold.critical_value(check_fpr(self.novelty_fpr))

    def held_out(self) -> tuple[HeldOut, NDArray[Any]]:
        """Answers to stored images by votes that had not seen them, and their labels (n,).

        Of images of the fit: by fits without them, as cast at `fit`. Of all others: by
        leave-one-out among all that is stored now.

        Raises
        ------
        CalibrationError
            No more images are stored than there are neighbours.
        InputError
            After a cross-fit, `n_neighbors` or `weights` were changed by set_params.
        """
        self._check_fitted()
        asked = self._voting()
        now = self.n_neighbors, self.weights
        if len(self._cross_fitted.ids) and now != self._cross_fitted_for:
            raise InputError(
                f"n_neighbors and weights were {self._cross_fitted_for} in the cross-fit and are "
                f"{now} now: set them back, or fit again"
            )
        if self._held_out is None or self._held_out[0] != asked:
            classes = self.classes_.astype(str).tolist()
            votes = held_out_votes(self.index_, self._cross_fitted, classes, asked)
            self._held_out = (asked, *votes)
        return self._held_out[1:]

    def precision_recall_curve(self) -> Curve:
        """Precision and recall of the positive label at every threshold, from `held_out`."""
        self._check_fitted()
        code = self._positive_code()
        if code is None:
            raise InputError(
                "precision and recall are about one label: set_params(positive=...), one of "
                f"{', '.join(map(repr, self.classes_.tolist()))}"
            )
        held_out, labels = self.held_out()
        return precision_recall_curve(held_out.probabilities[:, code], labels == str(self.positive))

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
        self._check_fitted()
        point = None
        if precision is not None or recall is not None:
            point = choose(self.precision_recall_curve(), precision, recall)
        self.operating_point_, self._point_for = point, (str(self.positive), self._voting())
        return self

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
        self._check_fitted()
        self._check_point()
        modelfiles.save(self, path, include_weights=include_weights)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        weights: str | Path | None = None,
        device: str | None = None,
        index: str | None = None,
    ) -> Self:
        """Read a classifier that `save` wrote, and check that it still embeds as it did.

        Parameters
        ----------
        path : str or Path
        weights : str or Path, optional
            Weights file, for a model saved without them.
        device : str, optional
            Device to compute on; None for the one that was asked for at fit.
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
        return modelfiles.load(cls, path, weights=weights, device=device, index=index)

    # -- inside ----------------------------------------------------------------------------

    def _forget(self, ids: Any) -> None:
        """Drop the votes that were cast on images with these ids."""
        held = self._cross_fitted
        kept = ~np.isin(held.ids, np.asarray(ids, dtype=np.int64))
        self._cross_fitted = HeldOut(held.ids[kept], held.probabilities[kept], held.distances[kept])

    def _voting(self) -> Voting:
        return Voting(int(self.n_neighbors), self.weights, self.class_weight)

    def _check_point(self) -> None:
        now = str(self.positive), self._voting()
        if self.operating_point_ is not None and self._point_for != now:
            raise InputError(
                "the operating point is for positive={!r}, {}, and now there are {!r}, {}: "
                "set_operating_point again".format(*self._point_for, *now)
            )

    def _index_changed(self, labels: Any = ()) -> None:
        """Forget what was derived from it, and learn labels that are new."""
        self._held_out = self._counts = None
        if len(labels):  # new ones at the end: votes that are kept have the old order
            new = np.setdiff1d(labels, self.classes_)
            self.classes_ = np.concatenate([self.classes_, new])

    def _standardize(
        self, F: Floats, unlabelled: Any, known: set[Any]
    ) -> NDArray[np.float32] | None:
        """Set mean and deviation; give unlabelled features that are to train, without those of
        images that are labelled."""
        embedding, further = self.embedding_, None
        batches: Any = [F]
        if self.self_training is not None:
            images, further = embedding.read_all(unlabelled)
            batches = [further]
        elif unlabelled is not None:
            batches = (part for _, part in embedding.read(unlabelled) if len(part))
        if self.standardize:
            embedding.standardize_as(batches)
        else:
            embedding.mean, embedding.scale = np.zeros(F.shape[1]), np.ones(F.shape[1])
        if further is None:
            return None
        new = [image.key not in known for image in images if image.error is None]
        return embedding.standardized(further[new])

    def _cross_fit(
        self, F: Floats, names: NDArray[Any], own: bool, further: NDArray[np.float32] | None
    ) -> tuple[Floats, Floats]:
        """Honest votes (n, n_classes) and distances (n,); none where leave-one-out will do.

        `own`: the features are standardised by these images themselves.
        """
        classes = self.classes_.astype(str).tolist()
        trains = self.projection is not None
        self.calibration_method_ = "leave-one-out"
        none = np.empty((0, len(classes))), np.empty(0)
        if self.calibration_folds is None or not (trains or own):
            return none
        n_folds = self.calibration_folds if trains else max(self.calibration_folds, CHEAP_FOLDS)
        folds = draw_folds(
            label_codes(names, classes), n_folds, self.n_neighbors, self.random_state or 0,
            trains=trains,
        )  # fmt: skip
        if not folds:
            if trains:
                warnings.warn(
                    f"{len(names)} labelled images are too few to train without a part of them: "
                    "operating point and novelty come from leave-one-out among images that the "
                    "projection was trained on, and are far too optimistic",
                    stacklevel=3,
                )
            return none
        self.calibration_method_ = "cross-fit"
        return cross_fit(
            self.embedding_,
            self.projection,
            F,
            names,
            classes,
            folds,
            standardize=own,
            k=self.n_neighbors,
            weights=self.weights,
            distance=self._distance(),
            further=further,
            self_training=self.self_training,
            class_weight=self.class_weight,
        )

    def _decide(self, found: Neighbors) -> Answers:
        classes = self.classes_.astype(str).tolist()
        if self._counts is None:
            counts = self.index_.counts()
            self._counts = np.array([counts.get(name, 0) for name in classes])
        self._check_point()
        code, point = self._positive_code(), self.operating_point_
        threshold = None if code is None or point is None else point.threshold
        return decide(found, classes, self._voting(), self._counts, code, threshold)

    def _new_index(self, n_features: int) -> VectorIndex:
        index = open_index(
            self.index,
            n_features=n_features,
            distance=self._distance(),
            about=about(self.embedding_),
        )
        n = len(index)
        if n:
            index.close()
            raise InputError(f"{self.index}: holds {n} vectors already; a fit needs an empty index")
        return index

    def _novelty(self) -> tuple[ConformalThreshold | None, float | None]:
        """Rule and critical distance; None where there are too few images for them."""
        fpr = check_fpr(self.novelty_fpr)
        try:
            rule = ConformalThreshold().fit(self.held_out()[0].distances)
        except CalibrationError:
            return None, None
        try:
            return rule, rule.critical_value(fpr)
        except CalibrationError:
            return rule, None

    def _warn_if_uncalibrated(self) -> None:
        if self._novelty()[1] is None:
            warnings.warn(
                f"{len(self.index_)} labelled images are too few to tell whether an image is "
                f"novel at novelty_fpr={self.novelty_fpr:g}: label more, or ask for a larger rate",
                stacklevel=3,
            )

    def _positive_code(self) -> int | None:
        """Number of the positive class; None if no label is positive."""
        if self.positive is None:
            return None
        known: list[str] = self.classes_.astype(str).tolist()
        if str(self.positive) not in known:
            raise InputError(
                f"positive={self.positive!r} is not one of the labels: {', '.join(known)}"
            )
        return known.index(str(self.positive))

    def _known_labels(self, y: Any, new_label: bool) -> NDArray[Any]:
        """Labels of images to add, as an array of the type of `classes_`."""
        labels = labels_array([y] if isinstance(y, (str, int, np.integer)) else y)
        known = self.classes_.astype(str).tolist()
        unknown = sorted(set(labels.astype(str).tolist()) - set(known))
        if unknown and not new_label:
            raise InputError(
                f"unknown label {', '.join(map(repr, unknown))}; known are "
                f"{', '.join(map(repr, known))} (new_label=True, or --new-label, allows new ones)"
            )
        return as_type_of(labels.astype(str).tolist(), self.classes_)

    def _distance(self) -> Distance:
        default = "euclidean" if self.projection is None else self.projection.distance
        return cast(Distance, self.distance or default)

    def _check_parameters(self) -> None:
        check_fpr(self.novelty_fpr)
        for name, least in (("n_neighbors", 1), ("calibration_folds", 2)):
            value = getattr(self, name)
            if value is None and name == "calibration_folds":
                continue
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
                raise InputError(f"{name} must be a whole number >= {least}, got {value!r}")
        for name, allowed in (
            ("weights", WEIGHTS),
            ("class_weight", CLASS_WEIGHTS),
            ("distance", (None, *DISTANCES)),
        ):
            if getattr(self, name) not in allowed:
                names = ", ".join(map(repr, allowed))
                raise InputError(f"{name} must be one of {names}, got {getattr(self, name)!r}")
        if self.self_training is not None:
            check_confidence(self.self_training)
        seed = self.random_state
        if seed is not None and not (isinstance(seed, (int, np.integer)) and 0 <= seed < 2**32):
            raise InputError(f"random_state must be None or a whole number >= 0, got {seed!r}")

    def _check_fitted(self) -> None:
        if not hasattr(self, "index_"):
            raise NotFittedError(
                "this MetricKNNClassifier is not fitted: call fit with labelled images, or load "
                "a model file"
            )

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "index_")
