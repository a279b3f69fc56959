"""What numbers of pixels mean where nothing says it: how many bits are used, which colour is first.

A 12-bit camera's picture in 16 bits is sixteen times too dark if it is divided by 65535, and an
array of OpenCV has blue first. Files of 8 bits, floats, and files that state their maximum leave
nothing to guess.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mahalad.errors import ImageValueError

EIGHT, SIXTEEN, STATED, FLOATS = "8-bit", "16-bit", "stated", "float"
"""How pixels are stored: up to 8 bits; integers in 16 bits, as many of which are used as nobody has
said; integers of more than 8 bits whose maximum the file states; floats in [0, 1]."""

_USUAL = (8, 10, 12, 14)  # bits of cameras that write 16
_ENOUGH = 50  # images of 16 bits after which a stream is judged


@dataclass(frozen=True)
class Pixels:
    """How pixels are to be read.

    Attributes
    ----------
    bits : int or None, default=None
        Bits that are used of those stored in 16: white is 2^bits - 1. None: nobody has said it,
        and white is 65535.
    channels : {"rgb", "bgr"}, default="rgb"
        Order of the colours in arrays. Files and PIL images state theirs.
    fitted : frozenset of str
        How the images of the fit were stored; empty if that is not known.
    """

    bits: int | None = None
    channels: str = "rgb"
    fitted: frozenset[str] = frozenset()

    def white(self, highest: int, name: str) -> int:
        """Give the value of white among integers stored in 16 bits.

        Raises
        ------
        ImageValueError
            The highest value does not go with `bits`.
        """
        white = 65535 if self.bits is None else 2**self.bits - 1
        if highest > white:
            raise ImageValueError(
                f"{name}: values up to {highest}, and of bits={self.bits} the highest is {white}: "
                "give the bits that the camera writes (--bits on the command line), or leave this "
                "image out"
            )
        return white

    def check(self, depth: str, name: str) -> None:
        """Refuse an image whose brightness would be a guess, and another than that of the fit.

        Raises
        ------
        ImageValueError
            It is stored in 16 bits, the images of the fit were not, and nobody has said how many
            bits are used.
        """
        if depth == SIXTEEN and self.bits is None and self.fitted and SIXTEEN not in self.fitted:
            raise ImageValueError(
                f"{name}: is stored in 16 bits, and no image of the fit was: say how many of them "
                "are used, by --bits 12 on the command line, set_params(bits=12) in Python (16 for "
                "all of them)"
            )


AS_STORED = Pixels()
"""Nobody has said anything."""


def pixels_of(extractor: Any) -> Pixels:
    """How a feature extractor has images read: by its `pixels`, if it has such."""
    pixels: Pixels = getattr(extractor, "pixels", AS_STORED)
    return pixels


@dataclass
class Brightness:
    """Watch the images of a lot, and warn once if the brightest of 16 bits uses few of them.

    Attributes
    ----------
    pixels : Pixels
    """

    pixels: Pixels
    _n: int = field(default=0, init=False)
    _top: int = field(default=0, init=False)
    _name: str = field(default="", init=False)
    _is_done: bool = field(default=False, init=False)
    _n_others: int = field(default=0, init=False)

    def see(self, images: Iterable[tuple[str, str, int | None]]) -> None:
        """See further images: name, depth, and the highest value where it was stored in 16 bits."""
        for name, depth, top in images:
            self._n_others += depth == EIGHT
            if depth == SIXTEEN and top is not None:
                self._n += 1
                if top >= self._top:
                    self._top, self._name = top, name
        if max(self._n, self._n_others) >= _ENOUGH:
            self.end()

    def end(self) -> None:
        """Warn of what was seen, if nobody has said what it means and it was not warned before.

        Warns
        -----
        UserWarning
            No image of 16 bits uses more than 8, 10, 12 or 14; or all images of the fit were stored
            in 16 bits, and these were not.
        """
        if self._is_done or self.pixels.bits is not None:
            return
        used = next((bits for bits in _USUAL if self._top < 2**bits), None)
        if self._n and used is not None:
            self._is_done = True
            warnings.warn(
                f"{self._n} images stored in 16 bits never exceed {self._top} (the brightest is "
                f"{self._name}): pictures of a camera of {used} bits? They are divided by 65535, "
                f"and so are dark. Give bits={used} (--bits {used} on the command line), or "
                "bits=16 if they are as they should be",
                stacklevel=2,
            )
        if self._n_others and self.pixels.fitted == {SIXTEEN}:
            self._is_done = True
            warnings.warn(
                f"{self._n_others} images are of 8 bits, and all of the fit were stored in 16, of "
                "which nobody has said how many are used: if these are the same pictures in 8 "
                "bits, their scores are wrong unless the camera used all 16",
                stacklevel=2,
            )


def describe_mixture(depths: Mapping[str, str]) -> str:
    """Say that images of a fit are stored in 16 bits and otherwise; nothing if they are not mixed.

    Parameters
    ----------
    depths : mapping of str to str
        How images are stored, each with the name of one.
    """
    others = [depth for depth in depths if depth != SIXTEEN]
    if SIXTEEN not in depths or not others:
        return ""
    found = ", ".join(f"{depth} ({depths[depth]})" if depths[depth] else depth for depth in depths)
    return (
        f"the images of the fit are stored in several ways: {found}. Those of 16 bits are divided "
        "by 65535: say how many bits their camera uses, bits=12 (--bits 12 on the command line), "
        "or 16, so that all have the same brightness"
    )
