"""Many results as one HTML page that needs no other file and no network.

The page is a `string.Template` in ``report.html``. Whatever comes from outside (file names,
kinds, reasons, titles) goes through `_text`.
"""

from __future__ import annotations

import base64
import html
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
from sklearn.metrics import roc_curve

from mahalad.errors import InputError
from mahalad.metrics import rates_at, roc_auc
from mahalad.moments import Floats
from mahalad.result import Result

GOOD = "good"
_MEDIA_TYPES = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG\r\n\x1a\n": "image/png"}
_LOG_FROM = 30.0  # scores whose highest is over so many times the lowest get a logarithmic axis
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
        title=_text(title),
        about=_about(about),
        facts="\n".join(_facts(ranked, len(errors), fpr)),
        charts=_charts(ranked, calibration, threshold, fpr),
        gallery=_gallery(ranked, threshold),
        errors=_errors(errors),
    )


def _text(value: object) -> str:
    """Escape for HTML; bytes of a file name that are not text become question marks."""
    return html.escape(str(value).encode("utf-8", "replace").decode("utf-8"))


def _percent(share: float) -> str:
    return f"{100 * share:.1f}".removesuffix(".0") + "&nbsp;%"


def _number(score: float) -> str:
    return f"{score:.4g}" if abs(score) < 1e4 else f"{score:.0f}"


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
        f'<tr><th scope="row">{_text(name)}</th><td>{_text(value)}</td></tr>'
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
        _fact("Flagged", str(n_flagged), _percent(n_flagged / len(images)) if images else ""),
        _fact("Unreadable", str(n_errors)),
    ]
    if n_good:
        note = f"{_percent(false_alarms)} of good images (FPR); asked for {_percent(fpr)}"
        tiles.append(_fact("False alarms", f"{(flagged & ~is_bad).sum()} of {n_good}", note))
    if n_bad:
        note = f"{_percent(found)} of defects found (TPR)"
        tiles.append(_fact("Missed defects", f"{(~flagged & is_bad).sum()} of {n_bad}", note))
    if n_good and n_bad:
        note = "a defect scores above a good image; 50&nbsp;% is chance"
        tiles.append(_fact("Image AUROC", _percent(roc_auc(scores, is_bad)), note))
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
            f'<li id="threshold"><b>Threshold {_number(threshold)}</b> '
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
    name = _text(Path(result.name).name or result.name)
    kind = "no label" if image.kind is None else image.kind
    p_value = "" if result.p_value is None else f"<span>p {result.p_value:.3g}</span>"
    picture = _img(image.picture, f"{name}, {_text(kind)}", result.name)
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
        f'<li class="{" ".join(classes)}">{view}<b title="{_text(result.name)}">{name}</b>'
        f"<span>{_text(kind)}</span><span>score {_number(image.score)}</span>{p_value}"
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
        items.append(f"<li><b>{_text(result.name)}</b>: {_text(reason)}</li>")
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
    parts = [f"<section><h2>Scores</h2>\n{_histogram(images, calibration, threshold)}</section>"]
    scores, is_bad, flagged = _labels(images)
    if is_bad.any() and not is_bad.all():
        parts.append(
            f'<section class="narrow"><h2>ROC curve</h2>\n'
            f"{_roc(scores, is_bad, flagged, fpr)}</section>"
        )
    return '<div class="charts">\n' + "\n".join(parts) + "\n</div>"


def _nice_step(span: float, n_steps: int) -> float:
    """Return the least of 1, 2, 5, 10, ... times a power of ten that needs at most `n_steps`."""
    raw = span / n_steps
    power = 10.0 ** math.floor(math.log10(raw))
    return next(factor * power for factor in (1, 2, 5, 10, 20) if factor * power >= raw)


