"""Transparent pictures on white; alpha that nobody used is ignored.

Cameras and their libraries write pictures of four channels of which the fourth is 0 everywhere. On
white nothing would be left of such a picture.
"""

from __future__ import annotations

import warnings

from PIL import Image

from mahalad.errors import ImageReadError
from mahalad.protocols import FloatImage


def picture_on_white(picture: Image.Image, name: str, *, loses_colour: bool) -> Image.Image:
    """Lay a picture with alpha, or with transparent colours, on white.

    Parameters
    ----------
    picture : PIL.Image.Image
        It is not changed.
    name : str
        For messages.
    loses_colour : bool
        Pillow has made all pixels black whose alpha is 0.

    Raises
    ------
    ImageReadError
        Alpha is 0 everywhere, and no colour is left.

    Warns
    -----
    UserWarning
        Alpha is 0 everywhere: it is ignored.
    """
    # Pillow knows no way from "La" to RGBA but through "LA".
    layered = (picture.convert("LA") if picture.mode == "La" else picture).convert("RGBA")
    if layered.getchannel("A").getextrema() == (0, 0):
        if loses_colour:
            raise ImageReadError(
                f"{name}: its alpha is 0 everywhere and multiplied into the colours, of which "
                "Pillow leaves nothing: save it without alpha, or give its pixels as an array"
            )
        _warn_of_unused_alpha(name)
        return layered.convert("RGB")
    white = Image.new("RGB", layered.size, "white")
    white.paste(layered, mask=layered)
    return white


def array_on_white(values: FloatImage, name: str) -> FloatImage:
    """Lay an array (H, W, 4) in [0, 1], the last of which is alpha, on white: (H, W, 3).

    Warns
    -----
    UserWarning
        Alpha is 0 everywhere: it is ignored.
    """
    colour, alpha = values[:, :, :3], values[:, :, 3:]
    if not alpha.any():
        _warn_of_unused_alpha(name)
        return colour
    return colour * alpha + (1 - alpha)


def _warn_of_unused_alpha(name: str) -> None:
    warnings.warn(
        f"{name}: its alpha is 0 everywhere, as if nothing were to be seen: taken for a channel "
        "that is not used, and ignored",
        stacklevel=3,
    )
