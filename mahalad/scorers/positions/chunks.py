"""Work on ranges of positions, on all threads, in arrays of bounded size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController
from torch import Tensor

from mahalad.protocols import Floats

_CHUNK = 2**21  # numbers held at once, per working array


def for_each_chunk(work: Callable[[slice], None], n_positions: int, per_position: int) -> None:
    """Call `work` with ranges of positions, several at a time, each on one thread.

    Libraries are held to one thread each: threads that share small factorisations wait for each
    other at every matrix.
    """
    n_threads, parts = torch.get_num_threads(), list(chunks(n_positions, per_position))
    try:
        with _blas().limit(limits=1):
            if min(n_threads, len(parts)) == 1:  # a thread takes longer to begin than much work
                torch.set_num_threads(1)
                for part in parts:
                    work(part)
                return
            with ThreadPoolExecutor(
                n_threads, initializer=torch.set_num_threads, initargs=(1,)
            ) as pool:
                for _ in pool.map(work, parts):
                    pass
    finally:
        torch.set_num_threads(n_threads)


@cache
def _blas() -> ThreadpoolController:
    """Find the libraries, once: that takes 5 ms."""
    return ThreadpoolController().select(user_api="blas")


def chunks(n_positions: int, per_position: int) -> Iterator[slice]:
    """Yield ranges of positions so small that their working arrays stay small."""
    step = max(1, _CHUNK // max(per_position, 1))
    for start in range(0, n_positions, step):
        yield slice(start, min(start + step, n_positions))


def centred(X: Any, rows: slice, location: Floats) -> Tensor:
    """Subtract the mean from samples at some positions: (p, n, D), float64."""
    x = X[:, rows].swapaxes(0, 1)
    z = np.empty(x.shape)  # never the caller's memory, which one sample would be
    np.subtract(x, location[rows][:, None], out=z, dtype=np.float64)
    return torch.from_numpy(z)


def squared_norms(y: NDArray[Any]) -> Floats:
    """Sum squares over features, (p, n, D) to (p, n).

    It makes no copy of y, which would cost more than the sum.
    """
    return np.asarray(np.einsum("pnd,pnd->pn", y, y))
