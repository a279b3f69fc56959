"""How long loops report their progress: the caller wraps what is iterated."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

Progress = Callable[[Iterable[Any], int], Iterable[Any]]
"""Wraps an iterable of known length, for a progress bar."""


def no_progress(items: Iterable[Any], total: int) -> Iterable[Any]:
    """Iterate without a progress bar."""
    return items
