"""A fitted per-position scorer as JSON and arrays, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from mahalad.scorers.gaussian import LedoitWolfGaussian
from mahalad.scorers.positions.gaussians import PatchGaussian
from mahalad.scorers.positions.grids import CONTEXT

if TYPE_CHECKING:
    from mahalad.scorers.positions.scorer import PatchScorer


def state(scorer: PatchScorer) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """What scoring needs; see `PatchScorer.state`."""
    about = {
        "groups": [list(group) for group in scorer.groups_],
        "pooled": list(scorer.image_gaussians_),
        "n_active": scorer.n_active_,
        "scale": list(scorer.scale_),
    }
    if scorer.boxed_:
        about["boxed"] = True
    arrays = {"joint/location": scorer.standard_[0], "joint/scale": scorer.standard_[1]}
    if scorer.map_maxima_ is not None:
        about["maps"] = {name: s[:2] for name, s in scorer.map_standards_.items()}
        about["context_weight"] = scorer.context_weight_
        arrays["map_maxima"] = scorer.map_maxima_
        for name, (_, _, deviation) in scorer.map_standards_.items():
            arrays[f"levels/{name}/map_deviation"] = deviation
    for name, gaussian in scorer.patch_gaussians_.items():
        own = gaussian.scoring_state()  # a level may have any name: below "levels/"
        arrays |= {f"levels/{name}/{key}": value for key, value in own.items()}
    for name, image_gaussian in scorer.image_gaussians_.items():
        own = image_gaussian.scoring_state()
        arrays |= {f"levels/{name}/{key}": value for key, value in own.items()}
    return about, arrays


def restore(scorer: PatchScorer, about: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
    """Make an unfitted scorer what `state` described."""
    scorer.groups_ = tuple(tuple(group) for group in about["groups"])
    scorer.boxed_ = bool(about.get("boxed", False))
    scorer.n_active_ = int(about["n_active"])
    scorer.scale_ = (float(about["scale"][0]), float(about["scale"][1]))
    scorer.standard_ = (arrays["joint/location"], arrays["joint/scale"])
    scorer.map_standards_ = {
        name: (offset, mean, arrays[f"levels/{name}/map_deviation"])
        for name, (offset, mean) in about.get("maps", {}).items()
    }
    # The maps of format 2 were others: they have no units here.
    scorer.map_maxima_ = arrays["map_maxima"] if scorer.map_standards_ else None
    scorer.context_weight_ = float(about.get("context_weight", 0.0))  # none in format 3
    scorer.patch_gaussians_, scorer.image_gaussians_ = {}, {}
    context = [CONTEXT] if CONTEXT in scorer.map_standards_ else []
    for name in [group[0] for group in scorer.groups_] + context:
        stem = f"levels/{name}"
        scorer.patch_gaussians_[name] = PatchGaussian(scorer.floor).restore_scoring(
            arrays[f"{stem}/location"], arrays[f"{stem}/whitening"]
        )
    for name in about["pooled"]:
        keys = ("location", "eigenvalues", "basis", "scalars")
        own = {key: arrays[f"levels/{name}/{key}"] for key in keys}
        scorer.image_gaussians_[name] = LedoitWolfGaussian().restore_scoring(own)
