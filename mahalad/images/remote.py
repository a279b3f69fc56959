"""Files that lie elsewhere: whatever fsspec reads, by URL (``s3://bucket/part.png``)."""

from __future__ import annotations

import io
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

_log = logging.getLogger(__name__)

N_TRIES = 4
"""How often a store is asked before a failure counts."""

_FIRST_PAUSE = 0.1  # seconds; each further one is four times as long
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, ImportError)

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Remote:
    """A file by its URL."""

    url: str

    def read(self) -> io.BytesIO:
        """Read the whole file; a failure that may pass is tried again.

        Raises
        ------
        FileNotFoundError, ImportError, Exception
            There is no such file; the package for such URLs is not installed; what the store says.
        """
        return io.BytesIO(patiently(lambda: self._content(), self.url))

    def _content(self) -> bytes:
        system, path = file_system(self.url)
        content: bytes = system.cat_file(path)
        return content


def is_url(name: str) -> bool:
    """Whether a name is a URL, and no path (a drive of Windows has one letter).

    Examples
    --------
    >>> [is_url(name) for name in ("s3://bucket/1.png", "C://parts/1.png", "parts/1.png")]
    [True, False, False]
    """
    return re.match(r"[A-Za-z][A-Za-z0-9+.\-]+://", name) is not None


def is_pattern(url: str) -> bool:
    """Whether a URL stands for all that matches it; those of the web have ``?`` for themselves."""
    return not url.startswith("http") and any(character in url for character in "*?[")


def file_system(url: str) -> tuple[Any, str]:
    """Open the file system of a URL; also give the path in it.

    Raises
    ------
    ImportError
        fsspec, or its package for such URLs, is not installed; the message says how to.
    """
    try:
        from fsspec.core import url_to_fs

        found: tuple[Any, str] = url_to_fs(url)
    except ImportError as error:
        scheme = url.partition(":")[0]
        raise ImportError(
            f'{scheme}:// needs fsspec and its package for it: pip install "mahalad[ray]", and '
            f"({error})"
        ) from error
    return found


def list_files(url: str) -> tuple[str, list[str]] | None:
    """List the files that a pattern matches, or below a folder, as URLs sorted by their parts.

    Returns
    -------
    tuple of str and list of str, or None
        The URL of the folder (of a pattern an empty text), and the files; None for what is neither.
    """
    return patiently(lambda: _listed(url), url)


def _listed(url: str) -> tuple[str, list[str]] | None:
    system, path = file_system(url)
    system.invalidate_cache()
    if is_pattern(url):
        names, folder = [name for name in system.glob(path) if not system.isdir(name)], ""
    elif system.isdir(path):
        names, folder = system.find(path), system.unstrip_protocol(path)
    else:
        return None
    names.sort(key=lambda name: name.split("/"))
    return folder, [system.unstrip_protocol(name) for name in names]


def patiently(ask: Callable[[], Answer], what: str) -> Answer:
    """Ask until there is an answer, or a failure that will not pass; at most `N_TRIES` times."""
    pause = _FIRST_PAUSE
    for _ in range(N_TRIES - 1):
        try:
            return ask()
        except _FINAL:
            raise
        except Exception as error:  # each store has errors of its own
            if type(error).__name__ == "NoCredentialsError":
                raise
            _log.info("%s: %s; tried again in %.1f s", what, described(error), pause)
            time.sleep(pause)
            pause *= 4
    return ask()


def described(error: Exception) -> str:
    """Say what kind of error it is, and what it says."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
