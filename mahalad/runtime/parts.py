"""An exported graph as the parts of a detector: what extracts, and what scores.

So images are read, judged and reported by the code that any other detector has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mahalad.checks import BATCH_SIZE, PIXELS, check_parameters
from mahalad.errors import InputError
from mahalad.files.onnx import decode
from mahalad.images.pixels import Pixels
from mahalad.images.preparing import Preparation
from mahalad.images.reading import AHEAD
from mahalad.protocols import Features, Floats
from mahalad.runtime.session import Session

LEVELS, MAP, EMBEDDING = "level_scores", "map", "embedding"
_READING = ("batch_size", "bits", "channels")


def preparation_in(record: Mapping[str, Any], name: str) -> Preparation:
    """Read how images become squares from a record; `name` is for errors."""
    about = record["images"]
    region = None if about["region"] is None else np.unpackbits(
        decode(about["region"], name), count=about["side"] ** 2
    ).astype(bool).reshape(about["side"], about["side"])  # fmt: skip
    colour = None if about["colour"] is None else tuple(about["colour"])
    pixels = Pixels(about["bits"], about["channels"])
    return Preparation(
        about["side"], about["resize"], about["interpolation"], region, colour, pixels
    )


class GraphFeatures:
    """A feature extractor whose features are what the graph says: scores per level, say.

    Parameters
    ----------
    session : Session
    preparation : Preparation
    outputs : tuple of str
        Those of the graph that are asked for.

    Attributes
    ----------
    batch_size : int
    bits, channels
        See `BackboneFeatures`.
    """

    def __init__(
        self, session: Session, preparation: Preparation, outputs: tuple[str, ...] = (LEVELS,)
    ) -> None:
        self.session = session
        self.outputs = outputs
        self.batch_size = 16
        self.bits, self.channels = preparation.pixels.bits, preparation.pixels.channels
        self._preparation = preparation

    @property
    def pixels(self) -> Pixels:
        """How images are read."""
        check_parameters(PIXELS, self)
        return Pixels(self.bits, self.channels)

    @property
    def read_ahead(self) -> int:
        """Batches to decode while the graph works on one."""
        return AHEAD

    def build(self) -> GraphFeatures:
        """Return itself: it is ready."""
        return self

    def prepare(self, image: Any) -> NDArray[Any]:
        """Resize an image as `BackboneFeatures.prepare` does."""
        return replace(self._preparation, pixels=self.pixels).prepare(image)

    def transform(self, prepared: Sequence[NDArray[Any]]) -> Features:
        """Run the graph on images as `prepare` makes them."""
        check_parameters({"batch_size": BATCH_SIZE}, self)
        squares, _ = self._preparation.squares(prepared)
        found = self.session.run(
            np.ascontiguousarray(squares.transpose(0, 3, 1, 2)),
            self._preparation.boxes(prepared),
            outputs=self.outputs,
        )
        return {name: values.astype(np.float64) for name, values in found.items()}

    def record(self) -> dict[str, Any]:
        """Give what identifies the features that are within the graph."""
        return dict(self.session.record["features"])

    def with_maps(self) -> GraphFeatures:
        """Give features of the same graph that are maps, too."""
        other = GraphFeatures(self.session, self._preparation, (LEVELS, MAP))
        other.batch_size, other.bits, other.channels = self.batch_size, self.bits, self.channels
        return other


def reading_of(features: GraphFeatures) -> dict[str, Any]:
    """Give parameters that may be changed: how images are read."""
    return {name: getattr(features, name) for name in _READING}


def change(model: Any, features: GraphFeatures, params: Mapping[str, Any], again: str) -> None:
    """Change parameters of an exported model: its own, by its ``set_...``, or those of reading.

    Raises
    ------
    InputError
        Another parameter; `again` says what to do instead.
    """
    known = model.get_params()
    for name, value in params.items():
        if name not in known:
            raise InputError(
                f"{name} of an exported model cannot be changed: {', '.join(known)} can; "
                f"for another one {again}, and export again"
            )
        if name in _READING:
            setattr(features, name, value)
        else:
            getattr(model, f"set_{name}")(value)


class GraphScores:
    """A scorer whose scores are those that the graph has computed.

    Parameters
    ----------
    record : mapping
        Of the graph.
    """

    accepts_levels = True

    def __init__(self, record: Mapping[str, Any]) -> None:
        self.score_names_ = tuple(record["levels"])
        self.degrees_of_freedom_ = record["degrees_of_freedom"]

    def level_score_samples(self, X: Features) -> Floats:
        """Scores per level, (n, n_levels), up = normal."""
        return -np.asarray(X[LEVELS])

    def score_samples(self, X: Features) -> Floats:
        """Scores, (n,), up = normal."""
        return np.asarray(self.level_score_samples(X).sum(axis=1))


class GraphScoresAndMaps(GraphScores):
    """The same, with maps (n, S, S)."""

    def anomaly_maps(self, X: Features) -> Floats:
        """Maps, up = abnormal."""
        return np.asarray(X[MAP])

    def scores_and_maps(self, X: Features) -> tuple[Floats, Floats]:
        """Both."""
        return self.level_score_samples(X), self.anomaly_maps(X)
