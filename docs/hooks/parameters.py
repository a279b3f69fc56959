"""Extension of griffe: types of parameters as the docstring has them, defaults as the signature.

Griffe reads "top_fraction, image_weight : float" as two parameters with the default of the first,
and "str, Path or None" as a tuple.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

ITEM = re.compile(r"^(?P<names>[\w*]+(, [\w*]+)*)( : (?P<type>.+?)(, optional|, default=.*)?)?$")


class Parameters(griffe.Extension):
    """Correct the sections of docstrings when all of a package is read."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        self.correct(pkg)

    def correct(self, thing: Any) -> None:
        if thing.docstring is not None:
            correct_sections(thing)
        for member in thing.members.values():
            if not member.is_alias:
                self.correct(member)


def correct_sections(thing: griffe.Object) -> None:
    types = types_in(thing.docstring.value)
    own = {p.name.lstrip("*"): p for p in getattr(thing, "parameters", ())}
    for section in thing.docstring.parsed:
        if section.kind.value not in ("parameters", "attributes"):
            continue
        for item in section.value:
            item.annotation = types.get(item.name) or item.annotation
            parameter = own.get(item.name.lstrip("*"))
            if parameter is not None:
                item.annotation = types.get(item.name) or parameter.annotation
                item.value = parameter.default if item.name[0] != "*" else None


def types_in(docstring: str) -> dict[str, str]:
    """Name to type, as lines "name : type" and "name, name : type" have them."""
    found = {}
    for line in docstring.splitlines():
        match = ITEM.match(line.strip())
        if match and match["type"]:
            found |= dict.fromkeys(match["names"].split(", "), match["type"])
    return found
