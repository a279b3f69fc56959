"""Progress bars on a terminal's stderr; none in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

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
    """Iterate over the sources in `X` under a progress bar, each time that they are read."""
    if not sys.stderr.isatty():
        return X
    from mahalad.images.sources import iter_sources

    return _Shown(list(iter_sources(X)), label)


class _Shown(Sequence[Any]):
    """A list that is iterated over under a progress bar, but not if it is asked place by place."""

    def __init__(self, items: list[Any], label: str) -> None:
        self._items, self._label = items, label

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, i: Any) -> Any:
        return self._items[i]

    def __iter__(self) -> Iterator[Any]:
        return iter(progress_bar(self._label)(self._items, len(self._items)))


@contextmanager
def counted_progress(label: str, total: int | None) -> Iterator[Callable[[int], object]]:
    """Show a progress bar that is told how many images are done; `total` may not be known."""
    from tqdm import tqdm

    with tqdm(total=total, desc=label, unit="img", disable=not sys.stderr.isatty()) as bar:
        yield bar.update
