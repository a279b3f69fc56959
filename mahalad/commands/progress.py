"""Progress bars on a terminal's stderr; none in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from mahalad.commands.paths import names_of
from mahalad.progress import Progress


def progress_bar(label: str) -> Progress:
    """Make a progress bar on a terminal's stderr; elsewhere nothing is shown."""

    def wrap(items: Iterable[Any], total: int) -> Iterable[Any]:
        from tqdm import tqdm

        bar: Iterable[Any] = tqdm(
            items, total=total, desc=label, unit="img", disable=not sys.stderr.isatty()
        )
        return bar

    return wrap


def with_progress(X: Any, label: str) -> Any:
    """Iterate over the sources in `X` under a progress bar."""
    if not sys.stderr.isatty():
        return X
    names = names_of(X)
    return progress_bar(label)(names, len(names))  # it has a length: it is read in batches
