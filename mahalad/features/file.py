"""Features of a backbone in a model file: their identity, their weights, their region."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mahalad.arrays import below
from mahalad.choices import HIGHEST
from mahalad.errors import InputSizeWarning, ModelFileError
from mahalad.features.weights import PACKAGES

_MUST_AGREE = (
    "levels", "maps", "region", "outside", "input_size", "tiles", "orientations", "mean", "std",
    "interpolation", "resize", "precision", "weights_sha256",
)  # fmt: skip


class RecordedFeatures(Protocol):
    """Features of a backbone, such as `BackboneFeatures`: they say what identifies them."""

    backbone: str
    weights: str | Path | None
    levels: Any
    backbone_: Any
    region_: NDArray[np.bool_] | None

    def record(self) -> dict[str, Any]:
        """Give what identifies built features, as JSON."""
        ...

    def build(
        self,
        state: dict[str, Any] | None = None,
        region: Any = None,
        *,
        outside: str | None = "mean",
        hub: bool = True,
    ) -> Any:
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

    Weights come from the model file, from an installed package, or from where the caller says:
    a file has nothing fetched.

    Parameters
    ----------
    extractor : BackboneFeatures
        It has the parameters that were saved, and is built in place.
    record, arrays
        Content of the file.
    weights : str or Path, optional
        Weights file, where the model file has none; ``"hub"`` to fetch them from timm's hub.

    Raises
    ------
    ModelFileError
        Weights are missing, or would have to be fetched, or the network that is built here differs
        from the recorded one.
    """
    import torch

    embedded = {name: torch.from_numpy(array) for name, array in below("weights/", arrays).items()}
    _check_is_here(extractor, record, with_weights=bool(embedded) or weights is not None)
    if not embedded and weights is not None:
        extractor.set_params(weights=weights)
    may_fetch = not embedded and weights == "hub"
    region, outside = region_in(arrays), record.get("outside")
    if isinstance(extractor.levels, str) and extractor.levels == HIGHEST:
        extractor.set_params(levels=list(record["levels"]))  # a file given now may have more
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputSizeWarning)  # the fit has said so
        extractor.build(state=embedded or None, region=region, outside=outside, hub=may_fetch)
    _check_region(extractor)
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


def engines_of(extractor: Any, record: Mapping[str, Any] | None) -> str:
    """Say by which engine features were computed and by which they are, if these differ."""
    if record is None or "backbone_" not in vars(extractor):
        return ""
    before, now = record.get("engine", "torch"), extractor.backbone_.engine
    if before == now:
        return ""
    return (
        f"It was saved with engine={before!r}, and engine={now!r} does not compute the same: load "
        f"it with engine={before!r} (--engine {before})"
    )


def _check_is_here(
    extractor: RecordedFeatures, record: Mapping[str, Any], *, with_weights: bool
) -> None:
    """Refuse a network, or weights, that would have to be fetched or are somewhere else."""
    for name in (extractor.backbone, record["backbone"]):
        if not set(name).isdisjoint(":/"):
            raise ModelFileError(
                f"names the network {name!r}, which is somewhere else: networks of model files "
                "are timm's own"
            )
    if with_weights:
        return
    source, origin = record["weights_source"], record["weights_origin"]
    if source == "package" and extractor.weights is None and extractor.backbone in PACKAGES:
        return
    if source == "hub":
        found = f"{origin} on timm's hub): give weights='hub' to fetch them, or give"
    else:
        found = f"{origin}, and the network is {extractor.backbone}): give"
    raise ModelFileError(
        f"was saved without its weights (they came from {found} the file: "
        "weights='model.safetensors'"
    )


def _check_region(extractor: RecordedFeatures) -> None:
    """Refuse a region that does not lie on the network's square, or covers nothing of it."""
    region, side = extractor.region_, extractor.backbone_.side
    if region is not None and (region.shape != (side, side) or not region.any()):
        raise ModelFileError(
            f"the model file is damaged (region is of shape {region.shape} with {region.sum()} "
            f"pixels inside, expected ({side}, {side}) and some)"
        )


def region_in(arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_] | None:
    """Return the region of interest in a model file, True = inspect; None if it has none."""
    return arrays["region"].astype(bool) if "region" in arrays else None
