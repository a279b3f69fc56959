"""Checksums: of all that a model file says, and of vectors, to tell whether they are the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def hash_content(header: str, arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.uint8]:
    """Hash a header and arrays, whatever the order of the arrays and of bytes in memory.

    Parameters
    ----------
    header : str
        The header's JSON text, as it is in the file.
    arrays : mapping of str to ndarray
        Those in C order are hashed where they are, without a copy.

    Returns
    -------
    ndarray of shape (32,), uint8
        The SHA-256 of the header as a JSON string, and for each array, in the order of their
        names, of its name, dtype and shape as a JSON list and of its bytes, little-endian and in C
        order. A line feed ends every piece of JSON.
    """
    digest = hashlib.sha256(f"{json.dumps(header)}\n".encode())
    for name in sorted(arrays):
        array = arrays[name]
        array = np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")
        digest.update(f"{json.dumps([name, array.dtype.str, array.shape])}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return np.frombuffer(digest.digest(), dtype=np.uint8)


def hash_rows(X: NDArray[Any]) -> NDArray[np.uint64]:
    """Hash every row of an array to 64 bits.

    Parameters
    ----------
    X : ndarray of shape (n, n_features)
        Hashed as float32, by BLAKE2.

    Returns
    -------
    ndarray of shape (n,), uint64
        Never 0, which may stand for "not known".
    """
    rows = np.ascontiguousarray(X, dtype="<f4")
    digests = b"".join(hashlib.blake2b(row.data, digest_size=8).digest() for row in rows)
    return np.maximum(np.frombuffer(digests, dtype="<u8").astype(np.uint64), 1)
