"""Images to features: a frozen backbone behind scikit-learn's way of holding parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from sklearn.base import BaseEstimator

from mahalad.arrays import joined
from mahalad.checks import BATCH_SIZE, PIXELS, Limit, OneOf, check_parameters
from mahalad.choices import ENGINES, ORIENTATIONS
from mahalad.errors import InputError
from mahalad.features.record import record_of
from mahalad.images.geometry import (
    BOX,
    LIMITS,
    are_prepared,
    turn,
)
from mahalad.images.pixels import Pixels
from mahalad.images.preparing import Preparation
from mahalad.images.reading import AHEAD, prepared_batches
from mahalad.images.region import hash_region, read_region, region_on_grid
from mahalad.unfitted import NotFittedError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mahalad.features.backbones import Backbone
    from mahalad.features.levels import Levels
    from mahalad.images.geometry import Boxes
    from mahalad.protocols import Features


class BackboneFeatures(BaseEstimator):
    """Features of a frozen ImageNet network: pooled at every level, or kept as maps.

    Parameters
    ----------
    backbone : str, default="tf_efficientnet_lite0"
        Name of a timm network, with a tag if wanted.
    weights : str, Path or None, default=None
        None: from the package that belongs to the backbone, or else from timm's hub.
        ``"hub"``: from timm's hub. A path: a .safetensors or .pth file with timm's keys.
    levels : str, int, sequence of these, or None, default=None
        Levels to pool: names or indices; None or ``"all"`` for all of them, ``()`` for none,
        ``"highest"`` for the highest one whose weights are there.
    maps : str, int, sequence of these, or None, default=()
        Levels to keep as maps of local features; None or ``"auto"`` for those of strides 4, 8
        and 16 (of a ViT the blocks half and three quarters deep).
    roi : str, Path, array or None, default=None
        Region of interest: a picture (white = inspect), laid over the images. Nothing else counts:
        pixels outside are overwritten with the colour that the network takes as 0, before it sees
        them and before resizing, which would mix them in (`mahalad.images.region` says which
        pixels these are). Pooling and maps look inside only.
    input_size : int or None, default=None
        Side of the network's square; None for its native size. Networks of patches, as ViTs are,
        take the nearest multiple of a patch's side, with a warning if it is another.
    resize : {"squash", "pad"}, default="squash"
        How an image becomes that square (no crop): stretched; or with its aspect kept, in the
        middle, its edge repeated around it. Pooling leaves out what is around the picture.
    tiles : int, default=1
        With k, an image becomes a square of k * `input_size`, and its k x k tiles pass through
        the network one by one: maps of k times the side, in k^2 times the time. Tiles do not
        overlap, as a position always lies at the same place of its tile, and a Gaussian of its
        own knows what the network sees there.
    orientations : {1, 4, 8}, default=1
        For things that lie anyhow, as beans do: pooled features are means over this many pictures,
        the image turned by quarters (4), and mirrored too (8), in as many times the time. Not for
        maps, nor with a region of interest.
    bits : int or None, default=None
        Bits that are used of pixels stored in 16, as 12 by many cameras: white is 2^bits - 1. None:
        65535 is white, and images that never come near it are warned of. It says how images are
        read, and may be changed at any time, as `channels` may.
    channels : {"rgb", "bgr"}, default="rgb"
        Order of the colours in arrays: OpenCV's are ``"bgr"``. Files and PIL images state theirs,
        and are not affected; nor are arrays that `prepare` has made.
    batch_size : int, default=32
        Tiles per pass through the network (or those of one image); does not change the features.
    device : str, default="auto"
        ``"auto"`` for CUDA where there is one and else the CPU, or a torch device.
    engine : {"torch", "onnx", "openvino", "auto"}, default="torch"
        What computes the network, in float32: torch; onnxruntime or OpenVINO (extras ``onnx`` and
        ``openvino``), about twice as fast on a CPU; ``"auto"`` for the fastest of them that is
        installed. An engine whose features are not those of torch is refused.

    Attributes
    ----------
    backbone_ : Backbone
        The network, after `build`.
    region_ : ndarray of bool, shape (S, S), or None
        The region on the square that images become.
    outside_ : {"mean", None}
        What the network sees outside the region: its mean colour, or what is there. None also if
        there is no region.
    """

    _limits: ClassVar[Mapping[str, Limit]] = {
        **LIMITS,
        **PIXELS,
        "orientations": OneOf(ORIENTATIONS),
        "batch_size": BATCH_SIZE,
        "engine": OneOf(ENGINES),
    }

    def __init__(
        self,
        backbone: str = "tf_efficientnet_lite0",
        *,
        weights: str | Path | None = None,
        levels: Levels = None,
        maps: Levels = (),
        roi: Any = None,
        input_size: int | None = None,
        resize: str = "squash",
        tiles: int = 1,
        orientations: int = 1,
        bits: int | None = None,
        channels: str = "rgb",
        batch_size: int = 32,
        device: str = "auto",
        engine: str = "torch",
    ) -> None:
        self.backbone = backbone
        self.weights = weights
        self.levels = levels
        self.maps = maps
        self.roi = roi
        self.input_size = input_size
        self.resize = resize
        self.tiles = tiles
        self.orientations = orientations
        self.bits = bits
        self.channels = channels
        self.batch_size = batch_size
        self.device = device
        self.engine = engine

    def build(
        self,
        state: dict[str, Any] | None = None,
        region: Any = None,
        *,
        outside: str | None = "mean",
        hub: bool = True,
    ) -> Self:
        """Make the network.

        Parameters
        ----------
        state : dict of str to Tensor, optional
            State dict to use instead of `weights`.
        region : ndarray of bool, shape (S, S), optional
            Region of interest to use instead of `roi`.
        outside : {"mean", None}, default="mean"
            What the network sees outside the region; None for models that were fitted so.
        hub : bool, default=True
            Whether weights may be fetched from timm's hub; where not, they are an error.

        Raises
        ------
        InputError
            A parameter is not allowed, or `orientations` do not go with maps or a region.
        BackboneError
            Unknown network, level, size or device; an engine that cannot compute the network.
        WeightsError, MissingExtraError
            Weights cannot be found, read or matched; the engine is not installed.
        """
        from mahalad.features.backbones import build_backbone

        check_parameters(self._limits, self)
        self._check_orientations(region)
        self.backbone_: Backbone = build_backbone(
            self.backbone,
            weights=self.weights if state is None else state,
            levels=self.levels,
            maps=self.maps,
            input_size=self.input_size,
            tiles=self.tiles,
            device=self.device,
            engine=self.engine,
            hub=hub,
        )
        self.region_ = region
        if region is None and self.roi is not None:
            self.region_ = read_region(self.roi, self.backbone_.side, self.resize)
        self.outside_ = None if self.region_ is None else outside
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the weights, not the network, which is built again on the other side."""
        state: dict[str, Any] = dict(super().__getstate__())
        if "backbone_" in state:
            state["backbone_"] = self.backbone_.state(), self.backbone_.weights
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        built = state.pop("backbone_", None)
        super().__setstate__(state)
        if built is not None:
            import torch

            arrays, record = built
            weights = {name: torch.from_numpy(array) for name, array in arrays.items()}
            self.build(weights, self.region_, outside=self.outside_)
            self.backbone_.weights = record

    def prepare(self, image: Any) -> NDArray[Any]:
        """Resize an image in memory (see `as_opened`): (S, S, 3), uint8 or float32 in [0, 1].

        Red comes first in what comes out, and in arrays of float32, which are taken for decoded.

        With ``resize="pad"``, only the longer side is S, and `transform` fills the square. Nothing
        of what lies outside the region of interest is left in it.

        Raises
        ------
        ImageValueError
            No part of the image lies in the region of interest, or values that are no pixels.
        """
        return self.preparation().prepare(image)

    def preparation(self) -> Preparation:
        """Say how images become the squares that the network takes."""
        self._check_built()
        colour = None
        if self.outside_ is not None and self.region_ is not None:
            colour = tuple(np.rint(np.array(self.backbone_.mean) * 255).astype(int).tolist())
        b = self.backbone_
        return Preparation(b.side, self.resize, b.interpolation, self.region_, colour, self.pixels)

    def transform(self, X: Any) -> Features:
        """Extract features of images: of arrays as `prepare` makes them, or of any others.

        Returns
        -------
        dict of str to ndarray of float32
            Each pooled level (n, n_channels), and each map (n, height, width, n_features), which
            is 0 outside the region of interest. If padded images have maps, their boxes in the
            square are there as well, under `BOX`.

        Raises
        ------
        ImageReadError, ImageValueError
            The first image that cannot be read.
        """
        self._check_built()
        if are_prepared(X, self.side(), self.resize):
            return self._oriented(X)
        batches = prepared_batches(
            X,
            self.prepare,
            batch_size=self.batch_size,
            ahead=self.read_ahead,
            pixels=self.pixels,
        )
        return joined([self._oriented(prepared) for prepared in batches])

    def _oriented(self, prepared: Sequence[NDArray[Any]]) -> Features:
        total = self._transform(prepared)
        if self.orientations == 1:
            return total
        for k in range(1, self.orientations):
            turned = self._transform([turn(image, k) for image in prepared])
            total = {name: values + turned[name] for name, values in total.items()}
        return {name: values / np.float32(self.orientations) for name, values in total.items()}

    def _transform(self, prepared: Sequence[NDArray[Any]]) -> Features:
        backbone = self._placed()
        found = joined([backbone.extract(*self._squares(o)) for o in self.passes(prepared)])
        if self.region_ is not None:
            for name, values in found.items():
                if values.ndim == 4:
                    inside = region_on_grid(self.region_, values.shape[1])
                    found[name] = values * inside[:, :, None].astype(np.float32)
        boxes = self.boxes(prepared)
        if boxes is not None and self.backbone_.map_names:
            found[BOX] = boxes
        return found

    def unpooled(
        self, prepared: Sequence[NDArray[Any]]
    ) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
        """Give what `transform` pools: each level's maps (n, C, h, w) and weights.

        Weights are (h, w), or (n, h, w) for padded images.
        """
        if self.orientations > 1:
            raise InputError("no exact maps of features that are means over orientations")
        return self._placed().unpooled(*self._squares(prepared))

    def side(self) -> int:
        """Side, in pixels, of the squares that images become: the network's, times the tiles."""
        return self.backbone_.side

    def passes(self, prepared: Sequence[NDArray[Any]]) -> list[Sequence[NDArray[Any]]]:
        """Part images into those that go through the network together.

        The more tiles an image has, the fewer images go together, so that memory does not grow.
        """
        if self.tiles == 1:
            return [prepared]
        step = max(1, self.batch_size // self.tiles**2)
        return [prepared[i : i + step] for i in range(0, len(prepared), step)]

    def boxes(self, prepared: Sequence[NDArray[Any]]) -> Boxes | None:
        """Compute where each picture lies in its square, (n, 4); None if all fill it."""
        return self.preparation().boxes(prepared)

    def _check_built(self) -> None:
        if "backbone_" not in vars(self):
            raise NotFittedError("these features have no network yet: call build()")

    def _check_orientations(self, region: Any) -> None:
        names = (self.maps,) if isinstance(self.maps, (str, int)) else self.maps
        has_maps = names is None or len(names) > 0
        if self.orientations > 1 and (has_maps or self.roi is not None or region is not None):
            raise InputError(
                f"orientations={self.orientations} is for pooled levels without a region of "
                "interest: a place in one orientation is another place in the next"
            )

    def _squares(
        self, prepared: Sequence[NDArray[Any]]
    ) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """Make the squares that the network takes, (n, S, S, 3), and the regions to pool over."""
        return self.preparation().squares(prepared)

    @property
    def pixels(self) -> Pixels:
        """How images are read."""
        check_parameters(PIXELS, self)  # set_params may have changed it
        return Pixels(self.bits, self.channels)

    @property
    def read_ahead(self) -> int:
        """Batches to decode while the network works on one."""
        return AHEAD

    def _placed(self) -> Backbone:
        """The network, on the device and by the engine that are asked for now (`set_params`)."""
        self.backbone_.place(self.device, self.engine)
        return self.backbone_

    def record(self) -> dict[str, Any]:
        """Give what identifies these features: those with different records must not be mixed."""
        return record_of(self, None if self.region_ is None else hash_region(self.region_))
