"""From neighbours to answers: the label that wins, how sure it is, and who voted for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mahalad.errors import CalibrationError
from mahalad.images.reading import ReadImage
from mahalad.index.contract import Neighbors, VectorIndex
from mahalad.metric.votes import HeldOut, Voting, winners
from mahalad.protocols import Floats
from mahalad.result import LabelledResult, Neighbour
from mahalad.thresholds.conformal import ConformalThreshold


@dataclass(frozen=True)
class Answers:
    """What the neighbours of n images say.

    Attributes
    ----------
    found : Neighbors
    classes : list of str
    shares : ndarray of shape (n, n_classes)
        Of the votes.
    codes : ndarray of int, shape (n,)
        Number of the class that wins.
    positive : int or None
        Number of the positive class.
    threshold : float or None
        On its share; None where the majority decides.
    """

    found: Neighbors
    classes: list[str]
    shares: Floats
    codes: NDArray[np.intp]
    positive: int | None
    threshold: float | None

    def results(
        self, names: list[str], novelty: ConformalThreshold | None, critical: float | None
    ) -> Iterator[LabelledResult]:
        """Give one result for each image; beyond the `critical` distance it is novel."""
        found, positive = self.found, self.positive
        score = 1 - self.shares.max(axis=1) if positive is None else self.shares[:, positive]
        kth = found.distances[:, -1]
        p_values = None if novelty is None else novelty.p_values(kth)
        for i, name in enumerate(names):
            code = self.codes[i]
            novel = None if critical is None else bool(kth[i] > critical)
            near = zip(
                found.ids[i], found.paths[i], found.labels[i], found.distances[i], strict=True
            )
            yield LabelledResult(
                name,
                score=float(score[i]),
                threshold=self.threshold,
                p_value=None if p_values is None else float(p_values[i]),
                anomaly=novel if positive is None else bool(code == positive),
                label=self.classes[code],
                probability=float(self.shares[i, code]),
                novel=novel,
                distance=float(kth[i]),
                neighbours=tuple(
                    Neighbour(int(id_), str(path), str(label), float(distance))
                    for id_, path, label, distance in near
                ),
            )


@dataclass(frozen=True, eq=False)
class Rule:
    """How neighbours become answers: the arguments of `decide` beside the neighbours."""

    classes: list[str]
    voting: Voting
    counts: NDArray[np.int64]
    positive: int | None = None
    threshold: float | None = None

    def decide(self, found: Neighbors) -> Answers:
        """Count the votes of neighbours (n, k), and name the winners."""
        return decide(found, self.classes, self.voting, self.counts, self.positive, self.threshold)


Novelty = tuple[ConformalThreshold | None, float | None]
"""Rule and critical distance; None where there are too few images for them."""


def novelty_of(held_out: HeldOut | None, fpr: float) -> Novelty:
    """Make the rule of novelty at a rate, of answers to stored images; None: there are too few."""
    if held_out is None:
        return None, None
    try:
        rule = ConformalThreshold().fit(held_out.distances, weights=held_out.weights)
    except CalibrationError:
        return None, None
    try:
        return rule, rule.critical_value(fpr)
    except CalibrationError:
        return rule, None


def answers_to(
    batches: Iterable[tuple[list[ReadImage], Any]],
    embed: Callable[[Any], NDArray[np.float32]],
    index: VectorIndex,
    rule: Rule,
    novelty: Novelty,
) -> Iterator[LabelledResult]:
    """Answer images in their order; one that cannot be read gives a result with an error.

    Parameters
    ----------
    batches : iterable of (list of ReadImage, features)
        With the features of the readable ones.
    embed : callable
        Makes embeddings (n, n_components) of these.
    index : VectorIndex
    rule : Rule
    novelty : Novelty
    """
    for images, F in batches:
        good: Iterator[LabelledResult] = iter(())
        names = [image.source.name for image in images if image.error is None]
        if names:
            found = index.query(embed(F), rule.voting.k)
            good = rule.decide(found).results(names, *novelty)
        for image in images:
            if image.error is None:
                yield next(good)
            else:
                yield LabelledResult(image.source.name, error=str(image.error))


def decide(
    found: Neighbors,
    classes: list[str],
    voting: Voting,
    counts: ArrayLike,
    positive: int | None = None,
    threshold: float | None = None,
) -> Answers:
    """Count the votes of neighbours (n, k), and name the winners.

    Parameters
    ----------
    found : Neighbors
    classes : list of str
    voting : Voting
    counts : array of int, shape (n_classes,)
        How many images of each class are stored.
    positive : int, optional
        Number of the positive class.
    threshold : float, optional
        On its share: where that is reached it wins, else the largest of the others.
    """
    shares = voting.shares(found.labels, found.distances, classes, counts)
    if positive is None or threshold is None:
        codes = winners(shares, found.labels, found.distances, classes)
    else:
        others = shares.copy()
        others[:, positive] = -1
        among_others = winners(others, found.labels, found.distances, classes)
        reached = shares[:, positive] >= threshold * (1 - 1e-12)
        codes = np.where(reached, positive, among_others)
    return Answers(found, classes, shares, codes, positive, threshold)
