"""A fitted model in one file: safetensors with a JSON header, written whole or not at all.

The file is a plain state (JSON and named arrays). It holds no code, and reading it runs none.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save

from mahalad.errors import ModelFileError, no_model_at
from mahalad.files.audit import audit
from mahalad.files.checksum import hash_content
from mahalad.files.old.upgrade import upgrade
from mahalad.files.recognition import is_export

_log = logging.getLogger(__name__)

FORMAT_VERSION = 10  # 10: scores count a finer grid, too
_KEY = "mahalad"
CHECKSUM = "mahalad_sha256"
"""Name of the array that holds the checksum; `read_model` does not give it."""
_FIRST_WITH_CHECKSUM = 5
_MEND = "copy it again, or fit and save the model again"


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write `content` to `path` whole or not at all; an old file stays until the new is safe.

    Raises
    ------
    ModelFileError
        The folder is missing or not writable, or the disk is full.
    """
    path = Path(os.path.realpath(path))  # the target of a link, not the link
    temporary = path.parent / f".{path.name}.{secrets.token_hex(8)}"
    try:
        if path.exists() and not path.is_file():  # a pipe, /dev/stdout: nothing to replace
            with open(path, "wb") as file:
                file.write(content)
            return
        # The kernel applies the umask; `tempfile` would not, and to ask for it is to set it.
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        kept = "; the old file is intact" if path.exists() else ""
        raise ModelFileError(f"{path}: cannot be written ({error.strerror}){kept}") from error


def write_model(path: str | Path, header: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
    """Write header and arrays to one file, with a checksum of both.

    Parameters
    ----------
    path : str or Path
    header : dict
        JSON-able; `format_version` is added.
    arrays : dict of str to ndarray
    """
    content = packed(header, arrays)
    write_atomically(path, content)
    _log.info("%s: written (%.1f MB)", path, len(content) / 1e6)


def packed(header: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> bytes:
    """Give the content of the file that `write_model` writes."""
    text = json.dumps({"format_version": FORMAT_VERSION, **header}, allow_nan=False)
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    # An array, since the order of several texts in the metadata is another each time.
    contiguous[CHECKSUM] = hash_content(text, contiguous)
    return save(contiguous, metadata={_KEY: text})


def unpacked(content: bytes, name: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Read what `packed` gave, which went from one process to another; `name` is for messages.

    Raises
    ------
    ModelFileError
        It was changed on the way.
    """
    try:
        arrays = load(content)
        size = int.from_bytes(content[:8], "little")
        text = str(json.loads(content[8 : 8 + size])["__metadata__"][_KEY])
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ModelFileError(f"{name}: not what was sent, or cut short ({error})") from error
    header = _parse(name, text)
    _check_content(name, header["format_version"], text, arrays)
    return header, arrays


def read_model(path: str | Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Read header and arrays, audited, and as the present format has them.

    Raises
    ------
    ModelFileError
        No such file, not a mahalad model, truncated, changed since it was written, written by a
        newer version, or not made up as a file of its kind is.
    """
    text = _read_text(path)
    header = _parse(path, text)
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, TypeError, AttributeError) as error:  # numpy has no bfloat16, say
        raise ModelFileError(f"{path}: the model file is damaged ({error})") from error
    _check_content(path, header["format_version"], text, arrays)
    try:
        header, arrays = upgrade(header, arrays)
        audit(header, arrays)
    except ModelFileError as error:  # it does not know the file
        raise ModelFileError(f"{path}: {error}") from error
    except (TypeError, ValueError, AttributeError, RecursionError) as error:  # old and odd
        raise ModelFileError(f"{path}: the model file is damaged ({error})") from error
    _log.info("%s: read; of mahalad %s", path, header.get("mahalad_version", "(not said)"))
    return header, arrays


def read_header(path: str | Path) -> dict[str, Any]:
    """Read the JSON header alone, as it is in the file, of whatever format.

    The checksum is not looked at: it is of the arrays as well.

    Raises
    ------
    ModelFileError
        No such file, not a mahalad model, truncated, or written by a newer version.
    """
    return _parse(path, _read_text(path))


def refuse_exported(path: str | Path) -> None:
    """Refuse an exported model where a model is to be changed, or exported.

    Raises
    ------
    ModelFileError
    """
    if is_export(path):
        raise ModelFileError(
            f"{path}: an exported model, which judges images and cannot be changed or exported "
            "again: give the model file that it was exported from"
        )


def _read_text(path: str | Path) -> str:
    """Read the header as the text that it is in the file."""
    path = Path(path)
    if not path.is_file():
        raise no_model_at(path)
    refuse_exported(path)
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        size = path.stat().st_size
        raise ModelFileError(
            f"{path}: not a mahalad model, or cut short ({size:,} bytes; {error}): {_MEND}"
        ) from error
    if _KEY not in metadata:
        raise ModelFileError(
            f"{path}: a safetensors file, but not a mahalad model (weights perhaps? Those go to "
            "weights=..., a model is made by save() or `mahalad fit`)"
        )
    return str(metadata[_KEY])


def _parse(path: str | Path, text: str) -> dict[str, Any]:
    """Make the header of its text."""
    try:
        header: dict[str, Any] = json.loads(text)
        version = header["format_version"]
        if type(version) is not int or version < 1:
            raise ValueError(f"format_version is {version!r}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelFileError(f"{path}: the model's header is damaged ({error})") from error
    if version > FORMAT_VERSION:
        raise ModelFileError(
            f"{path}: written in format {version} by mahalad {header.get('mahalad_version', '?')}; "
            f"this version reads up to format {FORMAT_VERSION}: pip install --upgrade mahalad"
        )
    return header


def _check_content(
    path: str | Path, version: int, text: str, arrays: dict[str, NDArray[Any]]
) -> None:
    """Refuse a file that says something else than what was written; take its checksum away."""
    checksum = arrays.pop(CHECKSUM, None)
    if checksum is None and version < _FIRST_WITH_CHECKSUM:
        return
    if checksum is None:
        what = "it has no SHA-256"
    elif not np.array_equal(checksum, hash_content(text, arrays)):
        what = "its SHA-256 is not that of what was written"
    else:
        return
    raise ModelFileError(f"{path}: the model file is damaged ({what}): {_MEND}")


VERSIONED = ("torch", "timm", "numpy", "scipy", "scikit-learn", "pillow", "safetensors")


def info(path: str | Path) -> dict[str, Any]:
    """The header of a model file, with bytes of the file as ``size`` and of its ``parts``."""
    header = read_header(path)
    own = {"path": str(path), "size": Path(path).stat().st_size, "parts": _sizes(path)}
    return {**own, **header}


def _sizes(path: str | Path) -> dict[str, int]:
    """Bytes of the arrays by the first word of their names, largest first."""
    with Path(path).open("rb") as file:
        index = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    sizes: Counter[str] = Counter()
    for name, entry in index.items():
        if name not in ("__metadata__", CHECKSUM):
            start, end = entry["data_offsets"]
            sizes[name.split("/")[0]] += end - start
    return dict(sizes.most_common())
