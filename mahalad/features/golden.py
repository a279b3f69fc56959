"""Golden inputs: pictures generated from a seed, by which a model file checks itself."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mahalad.errors import ImageValueError
from mahalad.images.decoding import open_image
from mahalad.images.sources import ImageSource

GOLDEN_SEED = 20200


N_GOLDEN = 2


GOLDEN_RTOL = 5e-5
"""Largest relative change of a golden score. Other threads or kernels change it by 5e-8, bfloat16
by 2e-4 to 2e-3 (measured with the default network)."""


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
