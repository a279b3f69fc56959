"""Maps of several levels on one grid, as the published methods stack them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from mahalad.errors import InputError
from mahalad.protocols import Features


def maps_of(X: Features) -> list[NDArray[Any]]:
    """Give the maps among features, (n, height, width, n_features) each.

    Raises
    ------
    InputError
        There is none.
    """
    maps = [np.asarray(values) for values in X.values() if np.ndim(values) == 4]
    if not maps:
        raise InputError(f"no feature maps, (n, height, width, n_features), among {', '.join(X)}")
    return maps


def stack(maps: Sequence[NDArray[Any]], mode: str, side: int) -> NDArray[np.float32]:
    """Enlarge maps to side x side positions and put them side by side, (n, P, D).

    Parameters
    ----------
    maps : sequence of ndarray
    mode : {"nearest", "bilinear"}
    side : int
        That of the finest.
    """
    align = None if mode == "nearest" else False
    enlarged = []
    for values in maps:
        x = torch.from_numpy(np.ascontiguousarray(values, np.float32)).permute(0, 3, 1, 2)
        if x.shape[-1] < side:
            x = functional.interpolate(x, (side, side), mode=mode, align_corners=align)
        enlarged.append(x.permute(0, 2, 3, 1).numpy())
    stacked = np.concatenate(enlarged, axis=-1)
    return stacked.reshape(len(stacked), side * side, -1)
