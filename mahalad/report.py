"""Many results as one HTML page that needs no other file and no network.

The page is a `string.Template` in ``report.html``. Whatever comes from outside (file names,
kinds, reasons, titles) goes through `report_text.text`.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mahalad.errors import InputError
from mahalad.metrics import rates_at, roc_auc
from mahalad.moments import Floats
from mahalad.report_charts import histogram, roc
from mahalad.report_text import number, percent, text
from mahalad.result import Result

GOOD = "good"
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


def render_report(
    images: Sequence[ReportImage],
    errors: Sequence[Result],
    *,
    title: str,
    about: Mapping[str, str],
    threshold: float | None,
    fpr: float,
    calibration_scores: Sequence[float] | Floats = (),
) -> str:
    """Render judged images as one self-contained HTML page.

    Parameters
    ----------
    images : sequence of ReportImage
        In any order; the page shows the most abnormal first.
    errors : sequence of Result
        Images that could not be read.
    title : str
    about : mapping of str to str
        Facts for the head of the page, such as the model and the date.
    threshold : float or None
        Scores above it are flagged; None where no one score decides. Infinity is not drawn.
    fpr : float
        The false-positive rate that was asked for.
    calibration_scores : sequence of float, optional
        Scores of the good images that set the threshold.

    Returns
    -------
    str
        HTML, with the pictures and overlays in it as base64, a third larger than they are.

    Raises
    ------
    InputError
        A score that is missing or not finite, or a picture that is neither JPEG nor PNG.

    Examples
    --------
    >>> picture = encode(Image.new("RGB", (8, 8)))
    >>> image = ReportImage(Result("a.png", score=1.0, p_value=0.5, anomaly=False), picture)
    >>> page = render_report([image], [], title="A <test>", about={}, threshold=2.0, fpr=0.05)
    >>> "<h1>A &lt;test&gt;</h1>" in page
    True
    """
    ranked = sorted(images, key=lambda image: -image.score)
    calibration = np.asarray(calibration_scores, np.float64)
    if not np.isfinite(calibration).all():
        raise InputError(f"{np.sum(~np.isfinite(calibration))} calibration scores are not finite")
    if threshold is not None and not math.isfinite(threshold):
        threshold = None
    template = Template(resources.files("mahalad").joinpath("report.html").read_text("utf-8"))
    return template.substitute(
        title=text(title),
        about=_about(about),
        facts="\n".join(_facts(ranked, len(errors), fpr)),
        charts=_charts(ranked, calibration, threshold, fpr),
        gallery=_gallery(ranked, threshold),
        errors=_errors(errors),
    )


def _labels(images: Sequence[ReportImage]) -> tuple[Floats, NDArray[np.bool_], NDArray[np.bool_]]:
    """Scores, whether abnormal, and whether flagged, of the images whose kind is known."""
    known = [image for image in images if image.kind is not None]
    return (
        np.array([image.score for image in known]),
        np.array([image.kind != GOOD for image in known], bool),
        np.array([image.flagged for image in known], bool),
    )


def _about(about: Mapping[str, str]) -> str:
    rows = [
        f'<tr><th scope="row">{text(name)}</th><td>{text(value)}</td></tr>'
        for name, value in about.items()
    ]
    return f'<table class="about"><tbody>{"".join(rows)}</tbody></table>' if rows else ""


def _facts(images: Sequence[ReportImage], n_errors: int, fpr: float) -> list[str]:
    """Tiles of the summary; those that need labels only where there are some."""
    scores, is_bad, flagged = _labels(images)
    n_good, n_bad = int((~is_bad).sum()), int(is_bad.sum())
    false_alarms, found = rates_at(is_bad, flagged)
    n_flagged = sum(image.flagged for image in images)
    tiles = [
        _fact("Images judged", str(len(images))),
        _fact("Flagged", str(n_flagged), percent(n_flagged / len(images)) if images else ""),
        _fact("Unreadable", str(n_errors)),
    ]
    if n_good:
        note = f"{percent(false_alarms)} of good images (FPR); asked for {percent(fpr)}"
        tiles.append(_fact("False alarms", f"{(flagged & ~is_bad).sum()} of {n_good}", note))
    if n_bad:
        note = f"{percent(found)} of defects found (TPR)"
        tiles.append(_fact("Missed defects", f"{(~flagged & is_bad).sum()} of {n_bad}", note))
    if n_good and n_bad:
        note = "a defect scores above a good image; 50&nbsp;% is chance"
        tiles.append(_fact("Image AUROC", percent(roc_auc(scores, is_bad)), note))
    if 0 < len(scores) < len(images):
        tiles.append(_fact("Not labelled", str(len(images) - len(scores))))
    return tiles


def _fact(name: str, value: str, note: str = "") -> str:
    small = f"<small>{note}</small>" if note else ""
    return f"<div><dt>{name}</dt><dd>{value}{small}</dd></div>"


# -- the gallery -----------------------------------------------------------------------------


def _gallery(ranked: Sequence[ReportImage], threshold: float | None) -> str:
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
        f"<span>{text(kind)}</span><span>score {number(image.score)}</span>{p_value}"
        f'<p class="verdict">{_verdict(result.anomaly)}{badge}</p></li>'
    )


def _verdict(anomaly: bool | None) -> str:
    if anomaly is None:
        return "<i>? not judged</i>"
    if anomaly:
        return '<i class="flagged">&#9650; flagged</i>'
    return '<i class="passed">&#10003; passed</i>'


def _img(content: bytes, alt: str, name: str, extra: str = "") -> str:
    """An image with its file in it; `alt` is escaped already."""
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


def _errors(errors: Sequence[Result]) -> str:
    if not errors:
        return ""
    items = []
    for result in errors:
        reason = (result.error or "could not be read").removeprefix(f"{result.name}: ")
        items.append(f"<li><b>{text(result.name)}</b>: {text(reason)}</li>")
    return (
        f"<section><h2>Unreadable images ({len(errors)})</h2>\n<p>They were not judged and count "
        "in no figure above.</p>\n<ul>\n" + "\n".join(items) + "\n</ul></section>"
    )


# -- the charts ------------------------------------------------------------------------------


def _charts(
    images: Sequence[ReportImage], calibration: Floats, threshold: float | None, fpr: float
) -> str:
    if not images and not len(calibration):
        return ""
    groups = {
        "calibration": calibration,
        "good": np.array([i.score for i in images if i.kind == GOOD]),
        "defective": np.array([i.score for i in images if i.kind not in (None, GOOD)]),
        "unlabelled": np.array([i.score for i in images if i.kind is None]),
    }
    parts = [f"<section><h2>Scores</h2>\n{histogram(groups, threshold)}</section>"]
    scores, is_bad, flagged = _labels(images)
    if is_bad.any() and not is_bad.all():
        parts.append(
            f'<section class="narrow"><h2>ROC curve</h2>\n'
            f"{roc(scores, is_bad, flagged, fpr)}</section>"
        )
    return '<div class="charts">\n' + "\n".join(parts) + "\n</div>"
