"""Images through a network on the CPU: a few at a time, each few on a thread of their own.

A pass of many images writes arrays so large that the C library gives each back to the system, which
then clears its pages anew for the next layer: half of the time of small networks. And threads that
share each layer wait for each other at the end of it, the longer, the busier the machine is.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch
from threadpoolctl import ThreadpoolController

from mahalad.protocols import Features

_PIXELS = 2 * 320**2
"""Pixels of images that pass together, about 100 bytes each in the largest array of a network."""


def parts_of(n_images: int, side: int) -> list[slice]:
    """Part images of `side` x `side` pixels into those that pass through the network together.

    Fewer images than threads stay together: there all threads work on each layer.
    """
    n_threads = torch.get_num_threads()
    if n_images < n_threads:
        return [slice(0, n_images)]
    size = min(max(1, _PIXELS // side**2), -(-n_images // n_threads))
    return [slice(i, min(i + size, n_images)) for i in range(0, n_images, size)]


def extract_in_parts(extract: Callable[[slice], Features], parts: list[slice]) -> list[Features]:
    """Call `extract` with all parts, as many at a time as torch has threads, one thread each."""
    n_threads = min(torch.get_num_threads(), len(parts))
    if n_threads == 1:
        return [extract(rows) for rows in parts]
    with ThreadPoolExecutor(n_threads, initializer=_be_alone) as pool:
        return list(pool.map(extract, parts))


def _be_alone() -> None:
    """Hold the thread that calls this to itself, and no other thread of the process.

    `torch.set_num_threads` would be for all threads that begin later, whoever begins them.
    """
    torch.get_num_threads()  # torch sets a thread's number at its first question: not after ours
    _openmp().limit(limits=1)


@cache
def _openmp() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="openmp")
