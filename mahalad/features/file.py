"""Feature extractors in a model file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from mahalad.errors import ModelFileError
from mahalad.features.extractor import BackboneFeatures
from mahalad.files.container import below

_MUST_AGREE = (
    "levels", "maps", "region", "input_size", "tiles", "orientations", "mean", "std",
    "interpolation", "resize", "weights_sha256",
)  # fmt: skip


def build_features(
    extractor: BackboneFeatures,
    path: str | Path,
    record: dict[str, Any],
    arrays: dict[str, NDArray[Any]],
    weights: str | Path | None,
) -> None:
    import torch

    embedded = {k: torch.from_numpy(v) for k, v in below("weights/", arrays).items()}
    region = arrays["region"].astype(bool) if "region" in arrays else None
    if not embedded and weights is not None:
        extractor.weights = weights
    elif not embedded and record["weights_source"] == "file":
        raise ModelFileError(
            f"{path}: was saved without its weights (they came from {record['weights_origin']}): "
            "give the file: weights='model.safetensors'"
        )
    extractor.build(state=embedded or None, region=region)
    now = extractor.record()
    differs = [key for key in _MUST_AGREE if key in record and now.get(key) != record[key]]
    if differs:
        raise ModelFileError(
            f"{path}: the network here is not the one it was fitted with: "
            + "; ".join(f"{key} was {record[key]}, is {now.get(key)}" for key in differs)
        )
    backbone = extractor.backbone_
    if embedded:  # remember where the weights came from, not that they were embedded
        backbone.weights = type(backbone.weights)(
            record["weights_source"],
            record["weights_origin"],
            record["weights_sha256"],
            record["weights_dtype"],
        )
