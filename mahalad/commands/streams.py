"""Text that commands write: UTF-8 in pipes and files, whatever the system's encoding is."""

from __future__ import annotations

import io
import sys
from typing import TextIO

NAME_ERRORS = sys.getfilesystemencodeerrors()
"""How bytes of a file name that are no text become these bytes again."""


def use_utf8(stream: TextIO) -> None:
    """Let a stream write UTF-8, and file names as they are.

    A terminal keeps its encoding: what it cannot show is written as an escape. (Python writes
    Unicode to a Windows console, whatever its code page.)
    """
    if not isinstance(stream, io.TextIOWrapper):
        return
    is_utf8 = stream.encoding.lower().replace("-", "") == "utf8"
    if is_utf8 or not stream.isatty():
        stream.reconfigure(encoding="utf-8", errors=NAME_ERRORS)
    else:
        stream.reconfigure(errors="backslashreplace")
