"""The ready-made detector: frozen network, Mahalanobis distances, a threshold that holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from mahalad.checks import BATCH_SIZE, PIXELS, Limit, OneOf, check_parameters
from mahalad.choices import ENGINES, HIGHEST, SCOPES
from mahalad.detectors.detector import AnomalyDetector
from mahalad.errors import InputError
from mahalad.features.extractor import BackboneFeatures
from mahalad.images.geometry import check_geometry
from mahalad.protocols import Threshold
from mahalad.scorers.level_sum import make_scorer
from mahalad.scorers.reduction import PrincipalComponents

if TYPE_CHECKING:
    from mahalad.scorers.positions.scorer import PatchScorer


class MahalanobisDetector(AnomalyDetector):
    """Find anomalies in images by the Mahalanobis distance of frozen ImageNet features.

    Distances are to the nearest good patch about each position of the network's maps, and to a
    Gaussian with Ledoit-Wolf shrinkage of the image as a whole; there is a threshold whose
    false-positive rate is the one asked for, as long as new good images come as those of the fit
    came (exchangeable). Nothing is trained: a fit is one pass of the images through the network,
    and statistics.

    Parameters
    ----------
    backbone : str, default="tf_efficientnet_lite0"
        Name of a timm network. The default's weights come with an installed package.
    weights : str, Path or None, default=None
        None: the package's for the default backbone, timm's hub for others; a path: a
        .safetensors or .pth file with timm's keys; ``"hub"``: timm's hub.
    scope : {"positions", "image"}, default="positions"
        ``"positions"``: place by place (small defects; parts in about the same place; at least 5
        images), with the image-level distance of the last level (the highest one that a file of
        weights has) as further evidence. ``"image"``: the paper's detector,
        one Gaussian per level on features pooled over the whole image, unsquared distances
        summed over levels (`rippel2020` is its exact configuration).
    levels : str, int, sequence of these, or None, default=None
        Levels by name or index. None: all of them for ``scope="image"`` (also ``"all"``), and
        the maps of strides 4, 8 and 16 for ``scope="positions"`` (of a ViT the blocks half and
        three quarters deep, whatever its patches).
    input_size : int or None, default=None
        Side of the square that images become. None: 320 pixels for ``scope="positions"`` (small
        defects need them), the network's native size for ``scope="image"``. Networks of patches,
        as ViTs are, take the nearest multiple of a patch's side, with a warning if it is another.
    resize : {"squash", "pad"}, default="squash"
        How images become that square. ``"squash"``: stretched. ``"pad"``: with their aspect kept,
        the longer side filling the square, their edges repeated around them; what is around a
        picture counts in no score and no threshold. For images of several shapes, squashing
        brings their corners to one place, padding their centres; with ``scope="positions"``, a
        place that fewer than 5 good images have is then not judged.
    tiles : int, default=1
        For high-resolution images: with k, an image becomes a square of k * `input_size`, whose
        k x k tiles pass through the network one by one. One model has the positions of all tiles:
        k^2 times the time, memory and file. (P positions of D features take P * D^2 numbers of 8
        bytes for the sums, and as many to score with: with the default network at 320 pixels,
        150 MB each at k = 1.)
    reduction : str, PrincipalComponents or None, default=None
        ``"pca"`` or ``"npca"``, with ``":0.95"`` for another share of variance than 0.99; for
        ``scope="image"``.
    roi : str, Path, array or None, default=None
        Region of interest: a picture (white = inspect), laid over the images. Nothing else counts:
        pixels outside are overwritten before the network sees them (see `BackboneFeatures`).
    bits : int or None, default=None
        Bits that are used of pixels stored in 16, as 12 by many cameras: white is 2^bits - 1. None:
        65535 is white, and a lot that never comes near it is warned of. Said of the images that are
        given, so that `set_params` may change it after a fit; files of models record it.
    channels : {"rgb", "bgr"}, default="rgb"
        Order of the colours in arrays, at fit and afterwards: ``"bgr"`` for those of OpenCV. Files
        and PIL images state theirs and are not affected. `set_params` may change it after a fit
        (to files, say); files of models record it.
    tolerate : "auto" or sequence of str, default="auto"
        Harmless changes of pictures that shall not be taken for defects, of ``"light"``
        (brightness, contrast and colour, up to 6, 6 and 3 %), ``"noise"`` (standard deviation up to
        4 of 255), ``"compression"`` (JPEG from quality 70), ``"shift"`` (up to 4 pixels of the
        network's input, and 1 degree) and ``"focus"`` (blur up to 0.8 pixels). What they do to the
        features of up to 8 images of the fit is added to the covariances, and scores of positions
        leave out what raises distances all over a picture. ``"auto"``: all of them; none with a
        `reduction` or ``threshold="chi2-nominal"``, which know nothing of it. (): none.
    any_orientation : "auto" or bool, default="auto"
        Whether images of the fit count in their four quarter turns, for parts that lie at any
        angle: of few images hardly two lie alike. ``"auto"``: if they are to each other, turned, as
        they are unturned, and closer to those of both. For that up to 20 images are looked at, of
        fits to 10 to 100 images (a folder, a list or an array of them; of an iterator nobody knows
        how many there are, and more images have parts at all angles) with ``scope="positions"``,
        ``neighbourhood="nearest"``, at least 8 x 8 positions, and neither `roi` nor
        ``resize="pad"``. `any_orientation_` says what was found, and images that are added later
        are taken so, too. Such a fit takes 4 times the time, and a file up to 4 times the size.
    top_fraction, image_weight, smoothing, neighbourhood
        See `PatchScorer`; for ``scope="positions"``.
    fpr : float, default=0.05
        Share of good images that may be flagged, on average over fits, if they are exchangeable
        with those fitted; `guarantee_` has a bound for one fit.
    threshold : str, default="conformal"
        ``"conformal"``, ``"holdout"``, ``"tolerance"``, ``"chi2"`` or ``"chi2-nominal"``; see
        `AnomalyDetector`.
    max_stored : int or None, default=None
        Images whose features are kept for calibration; None for 10,000, and with
        ``scope="positions"`` for 1,000 (about 0.8 MB each at 320 pixels), or 1,000 / `tiles`^2,
        at least 100.
    n_augment, n_folds, holdout_fraction, random_state, near_copies
        See `AnomalyDetector`.
    batch_size : int, default=32
        Images, or tiles, per pass through the network.
    device : str, default="auto"
        ``"auto"`` for CUDA where there is one and else the CPU, or a torch device.
    engine : {"torch", "onnx", "openvino", "auto"}, default="torch"
        What computes the network; see `BackboneFeatures`. A fitted model may be loaded for another
        one, if its check inputs score the same there: ``load(path, engine="onnx")``.

    References
    ----------
    O. Rippel, P. Mertens, D. Merhof, "Modeling the Distribution of Normal Data in
    Pre-Trained Deep Features for Anomaly Detection", ICPR 2020.
    T. Defard et al., "PaDiM: a Patch Distribution Modeling Framework for Anomaly Detection and
    Localization", 2020.

    Examples
    --------
    >>> import numpy as np
    >>> from mahalad import MahalanobisDetector
    >>> rng = np.random.default_rng(0)
    >>> normals = [rng.integers(100, 156, (64, 64, 3), dtype=np.uint8) for _ in range(30)]
    >>> detector = MahalanobisDetector(input_size=64).fit(normals)
    >>> odd = normals[0].copy()
    >>> odd[16:32, 16:32] = 255
    >>> detector.predict([odd]).tolist()
    [-1]
    >>> where = detector.anomaly_map([odd])[0]  # (64, 64), up = abnormal
    >>> bool(where[16:32, 16:32].mean() > where[40:, 40:].mean())
    True
    """

    def __init__(
        self,
        backbone: str = "tf_efficientnet_lite0",
        *,
        weights: str | Path | None = None,
        scope: str = "positions",
        levels: Any = None,
        input_size: int | None = None,
        resize: str = "squash",
        tiles: int = 1,
        reduction: str | PrincipalComponents | None = None,
        roi: Any = None,
        bits: int | None = None,
        channels: str = "rgb",
        tolerate: str | Sequence[str] = "auto",
        any_orientation: str | bool = "auto",
        top_fraction: float = 0.03,
        image_weight: float = 0.1,
        smoothing: float = 0.0,
        neighbourhood: int | str = "nearest",
        fpr: float = 0.05,
        threshold: str | Threshold = "conformal",
        n_augment: int = 0,
        n_folds: int = 40,
        holdout_fraction: float = 0.3,
        max_stored: int | None = None,
        batch_size: int = 32,
        device: str = "auto",
        engine: str = "torch",
        random_state: int | None = None,
        near_copies: str = "group",
    ) -> None:
        self.backbone = backbone
        self.weights = weights
        self.scope = scope
        self.levels = levels
        self.input_size = input_size
        self.resize = resize
        self.tiles = tiles
        self.reduction = reduction
        self.roi = roi
        self.bits = bits
        self.channels = channels
        self.tolerate = tolerate
        self.any_orientation = any_orientation
        self.top_fraction = top_fraction
        self.image_weight = image_weight
        self.smoothing = smoothing
        self.neighbourhood = neighbourhood
        self.fpr = fpr
        self.threshold = threshold
        self.n_augment = n_augment
        self.n_folds = n_folds
        self.holdout_fraction = holdout_fraction
        self.max_stored = max_stored
        self.batch_size = batch_size
        self.device = device
        self.engine = engine
        self.random_state = random_state
        self.near_copies = near_copies

    @classmethod
    def rippel2020(
        cls,
        backbone: str = "tf_efficientnet_b4.aa_in1k",
        *,
        weights: str | Path | None = None,
        reduction: str | PrincipalComponents | None = None,
        n_augment: int = 0,
        **options: Any,
    ) -> Self:
        """The paper's configuration: EfficientNet-B4 at 380 pixels, all levels, summed.

        Its headline figure takes ``reduction="npca"`` and ``n_augment=100`` as well. The
        threshold stays the calibrated one (the paper's own is ``threshold="chi2-nominal"``).

        Parameters
        ----------
        backbone, weights, reduction, n_augment
            See `MahalanobisDetector`; weights of B4 come from timm's hub unless given as a file.
        **options
            Any other parameter of `MahalanobisDetector`.
        """
        return cls(
            backbone,
            weights=weights,
            scope="image",
            reduction=reduction,
            n_augment=n_augment,
            **{"tolerate": (), **options},
        )

    def unfitted_parts(self) -> tuple[Any, Any]:
        """The network's features, and the scorer of the scope, unfitted."""
        network: dict[str, Any] = {
            "weights": self.weights,
            "roi": self.roi,
            "bits": self.bits,
            "channels": self.channels,
            "input_size": self.input_size,
            "resize": self.resize,
            "tiles": self.tiles,
            "batch_size": self.batch_size,
            "device": self.device,
            "engine": self.engine,
        }
        if self.scope == "image":
            extractor = BackboneFeatures(self.backbone, levels=self.levels, **network)
        else:
            extractor = self._maps(network)
        return extractor, self.unfitted_scorer()

    def unfitted_scorer(self) -> Any:
        """The scorer of the scope, unfitted."""
        if self.scope == "image":
            return make_scorer("gaussian", self.reduction)
        return self._patch_scorer()

    def _maps(self, network: dict[str, Any]) -> BackboneFeatures:
        if self.input_size is None:
            network["input_size"] = POSITIONS_SIZE
        pooled: str | list[str] = HIGHEST if self.image_weight else []
        return BackboneFeatures(self.backbone, levels=pooled, maps=self.levels, **network)

    def _patch_scorer(self) -> PatchScorer:
        from mahalad.scorers.positions.scorer import PatchScorer  # it imports torch

        return PatchScorer(
            top_fraction=self.top_fraction,
            image_weight=self.image_weight,
            smoothing=self.smoothing,
            neighbourhood=self.neighbourhood,
        )

    def most_stored(self) -> int:
        """Most images whose features are kept; by default fewer, the more an image takes."""
        if self.max_stored is None:
            return 10_000 if self.scope == "image" else max(100, 1_000 // self.tiles**2)
        return self.max_stored

    def _check_values(self) -> None:
        check_geometry(self.resize, self.tiles)  # before what is derived from the tiles
        check_parameters(_LIMITS, self)
        super()._check_values()
        if self.scope == "positions":
            self._patch_scorer().check_parameters()

    def _check_parameters(self, calibration: Any, calibration_groups: Any = None) -> None:
        super()._check_parameters(calibration, calibration_groups)
        if self.scope == "image":
            changed = [
                name
                for name, usual in FOR_POSITIONS.items()
                if getattr(self, name) not in (usual, _BEFORE.get(name, usual))
            ]
            if changed:
                raise InputError(
                    f"{', '.join(changed)}: for scope='positions', and the scope is 'image', which "
                    "has no positions: leave it out, or ask for the other scope"
                )
            return
        if isinstance(self.levels, str) and self.levels == "all":
            raise InputError(
                "levels='all' is for scope='image'; positions need maps: give levels by name, or "
                "leave them out"
            )
        if self.reduction is not None:
            raise InputError(
                "reduction is for scope='image': Gaussians per position bound their size by a "
                "fixed projection"
            )
        if self.threshold == "chi2-nominal":
            raise InputError(
                "threshold='chi2-nominal' is the paper's rule for scope='image'; use 'conformal'"
            )


FOR_POSITIONS = {
    "top_fraction": 0.03,
    "image_weight": 0.1,
    "smoothing": 0.0,
    "neighbourhood": "nearest",
}
"""Parameters of the per-position scorer alone, with what they are unless they are given."""
_BEFORE = {"neighbourhood": 0, "image_weight": 0.2}
"""What older models of images as a whole say of these parameters."""
POSITIONS_SIZE = 320

_LIMITS: dict[str, Limit] = {
    **PIXELS,
    "scope": OneOf(SCOPES),
    "batch_size": BATCH_SIZE,
    "engine": OneOf(ENGINES),
}
