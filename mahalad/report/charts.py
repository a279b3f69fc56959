"""The charts of a report: histograms of the scores and the ROC curve, as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from mahalad.evaluation.images import rates_at, roc_auc
from mahalad.protocols import Floats
from mahalad.report.text import number, percent

_LOG_FROM = 30.0  # scores whose highest is over so many times the lowest get a logarithmic axis


def nice_step(span: float, n_steps: int) -> float:
    """Return the least of 1, 2, 5, 10, ... times a power of ten that needs at most `n_steps`.

    A span of 0 is taken for 1e-9.
    """
    raw = (span or 1e-9) / n_steps
    power = 10.0 ** math.floor(math.log10(raw))
    return next(factor * power for factor in (1, 2, 5, 10, 20) if factor * power >= raw)


@dataclass(frozen=True)
class Bins:
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
    def of(cls, scores: Floats, threshold: float | None) -> Bins:
        """Choose some 30 bins that hold all scores, and the threshold.

        The axis is logarithmic if the highest is more than 30 times the lowest.
        """
        everything = scores if threshold is None else np.append(scores, threshold)
        low, high = float(everything.min()), float(everything.max())
        is_log = low > 0 and high / low > _LOG_FROM
        if is_log:
            everything = np.log10(everything)
            low, high = float(everything.min()), float(everything.max())
        anchor = 0.0 if threshold is None else float(everything[-1])
        step = nice_step(max(high - low, 0.01 * abs(high), 1e-12), 30)
        first = math.ceil((low - anchor) / step) - 1
        last = max(math.ceil((high - anchor) / step) - 1, first)
        # One more on the right: an axis that goes on behind a threshold above all scores.
        return cls(is_log, anchor, step, first, last - first + 2)

    def places(self, scores: Floats) -> Floats:
        """Compute positions of scores on the axis, 0 = its left end, 1 = its right end."""
        return (self._raw(scores) - self.first) / self.n_bins

    def counts(self, scores: Floats) -> list[int]:
        """Count the scores in each bin."""
        index = np.ceil(self._raw(scores)).astype(int) - 1 - self.first
        inside = np.clip(index, 0, self.n_bins - 1)  # the logarithm's last bit may vary
        return [int(n) for n in np.bincount(inside, minlength=self.n_bins)]

    def ticks(self) -> list[float]:
        """Choose round scores between the ends of the axis."""
        low, high = (self.anchor + self.step * (self.first + k) for k in (0, self.n_bins))
        if not self.is_log:
            step = nice_step(high - low, 7)
            return [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
        factors = (1,) if high - low > 3 else (1, 3) if high - low > 2 else (1, 2, 5)
        every = math.ceil((high - low) / 7)
        powers = range(math.floor(low / every) * every, math.ceil(high) + 1, every)
        candidates = [factor * 10.0**power for power in powers for factor in factors]
        return [tick for tick in candidates if low <= math.log10(tick) <= high]

    def _raw(self, scores: Floats) -> Floats:
        on_axis = np.log10(scores) if self.is_log else np.asarray(scores, np.float64)
        return np.asarray((on_axis - self.anchor) / self.step)


def histogram(scores_of: Mapping[str, Floats], threshold: float | None) -> str:
    """Draw the scores of several groups of images as histograms, one above the other (SVG).

    Parameters
    ----------
    scores_of : mapping of str to ndarray of shape (n_images,)
        Anomaly scores of each group by its name, up = abnormal. All share one axis; a group
        without images is left out.
    threshold : float or None
        Scores above it are flagged; None draws no line.
    """
    width, left, right, top, height, gap = 600, 58, 14, 34, 100, 32
    groups = {name: scores for name, scores in scores_of.items() if len(scores)}
    bins = Bins.of(np.concatenate([*groups.values()]), threshold)
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
            f"threshold {number(threshold)}</text>"
        )
    scale = ", logarithmic" if bins.is_log else ""
    shapes += [
        f'<text x="{(left + width - right) / 2}" y="{axis_y + 48}" class="mid">'
        f"anomaly score (higher = more abnormal{scale})</text>",
        f'<text transform="translate(18 {(top + axis_y) / 2}) rotate(-90)" class="mid">'
        "images</text>",
    ]
    summary = ", ".join(f"{len(scores)} {name}" for name, scores in groups.items())
    end = "" if threshold is None else f"; the threshold is {number(threshold)}"
    return _svg(
        "wide", width, axis_y + 58, f"Histograms of the anomaly score: {summary}{end}", shapes
    )


def _bars(
    name: str, counts: Sequence[int], base: float, left: float, right: float, height: float
) -> list[str]:
    """Draw one row of the histogram, which stands on y = `base`."""
    unit, bar = (height - 24) / max(counts), (right - left) / len(counts)
    shapes = []
    for tick in range(0, max(counts) + 1, max(1, round(nice_step(max(counts), 3)))):
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


def roc(scores: Floats, is_bad: NDArray[np.bool_], flagged: NDArray[np.bool_], fpr: float) -> str:
    """Draw the ROC curve and where the detector works on it (SVG)."""
    left, top, side = 58, 12, 290
    false_rate, true_rate = rates_at(is_bad, flagged)
    area = percent(roc_auc(scores, is_bad))

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
        (f"AUROC {area}", f"FPR {percent(false_rate)}", f"TPR {percent(true_rate)}")
    ):
        y_line = top + side - 60 + 22 * k
        shapes.append(f'<text x="{left + side - 10}" y="{y_line}" class="end label">{line}</text>')
        if k == 1:
            shapes.append(f'<circle cx="{left + side - 118}" cy="{y_line + 6}" r="6.5"/>')
    summary = (
        f"ROC curve, area {area}; the detector flags {percent(false_rate)} of the good images, "
        f"asked for {percent(fpr)}, and {percent(true_rate)} of the defects"
    )
    return _svg("square", left + side + 14, top + side + 52, summary, shapes)


def _svg(css: str, width: float, height: float, summary: str, shapes: Sequence[str]) -> str:
    return (
        f'<svg class="{css}" viewBox="0 0 {width} {height}" role="img" aria-label="{summary}">'
        + "\n".join(shapes)
        + "</svg>"
    )
