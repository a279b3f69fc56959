"""Words and numbers as a report's HTML and the lines of a table have them."""

from __future__ import annotations

import html
import unicodedata


def text(value: object) -> str:
    """Escape for HTML; bytes of a file name that are not text become question marks."""
    return html.escape(str(value).encode("utf-8", "replace").decode("utf-8"))


def percent(share: float) -> str:
    """Write a share in per cent, with one decimal unless it is 0."""
    return f"{100 * share:.1f}".removesuffix(".0") + "&nbsp;%"


def number(score: float) -> str:
    """Write a score with 4 digits, or all digits before the point."""
    return f"{score:.4g}" if abs(score) < 1e4 else f"{score:.0f}"


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
