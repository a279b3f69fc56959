"""What a classifier by nearest neighbours embeds images by, as one torch module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mahalad.errors import InputError
from mahalad.export.distances import tensor
from mahalad.export.network import Network
from mahalad.features.devices import placed
from mahalad.features.extractor import BackboneFeatures
from mahalad.metric.embedding import Embedding
from mahalad.metric.triplets.projection import TripletProjection
from mahalad.runtime.parts import EMBEDDING


class EmbeddingGraph(nn.Module):
    """From pixels to embeddings: network, mean and deviation, projection.

    Parameters
    ----------
    embedding : Embedding
        Of a fitted classifier.

    Raises
    ------
    InputError
        It is none that can be exported.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, embedding: Embedding) -> None:
        super().__init__()
        encoder, projection = embedding.encoder, embedding.projection
        if not isinstance(encoder, BackboneFeatures):
            what = "no encoder" if encoder is None else f"a {type(encoder).__name__} as its encoder"
            raise InputError(
                f"a MetricKNNClassifier with {what} cannot be exported: one whose encoder is a "
                "network, BackboneFeatures, can"
            )
        if projection is not None and type(projection) is not TripletProjection:
            raise InputError(
                f"a MetricKNNClassifier whose projection is {projection!r} cannot be exported: one "
                "with a TripletProjection, or without a projection, can"
            )
        self.network = Network(encoder)
        self.names = list(embedding.level_sizes)
        self.register_buffer("mean", tensor(embedding.mean))
        self.register_buffer("scale", tensor(embedding.scale))
        self.projection: nn.Module = nn.Identity()
        self.is_cosine = False
        if projection is not None:
            self.projection = placed(projection.network_, "cpu").eval()
            self.is_cosine = projection.distance == "cosine"

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs, in their order."""
        return ("pixels", *(("box",) if self.network.has_boxes else ()), "fraction")

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs, in their order."""
        return (EMBEDDING,)

    def forward(self, pixels: Tensor, *rest: Tensor) -> Tensor:
        """Embed images: (n, n_components).

        Parameters
        ----------
        pixels : Tensor of uint8, shape (n, 3, S, S)
        rest : Tensors
            Boxes (n, 4) if images are padded; what pixels have beyond whole numbers, broadcast to
            them.
        """
        boxes = rest[0] if self.network.has_boxes else None
        features, _ = self.network(pixels.float() + rest[-1], boxes)
        columns = torch.cat([features[name] for name in self.names], dim=1).double()
        embedded: Tensor = self.projection(((columns - self.mean) / self.scale).float())
        return nn.functional.normalize(embedded) if self.is_cosine else embedded
