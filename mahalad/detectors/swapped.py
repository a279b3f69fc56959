"""Lots that are abnormal only because red and blue have changed places, as in arrays of OpenCV."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mahalad.detectors.suspects import is_shifted, n_above_all
from mahalad.images.reading import ReadImage
from mahalad.protocols import Floats

_log = logging.getLogger(__name__)

_FEWEST, _MOST = 5, 8  # images that are scored once more
_NORMAL = 0.8  # least share of them that must be normal then


@dataclass
class Swapping:
    """Watch the scores of a lot; if it piles up above all good images, score a few swapped.

    Attributes
    ----------
    rescore : callable
        Gives the anomaly scores (n,) of prepared images.
    calibration : ndarray of shape (n_calibration,)
        Scores of good images.
    n_independent : float
        Independent parts among these.
    channels : {"rgb", "bgr"}
        Order in which arrays were read.
    remark : str or None
        What was found. It is about all images of the lot.
    """

    rescore: Callable[[list[NDArray[Any]]], Floats]
    calibration: Floats
    n_independent: float
    channels: str = "rgb"
    remark: str | None = field(default=None, init=False)
    _n: int = field(default=0, init=False)
    _n_above: int = field(default=0, init=False)
    _n_arrays: int = field(default=0, init=False)
    _tries: int = field(default=2, init=False)
    _kept: list[NDArray[Any]] = field(default_factory=list, init=False)

    def see(
        self, images: Sequence[ReadImage], scores: Floats, in_fit: NDArray[np.bool_]
    ) -> str | None:
        """See further readable images with their scores (n,); give the remark, if there is one.

        Warns
        -----
        UserWarning
            Once, if the lot is normal with red and blue swapped.
        """
        if self.remark is not None or not self._tries or not len(self.calibration):
            return self.remark
        self._n += int((~in_fit).sum())
        self._n_above += n_above_all(scores[~in_fit], self.calibration)
        highest = self.calibration.max()
        for image, score, known in zip(images, scores, in_fit, strict=True):
            above = score > highest and not known
            if above and len(self._kept) < _MOST and _has_colours(image.prepared):
                self._kept.append(np.asarray(image.prepared))
                self._n_arrays += isinstance(image.source.value, np.ndarray)
        if len(self._kept) >= _FEWEST and is_shifted(self._n_above, self._n, self.n_independent):
            self._try()
        return self.remark

    def _try(self) -> None:
        swapped = [np.ascontiguousarray(image[:, :, ::-1]) for image in self._kept]
        n = len(swapped)
        n_normal = n - n_above_all(self.rescore(swapped), self.calibration)
        _log.info("%d of %d images are above all good ones; swapped, %d of %d are normal",
                  self._n_above, self._n, n_normal, n)  # fmt: skip
        if n_normal >= _NORMAL * n:
            self.remark = (
                f"{self._n_above} of {self._n} images are more abnormal than every good image, and"
                f" {n_normal} of {n} of them are normal with red and blue swapped: {self._advice()}"
            )
            warnings.warn(self.remark, stacklevel=4)
        self._tries -= 1
        self._kept, self._n_arrays = [], 0

    def _advice(self) -> str:
        if 2 * self._n_arrays > len(self._kept):
            other = "bgr" if self.channels == "rgb" else "rgb"
            order = "OpenCV's order, blue first" if other == "bgr" else "red first"
            return f"have the arrays {order}? Give channels={other!r}, in set_params after a fit"
        return (
            "were arrays with blue first, as OpenCV has them, fitted to (fit again with "
            "channels='bgr'), or saved as these pictures?"
        )


def _has_colours(prepared: Any) -> bool:
    """Whether it is a picture that changes if its colours are swapped."""
    if not isinstance(prepared, np.ndarray) or prepared.ndim != 3 or prepared.shape[2] != 3:
        return False
    return not np.array_equal(prepared[:, :, 0], prepared[:, :, 2])
