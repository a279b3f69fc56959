"""Many results as one HTML page that needs no other file and no network.

The page is a `string.Template` in ``page.html``. Whatever comes from outside (file names,
kinds, reasons, titles) goes through `mahalad.report.text.text`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib import resources
from string import Template

import numpy as np
from numpy.typing import NDArray

from mahalad.errors import InputError
from mahalad.evaluation.images import rates_at, roc_auc
from mahalad.images.words import GOOD
from mahalad.protocols import Floats
from mahalad.report.charts import histogram, roc
from mahalad.report.gallery import ReportImage, gallery
from mahalad.report.text import percent, text
from mahalad.result import Result


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
    >>> from PIL import Image
    >>> from mahalad.report.gallery import encode
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
    template = Template(resources.files("mahalad.report").joinpath("page.html").read_text("utf-8"))
    return template.substitute(
        title=text(title),
        about=_about(about),
        facts="\n".join(_facts(ranked, len(errors), fpr)),
        charts=_charts(ranked, calibration, threshold, fpr),
        gallery=gallery(ranked, threshold),
        errors=_errors(errors),
    )


def _labels(images: Sequence[ReportImage]) -> tuple[Floats, NDArray[np.bool_], NDArray[np.bool_]]:
    """Give scores, and whether abnormal and flagged, of the images whose kind is known."""
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
    """Write the tiles of the summary; some need images whose kind is known."""
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
