"""What a JSON header must be made up of, said as data, and the check of it.

A schema is a type (`str`, `bool`, `int`, `float` for any finite number, `dict`, `list`), a dict
of required keys, or one of the classes below.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mahalad.errors import ModelFileError

_WORDS = {
    str: "a text",
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    dict: "an object",
    list: "a list",
}


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


def check_json(value: Any, schema: Any, where: str = "") -> None:
    """Check a value against a schema; keys that the schema does not know are let pass.

    Parameters
    ----------
    value : JSON
    schema
        See the module.
    where : str
        Keys down to the value, joined by dots.

    Raises
    ------
    ModelFileError
        A key is missing, or a value is another than it may be. It does not name the file.
    """
    if isinstance(schema, Maybe):
        if value is not None:
            check_json(value, schema.of, where)
    elif isinstance(schema, Mapping):
        _expect(isinstance(value, dict), value, _WORDS[dict], where or "the header")
        _check_keys(value, schema, where)
    elif isinstance(schema, ListOf):
        found = isinstance(value, list) and schema.length in (None, len(value))
        count = "" if schema.length is None else f" of {schema.length}"
        _expect(found, value, f"a list{count}", where)
        for position, item in enumerate(value):
            check_json(item, schema.of, f"{where}[{position}]")
    elif isinstance(schema, MapOf):
        _expect(isinstance(value, dict), value, _WORDS[dict], where)
        for key, item in value.items():
            check_json(item, schema.of, f"{where}.{key}")
    elif isinstance(schema, OneOf):
        _expect(value in schema.values, value, " or ".join(map(repr, schema.values)), where)
    else:
        types = schema.types if isinstance(schema, AnyOf) else (schema,)
        wanted = " or ".join(_WORDS[each] for each in types)
        _expect(any(_is(value, each) for each in types), value, wanted, where)


def _check_keys(value: dict[str, Any], schema: Mapping[str, Any], where: str) -> None:
    for key, own in schema.items():
        path = f"{where}.{key}" if where else key
        if key in value:
            check_json(value[key], own.of if isinstance(own, Optional) else own, path)
        elif not isinstance(own, Optional):
            raise ModelFileError(f"the model file lacks {path!r}")


def _is(value: Any, kind: type) -> bool:
    if kind is float:
        return type(value) in (int, float) and abs(value) <= sys.float_info.max  # NaN is not
    return type(value) is kind  # True is no number


def _expect(fits: bool, value: Any, wanted: str, where: str) -> None:
    if not fits:
        shown = repr(value)
        shown = shown if len(shown) < 60 else f"{shown[:57]}..."
        raise ModelFileError(f"the model file is damaged ({where} is {shown}, expected {wanted})")
