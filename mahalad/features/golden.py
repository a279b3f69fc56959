"""Golden inputs: generated from a seed, they must come out of a loaded model as when it was saved.

They are never the user's images, and a change of network, weights, precision, preprocessing or
library shows in them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mahalad.errors import ImageValueError
from mahalad.images.decoding import open_image
from mahalad.images.sources import ImageSource
from mahalad.protocols import Features

GOLDEN_SEED = 20200
N_GOLDEN = 2
GOLDEN_RTOL = 5e-5
"""Largest relative change of a golden score. Other threads or kernels change it by 5e-8, bfloat16
by 2e-4 to 2e-3 (measured with the default network)."""


ANOTHER = "Another precision, library version or device may be the reason"


def golden_features(extractor: Any, levels: Mapping[str, Sequence[int]]) -> Features:
    """Features of the golden inputs, each level (N_GOLDEN, ...).

    Parameters
    ----------
    extractor : built feature extractor or None
        None: the features themselves are generated.
    levels : mapping of str to sequence of int
        Shape of each level, for features that are generated.
    """
    if extractor is not None:
        found: Features = extractor.transform(golden_images(extractor))
        return found
    rng = np.random.default_rng(GOLDEN_SEED)
    return {name: rng.normal(size=(N_GOLDEN, *shape)) for name, shape in levels.items()}


def golden_images(extractor: Any) -> list[NDArray[Any]]:
    """Pictures that are generated from a fixed seed, as `extractor` prepares images."""
    rng = np.random.default_rng(GOLDEN_SEED)
    prepared = []
    for _ in range(N_GOLDEN):
        # Coarse noise enlarged: smooth structure, so that resizing is checked as well.
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        try:
            prepared.append(_prepared_at(coarse, (400, 300), extractor))
        except ImageValueError:  # padded, it lies beside the region of interest: a square cannot
            prepared.append(_prepared_at(coarse, (400, 400), extractor))
    return prepared


def _prepared_at(picture: Image.Image, size: tuple[int, int], extractor: Any) -> NDArray[Any]:
    enlarged = picture.resize(size, Image.Resampling.BICUBIC)
    prepared: NDArray[Any] = extractor.prepare(open_image(ImageSource("golden", None, enlarged)))
    return prepared
