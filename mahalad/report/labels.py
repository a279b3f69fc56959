"""The page of a classifier by nearest neighbours: labels, who voted for them, and confusions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest
from typing import cast

from mahalad.report.choosing import MOST
from mahalad.report.gallery import cards, heading, view
from mahalad.report.page import Words, fact, fill_page, table, unreadable
from mahalad.report.pictures import ReportImage, img
from mahalad.report.text import number, percent, text
from mahalad.result import LabelledResult, Neighbour, Result

_GROUPS = (
    ("Wrong labels", "the surest first"),
    ("Novel", "the farthest from all labelled images first"),
    ("Others", "the least sure first"),
)
_CSS = "gallery wide"
_NOTE = (
    "Below each image stand the labelled images that voted on it, the nearest first, with their "
    "labels and distances."
)


def render_labels(
    images: Sequence[ReportImage],
    errors: Sequence[Result],
    words: Words,
    *,
    classes: Sequence[str],
    novelty_fpr: float,
    most: int = MOST,
) -> str:
    """Render classified images as one self-contained HTML page.

    Parameters
    ----------
    images : sequence of ReportImage
        With a `LabelledResult` each; `kind` is the true label, where it is known.
    errors : sequence of Result
        Images that could not be read.
    words : Words
    classes : sequence of str
        All labels that there are.
    novelty_fpr : float
        Share of images like the labelled ones that may be called novel.
    most : int
        Images that get a card; the others count.
    """
    sections = [_confusion(images, classes), cards(images, most, _GROUPS, _card, _NOTE, _CSS)]
    return fill_page(words, _facts(images, len(errors), novelty_fpr), sections, errors)


def labels_and_got(images: Sequence[ReportImage], novelty_fpr: float) -> str:
    """Say how many labels are right, where that is known, and how many images are novel."""
    known = [image for image in images if image.kind is not None]
    right = sum(not image.mistake for image in known)
    judged = [image for image in images if _labelled(image).novel is not None]
    told = f"{len(images)} images labelled"
    if known:
        share = f"{100 * right / len(known):.1f} %"
        told += f"; {right} of {len(known)} as their folders are named ({share})"
    if images and not judged:
        return f"{told}. There are too few labelled images to tell which ones are novel."
    novel = sum(bool(_labelled(image).novel) for image in judged)
    return (
        f"{told}. {novel} are called novel; of images like the labelled ones "
        f"{100 * novelty_fpr:g} % would be, as asked for."
    )


def confusion(images: Sequence[ReportImage], classes: Sequence[str]) -> list[list[int]]:
    """Count images by true label (rows) and label that was found (columns), in their order."""
    found = Counter((image.kind, _labelled(image).label) for image in images)
    return [[found[true, label] for label in classes] for true in classes]


def _labelled(image: ReportImage) -> LabelledResult:
    return cast(LabelledResult, image.result)


def _facts(images: Sequence[ReportImage], n_errors: int, novelty_fpr: float) -> list[str]:
    n = len(images)
    known = [image for image in images if image.kind is not None]
    wrong = sum(bool(image.mistake) for image in known)
    judged = [image for image in images if _labelled(image).novel is not None]
    novel = sum(bool(_labelled(image).novel) for image in judged)
    tiles = [fact("Images labelled", str(n)), unreadable(n_errors)]
    if judged:
        note = f"{percent(novel / n)}; asked for {percent(novelty_fpr)} of images like the labelled"
        tiles.append(fact("Novel", str(novel), note))
    if known:
        note = f"{percent(1 - wrong / len(known))} of the labels are right"
        tiles.append(fact("Wrong labels", f"{wrong} of {len(known)}", note))
    counts = Counter(_labelled(image).label for image in images)
    tiles += [
        fact(text(label), str(count), percent(count / n)) for label, count in sorted(counts.items())
    ]
    return tiles


def _confusion(images: Sequence[ReportImage], classes: Sequence[str]) -> str:
    """Write the table of true and found labels as HTML; nothing where no true label is known."""
    counts = confusion(images, classes)
    present = [i for i, row in enumerate(counts) if any(row)]
    if not present:
        return ""
    rows = []
    for i in present:
        cells = [
            f'<span class="right">{n}</span>' if i == j else f'<span class="off">{n}</span>'
            for j, n in enumerate(counts[i])
        ]
        rows.append([text(classes[i]), *cells, percent(counts[i][i] / sum(counts[i]))])
    columns = [sum(counts[i][j] for i in present) for j in range(len(classes))]
    precision = [
        percent(counts[j][j] / total) if total else "&ndash;" for j, total in enumerate(columns)
    ]
    rows.append(["right, of this column", *precision, ""])
    head = ["folder \\ found label", *map(text, classes), "right"]
    return (
        "<section><h2>Confusions</h2>\n"
        + table("Labels of the folders (rows) and labels found (columns)", head, rows, "")
        + "</section>"
    )


def _card(image: ReportImage) -> str:
    result = _labelled(image)
    truth = "" if image.kind is None else f"<span>folder: {text(image.kind)}</span>"
    p_value = (
        "" if result.p_value is None else f"<span>p of novelty {number(result.p_value)}</span>"
    )
    badge = '<span class="badge">wrong label</span>' if image.mistake else ""
    novel = '<i class="flagged">&#9650; novel</i>' if result.novel else ""
    votes = "".join(
        _vote(neighbour, picture)
        for neighbour, picture in zip_longest(result.neighbours, image.neighbours)
    )
    css = ' class="mistake"' if image.mistake else ""
    return (
        f'<li{css}><div class="beside">{view(image)}<div>{heading(image)}{truth}'
        f'<p class="verdict"><i>{text(result.label)}</i>'
        f"<span>{percent(result.probability or 0.0)} of the votes</span>{novel}{badge}</p>"
        f'{p_value}</div></div><ol class="votes">{votes}</ol></li>'
    )


def _vote(neighbour: Neighbour, picture: bytes | None) -> str:
    """Write one neighbour as HTML, with its picture where it is a file still."""
    if picture is None:
        shown = '<span class="gone">no picture</span>'
    else:
        shown = img(picture, f"neighbour labelled {neighbour.label}", neighbour.path)
    return (
        f'<li title="{text(neighbour.path)}">{shown}<b>{text(neighbour.label)}</b>'
        f"<span>{number(neighbour.distance)}</span></li>"
    )
