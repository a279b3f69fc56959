"""Which way up a picture is, by its EXIF block."""

from __future__ import annotations

import warnings

from PIL import ExifTags, Image

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each EXIF orientation."""


def upright_of(picture: Image.Image, name: str) -> Image.Image:
    """Turn a loaded picture as its EXIF block says; the same picture where that says nothing."""
    turn = turn_of(picture, warn=True, name=name)
    if turn is None:
        return picture
    turned = picture.transpose(turn)
    # It is upright now: what would say otherwise goes.
    turned.info = {k: value for k, value in turned.info.items() if k == "transparency"}
    return turned


def turn_of(
    picture: Image.Image, *, warn: bool = False, name: str = "image"
) -> Image.Transpose | None:
    """Find what makes a picture upright, by its EXIF block; None if it is, or says nothing."""
    try:
        orientation = picture.getexif().get(ExifTags.Base.Orientation)
    except Exception as error:  # damaged blocks make Pillow raise almost any type
        if warn:
            reason = str(error) or type(error).__name__
            warnings.warn(
                f"{name}: its EXIF block cannot be read ({reason}): the picture is taken as it is "
                "stored, not turned",
                stacklevel=3,
            )
        return None
    return _TURNS.get(orientation) if isinstance(orientation, int) else None
