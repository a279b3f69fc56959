"""What a benchmark writes: reports as JSON, with the versions they depend on."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np

from mahalad.errors import InputError
from mahalad.files.container import write_atomically

PLOT_SUFFIXES = (".png", ".svg", ".pdf")
_PACKAGES = ("mahalad", "numpy", "scikit-learn", "torch", "timm", "pillow")


def check_outputs(
    json_file: str | Path | None, plot_file: str | Path | None, *others: str | Path | None
) -> None:
    """Refuse files that could not be written, before the work.

    Raises
    ------
    InputError
        The folder is missing or not writable, or the picture's format is not known.
    """
    for path in (json_file, plot_file, *others):
        if path is not None and not os.access(Path(path).parent, os.W_OK):
            raise InputError(f"{path}: its folder is missing or not writable")
    if plot_file is not None and Path(plot_file).suffix.lower() not in PLOT_SUFFIXES:
        raise InputError(f"{plot_file}: a plot is written as {', '.join(PLOT_SUFFIXES)}")


def write_json(report: dict[str, Any], path: str | Path) -> None:
    """Write a report as JSON (NaN as null), whole or not at all."""
    text = json.dumps(_plain(report), indent=1, allow_nan=False, ensure_ascii=False)
    write_atomically(path, (text + "\n").encode())


def write_text(text: str, path: str | Path) -> None:
    """Write text as UTF-8, whole or not at all."""
    write_atomically(path, text.encode())


def versions() -> dict[str, str]:
    """Give the versions that figures depend on."""
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"python": platform.python_version(), **found}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and math.isnan(value) else value
