"""What identifies features: those with different records must not be mixed."""

from __future__ import annotations

from typing import Any

from mahalad.images.geometry import RECORDED


def record_of(features: Any, region: str | None) -> dict[str, Any]:
    """Give the record of `BackboneFeatures`, after `build`; `region` is the hash of theirs."""
    b = features.backbone_
    # Only where there are several: records of models from before tiles stay what they were.
    several = {"tiles": b.tiles, "orientations": features.orientations}
    several = {name: number for name, number in several.items() if number > 1}
    outside = {} if features.outside_ is None else {"outside": features.outside_}
    return {
        "backbone": b.name,
        "levels": list(b.level_names),
        "maps": list(b.map_names),
        "region": region,
        **outside,
        "input_size": b.input_size,
        "mean": list(b.mean),
        "std": list(b.std),
        "interpolation": b.interpolation,
        "resize": RECORDED[features.resize],
        **several,
        "precision": "float32",
        **({} if b.engine == "torch" else {"engine": b.engine}),  # as it was before engines
        "licence": b.licence,
        "weights_source": b.weights.source,
        "weights_origin": b.weights.origin,
        "weights_sha256": b.weights.sha256,
        "weights_dtype": b.weights.dtype,
    }
