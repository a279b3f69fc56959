"""Prepared pictures in memory up to a bound, beyond it in a temporary file."""

from __future__ import annotations

import hashlib
import math
import tempfile
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from mahalad.errors import InputError

MAX_IN_MEMORY = 2 * 2**30
"""Bytes of prepared images kept in memory: 43,690 of 128 pixels. Further ones go to a file."""


class Pictures:
    """Prepared images, (S, S, 3) each: in memory up to a bound, beyond it in a temporary file.

    Parameters
    ----------
    max_in_memory : int
        Bytes.
    """

    def __init__(self, max_in_memory: int | None = None) -> None:
        self._left = MAX_IN_MEMORY if max_in_memory is None else max_in_memory
        self._file: IO[bytes] | None = None
        # Key, and the image or its place in the file: offset, shape and type.
        self._entries: list[tuple[int, Any]] = []

    def add(self, picture: NDArray[Any], key: int) -> None:
        """Add one image with the hash of its content."""
        if picture.nbytes <= self._left:
            self._left -= picture.nbytes
            self._entries.append((key, picture))
            return
        self._left = 0
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as this)
            place = (self._file.seek(0, 2), picture.shape, picture.dtype)
            self._file.write(np.ascontiguousarray(picture).data)
            self._file.flush()
        except OSError as error:
            raise InputError(
                f"{tempfile.gettempdir()}: image {len(self) + 1} of the fit does not fit into "
                f"memory and cannot be kept in a temporary file ({error.strerror}): give fewer "
                "images, or set TMPDIR to a folder with more room"
            ) from error
        self._entries.append((key, place))

    def sort(self) -> None:
        """Bring the images into the order of their keys, so that the order given has no effect."""
        self._entries.sort(key=lambda entry: entry[0])

    def hash(self) -> str:
        """Hash the images' content, in the present order."""
        keys = np.array([key for key, _ in self._entries], dtype="<u8")
        return hashlib.blake2b(keys.tobytes(), digest_size=16).hexdigest()

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> NDArray[Any]:
        entry = self._entries[index][1]
        if isinstance(entry, np.ndarray):
            return entry
        assert self._file is not None
        offset, shape, dtype = entry
        self._file.seek(offset)
        return np.frombuffer(self._file.read(math.prod(shape) * dtype.itemsize), dtype).reshape(
            shape
        )