@dataclass(frozen=True)
class _Bins:
    """Bins of scores that are equally wide on the axis; each holds its right edge, not its left.

    They are counted from the threshold, so that no bar stands on both sides of it and a score
    equal to the threshold, which passes, stands on the left.
    """

    is_log: bool
    anchor: float
    step: float
    first: int
    n_bins: int

    @classmethod
    def of(cls, scores: Floats, threshold: float | None) -> _Bins:
        everything = scores if threshold is None else np.append(scores, threshold)
        low, high = float(everything.min()), float(everything.max())
        is_log = low > 0 and high / low > _LOG_FROM
        if is_log:
            everything = np.log10(everything)
            low, high = float(everything.min()), float(everything.max())
        anchor = 0.0 if threshold is None else float(everything[-1])
        step = _nice_step(max(high - low, 0.01 * abs(high), 1e-12), 30)
        first = math.ceil((low - anchor) / step) - 1
        last = max(math.ceil((high - anchor) / step) - 1, first)
        # One more on the right: an axis that goes on behind a threshold above all scores.
        return cls(is_log, anchor, step, first, last - first + 2)

    def places(self, scores: Floats) -> Floats:
        """Positions of scores on the axis, 0 = its left end, 1 = its right end."""
        return (self._raw(scores) - self.first) / self.n_bins

    def counts(self, scores: Floats) -> list[int]:
        index = np.ceil(self._raw(scores)).astype(int) - 1 - self.first
        inside = np.clip(index, 0, self.n_bins - 1)  # the logarithm's last bit may vary
        return [int(n) for n in np.bincount(inside, minlength=self.n_bins)]

    def ticks(self) -> list[float]:
        """Round scores between the ends of the axis."""
        low, high = (self.anchor + self.step * (self.first + k) for k in (0, self.n_bins))
        if not self.is_log:
            step = _nice_step(high - low, 7)
            return [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
        factors = (1,) if high - low > 3 else (1, 3) if high - low > 2 else (1, 2, 5)
        every = math.ceil((high - low) / 7)
        powers = range(math.floor(low / every) * every, math.ceil(high) + 1, every)
        candidates = [factor * 10.0**power for power in powers for factor in factors]
        return [tick for tick in candidates if low <= math.log10(tick) <= high]

    def _raw(self, scores: Floats) -> Floats:
        on_axis = np.log10(scores) if self.is_log else np.asarray(scores, np.float64)
        return np.asarray((on_axis - self.anchor) / self.step)


def _histogram(images: Sequence[ReportImage], calibration: Floats, threshold: float | None) -> str:
    """Draw the scores of each group, one above the other on the same axis (SVG)."""
    width, left, right, top, height, gap = 600, 58, 14, 34, 100, 32
    groups = {
        "calibration": calibration,
        "good": np.array([i.score for i in images if i.kind == GOOD]),
        "defective": np.array([i.score for i in images if i.kind not in (None, GOOD)]),
        "unlabelled": np.array([i.score for i in images if i.kind is None]),
    }
    groups = {name: scores for name, scores in groups.items() if len(scores)}
    bins = _Bins.of(np.concatenate([*groups.values()]), threshold)
    axis_y = top + len(groups) * (height + gap) - gap

    def x(score: float) -> float:
        place = bins.places(np.array([score]))[0]
        return float(left + (width - left - right) * place)

    shapes = []
    if threshold is not None:
        shapes.append(
            f'<rect class="over" x="{x(threshold):.1f}" y="{top}" '
            f'width="{width - right - x(threshold):.1f}" height="{axis_y - top}"/>'
        )
    for row, (name, scores) in enumerate(groups.items()):
        base = top + height + row * (height + gap)
        shapes += _bars(name, bins.counts(scores), base, left, width - right, height)
    for tick in bins.ticks():
        shapes.append(f'<path class="axis" d="M{x(tick):.1f} {axis_y}v5"/>')
        shapes.append(f'<text x="{x(tick):.1f}" y="{axis_y + 23}" class="mid">{tick:g}</text>')
    shapes.append(f'<path class="axis" d="M{left} {axis_y}H{width - right}"/>')
    if threshold is not None:
        side = "start" if x(threshold) < width / 2 else "end"
        shapes.append(f'<path class="threshold" d="M{x(threshold):.1f} {top - 8}V{axis_y}"/>')
        shapes.append(
            f'<text x="{x(threshold):.1f}" y="{top - 14}" class="label {side}">'
            f"threshold {_number(threshold)}</text>"
        )
    scale = ", logarithmic" if bins.is_log else ""
    shapes += [
        f'<text x="{(left + width - right) / 2}" y="{axis_y + 48}" class="mid">'
        f"anomaly score (higher = more abnormal{scale})</text>",
        f'<text transform="translate(18 {(top + axis_y) / 2}) rotate(-90)" class="mid">'
        "images</text>",
    ]
    summary = ", ".join(f"{len(scores)} {name}" for name, scores in groups.items())
    end = "" if threshold is None else f"; the threshold is {_number(threshold)}"
    return _svg(
        "wide", width, axis_y + 58, f"Histograms of the anomaly score: {summary}{end}", shapes
    )


def _bars(
    name: str, counts: Sequence[int], base: float, left: float, right: float, height: float
) -> list[str]:
    """Shapes of one row of the histogram, which stands on y = `base`."""
    unit, bar = (height - 24) / max(counts), (right - left) / len(counts)
    shapes = []
    for tick in range(0, max(counts) + 1, max(1, round(_nice_step(max(counts), 3)))):
        y = base - tick * unit
        shapes.append(f'<path d="M{left} {y:.1f}H{right}"/>')
        shapes.append(f'<text x="{left - 8}" y="{y + 5:.1f}" class="end">{tick}</text>')
    if name == "calibration":
        steps = "".join(f"V{base - n * unit:.1f}h{bar:.2f}" for n in counts)
        shapes.append(f'<path class="calibration" d="M{left} {base}{steps}V{base}"/>')
    else:
        shapes += [
            f'<rect class="{name}" x="{left + k * bar + 0.75:.1f}" y="{base - n * unit:.1f}" '
            f'width="{bar - 1.5:.1f}" height="{n * unit:.1f}"/>'
            for k, n in enumerate(counts)
            if n
        ]
    shapes.append(
        f'<text x="{right - 6}" y="{base - height + 16}" class="end label {name}">'
        f"{sum(counts)} {name}</text>"
    )
    return shapes


def _roc(scores: Floats, is_bad: NDArray[np.bool_], flagged: NDArray[np.bool_], fpr: float) -> str:
    """Draw the ROC curve and where the detector works on it (SVG)."""
    left, top, side = 58, 12, 290
    false_rate, true_rate = rates_at(is_bad, flagged)
    area = _percent(roc_auc(scores, is_bad))

    def point(x: float, y: float) -> str:
        return f"{left + side * x:.1f} {top + side * (1 - y):.1f}"

    shapes = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = point(share, share).split()
        shapes += [
            f'<path d="M{left} {y}h{side}M{x} {top}v{side}"/>',
            f'<text x="{left - 8}" y="{float(y) + 5:.1f}" class="end">{100 * share:g}</text>',
            f'<text x="{x}" y="{top + side + 21}" class="mid">{100 * share:g}</text>',
        ]
    curve = zip(*roc_curve(is_bad, scores)[:2], strict=True)
    x, y = point(false_rate, true_rate).split()
    shapes += [
        f'<path class="chance" d="M{point(0, 0)}L{point(1, 1)}"/>',
        f'<path class="asked" d="M{point(fpr, 0)}V{top}"/>',
        f'<path class="curve" d="M{"L".join(point(*rates) for rates in curve)}"/>',
        f'<circle cx="{x}" cy="{y}" r="6.5"/>',
        f'<text x="{left + side / 2}" y="{top + side + 44}" class="mid">'
        "good images flagged, %</text>",
        f'<text transform="translate(16 {top + side / 2}) rotate(-90)" class="mid">'
        "defects found, %</text>",
    ]
    for k, line in enumerate(
        (f"AUROC {area}", f"FPR {_percent(false_rate)}", f"TPR {_percent(true_rate)}")
    ):
        y_line = top + side - 60 + 22 * k
        shapes.append(f'<text x="{left + side - 10}" y="{y_line}" class="end label">{line}</text>')
        if k == 1:
            shapes.append(f'<circle cx="{left + side - 118}" cy="{y_line + 6}" r="6.5"/>')
    summary = (
        f"ROC curve, area {area}; the detector flags {_percent(false_rate)} of the good images, "
        f"asked for {_percent(fpr)}, and {_percent(true_rate)} of the defects"
    )
    return _svg("square", left + side + 14, top + side + 52, summary, shapes)


def _svg(css: str, width: float, height: float, summary: str, shapes: Sequence[str]) -> str:
    return (
        f'<svg class="{css}" viewBox="0 0 {width} {height}" role="img" aria-label="{summary}">'
        + "\n".join(shapes)
        + "</svg>"
    )
