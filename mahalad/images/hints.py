"""What to write instead of something that is no image."""

from __future__ import annotations

import io
import sys
from typing import Any


def looks_like_a_list(X: object) -> bool:
    """Whether its items would be no images: channels of a tensor, a data frame's names."""
    return _is_tensor(X) or type(X).__name__ == "DataFrame"


def _is_tensor(value: object) -> bool:
    torch = sys.modules.get("torch")  # without it there are no tensors
    return torch is not None and isinstance(value, torch.Tensor)


def line_instead(value: Any, *, is_item: bool = False) -> str:
    """Say what to write instead of something that is no image, where that is known."""
    if value is None:
        return "; OpenCV gives None for a file or frame that it cannot read: give a file's path"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return "; of a file's bytes, give PIL.Image.open(io.BytesIO(data))"
    if isinstance(value, io.IOBase):
        return "; of an open file, give PIL.Image.open(file)"
    if _is_tensor(value):
        shape = value.shape
        is_last = len(shape) > 2 and shape[-1] in (1, 3) and shape[-3] not in (1, 3)
        turns = {} if is_last else {4: ".permute(0, 2, 3, 1)", 3: ".permute(1, 2, 0)"}
        array = f"{turns.get(len(shape), '')}.cpu().numpy()"
        lines = {
            (4, False): f"X{array}",
            (3, False): f"[X{array}]",
            (4, True): f"(images{array} for images in X)",
            (3, True): f"(image{array} for image in X)",
        }
        line = lines.get((len(shape), is_item), "a NumPy array")
        where = "last" if is_last else "first"
        return f"; of tensors with channels {where}, uint8 or float in [0, 1], give {line}"
    if type(value).__name__ == "DataFrame":
        return "; of a data frame, give the column of paths, as X['path']"
    if is_item and isinstance(value, (list, tuple)):
        return "; of pairs of image and label, give (image for image, label in X)"
    if not is_item and {"__len__", "__getitem__"} <= set(dir(value)):
        return "; of a data set, give (X[i] for i in range(len(X)))"
    return ""
