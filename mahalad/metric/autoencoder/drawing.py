"""Pictures of inputs beside their reconstructions."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mahalad.errors import InputError
from mahalad.files.container import write_atomically
from mahalad.files.recognition import MARK

if TYPE_CHECKING:
    pass


_COLUMNS = 8


_GAP = 2


def draw_grid(pairs: NDArray[np.float32], path: str | Path | None) -> Image.Image:
    """Draw originals above reconstructions, up to 8 pairs side by side, and write the picture.

    Parameters
    ----------
    pairs : ndarray of shape (n, 2, S, S, 3)
        In [0, 1].
    path : str, Path or None

    Raises
    ------
    InputError
        Pillow writes no files with this suffix.
    ModelFileError
        The file cannot be written.
    """
    n, side = len(pairs), pairs.shape[2]
    step, columns = side + _GAP, min(n, _COLUMNS)
    n_bands = -(-n // columns)
    height = n_bands * (2 * step + _GAP)
    canvas = np.full((height, columns * step, 3), 255, np.uint8)
    for i, pair in enumerate(np.rint(np.clip(pairs, 0, 1) * 255).astype(np.uint8)):
        band, column = divmod(i, columns)
        top, left = band * (2 * step + _GAP), column * step
        canvas[top : top + side, left : left + side] = pair[0]
        canvas[top + step : top + step + side, left : left + side] = pair[1]
    # Without the margins below and on the right.
    picture = Image.fromarray(canvas[: height - 2 * _GAP, : columns * step - _GAP])
    if path is not None:
        suffix = Path(path).suffix.lower()
        written = Image.registered_extensions().get(suffix)
        if written not in Image.SAVE:
            raise InputError(f"{path}: no picture can be written as {suffix or 'no suffix'!r}: "
                             "give a name that ends in .png")  # fmt: skip
        buffer = io.BytesIO()
        mark = PngInfo()  # so that another run may replace it
        mark.add_text("Software", MARK)
        picture.save(buffer, format=written, pnginfo=mark, comment=MARK.encode())
        write_atomically(path, buffer.getvalue())
    return picture
