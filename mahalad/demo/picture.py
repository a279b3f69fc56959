"""The demo in one picture: a good part, one with a defect, and what is marked on it."""

from __future__ import annotations

import io
from collections.abc import Mapping

from PIL import Image, ImageDraw, ImageFont, ImageOps
from PIL.PngImagePlugin import PngInfo

from mahalad.files.recognition import MARK

_GAP, _LINE = 8, 26


def side_by_side(panels: Mapping[str, Image.Image]) -> bytes:
    """Write RGB images of one size beside each other, each above its name, as a small PNG file."""
    width, height = next(iter(panels.values())).size
    whole = Image.new("RGB", (len(panels) * (width + _GAP) - _GAP, height + _LINE), "white")
    draw = ImageDraw.Draw(whole)
    font = ImageFont.load_default(size=16)
    for i, (name, panel) in enumerate(panels.items()):
        left = i * (width + _GAP)
        # The sensor's noise would make the file twice as large: 6 of 8 bits are enough to look at.
        whole.paste(ImageOps.posterize(panel, 6), (left, 0))
        place = (left + width / 2, height + _LINE / 2)
        draw.text(place, name, fill="black", font=font, anchor="mm")
    about = PngInfo()
    about.add_text("Software", MARK)
    buffer = io.BytesIO()
    whole.save(buffer, format="PNG", pnginfo=about)
    return buffer.getvalue()
