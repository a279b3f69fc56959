"""One judged image as a page shows it, with its pictures as files."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass

from PIL import Image

from mahalad.errors import InputError
from mahalad.images.words import GOOD
from mahalad.report.text import text
from mahalad.result import LabelledResult, Result

_MEDIA_TYPES = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG\r\n\x1a\n": "image/png"}


@dataclass(frozen=True)
class ReportImage:
    """One judged image, as the page shows it.

    Attributes
    ----------
    result : Result
        With a score: an image that could not be read has none and belongs to the errors.
    picture : bytes or None
        Thumbnail, a JPEG or PNG file; see `encode`. None: it counts, and has no card.
    overlay : bytes or None
        The same with its anomaly map drawn over it, of the same size.
    kind : str or None
        None = not known; "good" = known to be good; else the kind of a known defect. For a
        `LabelledResult` the true label.
    neighbours : tuple of (bytes or None)
        Thumbnails of the neighbours of a `LabelledResult`, as far as they can be read.
    hit : bool or None
        Whether the highest point of the anomaly map lies on the known defect; None where there is
        no overlay or no mask.
    """

    result: Result
    picture: bytes | None = None
    overlay: bytes | None = None
    kind: str | None = None
    neighbours: tuple[bytes | None, ...] = ()
    hit: bool | None = None

    @property
    def score(self) -> float:
        """Anomaly score, up = abnormal; `InputError` where there is none."""
        score = self.result.score
        if score is None or not math.isfinite(score):
            raise InputError(
                f"{self.result.name}: its score is {score}; a report shows images with a finite "
                "score; give the result of one that could not be read in errors"
            )
        return score

    @property
    def flagged(self) -> bool:
        """Whether the detector calls it abnormal."""
        return bool(self.result.anomaly)

    @property
    def mistake(self) -> str:
        """What is wrong with the verdict; empty if nothing, or if the kind is not known."""
        if isinstance(self.result, LabelledResult):
            return "" if self.kind in (None, self.result.label) else "wrong label"
        if self.kind is None or self.flagged == (self.kind != GOOD):
            return ""
        return "false alarm" if self.flagged else "missed defect"


@dataclass(frozen=True)
class Spotlight:
    """One flagged image, large.

    Attributes
    ----------
    image : ReportImage
    picture, overlay : bytes
        A JPEG or PNG file each.
    truth : bytes or None
        The picture with the outline of the known defect; None where it has no mask.
    """

    image: ReportImage
    picture: bytes
    overlay: bytes
    truth: bytes | None = None


def encode(image: Image.Image) -> bytes:
    """Write an RGB image as a JPEG file of quality 85.

    Examples
    --------
    >>> encode(Image.new("RGB", (8, 8)))[:3]
    b'\\xff\\xd8\\xff'
    """
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=85)
    return buffer.getvalue()


def img(content: bytes, alt: str, name: str, css: str = "") -> str:
    """Write an image as HTML with its file in it; `name` is that of the image, for an error."""
    for start, media_type in _MEDIA_TYPES.items():
        if content.startswith(start):
            data = base64.b64encode(content).decode("ascii")
            extra = f' class="{css}"' if css else ""
            return f'<img src="data:{media_type};base64,{data}" alt="{text(alt)}"{extra}>'
    raise InputError(
        f"{name}: its picture begins with {content[:8]!r}; allowed are JPEG and PNG files"
    )
