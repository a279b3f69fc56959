"""Images through a network on a device whose memory may not do for all of them at once."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeVar

import torch

from mahalad.errors import BackboneError, first_line

Found = TypeVar("Found")

_SIGNS = (
    *("out of memory", "can't allocate", "failed to allocate"),
    *("alloc_failed", "bad_alloc", "bad allocation"),
)
"""What torch, CUDA, onnxruntime and OpenVINO say; each has errors of its own kind."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an engine had too little memory, that of a GPU or the machine's."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(sign in text for sign in _SIGNS)


class WithinMemory:
    """Pass images through a network together: all, or once memory was short, as many as it does.

    Attributes
    ----------
    limit : int or None
        Images that go together at most; None as long as memory was never short.
    """

    def __init__(self) -> None:
        self.limit: int | None = None

    def parts(
        self, work: Callable[[slice], Found], n_images: int, device: str, side: int
    ) -> list[Found]:
        """Do work on all images, in as few parts as memory allows.

        Parameters
        ----------
        work : callable
            Takes the slice of images that go together.
        n_images : int
        device : str
        side : int
            Of the images, in pixels; named in messages, as the device is.

        Raises
        ------
        BackboneError
            Memory does not do for a single image.

        Warns
        -----
        UserWarning
            Memory was short, and fewer images go together from now on.
        """
        found: list[Found] = []
        start, asked = 0, self.limit
        while start < n_images or not found:
            n = min(n_images - start, self.limit or n_images)
            try:
                found.append(work(slice(start, start + n)))
            except Exception as error:  # each engine has its own kinds
                if not is_out_of_memory(error):
                    raise
                if n <= 1:
                    raise BackboneError(
                        f"out of memory on {device} with a single image of {side} x {side} pixels "
                        f"({first_line(error)}): give a smaller input_size, device='cpu', or end "
                        "what else uses its memory"
                    ) from error
                self.limit = n // 2
            else:
                start += n
                continue
            # Beyond the handler: its traceback holds what the network had computed.
            torch.cuda.empty_cache()
        if self.limit != asked:
            warnings.warn(
                f"out of memory on {device} with {n_images} images of {side} x {side} pixels at "
                f"once: {self.limit} at once from now on, which may change the last digits of "
                f"features (batch_size={self.limit} asks for it from the start)",
                stacklevel=2,
            )
        return found
