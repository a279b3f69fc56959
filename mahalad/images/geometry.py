"""Fit pictures of any shape into the network's square, and bring maps back to their shape.

``"squash"`` stretches the picture to the square. ``"pad"`` keeps its aspect: the longer side fills
the square, the picture lies in the middle, and its edge is repeated around it: a constant colour
would be an edge of its own, often the strongest, and change the features next to it. Small pictures
are enlarged.

A box says where a picture lies: left, top, right and bottom, as shares of the square's side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from mahalad.checks import TILES, Limit, OneOf, check_parameters
from mahalad.choices import RESIZE
from mahalad.images.resizing import resize_image
from mahalad.protocols import FloatImage

Boxes = npt.NDArray[np.float32]
Prepared = npt.NDArray[Any]

RECORDED = {
    "squash": "squash to a square, no crop",
    "pad": "longer side to a square, edges repeated around",
}
"""What a model file says of each policy."""
BOX = "picture/box"
"""Name under which the boxes of padded pictures travel with their feature maps, (n, 4)."""
WHOLE = (0.0, 0.0, 1.0, 1.0)
"""The box of a picture that fills its square."""
LIMITS: Mapping[str, Limit] = {"resize": OneOf(RESIZE), "tiles": TILES}


def check_geometry(resize: Any, tiles: Any) -> None:
    """Check how images are to become squares.

    Raises
    ------
    InputError
        A value outside of `LIMITS`.
    """
    check_parameters(LIMITS, {"resize": resize, "tiles": tiles})


def fit_to_square(
    image: Image.Image | FloatImage, side: int, interpolation: str
) -> npt.NDArray[np.uint8] | FloatImage:
    """Resize an image so that its longer side is `side` pixels, keeping its aspect.

    Returns
    -------
    ndarray of shape (height, width, 3), the longer of both being `side`, the other at least 1
        uint8 or float32, as `resize_image` gives it.
    """
    height, width = fitted_shape(image, side, "pad")
    return resize_image(image, (width, height), interpolation)


def fitted_shape(image: Image.Image | Prepared, side: int, resize: str) -> tuple[int, int]:
    """Compute height and width at which a picture lies in its square."""
    if resize == "squash":
        return side, side
    width, height = image.size if isinstance(image, Image.Image) else image.shape[1::-1]
    longer = max(width, height)
    return max(1, round(height * side / longer)), max(1, round(width * side / longer))


def are_prepared(X: Any, side: int, resize: str) -> bool:
    """Whether X is a sequence of pictures that fit a square of that side, as a policy leaves them.

    Each is (h, w, 3), of uint8, or of float32 in [0, 1].
    """
    if not isinstance(X, (list, tuple, np.ndarray)) or len(X) == 0:
        return False
    return all(isinstance(image, np.ndarray) and _is_prepared(image, side, resize) for image in X)


def _is_prepared(image: Prepared, side: int, resize: str) -> bool:
    if image.ndim != 3 or image.shape[2] != 3:
        return False
    height, width = image.shape[:2]
    fits = height == width == side if resize == "squash" else max(height, width) == side
    if not fits or image.dtype not in (np.uint8, np.float32):
        return False
    return bool(image.dtype == np.uint8 or (image.min() >= 0 and image.max() <= 1))


def as_float(image: Prepared) -> FloatImage:
    """Bring a prepared image to float32 in [0, 1]."""
    return image.astype(np.float32) / np.float32(255) if image.dtype == np.uint8 else image


def pad_to_square(prepared: Prepared, side: int, *, mode: Any = "edge") -> Prepared:
    """Put a fitted picture, (h, w) or (h, w, 3), in the middle of a square, its edge repeated.

    With ``mode="constant"``, the rest is 0.
    """
    above, left = ((side - length) // 2 for length in prepared.shape[:2])
    below, right = side - prepared.shape[0] - above, side - prepared.shape[1] - left
    margins = ((above, below), (left, right), (0, 0))[: prepared.ndim]
    return prepared if prepared.shape[:2] == (side, side) else np.pad(prepared, margins, mode)


def pad_to_squares(
    prepared: Sequence[Prepared], side: int
) -> tuple[Prepared, npt.NDArray[np.bool_]]:
    """Put pictures into squares, (n, side, side, 3), and mark them there, (n, side, side)."""
    squares = [pad_to_square(picture, side) for picture in prepared]
    whole = (np.ones(picture.shape[:2], bool) for picture in prepared)
    return np.stack(squares), np.stack([pad_to_square(w, side, mode="constant") for w in whole])


def cut_from_square(square: Prepared, shape: tuple[int, int]) -> Prepared:
    """Cut out the part of a square, (side, side), where a picture of (height, width) lies."""
    above, left = ((len(square) - length) // 2 for length in shape)
    return square[above : above + shape[0], left : left + shape[1]]


def boxes_of(prepared: Sequence[Prepared], side: int) -> Boxes:
    """Compute where fitted pictures lie in their squares, (n, 4)."""
    found = []
    for picture in prepared:
        height, width = picture.shape[:2]
        top, left = (side - height) // 2, (side - width) // 2
        found.append((left, top, left + width, top + height))
    return (np.array(found, np.float64) / side).astype(np.float32)


def positions_inside(boxes: npt.NDArray[Any], side: int) -> npt.NDArray[np.bool_]:
    """Find the positions of a grid that have their centre in the picture, (n, side, side).

    If a picture is narrower than a position, the positions in its middle count as inside.
    """
    x, y = (_inside(boxes[:, axis], boxes[:, axis + 2], side) for axis in (0, 1))
    return np.asarray(y[:, :, None] & x[:, None, :])


def _inside(start: npt.NDArray[Any], stop: npt.NDArray[Any], side: int) -> npt.NDArray[np.bool_]:
    centres = (np.arange(side) + 0.5) / side
    inside = (centres >= start[:, None]) & (centres < stop[:, None])
    middle = np.clip((start + stop) / 2 * side, 0, side - 1).astype(np.intp)
    inside[np.arange(len(start)), middle] |= ~inside.any(axis=1)
    return np.asarray(inside)


def repeat_edges(values: npt.NDArray[Any], inside: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
    """Give positions outside the picture the value of the nearest one inside, (n, side, side)."""
    found = np.empty_like(values)
    for i, (grid, own) in enumerate(zip(values, inside, strict=True)):
        rows, columns = (
            np.clip(np.arange(len(kept)), *np.flatnonzero(kept)[[0, -1]])
            for kept in (own.any(axis=1), own.any(axis=0))
        )
        found[i] = grid[np.ix_(rows, columns)]
    return found


def resample(
    values: npt.NDArray[Any], shape: tuple[int, int], box: Sequence[float] = WHOLE
) -> npt.NDArray[Any]:
    """Enlarge the part of a map, (h, w), that is the picture, bilinearly, to the picture's shape.

    With half-pixel centres, as ``torch.nn.functional.interpolate`` of mode ``"bilinear"`` with
    ``align_corners=False``. A smaller shape is sampled without a filter.

    Examples
    --------
    >>> resample(np.array([[0.0, 4.0]]), (1, 4)).tolist()
    [[0.0, 1.0, 3.0, 4.0]]
    >>> resample(np.array([[0.0, 4.0]]), (1, 2), (0.25, 0, 0.75, 1)).tolist()
    [[1.0, 3.0]]
    """
    left, top, right, bottom = map(float, box)
    rows = _resample_rows(values, shape[0], top, bottom)  # (H, w)
    return np.ascontiguousarray(_resample_rows(rows.T, shape[1], left, right).T)  # (H, W)


def _resample_rows(
    values: npt.NDArray[Any], size: int, start: float, stop: float
) -> npt.NDArray[Any]:
    n = len(values)
    step = n * (stop - start) / size
    positions = np.clip(start * n + (np.arange(size) + 0.5) * step - 0.5, 0, n - 1)
    before = positions.astype(np.intp)
    after = np.minimum(before + 1, n - 1)
    share = (positions - before).astype(values.dtype)[:, None]
    # In this form, a constant map stays exactly constant.
    return np.asarray(values[before] + share * (values[after] - values[before]))


def describe_input(record: Mapping[str, Any]) -> str:
    """Describe in short how images go into the network, by the record of the features."""
    tiles = record.get("tiles", 1)
    text = f"{record['input_size']} px"
    text = text if tiles == 1 else f"{tiles} x {tiles} tiles of {text}"
    text = f"{text}, padded" if record.get("resize") == RECORDED["pad"] else text
    number = record.get("orientations", 1)
    return text if number == 1 else f"{text}, {number} orientations"


def turn(image: Prepared, k: int) -> Prepared:
    """One of the 8 orientations of a picture, (h, w, ...): turned by quarters, from 4 mirrored."""
    turned = np.rot90(image, k % 4)
    return np.ascontiguousarray(turned[:, ::-1] if k >= 4 else turned)
