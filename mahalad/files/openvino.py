"""An exported model as the pair of files that OpenVINO reads: a graph as XML, weights beside it.

The record is in the graph's own information, under "mahalad". The checksum of the weights is where
that of an ONNX file is, at their end, where nothing of the graph looks; those of both are in a
comment at the end of the XML.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from mahalad.errors import ModelFileError, no_model_at
from mahalad.files.onnx import check_sealed, edited, sealed, unsealed

SUFFIX, WEIGHTS_SUFFIX = ".xml", ".bin"
PLACE = ("mahalad", "record")
"""Where the record is among the information of the graph."""
_LAST = "<!-- mahalad: SHA-256 {} of what is before, {} of the weights -->\n"
_FOUND = re.compile(
    rb"<!-- mahalad: SHA-256 (\w{64}) of what is before, (\w{64}) of the weights -->\n"
)
_LENGTH = len(_LAST.format("0" * 64, "0" * 64))


def weights_beside(path: str | Path) -> Path:
    """Where the weights of a graph are."""
    return Path(path).with_suffix(WEIGHTS_SUFFIX)


def is_pair(path: str | Path) -> bool:
    """Whether the name of a file is that of the graph of a pair."""
    return Path(path).suffix.lower() == SUFFIX


def is_sealed_graph(end: bytes) -> bool:
    """Whether the last bytes of a file are those of an exported graph."""
    return _FOUND.fullmatch(end[-_LENGTH:]) is not None


def sealed_pair(graph: bytes, weights: bytes) -> tuple[bytes, bytes]:
    """Append checksums to a graph as XML and to its weights."""
    weights = sealed(weights)
    return graph + _LAST.format(_hash(graph), _hash(weights)).encode(), weights


def read_pair(path: str | Path) -> tuple[bytes, bytes]:
    """Read graph and weights of an exported model.

    Raises
    ------
    ModelFileError
        One of both is missing, or they are not as they were written, or not of one export.
    """
    path, beside = Path(path), weights_beside(path)
    if not path.is_file():
        raise no_model_at(path)
    if not beside.is_file():
        raise ModelFileError(
            f"{beside}: the weights of {path.name} are missing: an exported model of OpenVINO is "
            "two files, copy both"
        )
    graph, weights = path.read_bytes(), beside.read_bytes()
    check_pair(graph, weights, str(path))
    return graph, weights


def check_pair(graph: bytes, weights: bytes, name: str) -> None:
    """Refuse files that are not as `sealed_pair` made them.

    Raises
    ------
    ModelFileError
    """
    found = _FOUND.fullmatch(graph[-_LENGTH:])
    if found is None:
        raise unsealed(name, len(graph))
    if _hash(graph[:-_LENGTH]).encode() != found[1]:
        raise edited(name)
    beside = str(weights_beside(name))
    check_sealed(weights, beside)
    if _hash(weights).encode() != found[2]:
        raise ModelFileError(f"{beside}: the weights of another export than {name}: copy both")


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
