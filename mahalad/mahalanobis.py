"""The ready-made detector: frozen network, a Gaussian per level, a threshold that holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mahalad import persistence
from mahalad.detector import AnomalyDetector
from mahalad.features import BackboneFeatures
from mahalad.protocols import Threshold
from mahalad.reduction import PrincipalComponents
from mahalad.scorers import make_scorer


class MahalanobisDetector(AnomalyDetector):
    """Find anomalies in images by the Mahalanobis distance of frozen ImageNet features.

    One Gaussian with Ledoit-Wolf shrinkage per level of the network, unsquared distances summed
    over levels, and a threshold whose false-positive rate is the one asked for, as long as new good
    images come as those of the fit came (exchangeable). Nothing is trained; a fit takes about
    as long as reading the images.

    Parameters
    ----------
    backbone : str, default="tf_efficientnet_lite0"
        Name of a timm network. The default's weights come with an installed package.
    weights : str, Path or None, default=None
        None: the package's for the default backbone, timm's hub for others; a path: a
        .safetensors or .pth file with timm's keys; ``"hub"``: timm's hub.
    levels : str, int, sequence of these, or None, default=None
        Levels by name or index; None or ``"all"`` for all.
    input_size : int or None, default=None
        Images are squashed to this square; None for the network's native size.
    reduction : str, PrincipalComponents or None, default=None
        ``"pca"`` or ``"npca"``, with ``":0.95"`` for another share of variance than 0.99.
    fpr : float, default=0.05
        Share of good images that may be flagged, if they are exchangeable with those fitted.
    threshold : str, default="conformal"
        ``"conformal"``, ``"chi2"``, ``"holdout"`` or ``"chi2-nominal"``.
    n_augment, n_folds, holdout_fraction, max_stored, random_state
        See `AnomalyDetector`.
    batch_size : int, default=32
        Images per pass through the network.
    device : str, default="auto"
        ``"auto"`` for CUDA where there is one and else the CPU, or a torch device.

    References
    ----------
    O. Rippel, P. Mertens, D. Merhof, "Modeling the Distribution of Normal Data in
    Pre-Trained Deep Features for Anomaly Detection", ICPR 2020.

    Examples
    --------
    >>> import numpy as np
    >>> from mahalad import MahalanobisDetector
    >>> rng = np.random.default_rng(0)
    >>> normals = [rng.integers(100, 156, (64, 64, 3), dtype=np.uint8) for _ in range(30)]
    >>> detector = MahalanobisDetector(input_size=64, levels=["stem", "blocks.0"]).fit(normals)
    >>> odd = normals[0].copy()
    >>> odd[20:40, 20:40] = 255
    >>> detector.predict([odd]).tolist()
    [-1]
    """

    def __init__(
        self,
        backbone: str = "tf_efficientnet_lite0",
        *,
        weights: str | Path | None = None,
        levels: Any = None,
        input_size: int | None = None,
        reduction: str | PrincipalComponents | None = None,
        fpr: float = 0.05,
        threshold: str | Threshold = "conformal",
        n_augment: int = 0,
        n_folds: int = 40,
        holdout_fraction: float = 0.3,
        max_stored: int = 10_000,
        batch_size: int = 32,
        device: str = "auto",
        random_state: int | None = None,
    ) -> None:
        self.backbone = backbone
        self.weights = weights
        self.levels = levels
        self.input_size = input_size
        self.reduction = reduction
        self.fpr = fpr
        self.threshold = threshold
        self.n_augment = n_augment
        self.n_folds = n_folds
        self.holdout_fraction = holdout_fraction
        self.max_stored = max_stored
        self.batch_size = batch_size
        self.device = device
        self.random_state = random_state

    def _make_parts(self) -> tuple[Any, Any]:
        extractor = BackboneFeatures(
            self.backbone,
            weights=self.weights,
            levels=self.levels,
            input_size=self.input_size,
            batch_size=self.batch_size,
            device=self.device,
        )
        return extractor, make_scorer("gaussian", self.reduction)


CLASSES = {cls.__name__: cls for cls in (AnomalyDetector, MahalanobisDetector)}


def load(
    path: str | Path,
    *,
    weights: str | Path | None = None,
    device: str | None = None,
    features: Any = None,
    scorer: Any = None,
    threshold: Any = None,
) -> AnomalyDetector:
    """Read a detector that `save` wrote, and check that it still scores as it did.

    Parameters
    ----------
    path : str or Path
    weights : str or Path, optional
        Weights file, for a model saved without them.
    device : str, optional
        Device to score on; None for the one that was asked for at fit.
    features, scorer, threshold : optional
        The unfitted parts, for a detector that was made with parts from outside this library
        (a file holds no code).

    Returns
    -------
    AnomalyDetector or MahalanobisDetector
        Of the class that was saved.

    Raises
    ------
    ModelFileError
        Not a model, damaged, from a newer version, other weights than at fit, or scores of the
        golden inputs that do not come back.
    """
    parts = {"features": features, "scorer": scorer, "threshold": threshold}
    return persistence.load(path, CLASSES, weights, device, parts)
