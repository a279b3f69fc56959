"""Features of a backbone in a model file: their identity, their weights, their region."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mahalad.arrays import below
from mahalad.errors import ModelFileError

_MUST_AGREE = (
    "levels", "maps", "region", "input_size", "tiles", "orientations", "mean", "std",
    "interpolation", "resize", "weights_sha256",
)  # fmt: skip


class RecordedFeatures(Protocol):
    """Features of a backbone, such as `BackboneFeatures`: they say what identifies them."""

    backbone_: Any
    region_: NDArray[np.bool_] | None

    def record(self) -> dict[str, Any]:
        """Give what identifies built features, as JSON."""
        ...

    def build(self, state: dict[str, Any] | None = None, region: Any = None) -> Any:
        """Make the network, with weights and a region from elsewhere where they are given."""
        ...

    def set_params(self, **params: Any) -> Any:
        """Set parameters by name."""
        ...


def describe_features(
    extractor: RecordedFeatures, include_weights: bool
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return the record of built features, and the arrays that go with it.

    The arrays are the region of interest, and weights that no installed package has.

    Parameters
    ----------
    extractor : BackboneFeatures, built
    include_weights : bool
        Embed weights that came from a file or a hub; False records their hash alone. Weights of
        an installed package are never embedded.
    """
    record, arrays = extractor.record(), {}
    if include_weights and record["weights_source"] != "package":
        arrays = {f"weights/{name}": values for name, values in extractor.backbone_.state().items()}
        record["weights_embedded"] = True
    if extractor.region_ is not None:
        arrays["region"] = extractor.region_.astype(np.uint8)
    return record, arrays


def restore_features(
    extractor: RecordedFeatures,
    record: Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any]],
    weights: str | Path | None = None,
) -> None:
    """Build features as `describe_features` found them.

    Parameters
    ----------
    extractor : BackboneFeatures
        It has the parameters that were saved, and is built in place.
    record, arrays
        Content of the file.
    weights : str or Path, optional
        Weights file, where the model file has none.

    Raises
    ------
    ModelFileError
        Weights are missing, or the network that is built here differs from the recorded one.
    """
    import torch

    embedded = {name: torch.from_numpy(array) for name, array in below("weights/", arrays).items()}
    if not embedded and weights is not None:
        extractor.set_params(weights=weights)
    elif not embedded and record["weights_source"] == "file":
        raise ModelFileError(
            f"was saved without its weights (they came from {record['weights_origin']}): give the "
            "file: weights='model.safetensors'"
        )
    extractor.build(state=embedded or None, region=region_in(arrays))
    now = extractor.record()
    differs = [key for key in _MUST_AGREE if key in record and now.get(key) != record[key]]
    if differs:
        raise ModelFileError(
            "the network here is not the one it was fitted with: "
            + "; ".join(f"{key} was {record[key]}, is {now.get(key)}" for key in differs)
        )
    if embedded:  # remember where the weights came from, not that they were embedded
        backbone = extractor.backbone_
        backbone.weights = type(backbone.weights)(
            record["weights_source"],
            record["weights_origin"],
            record["weights_sha256"],
            record["weights_dtype"],
        )


def region_in(arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_] | None:
    """Return the region of interest in a model file, True = inspect; None if it has none."""
    return arrays["region"].astype(bool) if "region" in arrays else None
