"""Many results as one HTML page that needs no other file, no network and no script.

The page is a `string.Template` in ``page.html``. Whatever comes from outside (file names,
kinds, reasons, titles) goes through `mahalad.report.text.text`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from string import Template

import numpy as np
from numpy.typing import NDArray

from mahalad.errors import InputError
from mahalad.evaluation.images import rates_at, roc_auc
from mahalad.images.words import GOOD
from mahalad.protocols import Floats
from mahalad.report.charts import histogram, roc
from mahalad.report.choosing import MOST
from mahalad.report.gallery import gallery, spotlight_section
from mahalad.report.kinds import ALL, HEADER, rows_by_kind
from mahalad.report.pictures import ReportImage, Spotlight
from mahalad.report.text import percent, text
from mahalad.result import Result

_ERRORS_SHOWN = 100


@dataclass(frozen=True)
class Words:
    """What a page says besides its figures; nothing of it is HTML.

    Attributes
    ----------
    title : str
    notice : str
        What must be read first; empty for nothing.
    intro : sequence of str
        Paragraphs.
    summary : str
        What was asked for and what came of it.
    about : mapping of str to str
        Facts on the model, such as the date of its fit.
    command : str
        A command to run next; empty for none.
    """

    title: str
    notice: str = ""
    intro: Sequence[str] = ()
    summary: str = ""
    about: Mapping[str, str] = field(default_factory=dict)
    command: str = ""


def render_report(
    images: Sequence[ReportImage],
    errors: Sequence[Result],
    words: Words,
    *,
    threshold: float | None,
    fpr: float,
    calibration_scores: Sequence[float] | Floats = (),
    spotlight: Spotlight | None = None,
    most: int = MOST,
) -> str:
    """Render judged images as one self-contained HTML page.

    Parameters
    ----------
    images : sequence of ReportImage
        In any order; the page shows mistakes first, then the most abnormal ones.
    errors : sequence of Result
        Images that could not be read.
    words : Words
    threshold : float or None
        Scores above it are flagged; None where no one score decides. Infinity is not drawn.
    fpr : float
        The false-positive rate that was asked for.
    calibration_scores : sequence of float, optional
        Scores of the good images that set the threshold.
    spotlight : Spotlight, optional
        The image that is shown large.
    most : int
        Images that get a card; the others count.

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
    >>> from mahalad.report.pictures import encode
    >>> picture = encode(Image.new("RGB", (8, 8)))
    >>> image = ReportImage(Result("a.png", score=1.0, p_value=0.5, anomaly=False), picture)
    >>> page = render_report([image], [], Words("A <test>"), threshold=2.0, fpr=0.05)
    >>> "<h1>A &lt;test&gt;</h1>" in page
    True
    """
    calibration = np.asarray(calibration_scores, np.float64)
    if not np.isfinite(calibration).all():
        raise InputError(f"{np.sum(~np.isfinite(calibration))} calibration scores are not finite")
    if threshold is not None and not math.isfinite(threshold):
        threshold = None
    sections = [
        "" if spotlight is None else spotlight_section(spotlight, threshold),
        _charts(images, calibration, threshold, fpr),
        _by_kind(images),
        gallery(images, most),
    ]
    return fill_page(words, _facts(images, len(errors), fpr), sections, errors)


def fill_page(
    words: Words, facts: Sequence[str], sections: Sequence[str], errors: Sequence[Result]
) -> str:
    """Put a page together.

    Parameters
    ----------
    words : Words
    facts : sequence of str
        HTML, from `fact`.
    sections : sequence of str
        HTML.
    errors : sequence of Result
    """
    template = Template(resources.files("mahalad.report").joinpath("page.html").read_text("utf-8"))
    notice = f'<p class="notice"><b>Read this first:</b> {text(words.notice)}</p>'
    lead = [f"<p>{text(paragraph)}</p>" for paragraph in words.intro]
    if words.summary:
        lead.append(f'<p class="lead">{text(words.summary)}</p>')
    end = [_errors(errors), _about(words.about)]
    if words.command:
        end.append(f"<section><h2>Next</h2>\n<pre>{text(words.command)}</pre></section>")
    return template.substitute(
        title=text(words.title),
        lead="\n".join([notice, *lead] if words.notice else lead),
        facts="\n".join(facts),
        sections="\n".join(filter(None, [*sections, *end])),
    )


def fact(name: str, value: str, note: str = "") -> str:
    """Write one figure of the summary as HTML, of HTML."""
    small = f"<small>{note}</small>" if note else ""
    return f"<div><dt>{name}</dt><dd>{value}{small}</dd></div>"


def unreadable(n_errors: int) -> str:
    """Write how many images could not be read, with a link to their list."""
    return fact("Unreadable", f'<a href="#unreadable">{n_errors}</a>' if n_errors else "0")


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], strong: str) -> str:
    """Write a table as HTML, of HTML; its first column names the rows, that named `strong` bold."""
    top = "".join(f'<th scope="col">{name}</th>' for name in head)
    body = "\n".join(
        f'<tr{" class=sum" if row[0] == strong else ""}><th scope="row">{row[0]}</th>'
        + "".join(f"<td>{cell}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll" role="region" aria-label="{caption}" tabindex="0">'
        f'<table class="figures"><caption>{caption}</caption><thead><tr>{top}</tr></thead>'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _by_kind(images: Sequence[ReportImage]) -> str:
    rows = rows_by_kind(images)
    if not rows:
        return ""
    cells = [[text(cell) if cell != "-" else "&ndash;" for cell in row] for row in rows]
    return (
        "<section><h2>Kinds of defects</h2>\n"
        + table("Images by kind", HEADER, cells, ALL)
        + '\n<p class="soft">AUROC: how often an image of that kind scores above a good one; '
        "50&nbsp;% is chance.</p></section>"
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
    if not rows:
        return ""
    whole = f'<table class="about"><tbody>{"".join(rows)}</tbody></table>'
    return f"<section><h2>The model</h2>\n{whole}</section>"


def _facts(images: Sequence[ReportImage], n_errors: int, fpr: float) -> list[str]:
    """Write the tiles of the summary; some need images whose kind is known."""
    scores, is_bad, flagged = _labels(images)
    n_good, n_bad = int((~is_bad).sum()), int(is_bad.sum())
    false_alarms, found = rates_at(is_bad, flagged)
    n_flagged = sum(image.flagged for image in images)
    tiles = [
        fact("Images judged", str(len(images))),
        fact("Flagged", str(n_flagged), percent(n_flagged / len(images)) if images else ""),
        unreadable(n_errors),
    ]
    if n_good:
        note = f"{percent(false_alarms)} of good images (FPR); asked for {percent(fpr)}"
        tiles.append(fact("False alarms", f"{(flagged & ~is_bad).sum()} of {n_good}", note))
    if n_bad:
        note = f"{percent(found)} of defects found (TPR)"
        tiles.append(fact("Missed defects", f"{(~flagged & is_bad).sum()} of {n_bad}", note))
    if n_good and n_bad:
        note = "a defect scores above a good image; 50&nbsp;% is chance"
        tiles.append(fact("Image AUROC", percent(roc_auc(scores, is_bad)), note))
    located = [image.hit for image in images if image.hit is not None]
    if located:
        note = "found defects with a mask: the highest point of the map lies on the defect"
        tiles.append(fact("Located", f"{sum(located)} of {len(located)}", note))
    if 0 < len(scores) < len(images):
        tiles.append(fact("Not labelled", str(len(images) - len(scores))))
    return tiles


def _errors(errors: Sequence[Result]) -> str:
    if not errors:
        return ""
    items = []
    for result in errors[:_ERRORS_SHOWN]:
        reason = (result.error or "could not be read").removeprefix(f"{result.name}: ")
        items.append(f"<li><b>{text(result.name)}</b>: {text(reason)}</li>")
    if len(errors) > _ERRORS_SHOWN:
        more = len(errors) - _ERRORS_SHOWN
        items.append(f"<li>and {more} more, which <kbd>mahalad score</kbd> lists</li>")
    return (
        f'<section id="unreadable"><h2>Unreadable images ({len(errors)})</h2>\n<p>They were not '
        "judged and count in no figure above.</p>\n<ul>\n" + "\n".join(items) + "\n</ul></section>"
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
