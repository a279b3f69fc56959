"""Experiments of `bench mvtec`: which networks a table runs, and what it compares on each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mahalad.bench.evaluation import Recipe, Target
from mahalad.errors import InputError
from mahalad.thresholds.rules import RULES

DISTANCES = {
    "l2": "L2",
    "sed": "SED",
    "gaussian": "Mahalanobis",
    "ocsvm": "one-class SVM",
    "knn": "nearest neighbour",
}
ALPHAS = (0.01, 0.05, 0.1)
NETWORKS = (
    "resnet18.tv_in1k",
    "resnet34.tv_in1k",
    "resnet50.tv_in1k",
    "wide_resnet50_2.tv_in1k",
    "tf_efficientnet_b0.aa_in1k",
    "tf_efficientnet_b4.aa_in1k",
    "tf_efficientnetv2_b0.in1k",
)
SIZES = tuple(f"tf_efficientnet_b{size}.aa_in1k" for size in range(8))


@dataclass(frozen=True)
class Variant:
    """One row of an experiment: how features are scored and judged.

    No levels means all. With `shots`, fits are to that many good images, drawn at random.
    """

    name: str
    recipe: Recipe
    target: Target
    levels: tuple[str, ...] = ()
    shots: int | None = None


def networks_of(
    table: str, networks: Sequence[str], backbone: str, weights: str | Path | None
) -> list[tuple[str, str | Path | None]]:
    """Give the names of the networks that a table runs, each with its weights.

    Raises
    ------
    InputError
        Networks for a table that has one only, or weights beside several networks.
    """
    if networks and table not in ("networks", "sizes"):
        raise InputError(f"networks are for table='networks' or 'sizes', not {table!r}")
    if networks and weights is not None:
        raise InputError("with several networks, give weights as NAME=WEIGHTS for each")
    if networks:
        parts = [network.partition("=") for network in networks]
        return [(name, file or None) for name, _, file in parts]
    more = {"networks": NETWORKS, "sizes": SIZES}.get(table, ())
    return [(backbone, weights), *((name, None) for name in more if name != backbone)]


def variants_of(
    table: str,
    network: str,
    recipe: Recipe,
    target: Target,
    levels: tuple[str, ...],
    shots: Sequence[int] = (),
) -> list[Variant]:
    """Give the rows of an experiment for one network, which has these levels."""
    if shots:
        return [
            Variant(f"{n} image{'s' if n > 1 else ''}", recipe, target, shots=n)
            for n in sorted(set(shots))
        ]
    if table == "thresholds":
        rates = sorted({*ALPHAS, target.fpr})
        return [
            Variant(f"{rule} at {100 * rate:g} %", recipe, Target(rule, rate))
            for rule in RULES
            for rate in rates
        ]
    if table == "levels":
        each = [Variant(level, recipe, target, (level,)) for level in levels]
        return [*each, Variant("sum of levels", recipe, target)]
    if table == "distances":
        return [
            Variant(title, replace(recipe, scorer=scorer, tolerate=()), target)
            for scorer, title in DISTANCES.items()
        ]
    return [Variant(network, recipe, target)]
