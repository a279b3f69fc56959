"""How a file stores its pixels, as far as Pillow does not undo it or gets it wrong.

Pillow knows it until the pixels are loaded, and forgets most of it then.
"""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image, ImageFile
from PIL.FitsImagePlugin import FitsImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile

_PHOTOMETRIC, _PLANAR, _BITS, _FORMAT = 262, 284, 258, 339  # tags of TIFF
_PLANES_READ = ("1", "L", "P", "I;16", "I;16B", "I", "F", "RGB", "RGBA", "CMYK")
_GREY_BITS = {"L;2": 2, "L;4": 4}


@dataclass(frozen=True)
class Layout:
    """What is to be done to pixels as Pillow gives them.

    Attributes
    ----------
    maximum : int, default=65535
        What white is, or black if `white_is_zero`, in grey pictures of more than 8 bits.
    white_is_zero : bool, default=False
        Grey of more than 8 bits, and floats, have 0 for white. (Pillow inverts up to 8 bits.)
    key_scale : int, default=1
        Factor from the transparent grey value, which is as stored, to the pixels, which are scaled
        to 8 bits.
    is_stated : bool, default=False
        The file states its maximum, so that nothing is to be guessed of more than 8 bits.
    has_upper_bits : bool, default=False
        Pixels of several channels of 16 bits each, of which Pillow gives the upper 8.
    loses_colour : bool, default=False
        Alpha was multiplied in, and Pillow makes all pixels black whose alpha is 0.
    fault : str or None, default=None
        What Pillow misreads, and what to do.
    """

    maximum: int = 65535
    white_is_zero: bool = False
    key_scale: int = 1
    is_stated: bool = False
    has_upper_bits: bool = False
    loses_colour: bool = False
    fault: str | None = None


def layout_of(picture: Image.Image) -> Layout:
    """Find how a picture is stored that was opened, but not loaded yet."""
    if isinstance(picture, TiffImageFile):
        return _tiff(picture)
    if isinstance(picture, PngImageFile):
        return _png(picture)
    if isinstance(picture, PpmImageFile):
        return _pnm(picture)
    if isinstance(picture, Jpeg2KImageFile):  # Pillow scales what has more than 8 bits
        return Layout(is_stated=picture.mode.startswith("I"))
    if isinstance(picture, FitsImageFile) and picture.mode != "L":
        return Layout(
            fault="a FITS of more than 8 bits, whose scale and zero Pillow leaves out: give its "
            "pixels as an array"
        )
    return Layout()


def _tiff(picture: TiffImageFile) -> Layout:
    tags, mode = picture.tag_v2, picture.mode
    bits, kinds = max(tags.get(_BITS, (1,))), tags.get(_FORMAT, (1,))
    fault = None
    planar = tags.get(_PLANAR, 1) == 2 and len(tags.get(_BITS, (1,))) > 1
    is_raw = picture.info.get("compression") == "raw"
    if planar and (mode not in _PLANES_READ or (bits > 8 and is_raw)):
        fault = (
            f"a TIFF whose channels ({mode}, {bits} bits each) are stored one after the other "
            "(planar), which Pillow mixes up: save it with the channels of each pixel together, or "
            "give its pixels as an array"
        )
    elif tags.prefix == b"MM" and not is_raw and bits > 8 and kinds != (1,):
        fault = (
            "a compressed big-endian TIFF of signed integers or floats, whose bytes Pillow leaves "
            "in the wrong order: save it as little-endian, or give its pixels as an array"
        )
    elif bits == 8 and kinds == (2,):
        fault = (
            "a TIFF of signed 8-bit integers, which Pillow takes as unsigned: save it as unsigned "
            "ones, or give its pixels as an array"
        )
    raw = _raw_mode(picture)
    deep = mode == "F" or mode.startswith("I")
    return Layout(
        maximum=4095 if bits == 12 else 65535,
        white_is_zero=deep and tags.get(_PHOTOMETRIC) == 0,
        is_stated=bits == 12,
        has_upper_bits=bits == 16 and not deep,
        loses_colour=raw.startswith("RGBa"),
        fault=fault,
    )


def _png(picture: PngImageFile) -> Layout:
    key = picture.info.get("transparency")
    raw = _raw_mode(picture)
    if picture.mode == "RGB" and key is not None and (raw == "RGB;16B" or max(key) > 255):
        return Layout(
            fault="a PNG of 16 bits a channel with a transparent colour, of which Pillow keeps 8 "
            "bits: save it with an alpha channel, or give its pixels as an array"
        )
    bits = _GREY_BITS.get(raw, 8)
    if isinstance(key, int) and key < 2**bits:  # not scaled already
        return Layout(key_scale=255 // (2**bits - 1))
    return Layout(has_upper_bits=raw in ("RGB;16B", "RGBA;16B", "LA;16B"))


def _pnm(picture: PpmImageFile) -> Layout:
    """One of 16 bits states 65535 as its maximum whatever the camera was."""
    args = picture.tile[0].args if picture.tile else ()
    maximum = args[1] if isinstance(args, tuple) and len(args) > 1 else 65535
    return Layout(
        is_stated=maximum != 65535,
        has_upper_bits=picture.mode == "RGB" and maximum == 65535 and isinstance(args, tuple),
    )


def _raw_mode(picture: ImageFile.ImageFile) -> str:
    """Pillow's name of the way in which pixels are stored; nothing once they are loaded."""
    args = picture.tile[0].args if picture.tile else ""
    first = args[0] if isinstance(args, tuple) and args else args
    return first if isinstance(first, str) else ""
