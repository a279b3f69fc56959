"""The gallery of a report: what it shows of a judged image, and one card for each."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from mahalad.errors import InputError
from mahalad.images.words import GOOD
from mahalad.report.text import number, text
from mahalad.result import Result

_MEDIA_TYPES = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG\r\n\x1a\n": "image/png"}
_HINT = (
    "Point at a flagged image, focus or tap it to see where it is abnormal; others stay as they "
    "are. "
)
_P_VALUE = "The p&#8209;value is the share of good images that would look at least as abnormal."
_MISTAKES = {"false alarm": "false alarm", "missed defect": "missed"}


@dataclass(frozen=True)
class ReportImage:
    """One judged image, as the page shows it.

    Attributes
    ----------
    result : Result
        With a score: an image that could not be read has none and belongs to the errors.
    picture : bytes
        Thumbnail, a JPEG or PNG file; see `encode`.
    overlay : bytes or None
        The same with its anomaly map drawn over it, of the same size.
    kind : str or None
        None = not known; "good" = known to be good; else the kind of a known defect.
    """

    result: Result
    picture: bytes
    overlay: bytes | None = None
    kind: str | None = None

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
        if self.kind is None or self.flagged == (self.kind != GOOD):
            return ""
        return "false alarm" if self.flagged else "missed defect"


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


def gallery(ranked: Sequence[ReportImage], threshold: float | None) -> str:
    """Write the section of all images as HTML, with a line at the threshold if there is one.

    `ranked` has the most abnormal image first.
    """
    if not ranked:
        return "<section><h2>Images</h2><p>No image could be judged.</p></section>"
    cards = [_card(image) for image in ranked]
    if threshold is not None:
        cards.insert(
            sum(image.score > threshold for image in ranked),
            f'<li id="threshold"><b>Threshold {number(threshold)}</b> '
            "<span>scores above it come before, the others after</span></li>",
        )
    has_overlays = any(image.overlay is not None for image in ranked)
    return (
        "<section><h2>Images, most abnormal first</h2>\n"
        f'<p class="soft">{_HINT if has_overlays else ""}{_P_VALUE}</p>\n'
        f"{_controls(ranked, has_overlays)}\n"
        '<ol id="gallery" data-show="all">\n' + "\n".join(cards) + "\n</ol></section>"
    )


def _controls(ranked: Sequence[ReportImage], has_overlays: bool) -> str:
    counts = {"all": len(ranked), "flagged": sum(image.flagged for image in ranked)}
    if any(image.kind is not None for image in ranked):
        counts["good"] = sum(image.kind == GOOD for image in ranked)
        counts["mistakes"] = sum(bool(image.mistake) for image in ranked)
    choices = "".join(
        f'<label><input type="radio" name="show" value="{name}"'
        f"{' checked' if name == 'all' else ''}{'' if count else ' disabled'}>"
        f"{name} ({count})</label>"
        for name, count in counts.items()
    )
    box = '<label><input type="checkbox" id="overlays">show overlays</label>'
    return (
        f'<form id="controls"><div role="radiogroup" aria-label="Images to show">{choices}</div>'
        f"{box if has_overlays else ''}</form>"
    )


def _card(image: ReportImage) -> str:
    result = image.result
    name = text(Path(result.name).name or result.name)
    kind = "no label" if image.kind is None else image.kind
    p_value = "" if result.p_value is None else f"<span>p {result.p_value:.3g}</span>"
    mark = "<span>in the fit</span>" if result.in_fit else ""
    picture = _img(image.picture, f"{name}, {text(kind)}", result.name)
    if image.overlay is None:
        view = f'<div class="view">{picture}</div>'
    else:
        drawn = _img(image.overlay, "Anomaly map over it", result.name, ' class="map"')
        view = f'<button type="button" class="view" aria-pressed="false">{picture}{drawn}</button>'
    classes = [
        word
        for word, applies in (
            ("is-flagged", image.flagged),
            ("is-good", image.kind == GOOD),
            ("mistake", bool(image.mistake)),
        )
        if applies
    ]
    badge = f'<span class="badge">{_MISTAKES[image.mistake]}</span>' if image.mistake else ""
    return (
        f'<li class="{" ".join(classes)}">{view}<b title="{text(result.name)}">{name}</b>'
        f"<span>{text(kind)}</span><span>score {number(image.score)}</span>{p_value}{mark}"
        f'<p class="verdict">{_verdict(result.anomaly)}{badge}</p></li>'
    )


def _verdict(anomaly: bool | None) -> str:
    if anomaly is None:
        return "<i>? not judged</i>"
    if anomaly:
        return '<i class="flagged">&#9650; flagged</i>'
    return '<i class="passed">&#10003; passed</i>'


def _img(content: bytes, alt: str, name: str, extra: str = "") -> str:
    """Write an image with its file in it; `alt` is escaped already."""
    for start, media_type in _MEDIA_TYPES.items():
        if content.startswith(start):
            data = base64.b64encode(content).decode("ascii")
            return (
                f'<img src="data:{media_type};base64,{data}" alt="{alt}" '
                f'loading="lazy" decoding="async"{extra}>'
            )
    raise InputError(
        f"{name}: its picture begins with {content[:8]!r}; allowed are JPEG and PNG files"
    )
