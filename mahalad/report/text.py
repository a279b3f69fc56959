"""Words and numbers as a report's HTML and the lines of a table have them."""

from __future__ import annotations

import bisect
import html
import itertools
import os
import shlex
import subprocess
import unicodedata
from collections.abc import Sequence


def text(value: object) -> str:
    """Escape for HTML; bytes of a file name that are not text become question marks."""
    return html.escape(str(value).encode("utf-8", "replace").decode("utf-8"))


def percent(share: float) -> str:
    """Write a share in per cent, with one decimal unless it is 0."""
    return f"{100 * share:.1f}".removesuffix(".0") + "&nbsp;%"


def number(score: float) -> str:
    """Write a score with 4 digits, or all digits before the point."""
    return f"{score:.4g}" if abs(score) < 1e4 else f"{score:.0f}"


def command_line(words: Sequence[str]) -> str:
    """Write a command so that it can be copied into a shell, here into that of this system.

    Examples
    --------
    >>> command_line(["mahalad", "info", "my model.mahalad"]).replace('"', "'")
    "mahalad info 'my model.mahalad'"
    """
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def printable(line: str) -> str:
    """Write control characters and line breaks as escapes, so that a text is one line.

    Examples
    --------
    >>> printable("two\\nlines.png")
    'two\\\\nlines.png'
    """
    return "".join(
        c.encode("unicode_escape").decode("ascii")
        if unicodedata.category(c) in ("Cc", "Zl", "Zp")
        else c
        for c in line
    )


def shortened(line: str, width: int) -> str:
    """Leave out the middle of a text that is wider than `width` columns of a terminal.

    The end is kept longer than the beginning: a file's name tells more than its folders. Never
    narrower than 8 columns; East Asian wide characters take two.

    Examples
    --------
    >>> shortened("/data/line 4/2024/part 17/000123.png", 24)
    '/data/l…rt 17/000123.png'
    """
    width = max(width, 8)
    if columns(line) <= width:
        return line
    left = _most(line, (width - 1) // 3)
    right = _most(line[::-1], width - 1 - columns(left))[::-1]
    return f"{left}…{right}"


def columns(line: str) -> int:
    """Count the columns of a terminal that a text takes."""
    return sum(map(_columns_of, line))


def _columns_of(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _most(line: str, width: int) -> str:
    """The longest beginning that takes at most `width` columns."""
    taken = list(itertools.accumulate(map(_columns_of, line)))
    return line[: bisect.bisect_right(taken, width)]
