"""How the process of a command gets memory: it keeps what it has had, where that is faster."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import click

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_KEPT = 2**30
"""Bytes: freed memory below that is kept, and pieces below that come from it."""


def keep_freed_memory() -> bool:
    """Keep freed memory for the next batch, instead of giving it back after every layer.

    glibc returns large pieces to the system when they are freed, so that a network on the CPU has
    its memory mapped anew, page by page, in every layer. Only of this process, on Linux with glibc.

    Returns
    -------
    bool
        Whether it is so now.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt: Any = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _KEPT)) and bool(mallopt(_TRIM_THRESHOLD, _KEPT))


def _keep(ctx: click.Context, option: click.Parameter, give_back: bool) -> None:
    if not give_back:
        keep_freed_memory()


give_back_option = click.option(
    "--give-back-memory", is_flag=True, expose_value=False, callback=_keep,
    envvar="MAHALAD_GIVE_BACK_MEMORY",
    help="Return freed memory to the system at once, as Linux does it for other programs. Default: "
         "it is kept until the command ends, as networks on the CPU are then about a third faster.",
)  # fmt: skip
