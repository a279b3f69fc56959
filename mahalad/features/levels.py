"""The levels of a network: what they are called, which are wanted, and how to read them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from timm.models.efficientnet import EfficientNet
from timm.models.resnet import ResNet
from torch import Tensor, nn

from mahalad.choices import HIGHEST
from mahalad.errors import BackboneError

Levels = str | int | Sequence[str | int] | None
MAP_STRIDES = (4, 8, 16)


@dataclass(frozen=True)
class Stage:
    """One level: its name, the last module below it, and how to get there from the level before."""

    name: str
    module: str
    forward: Callable[[Tensor], Tensor]


def sequential_stages(network: nn.Module) -> list[Stage]:
    """List the levels of EfficientNets and ResNets, of which timm's feature API hides some.

    The list is empty for any other network.
    """
    if isinstance(network, EfficientNet):
        n: Any = network
        blocks = [Stage(f"blocks.{i}", f"blocks.{i}", b) for i, b in enumerate(n.blocks)]
        stem = Stage("stem", "bn1", lambda x: n.bn1(n.conv_stem(x)))
        return [stem, *blocks, Stage("head", "bn2", lambda x: n.bn2(n.conv_head(x)))]
    if isinstance(network, ResNet):
        r: Any = network
        stem = Stage("stem", "bn1", lambda x: r.maxpool(r.act1(r.bn1(r.conv1(x)))))
        layers = enumerate((r.layer1, r.layer2, r.layer3, r.layer4), start=1)
        return [stem, *(Stage(f"layer{i}", f"layer{i}", layer) for i, layer in layers)]
    return []


def intermediate_names(network: nn.Module, backbone: str) -> list[str]:
    """List the levels that timm's feature API gives of a network.

    Raises
    ------
    BackboneError
        timm gives none, or several under one name.
    """
    info: Any = getattr(network, "feature_info", None)
    if not hasattr(network, "forward_intermediates") or not info:
        raise BackboneError(
            f"{backbone}: timm offers no intermediate features of this network; choose one with "
            "forward_intermediates (EfficientNet, ResNet, ConvNeXt, ViT, Swin, ...)"
        )
    names = [entry["module"] for entry in info]
    if len(set(names)) < len(names):
        raise BackboneError(
            f"{backbone}: timm gives several intermediate features of this network one name "
            f"({', '.join(names)}); choose another network"
        )
    return names


def choose_levels(names: list[str], levels: Levels, backbone: str) -> list[int]:
    """Find the indices of the wanted levels, ascending and without repeats.

    `HIGHEST` is the last one here; `n_levels_held` says which one it is with a file of weights.

    Raises
    ------
    BackboneError
        The network has no such level.
    """
    if levels is None or (isinstance(levels, str) and levels == "all"):
        return list(range(len(names)))
    if isinstance(levels, str) and levels == HIGHEST:
        return [len(names) - 1]
    wanted = [levels] if isinstance(levels, (str, int)) else list(levels)
    chosen = set()
    for level in wanted:
        if isinstance(level, str) and level in names:
            chosen.add(names.index(level))
        elif isinstance(level, (int, np.integer)) and -len(names) <= level < len(names):
            chosen.add(int(level) % len(names))
        else:
            raise BackboneError(
                f"{backbone} has no level {level!r}; it has {', '.join(names)} "
                f"(or indices 0 to {len(names) - 1}, or 'all')"
            )
    return sorted(chosen)


def choose_maps(
    network: nn.Module,
    stages: list[Stage],
    names: list[str],
    maps: Levels,
    size: int,
    backbone: str,
) -> list[int]:
    """Find the indices of the levels to keep as maps, ascending.

    By default these are at most two of each of the strides 4, 8 and 16, or of whatever strides a
    network has that has none of these, as a ViT of patches of 14 pixels.

    Raises
    ------
    BackboneError
        The network has no such level, or no map of 2 x 2 positions or more.
    """
    if maps is not None and not (isinstance(maps, str) and maps == "auto"):
        return choose_levels(names, maps, backbone)
    strides = _strides(network, stages)
    usual = [stride for stride in MAP_STRIDES if stride in strides]
    chosen: list[int] = []
    for stride in usual or sorted(set(strides)):
        same = [i for i, s in enumerate(strides) if s == stride]
        if len(same) > 2:  # a ViT: all blocks have one stride; half and three quarters deep
            same = [same[len(same) // 2], same[3 * len(same) // 4]]
        chosen += same
    coarsest = max(strides[i] for i in chosen)
    if size // coarsest < 2:
        raise BackboneError(
            f"{backbone} at {size} px has no feature map of at least 2 x 2 positions at its stride "
            f"of {coarsest}: give an input_size of {2 * coarsest} or more, or other levels"
        )
    return sorted(chosen)


def patch_side(network: nn.Module, stages: list[Stage]) -> int:
    """Pixels along a patch, of which the input has a whole number; 1 if all sizes will do.

    That is so of networks all of whose levels have one stride, such as ViTs. They would not see
    what a size leaves over beyond the last patch.
    """
    strides = {1} if stages else set(_strides(network, stages))
    return strides.pop() if len(strides) == 1 else 1


def n_levels_held(network: nn.Module, modules: Sequence[str], held: Collection[str]) -> int:
    """Count the levels, from the lowest, up to the highest of which there are weights.

    Parameters
    ----------
    network : torch.nn.Module
    modules : sequence of str
        The last module of each level.
    held : collection of str
        Names of the weights that are there.

    Returns
    -------
    int
        All of them, too, where there are weights of none: those belong to another network.
    """
    below: list[set[str]] = [set(), *(set(keys_up_to(network, module)) for module in modules)]
    n = len(modules)
    for i in reversed(range(len(modules))):
        own = below[i + 1] - below[i]
        if not own.isdisjoint(held):
            return n
        if own:
            n = i
    return len(modules)


def describe_reach(names: Sequence[str], n_held: int) -> str:
    """Say that weights end below the last level, and which levels are there."""
    held = ",".join(names[:n_held])
    return (
        f"; or does the file end at level {names[n_held - 1]}? Then give levels of {held} "
        f"(levels={list(names[:n_held])}, --levels {held})"
    )


def _strides(network: nn.Module, stages: list[Stage]) -> list[int]:
    """Compute the stride of each level: pixels per position."""
    if not stages:
        info: Any = network.feature_info
        return [int(entry["reduction"]) for entry in info]
    x = torch.zeros(1, 3, 64, 64)
    strides = []
    with torch.inference_mode():
        for stage in stages:
            x = stage.forward(x)
            strides.append(64 // x.shape[-1])
    return strides


def runner(
    network: Any, stages: list[Stage], names: list[str], chosen: list[int]
) -> Callable[[Tensor], dict[str, Tensor]]:
    """Make a function from normalised images (n, 3, S, S) to maps (n, C, h, w) of each level."""

    def run_stages(x: Tensor) -> dict[str, Tensor]:
        kept = {}
        for i, stage in enumerate(stages[: chosen[-1] + 1]):
            x = stage.forward(x)
            if i in chosen:
                kept[stage.name] = x
        return kept

    def run_intermediates(x: Tensor) -> dict[str, Tensor]:
        maps = network.forward_intermediates(
            x,
            indices=chosen,
            intermediates_only=True,
            norm=False,
            stop_early=True,
            output_fmt="NCHW",
        )
        return {names[i]: found for i, found in zip(chosen, maps, strict=True)}

    return run_stages if stages else run_intermediates


def keys_up_to(network: nn.Module, module: str) -> list[str]:
    """List the keys of the state dict up to a module's last one, in order of definition.

    Batch counters are left out: they have no use outside training.
    """
    keys = [key for key in network.state_dict() if not key.endswith("num_batches_tracked")]
    names = [name for name, _ in network.named_modules()]
    within = [i for i, name in enumerate(names) if f"{name}.".startswith(f"{module}.")]
    if not within:  # timm names no module of the network: nothing can be said to lie above it
        return keys
    below = set(names[: within[-1] + 1])
    return [key for key in keys if key.rpartition(".")[0] in below]
