"""What a file is, by its content: whether a command may write a new one over it."""

from __future__ import annotations

import json
import os
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mahalad.files.onnx import is_sealed
from mahalad.files.openvino import is_sealed_graph

MARK = "mahalad"
"""What pictures that a command writes have in their metadata."""

_HEAD = 2**16  # bytes that tell
_LONGEST_HEADER = 10**8  # bytes; safetensors allows no more
_MODELS = {
    None: "detector",
    "metric-knn": "classifier",
    "autoencoder": "autoencoder",
    "autoencoder checkpoint": "checkpoint",
    "fit checkpoint": "fit checkpoint",
}
"""Kind in a model's header to product."""
_PICTURES = (
    b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"%PDF", b"RIFF",
    b"P2", b"P3", b"P5", b"P6",
)  # fmt: skip
_ROWS = re.compile(
    r'"?path"?,"?score"?,"?threshold"?,"?p_value|\{"path": .*"p_value": '
    r"| +score +threshold +p-value +verdict|label +probability +novelty-p"
)
_PARQUET = b"PAR1"
_TABLE = re.compile(r"row,category,n_fits,metric,value|% mahalad bench mvtec: ")
_FIGURES = re.compile(r'\{\s*"benchmark": ')
_PAGE = re.compile(r"\s*<!doctype html|\s*<html", re.IGNORECASE)
_DRAWING = re.compile(r"\s*(<\?xml.*?\?>|<!--.*?-->|<!DOCTYPE svg[^>]*>|\s)*<svg", re.DOTALL)
_NOTE_OF_MAPS = re.compile(r'\{\s*"format": "(png|npy)",\s*"meaning": ')


@dataclass(frozen=True)
class Content:
    """What a file holds.

    Attributes
    ----------
    form : {"model", "weights", "text", "workbook", "parquet", "page", "JSON", "picture", "ONNX" or
        "unknown"}
    product : str or None
        Which of the library's files it is: ``"detector"``, ``"classifier"``, ``"autoencoder"``,
        ``"checkpoint"``, ``"fit checkpoint"``, ``"weights"``, ``"rows"``, ``"workbook"``,
        ``"parquet"``, ``"page"``, ``"figures"``, ``"table"``, ``"maps"``, ``"picture"`` or
        ``"export"``; None for a file that the library did not write.
    """

    form: str
    product: str | None


def recognize(path: str | Path) -> Content | None:
    """Say what a file holds; None if there is none, an empty one, or something like a pipe.

    Raises
    ------
    OSError
        It cannot be read.
    """
    path = Path(path)
    if not path.is_file() or path.stat().st_size == 0:
        return None
    with open(path, "rb") as file:
        head = file.read(_HEAD)
        if head.startswith(_PARQUET):
            return _of_parquet(file)
        if head[8:9] == b"{":
            file.seek(0)
            size = int.from_bytes(file.read(8), "little")
            return _of_tensors(file.read(size) if size <= _LONGEST_HEADER else b"")
        if head.startswith(_PICTURES):
            return Content("picture", "picture" if _has_mark(head, path) else None)
    if head.startswith(b"PK") and zipfile.is_zipfile(path):
        return _of_archive(path)
    if b"\0" in head:
        if is_sealed(_end_of(path)):
            return Content("ONNX", "export")
        return Content("unknown", None)
    if is_sealed_graph(_end_of(path)):
        return Content("ONNX", "export")
    return _of_text(head.decode("utf-8", "replace"))


def is_model(path: str | Path) -> bool:
    """Whether a file is a model that was not exported, whatever its name."""
    content = recognize(path)
    return content is not None and content.form == "model"


def is_export(path: str | Path) -> bool:
    """Whether a file is an exported model, or its name says so; it may be damaged."""
    path = Path(path)
    if path.suffix.lower() in (".onnx", ".xml"):
        return not is_model(path)
    return path.is_file() and is_sealed(_end_of(path))


def _end_of(path: Path) -> bytes:
    """The last bytes of a file."""
    with open(path, "rb") as file:
        file.seek(max(path.stat().st_size - _HEAD, 0))
        return file.read()


def _of_tensors(header: bytes) -> Content:
    """Tell the files of safetensors apart by their metadata."""
    try:
        metadata = json.loads(header).get("__metadata__") or {}
        if "mahalad" in metadata:
            kind = json.loads(metadata["mahalad"]).get("kind")
            return Content("model", _MODELS.get(kind))
    except (ValueError, AttributeError, TypeError, RecursionError):
        return Content("unknown", None)
    return Content("weights", "weights" if "mahalad_finetuned" in metadata else None)


def _of_parquet(file: BinaryIO) -> Content:
    """Tell a Parquet file by its footer, which has a key and its value as texts with lengths."""
    file.seek(0, os.SEEK_END)
    end = file.tell()
    file.seek(max(end - 8, 0))
    size, is_whole = int.from_bytes(file.read(4), "little"), file.read(4) == _PARQUET
    if not is_whole or size > end - 8:
        return Content("unknown", None)
    file.seek(end - 8 - size)
    mark = b"creator\x18" + bytes([len(MARK)]) + MARK.encode()
    return Content("parquet", "parquet" if mark in file.read(size) else None)


def _of_archive(path: Path) -> Content:
    """Tell a workbook from other archives by the names of its parts."""
    try:
        with zipfile.ZipFile(path) as archive:
            if "xl/workbook.xml" not in archive.namelist():
                return Content("unknown", None)
            about = archive.read("docProps/core.xml")
    except (zipfile.BadZipFile, KeyError):
        return Content("workbook", None)
    return Content("workbook", "workbook" if f">{MARK}<".encode() in about else None)


def _of_text(head: str) -> Content:
    if _FIGURES.match(head):
        return Content("JSON", "figures")
    if _NOTE_OF_MAPS.match(head):
        return Content("JSON", "maps")
    if _ROWS.match(head):
        return Content("text", "rows")
    if _TABLE.match(head):
        return Content("text", "table")
    if _PAGE.match(head):
        return Content(
            "page", "page" if '<meta name="generator" content="mahalad">' in head else None
        )
    if _DRAWING.match(head):
        return Content("picture", "picture" if f">{MARK}<" in head else None)
    if head.lstrip()[:1] == "{" and not _is_lines(head):
        return Content("JSON", None)
    return Content("text", None)


def _is_lines(head: str) -> bool:
    """Whether the first line is JSON by itself, as in JSON lines."""
    try:
        json.loads(head.partition("\n")[0])
    except ValueError:
        return False
    return head.count("\n") > 1


def _has_mark(head: bytes, path: Path) -> bool:
    """Whether a picture's metadata name the library: PNG and JPEG have them first, PDF last."""
    if head.startswith(b"%PDF"):
        return f"/Creator ({MARK})".encode() in path.read_bytes()
    return any(
        mark in head[:4096]
        for mark in (f"Software\0{MARK}".encode(), f"{MARK}\xff".encode("latin-1"))
    )
