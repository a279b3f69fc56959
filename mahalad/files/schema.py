"""What a JSON header must be made up of, said as data; `audit.check_json` checks it.

A schema is a type (`str`, `bool`, `int`, `float` for any finite number, `dict`, `list`), a dict
of required keys, or one of the classes below.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Maybe:
    """That, or null."""

    of: Any


@dataclass(frozen=True)
class Optional:
    """A key that need not be there."""

    of: Any


@dataclass(frozen=True)
class ListOf:
    """A list of such values, of any length unless one is given."""

    of: Any
    length: int | None = None


@dataclass(frozen=True)
class MapOf:
    """An object with such values under any keys."""

    of: Any


@dataclass(frozen=True)
class OneOf:
    """One of these values."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class AnyOf:
    """A value of one of these types."""

    types: tuple[type, ...]
