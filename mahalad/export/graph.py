"""A fitted detector as one torch module: from pixels to score, p-value, verdict and map."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mahalad.detectors.detector import AnomalyDetector
from mahalad.errors import InputError
from mahalad.export.distances import tensor
from mahalad.export.network import Network
from mahalad.export.scoring import LevelScores, PositionScores
from mahalad.features.extractor import BackboneFeatures
from mahalad.protocols import Floats
from mahalad.scorers.level_sum import LevelSum
from mahalad.scorers.positions.scorer import PatchScorer


class Graph(nn.Module):
    """All of a fitted detector, as it is asked about images that are not in the fit.

    Parameters
    ----------
    detector : AnomalyDetector, fitted
    ranking : tuple of two ndarrays (n_calibration,), optional
        Calibration scores and their weights, for p-values by rank.
    nominal : bool
        Whether verdicts are about the root of the sum of the levels' squares.

    Raises
    ------
    InputError
        It is none that can be exported.
    """

    scores: Tensor
    weights: Tensor

    def __init__(
        self, detector: Any, ranking: tuple[Floats, Floats] | None, *, nominal: bool = False
    ) -> None:
        super().__init__()
        check_exportable(detector)
        scorer = detector.scorer_
        self.network = Network(detector.features_)
        make = PositionScores if isinstance(scorer, PatchScorer) else LevelScores
        self.scorer = make(scorer, self.network)
        self.ranks, self.nominal = ranking is not None, nominal
        if ranking is not None:
            self.register_buffer("scores", tensor(ranking[0]))
            self.register_buffer("weights", tensor(ranking[1]))

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs, in their order."""
        boxes = ("box",) if self.network.has_boxes else ()
        return ("pixels", *boxes, "fraction", "threshold")

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs, in their order."""
        p_value = ("p_value",) if self.ranks else ()
        return ("score", "level_scores", *p_value, "anomaly", *self._map_names)

    @property
    def _map_names(self) -> tuple[str, ...]:
        return ("map",) if self.scorer.has_maps else ()

    def forward(self, pixels: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        """Judge images.

        Parameters
        ----------
        pixels : Tensor of uint8, shape (n, 3, S, S)
        rest : Tensors
            Boxes (n, 4) if images are padded; what pixels have beyond whole numbers, broadcast to
            them; the threshold.
        """
        boxes = rest[0] if self.network.has_boxes else None
        fraction, threshold = rest[-2:]
        features, raw = self.network(pixels.float() + fraction, boxes)
        levels = self.scorer(features, boxes)
        score = levels.sum(dim=1)
        statistic = (levels * levels).sum(dim=1).sqrt() if self.nominal else score
        found = [score, levels]
        if self.ranks:
            above = (self.scores >= statistic[:, None]).double() @ self.weights
            found.append((1 + above) / (1 + self.weights.sum()))
        found.append(statistic > threshold)
        if self._map_names:
            found.append(self.scorer.maps(features, raw, boxes).float())
        return tuple(found)


def check_exportable(detector: Any) -> None:
    """Refuse what has no graph: other features than a network's, or another scorer.

    Raises
    ------
    InputError
    """
    if not isinstance(detector, AnomalyDetector):
        raise InputError(
            f"a {type(detector).__name__} cannot be exported: a detector of `mahalad fit` and a "
            "classifier of `mahalad tune` can"
        )
    features = detector.features_
    if not isinstance(features, BackboneFeatures):
        what = "no network" if features is None else f"features of {type(features).__name__}"
        raise InputError(
            f"a {type(detector).__name__} with {what} cannot be exported: a detector of `fit`, "
            "whose features are those of a network, can"
        )
    scorer = detector.scorer_
    if not isinstance(scorer, (PatchScorer, LevelSum)):
        raise InputError(
            f"a {type(detector).__name__} whose scorer is {type(scorer).__name__} cannot be "
            "exported: Gaussians can (`fit` with the default --scorer), nearest neighbours (knn), "
            "and the distances l2 and sed"
        )


def no_fraction() -> Tensor:
    """The default of `fraction`: pixels of 8 bits."""
    return torch.zeros(1, 1, 1, 1, dtype=torch.float32)
