"""What an exported file says of itself: a record in ONNX's metadata, and a checksum at its end.

Neither the package onnx nor anything else but NumPy is needed to read it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mahalad.errors import ModelFileError, no_model_at

KEY = "mahalad"
"""Name of the record among the metadata: JSON."""
FORMAT_VERSION = 1
_CHECKSUM = b"mahalad_sha256"
_N_DIGITS = 64
# ONNX's metadata are a repeated field (14) of pairs of texts: one more may be appended to a model.
_BEFORE = (
    bytes([0x72, 2 + len(_CHECKSUM) + 2 + _N_DIGITS, 0x0A, len(_CHECKSUM)])
    + _CHECKSUM
    + bytes([0x12, _N_DIGITS])
)
_LENGTH = len(_BEFORE) + _N_DIGITS
_MEND = "copy it again, or export the model again"


def sealed(content: bytes) -> bytes:
    """Append the SHA-256 of a serialized ONNX model, as one more entry of its metadata."""
    return content + _BEFORE + hashlib.sha256(content).hexdigest().encode()


def is_sealed(end: bytes) -> bool:
    """Whether the last bytes of a file are those of an exported one."""
    return end[-_LENGTH:].startswith(_BEFORE)


def read_sealed(path: str | Path) -> bytes:
    """Read an exported file.

    Raises
    ------
    ModelFileError
        No such file, or it is not as it was written.
    """
    path = Path(path)
    if not path.is_file():
        raise no_model_at(path)
    content = path.read_bytes()
    check_sealed(content, str(path))
    return content


def check_sealed(content: bytes, name: str) -> None:
    """Refuse content that is not as `sealed` made it.

    Raises
    ------
    ModelFileError
    """
    if not is_sealed(content):
        raise unsealed(name, len(content))
    wanted = content[-_N_DIGITS:].decode("ascii", "replace")
    if hashlib.sha256(memoryview(content)[:-_LENGTH]).hexdigest() != wanted:
        raise edited(name)


def unsealed(name: str, n_bytes: int) -> ModelFileError:
    """Say that a file does not end as exported ones do."""
    return ModelFileError(
        f"{name}: not a model of `mahalad export`, or cut short, or changed by another program "
        f"({n_bytes:,} bytes, without a mahalad checksum at their end): {_MEND}"
    )


def edited(name: str) -> ModelFileError:
    """Say that a file is not what its checksum says was written."""
    return ModelFileError(
        f"{name}: the exported model is damaged, or was edited (its SHA-256 is not that of what "
        f"was written): {_MEND}"
    )


def read_record(text: str | None, name: str) -> dict[str, Any]:
    """Read the record of its JSON text.

    Raises
    ------
    ModelFileError
        There is none, or it is of a newer version.
    """
    if text is None:
        raise ModelFileError(
            f"{name}: an ONNX model, but not one of mahalad: `mahalad export MODEL -o {name}` "
            "makes one"
        )
    try:
        record: dict[str, Any] = json.loads(text)
        version = int(record["format_version"])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelFileError(f"{name}: the record of the model is damaged ({error})") from error
    if version > FORMAT_VERSION:
        raise ModelFileError(
            f"{name}: exported in format {version} by mahalad {record.get('mahalad_version', '?')};"
            f" this version reads up to format {FORMAT_VERSION}: pip install --upgrade mahalad"
        )
    return record


def encode(array: NDArray[Any]) -> dict[str, Any]:
    """Give an array as JSON: dtype, shape, and bytes in base64, little-endian and in C order."""
    array = np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")
    text = base64.b64encode(array.tobytes()).decode()
    return {"dtype": array.dtype.str, "shape": list(array.shape), "base64": text}


def decode(value: dict[str, Any], name: str) -> NDArray[Any]:
    """Give back what `encode` was given.

    Raises
    ------
    ModelFileError
        It is no such array; `name` says of what.
    """
    try:
        content = base64.b64decode(value["base64"], validate=True)
        dtype = np.dtype(value["dtype"])
        if dtype.kind not in "fiub":
            raise ValueError(f"of type {dtype}")
        return np.frombuffer(content, dtype).reshape(value["shape"]).copy()
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise ModelFileError(f"{name}: an array of the record is damaged ({error})") from error
