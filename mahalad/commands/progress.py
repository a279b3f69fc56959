"""Progress bars on a terminal's stderr; none in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from mahalad.commands.paths import names_of
from mahalad.progress import Progress


def progress_bar(label: str) -> Progress:
    """Wrap an iterable of known length into a progress bar on a terminal's stderr."""

    def wrap(items: Iterable[Any], total: int) -> Iterable[Any]:
        from tqdm import tqdm

        bar: Iterable[Any] = tqdm(
            items, total=total, desc=label, unit="img", disable=not sys.stderr.isatty()
        )
        return bar

    return wrap


def with_progress(X: Any, label: str) -> Any:
    """The sources in `X` as an iterator under a progress bar."""
    if not sys.stderr.isatty():
        return X
    names = names_of(X)
    return iter(progress_bar(label)(names, len(names)))
