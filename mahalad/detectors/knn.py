"""The ready-made detector by nearest neighbours: frozen network, kept features, a threshold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mahalad.checks import PIXELS, check_parameters
from mahalad.detectors.detector import AnomalyDetector
from mahalad.features.extractor import BackboneFeatures
from mahalad.protocols import Threshold
from mahalad.scorers.level_sum import per_level
from mahalad.scorers.neighbors import KthNeighborDistance
from mahalad.scorers.reduction import PrincipalComponents


class KNNDetector(AnomalyDetector):
    """Find anomalies in images by the distance to their k-th nearest good image.

    The sibling of ``MahalanobisDetector(scope="image")`` for good images of several kinds, which
    one Gaussian would blur into one: features pooled over the whole image are kept, per level,
    and distances are summed over levels. Thresholds, files and methods are the same. The features
    of all images are kept, so files and scoring time grow with their number.

    Parameters
    ----------
    backbone : str, default="tf_efficientnet_lite0"
        Name of a timm network. The default's weights come with an installed package.
    n_neighbors : int, default=1
        k; a fit needs more images than that. The nearest neighbour alone finds defects best among
        clean images; up to k - 1 defects of a kind that slipped in are not taken for good.
        Augmented copies count as images.
    distance : {"standardized", "euclidean", "cosine"}, default="standardized"
        Between the features of two images; see `KthNeighborDistance`.
    reduce : {"kth", "mean"}, default="kth"
        The k-th distance alone, or the mean of the first k.
    weights, levels, input_size, resize, tiles, reduction, roi, bits, channels
        See `MahalanobisDetector` (with ``scope="image"``).
    batch_size, device, engine
        See `MahalanobisDetector` (with ``scope="image"``).
    tolerate : "auto" or sequence of str, default="auto"
        Harmless changes of pictures that shall not be taken for defects; kinds are those of
        `MahalanobisDetector`. Differences between images that are as these changes make them count
        little. ``"auto"``: all of them; none with a `reduction`, or another distance than
        ``"standardized"``, which know nothing of it. (): none.
    fpr : float, default=0.05
        Share of good images that may be flagged, if they are exchangeable with those fitted.
    threshold : str, default="conformal"
        ``"conformal"`` (leave-one-out in closed form; cross-fitted with a reduction),
        ``"holdout"``, ``"tolerance"`` or ``"chi2"``.
    n_augment, n_folds, holdout_fraction, random_state, near_copies
        See `AnomalyDetector`.

    References
    ----------
    L. Bergman, N. Cohen, Y. Hoshen, "Deep Nearest Neighbor Anomaly Detection", 2020.

    Examples
    --------
    >>> import numpy as np
    >>> from mahalad import KNNDetector
    >>> rng = np.random.default_rng(0)
    >>> normals = [rng.integers(100, 156, (64, 64, 3), dtype=np.uint8) for _ in range(30)]
    >>> detector = KNNDetector(input_size=64).fit(normals)
    >>> odd = normals[0].copy()
    >>> odd[16:48, 16:48] = 255
    >>> detector.predict([odd]).tolist()
    [-1]
    """

    max_stored = None  # neighbours are sought among all images

    def __init__(
        self,
        backbone: str = "tf_efficientnet_lite0",
        *,
        n_neighbors: int = 1,
        distance: str = "standardized",
        reduce: str = "kth",
        weights: str | Path | None = None,
        levels: Any = None,
        input_size: int | None = None,
        resize: str = "squash",
        tiles: int = 1,
        reduction: str | PrincipalComponents | None = None,
        roi: Any = None,
        bits: int | None = None,
        channels: str = "rgb",
        tolerate: str | Sequence[str] = "auto",
        fpr: float = 0.05,
        threshold: str | Threshold = "conformal",
        n_augment: int = 0,
        n_folds: int = 40,
        holdout_fraction: float = 0.3,
        batch_size: int = 32,
        device: str = "auto",
        engine: str = "torch",
        random_state: int | None = None,
        near_copies: str = "group",
    ) -> None:
        self.backbone = backbone
        self.n_neighbors = n_neighbors
        self.distance = distance
        self.reduce = reduce
        self.weights = weights
        self.levels = levels
        self.input_size = input_size
        self.resize = resize
        self.tiles = tiles
        self.reduction = reduction
        self.roi = roi
        self.bits = bits
        self.channels = channels
        self.tolerate = tolerate
        self.fpr = fpr
        self.threshold = threshold
        self.n_augment = n_augment
        self.n_folds = n_folds
        self.holdout_fraction = holdout_fraction
        self.batch_size = batch_size
        self.device = device
        self.engine = engine
        self.random_state = random_state
        self.near_copies = near_copies

    def unfitted_parts(self) -> tuple[Any, Any]:
        """The network's pooled features, and nearest neighbours for every level, unfitted."""
        extractor = BackboneFeatures(
            self.backbone,
            weights=self.weights,
            levels=self.levels,
            input_size=self.input_size,
            resize=self.resize,
            tiles=self.tiles,
            roi=self.roi,
            bits=self.bits,
            channels=self.channels,
            batch_size=self.batch_size,
            device=self.device,
            engine=self.engine,
        )
        return extractor, self.unfitted_scorer()

    def unfitted_scorer(self) -> Any:
        """Nearest neighbours for every level, unfitted."""
        return per_level(self._neighbors(), self.reduction)

    def _neighbors(self) -> KthNeighborDistance:
        return KthNeighborDistance(self.n_neighbors, distance=self.distance, reduce=self.reduce)

    def _check_values(self) -> None:
        check_parameters(PIXELS, self)
        super()._check_values()
        self._neighbors().check_parameters()  # before any image is read
