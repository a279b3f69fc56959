"""Paths that commands are given: images by name, outputs that can be written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click


def names_of(X: Any) -> list[str]:
    """List the paths in `X` as results write them."""
    from mahalad.images.sources import iter_sources

    return [source.name for source in iter_sources(X)]


def check_output(path: str) -> None:
    """Refuse an output file in a folder that is missing or not writable, before the work."""
    folder = Path(path).parent
    if not os.access(folder, os.W_OK):
        raise click.BadParameter(f"folder {folder} is missing or not writable", param_hint="-o")
