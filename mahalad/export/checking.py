"""Whether an exported model says what the detector says: scores, verdicts and maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mahalad.errors import ModelFileError
from mahalad.features.golden import golden_images
from mahalad.metric.answers import novelty_of
from mahalad.metric.classifier import MetricKNNClassifier
from mahalad.result import Result
from mahalad.runtime.classifier import OnnxClassifier, difference
from mahalad.runtime.detector import OnnxDetector

SCORE_RTOL = 1e-4
"""Largest change of a score, relative to it; of standardized ones below 1, absolute; of images of
the fit that are scored as if they were none, relative to the threshold: of the distance of one to
itself nothing but rounding is left."""
ROUNDING = 1e-6
"""Relative difference of scores of one image in another batch."""
MAP_ATOL = 1e-3
"""Largest change of a map, in standard deviations of good images where it is above their mean, or
of the largest share. Below the mean it is how alike a place is to a good one: of one that is in the
fit nothing but the rounding of float32 is left.
"""


@dataclass(frozen=True)
class Parity:
    """How an exported model differs from the detector. `str` of it is a line.

    Attributes
    ----------
    n : int
        Images that were compared.
    n_unreadable : int
        Images that neither could read.
    score, p_value, map : float
        Largest differences; see `SCORE_RTOL` and `MAP_ATOL`. `map` is 0 without maps. Of a
        classifier, `score` is that of embeddings, relative to their length.
    n_changed : int
        Verdicts (labels, and whether an image is novel) that differ. One of a score that is the
        threshold itself, to rounding, does not count: that of the held-out image that set it.
    n_at_threshold : int
        Such verdicts, which differ and do not count.
    what : {"scores", "embeddings"}
        What `score` is about.
    """

    n: int
    n_unreadable: int
    score: float
    p_value: float
    map: float
    n_changed: int
    what: str = "scores"
    n_at_threshold: int = 0

    @property
    def holds(self) -> bool:
        """Whether all is within the tolerances."""
        return self.score <= SCORE_RTOL and self.map <= MAP_ATOL and not self.n_changed

    def __str__(self) -> str:
        left = f" ({self.n_unreadable} unreadable)" if self.n_unreadable else ""
        images = f"{self.n} image{'' if self.n == 1 else 's'}{left}"
        at = f" ({self.n_at_threshold} at the threshold itself)" if self.n_at_threshold else ""
        return (
            f"{images}: {self.what} differ by {self.score:.1e} at most (allowed {SCORE_RTOL:g}), "
            f"maps by {self.map:.1e} (allowed {MAP_ATOL:g}), "
            f"p-values by {self.p_value:.1e}, verdicts changed: {self.n_changed}{at}"
        )


def compare(detector: Any, exported: OnnxDetector, X: Any = None) -> Parity:
    """Ask both about images, or about golden inputs, and compare.

    Parameters
    ----------
    detector : AnomalyDetector
    exported : OnnxDetector
    X : images, optional
        None: the golden inputs.
    """
    if X is None:
        X = golden_images(detector.features_)
    maps = exported.has_maps
    off = {"score": 0.0, "p_value": 0.0, "map": 0.0}
    n = n_unreadable = n_changed = n_at = 0
    standardized = exported.record_["maps"] is not None and (
        exported.record_["maps"]["kind"] == "positions"
    )
    pairs = zip(detector.inspect(X, maps=maps), exported.inspect(X, maps=maps), strict=True)
    for wanted, found in pairs:
        if wanted.error is not None or found.error is not None:
            n_unreadable += 1
            n_changed += wanted.error != found.error
            continue
        n += 1
        unit = max(abs(wanted.score), _least(wanted, standardized))
        off["score"] = max(off["score"], _size(found.score - wanted.score) / unit)
        off["p_value"] = max(off["p_value"], _size(found.p_value - wanted.p_value))
        if found.anomaly != wanted.anomaly:
            at = _is_the_threshold(wanted)
            n_changed, n_at = n_changed + (not at), n_at + at
        if maps:
            off["map"] = max(
                off["map"], _off_map(found.anomaly_map, wanted.anomaly_map, standardized)
            )
    return Parity(
        n, n_unreadable, off["score"], off["p_value"], off["map"], n_changed, n_at_threshold=n_at
    )


def compare_labels(
    classifier: MetricKNNClassifier, exported: OnnxClassifier, X: Any = None
) -> Parity:
    """Ask both classifiers about images, or about golden inputs, and compare.

    Parameters
    ----------
    classifier : MetricKNNClassifier
    exported : OnnxClassifier
    X : images, optional
        None: the golden inputs.
    """
    if X is None:
        X = golden_images(classifier.embedding_.encoder)
    rule, held_out = classifier.parts_to_ask()
    novelty = novelty_of(held_out, classifier.novelty_fpr)
    wanted_by, found_by = classifier.embedding_, exported.embedding_
    off = {"score": 0.0, "p_value": 0.0}
    n = n_unreadable = n_changed = 0
    size = found_by.encoder.batch_size
    both = zip(wanted_by.read(X, batch_size=size), found_by.read(X, batch_size=size), strict=True)
    for (images, F), (others, found) in both:
        n_unreadable += sum(image.error is not None for image in images)
        texts = [[str(image.error) for image in batch] for batch in (images, others)]
        n_changed += sum(one != other for one, other in zip(*texts, strict=True))
        names = [image.source.name for image in images if image.error is None]
        if not names:
            continue
        n += len(names)
        wanted = wanted_by.embed(F)
        for one, other in zip(found, wanted, strict=True):
            off["score"] = max(off["score"], difference(one, other))
        answers = zip(
            rule.decide(classifier.index_.query(wanted, rule.voting.k)).results(names, *novelty),
            exported.answers(names, found),
            strict=True,
        )
        for one, other in answers:
            n_changed += (one.label, one.novel) != (other.label, other.novel)
            off["p_value"] = max(off["p_value"], abs((one.p_value or 0.0) - (other.p_value or 0.0)))
    return Parity(n, n_unreadable, off["score"], off["p_value"], 0.0, n_changed, "embeddings")


def _least(wanted: Result, standardized: bool) -> float:
    """What a difference is relative to at the least."""
    if standardized:
        return 1.0
    tiny = float(np.finfo(float).tiny)
    return max(abs(wanted.threshold or 0.0), tiny) if wanted.in_fit else tiny


def _is_the_threshold(wanted: Result) -> bool:
    """Whether rounding decides: the image is the one of the calibration that set the threshold."""
    if wanted.score is None or wanted.threshold is None:
        return False
    return abs(wanted.score - wanted.threshold) <= ROUNDING * abs(wanted.threshold)


def _off_map(found: Any, wanted: Any, standardized: bool) -> float:
    if standardized:
        return _size(np.maximum(found, 0) - np.maximum(wanted, 0))
    return _size(found - wanted) / max(_size(wanted), float(np.finfo(float).tiny))


def check(parity: Parity, what: str) -> None:
    """Refuse a model that says something else.

    Raises
    ------
    ModelFileError
    """
    if not parity.holds:
        raise ModelFileError(
            f"the exported model does not say what the detector says of {what}: {parity}; nothing "
            "is written"
        )


def _size(values: Any) -> float:
    """The largest absolute value; NaN is infinite."""
    largest = float(np.max(np.abs(values), initial=0.0))
    return largest if np.isfinite(largest) else np.inf
