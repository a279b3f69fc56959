"""Names that a package hands on: each is loaded when it is first asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping


def hand_on(package: str, homes: Mapping[str, str]) -> Callable[[str], object]:
    """Make the `__getattr__` of a package that hands on names of its modules (PEP 562).

    Parameters
    ----------
    package : str
        Name of the package.
    homes : mapping of str to str
        Name to the module that defines it.
    """

    def attribute(name: str) -> object:
        if name in homes:
            return getattr(importlib.import_module(homes[name]), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return attribute
