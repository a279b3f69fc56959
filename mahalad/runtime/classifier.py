"""A classifier by nearest neighbours that was exported, asked as the one it came from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mahalad.arrays import originals
from mahalad.errors import InputError, ModelFileError
from mahalad.features.extraction import extract
from mahalad.features.golden import golden_images
from mahalad.files.onnx import decode
from mahalad.images.reading import ReadImage
from mahalad.index.contract import Neighbors
from mahalad.index.memory import MemoryIndex
from mahalad.metric.answers import Novelty, Rule, answers_to, novelty_of
from mahalad.metric.operating import OperatingPoint
from mahalad.metric.votes import HeldOut, Voting
from mahalad.protocols import Floats
from mahalad.result import LabelledResult
from mahalad.runtime.parts import EMBEDDING, GraphFeatures, change, preparation_in, reading_of
from mahalad.runtime.session import Session
from mahalad.thresholds.conformal import ConformalThreshold, check_fpr

KIND = "metric-knn"
"""Of the record of a classifier."""


@dataclass(frozen=True, eq=False)
class GraphEmbedding:
    """What turns images into embeddings: the graph.

    Attributes
    ----------
    encoder : GraphFeatures
    depths : frozenset of str
        How the images of the fit were stored; empty where that is not known.
    """

    encoder: GraphFeatures
    depths: frozenset[str]

    def read(
        self, X: Any, *, batch_size: int | None = None, promptly: bool = False
    ) -> Iterator[tuple[list[ReadImage], NDArray[np.float32]]]:
        """Yield batches of decoded images, and embeddings of those that can be read."""
        for images, found in extract(
            X, self.encoder, 0, batch_size=batch_size, promptly=promptly, fitted=self.depths
        ):
            E = self._embeddings(originals(found)) if found else np.empty((0, 0), np.float32)
            yield images, E

    def of_prepared(self, prepared: list[NDArray[Any]]) -> NDArray[np.float32]:
        """Compute embeddings (n, n_components) of prepared images."""
        return self._embeddings(self.encoder.transform(prepared))

    @staticmethod
    def _embeddings(found: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        return np.asarray(found[EMBEDDING], np.float32)


class OnnxClassifier:
    """An exported `MetricKNNClassifier`. It is asked as one is, and says the same.

    Made by `mahalad.runtime.load`. It cannot be fitted or corrected.

    Parameters
    ----------
    session : Session
    name : str
        Of the file, for errors.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    index_ : MemoryIndex
        The labelled embeddings.
    novelty_fpr : float
        Share of images like the stored ones that may be called novel; `set_novelty_fpr` changes it.
    record_ : dict
        What the file says.

    Raises
    ------
    ModelFileError
        The record of the file is damaged.
    """

    def __init__(self, session: Session, name: str) -> None:
        record = self.record_ = session.record
        try:
            voting, index = record["voting"], record["index"]
            self.classes_ = np.array(record["classes"])
            self.n_neighbors = int(voting["n_neighbors"])
            self.weights = str(voting["weights"])
            self.class_weight: str | None = voting["class_weight"]
            self.positive: str | int | None = record["positive"]
            self.novelty_fpr = check_fpr(record["novelty_fpr"])
            self.calibration_method_ = str(record["calibration"]["method"])
            self.fit_date_: str | None = record["fit"]["date"]
            point = record["operating_point"]
            self.operating_point_ = None if point is None else OperatingPoint(**point)
            self._held_out = held_out_in(record["calibration"], name)
            arrays = {key: decode(value, name) for key, value in index["arrays"].items()}
            self.index_ = MemoryIndex.restore(index["about"], arrays)
            features = GraphFeatures(session, preparation_in(record, name), (EMBEDDING,))
            self.embedding_ = GraphEmbedding(features, frozenset(record["fit"]["depths"]))
            names = self.classes_.astype(str).tolist()
            counts = self.index_.counts()
            code = None if self.positive is None else names.index(str(self.positive))
            self._rule = Rule(
                names,
                Voting(self.n_neighbors, self.weights, self.class_weight),
                np.array([counts.get(label, 0) for label in names]),
                code,
                None if code is None or point is None else point["threshold"],
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelFileError(f"{name}: the record of the model is damaged ({error})") from error
        self._name = name

    def set_novelty_fpr(self, fpr: float) -> Self:
        """Ask for another rate at which images are called novel; nothing is exported again."""
        self.novelty_fpr = check_fpr(fpr)
        return self

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Give what `set_params` may change."""
        return {"novelty_fpr": self.novelty_fpr, **reading_of(self.embedding_.encoder)}

    def set_params(self, **params: Any) -> Self:
        """Change `novelty_fpr`, `batch_size`, or how images are read: `bits` and `channels`.

        Raises
        ------
        InputError
            Another parameter: an exported model has all else within.
        """
        change(self, self.embedding_.encoder, params, "change the classifier")
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        """Tell the label of each image, shape (n,), by the operating point if one is set."""
        return np.asarray(self.classes_[self._rule.decide(self.kneighbors(X)).codes])

    def predict_proba(self, X: Any) -> Floats:
        """Give shares of the votes, shape (n, n_classes), in the order of `classes_`."""
        return self._rule.decide(self.kneighbors(X)).shares

    def kneighbors(self, X: Any, k: int | None = None) -> Neighbors:
        """Find ids, distances, labels and paths of the k nearest stored images, (n, k) each."""
        return self.index_.query(self.embed(X), self.n_neighbors if k is None else k)

    def embed(self, X: Any) -> NDArray[np.float32]:
        """Compute embeddings of images, shape (n, n_components)."""
        parts = []
        for images, E in self.embedding_.read(X):
            for image in images:
                if image.error is not None:
                    raise image.error
            parts.append(E)
        return np.concatenate(parts)

    def inspect(
        self, X: Any, *, maps: bool = False, batch_size: int | None = None
    ) -> Iterator[LabelledResult]:
        """Classify images one after the other; see `MetricKNNClassifier.inspect`.

        Yields
        ------
        LabelledResult
            One for each image, in order; an unreadable one has an error.
        """
        if maps:
            raise InputError("a classifier by nearest neighbours has no anomaly maps")
        batches = self.embedding_.read(X, batch_size=batch_size, promptly=True)
        yield from answers_to(batches, np.asarray, self.index_, self._rule, self._novelty())

    def answers(self, names: list[str], E: NDArray[np.float32]) -> Iterator[LabelledResult]:
        """Give a result for each of images with these names and embeddings (n, n_components)."""
        found = self.index_.query(E, self.n_neighbors)
        return self._rule.decide(found).results(names, *self._novelty())

    @property
    def novelty_threshold_(self) -> float:
        """Distance to the k-th neighbour beyond which an image is novel, at `novelty_fpr`."""
        found = self.held_out()[0]
        threshold = ConformalThreshold().fit(found.distances, weights=found.weights)
        return threshold.critical_value(self.novelty_fpr)

    def held_out(self) -> tuple[HeldOut, NDArray[Any]]:
        """Give answers to stored images by votes that had not seen them, and their labels (n,).

        Raises
        ------
        InputError
            There were too few images for them.
        """
        if self._held_out is None:
            raise InputError(f"{self._name}: too few labelled images for votes that had not seen "
                             "them")  # fmt: skip
        return self._held_out

    def check_golden(self) -> Self:
        """Embed pictures that are made from a seed, and compare with those of the export.

        Raises
        ------
        ModelFileError
            They are embedded otherwise.
        """
        golden = self.record_["golden"]
        wanted = decode(golden["embeddings"], self._name)
        encoder = self.embedding_.encoder
        off = difference(self.embedding_.of_prepared(golden_images(encoder)), wanted)
        if not off <= golden["rtol"]:
            raise ModelFileError(
                f"{self._name}: does not embed here as it did where it was exported: its check "
                f"inputs are off by {off:.2g} of their length (allowed: {golden['rtol']:g}): "
                "another version of the engine or Pillow may be the reason; export it again here, "
                "or install the versions of there"
            )
        return self

    def _novelty(self) -> Novelty:
        return novelty_of(None if self._held_out is None else self._held_out[0], self.novelty_fpr)


def difference(found: NDArray[Any], wanted: NDArray[Any]) -> float:
    """The difference of embeddings, relative to their length; infinite for other shapes."""
    if found.shape != wanted.shape:
        return np.inf
    length = max(float(np.linalg.norm(wanted)), 1e-12)
    off = float(np.linalg.norm(found - wanted)) / length
    return off if np.isfinite(off) else np.inf


def held_out_in(about: Mapping[str, Any], name: str) -> tuple[HeldOut, NDArray[Any]] | None:
    """Read answers to stored images, and their labels, from a record."""
    if about["held_out"] is None:
        return None
    arrays = {key: decode(value, name) for key, value in about["held_out"].items()}
    labels = np.array(about["labels"], dtype=object)
    return HeldOut(
        arrays["ids"], arrays["probabilities"], arrays["distances"], arrays.get("weights")
    ), labels
