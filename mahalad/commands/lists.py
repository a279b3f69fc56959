"""What one option says by names: one of several, or some, separated by commas."""

from __future__ import annotations

from typing import Any

import click

from mahalad.choices import CHANGES


def split(text: str) -> list[str]:
    """Split at commas, without empty parts."""
    return [name.strip() for name in text.split(",") if name.strip()]


def parse_levels(text: str | None) -> list[str | int] | None:
    """Parse names and indices of levels, separated by commas; None stands for all."""
    if text is None or text.strip() == "all":
        return None
    return [int(name) if name.lstrip("-").isdigit() else name for name in split(text)]


class Counts(click.ParamType[Any]):
    """Numbers of images, from 1 up."""

    name = "counts"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Give a tuple of numbers."""
        if not isinstance(value, str):
            return value
        numbers = split(value)
        if not numbers or not all(text.isdigit() and int(text) for text in numbers):
            self.fail(f"{value!r}: whole numbers from 1, separated by commas", param, ctx)
        return tuple(map(int, numbers))


class AnyOrientation(click.ParamType[Any]):
    """``auto``, ``yes`` or ``no``."""

    name = "any orientation"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Give "auto", True or False."""
        known = {"auto": "auto", "yes": True, "no": False}
        if not isinstance(value, str):
            return value
        if value not in known:
            self.fail(f"{value!r} is not auto, yes or no", param, ctx)
        return known[value]


class Tolerated(click.ParamType[Any]):
    """Kinds of harmless changes, ``auto`` or ``none``."""

    name = "tolerated"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Give "auto", or a tuple of kinds."""
        if value == "auto" or not isinstance(value, str):
            return value
        kinds = () if value == "none" else tuple(split(value))
        strange = [kind for kind in kinds if kind not in CHANGES]
        if strange or len(set(kinds)) < len(kinds) or (not kinds and value != "none"):
            known = ", ".join(CHANGES)
            self.fail(f"{value!r} is not auto, none, or some of {known}, by commas", param, ctx)
        return kinds
