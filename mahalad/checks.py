"""Limits of parameters: a table for each class says what they may be, one function checks it."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mahalad.choices import CHANNELS
from mahalad.errors import InputError


class Limit(Protocol):
    """What one parameter may be. `str` of it completes "the parameter must ..."."""

    def allows(self, value: Any) -> bool:
        """Whether a value is within the limit."""
        ...


@dataclass(frozen=True)
class Whole:
    """A whole number from `least` to `most`, both included; never True or False."""

    least: int = 0
    most: int | None = None

    def allows(self, value: Any) -> bool:
        """Whether it is an integer (Python's or NumPy's) in the range."""
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            return False
        return self.least <= int(value) and (self.most is None or int(value) <= self.most)

    def __str__(self) -> str:
        if self.most is None:
            return f"be a whole number >= {self.least}"
        return f"be a whole number from {self.least} to {self.most}"


@dataclass(frozen=True)
class Real:
    """A finite number in an interval: ``Real("[0, 1)")``; ``inf`` leaves a side open."""

    interval: str

    def allows(self, value: Any) -> bool:
        """Whether it is a finite number (Python's or NumPy's) in the interval."""
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            return False
        low, high = map(float, self.interval[1:-1].split(","))
        number = float(value)
        above = number >= low if self.interval[0] == "[" else number > low
        below = number <= high if self.interval[-1] == "]" else number < high
        return math.isfinite(number) and above and below

    def __str__(self) -> str:
        low, high = (side.strip() for side in self.interval[1:-1].split(","))
        if high == "inf":
            return f"be a number {'>=' if self.interval[0] == '[' else '>'} {low}"
        if self.interval[0] + self.interval[-1] == "()":
            return f"lie between {low} and {high}"
        return f"lie in {self.interval}"


@dataclass(frozen=True)
class OneOf:
    """One of several values, compared with ==: names, mostly."""

    values: Sequence[Any]

    def allows(self, value: Any) -> bool:
        """Whether it is one of the values, and of its type (True is not 1)."""
        return any(type(value) is type(known) and value == known for known in self.values)

    def __str__(self) -> str:
        return f"be one of {', '.join(map(str, self.values))}"


@dataclass(frozen=True)
class Some:
    """A sequence of names, none twice, each one of several; it may be empty."""

    values: Sequence[str]

    def allows(self, value: Any) -> bool:
        """Whether it is a list or tuple of them."""
        return (
            isinstance(value, (list, tuple))
            and all(isinstance(one, str) and one in self.values for one in value)
            and len(set(value)) == len(value)
        )

    def __str__(self) -> str:
        return f"be a sequence of {', '.join(self.values)}"


@dataclass(frozen=True)
class Either:
    """Within at least one of several limits."""

    limits: Sequence[Limit]

    def allows(self, value: Any) -> bool:
        """Whether one of the limits allows it."""
        return any(limit.allows(value) for limit in self.limits)

    def __str__(self) -> str:
        first, *others = map(str, self.limits)
        return " or ".join([first, *(text.removeprefix("be ") for text in others)])


class IsNone:
    """None, for a parameter that may be left out."""

    def allows(self, value: Any) -> bool:
        """Whether it is None."""
        return value is None

    def __str__(self) -> str:
        return "be None"


SEED_NUMBER = Whole(0, 2**32 - 1)
"""What a seed of NumPy and scikit-learn may be."""
SEED = Either((IsNone(), SEED_NUMBER))
"""What a `random_state` may be."""
FPR = Real("(0, 1)")
"""What a false-positive rate may be."""
MAJORITY = Real("(0.5, 1]")
"""A share of votes that no other label can have."""
INPUT_SIZE = Whole(8)
"""Side of the network's square in pixels."""
TILES = Whole(1)
"""Squares along each side of an image."""
PIXELS: Mapping[str, Limit] = {
    "bits": Either((IsNone(), Whole(8, 16))),
    "channels": OneOf(CHANNELS),
}
"""How pixels are read; see `mahalad.images.pixels`."""
BATCH_SIZE = Whole(1)
"""Images, or tiles, per pass through the network."""
N_AUGMENT = Whole(0)
"""Changed copies of each image."""
SPLITS = Whole(2)
"""Random splits of a benchmark's images."""
DRAWS = Whole(1)
"""Draws of the labels in a benchmark."""


def check_parameters(
    limits: Mapping[str, Limit], given: Any, error: type[Exception] = InputError
) -> None:
    """Raise `error` unless every parameter is within its limit.

    Parameters
    ----------
    limits : mapping of str to Limit
        By the name of the parameter.
    given : mapping of str to object, or object
        Values by name, or an object (an estimator, say) that has them as attributes.
    error : type of exception, default=InputError
    """
    for name, limit in limits.items():
        value = given[name] if isinstance(given, Mapping) else getattr(given, name)
        if not limit.allows(value):
            raise error(f"{name} must {limit}, got {value!r}")
