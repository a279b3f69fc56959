"""The reconstruction error as an anomaly score: the convolutional-autoencoder baseline.

An autoencoder that was trained on good images draws a defect badly, because it never had to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from mahalad.errors import InputError
from mahalad.features.copying import copy_extractor
from mahalad.images.pixels import Pixels
from mahalad.protocols import Floats

if TYPE_CHECKING:
    from mahalad.metric.autoencoder.autoencoder import Autoencoder


class ReconstructionError(BaseEstimator):
    """Extract one feature: how badly a fitted autoencoder draws an image.

    With the scorer `AsIs` it makes a detector whose threshold is calibrated like any other.

    Parameters
    ----------
    autoencoder : Autoencoder
        Fitted.

    Notes
    -----
    Give the detector good images that the autoencoder was *not* trained on. Those of the
    training have smaller errors than new ones; a threshold set on them flags more good images
    than asked for. Nothing is learned from the detector's images, so none of them is lost to a
    fit: their errors are honest scores as they are.

    References
    ----------
    J. Masci et al., "Stacked Convolutional Auto-Encoders for Hierarchical Feature Extraction",
    2011, for the network; the error as an anomaly score is the usual baseline, for instance in
    P. Bergmann et al., "MVTec AD", 2019, section 4.1.

    Examples
    --------
    >>> import numpy as np
    >>> from mahalad import AnomalyDetector
    >>> from mahalad.metric.autoencoder import AsIs, Autoencoder, ReconstructionError
    >>> images = np.random.default_rng(0).integers(0, 256, (44, 32, 32, 3), dtype=np.uint8)
    >>> autoencoder = Autoencoder(bottleneck=8, width=2, input_size=32, epochs=1).fit(images[:4])
    >>> detector = AnomalyDetector(ReconstructionError(autoencoder), AsIs(), fpr=0.1)
    >>> detector.fit(images[4:]).predict(np.zeros((1, 32, 32, 3), np.uint8)).tolist()
    [-1]
    """

    def __init__(self, autoencoder: Autoencoder) -> None:
        self.autoencoder = autoencoder

    def __sklearn_clone__(self) -> Self:
        return type(self)(copy_extractor(self.autoencoder))  # fitted, if it is: never fitted here

    @property
    def batch_size(self) -> int:
        """Images per pass through the network."""
        return self.autoencoder.batch_size

    @property
    def pixels(self) -> Pixels:
        """How images are read."""
        return self.autoencoder.pixels

    @property
    def read_ahead(self) -> int:
        """Batches to decode while the network works on one."""
        return self.autoencoder.read_ahead

    def build(self) -> Self:
        """Do nothing, if the autoencoder is fitted.

        Raises
        ------
        NotFittedError
        """
        self.autoencoder.build()
        return self

    def prepare(self, image: Any) -> NDArray[Any]:
        """Squash a decoded image to the input size, as the autoencoder does."""
        return self.autoencoder.prepare(image)

    def transform(self, prepared: Sequence[NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """Measure prepared images: ``{"reconstruction error": (n, 1)}``, up = abnormal."""
        errors = self.autoencoder.errors_of(prepared)
        return {"reconstruction error": errors[:, None].astype(np.float32)}

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Give what the autoencoder has learned; see `Autoencoder.state`."""
        return self.autoencoder.state()

    def restore(self, about: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Self:
        """Give the autoencoder what `state` described."""
        self.autoencoder.restore(about, arrays)
        return self

    def record(self) -> dict[str, Any]:
        """Give what identifies this feature, as JSON."""
        return {**self.autoencoder.record(), "kind": "reconstruction error"}


class AsIs(BaseEstimator):
    """Score by a single feature that is an anomaly score already.

    It learns nothing, so cross-fitting calibrates it exactly.
    """

    def fit(self, X: Any, y: Any = None) -> Self:
        """Check that there is one feature, (n_samples, 1)."""
        self._checked(X)
        self.n_features_in_ = 1
        return self

    def score_samples(self, X: Any) -> Floats:
        """Return the negative feature, shape (n_samples,), up = normal."""
        return np.asarray(-self._checked(X)[:, 0])

    def _checked(self, X: Any) -> Floats:
        values: Floats = np.asarray(X, dtype=np.float64)
        if values.ndim != 2 or values.shape[1] != 1:
            raise InputError(f"AsIs scores one feature, (n_samples, 1), got shape {values.shape}")
        return values
