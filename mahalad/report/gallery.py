"""The pictures of a report: one large, and a card for each image that is shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from mahalad.report.choosing import chosen, grouped
from mahalad.report.pictures import ReportImage, Spotlight, img
from mahalad.report.text import number, text

_GROUPS = (
    ("Mistakes", "the worst first"),
    ("Flagged", "the most abnormal first"),
    ("Passed", "those nearest to the threshold first"),
)
_MISTAKES = {"false alarm": "false alarm", "missed defect": "missed"}
_P_VALUE = "The p&#8209;value is the share of good images that would look at least as abnormal."
_TOGGLE = (
    '<p class="toggle"><label><input type="checkbox" id="overlays" checked> colours over flagged '
    "images</label></p>\n"
    '<p class="soft">They mark, with an outline, what is abnormal; other images stay as they are. '
    '<span class="pointing">Point at a picture to see it without.</span> '
)


def gallery(images: Sequence[ReportImage], most: int) -> str:
    """Write the section of all images as HTML: mistakes, other flagged images, and the rest."""
    return cards(images, most, _GROUPS, _card, _P_VALUE)


def cards(
    images: Sequence[ReportImage],
    most: int,
    groups: Sequence[tuple[str, str]],
    card: Callable[[ReportImage], str],
    note: str,
    css: str = "gallery",
) -> str:
    """Write a section of images as HTML.

    Parameters
    ----------
    images : sequence of ReportImage
    most : int
        Images that get a card.
    groups : sequence of (str, str)
        Name and order of each group of `grouped`.
    card : callable
        Writes the ``<li>`` of an image that has a picture.
    note : str
        HTML.
    css : str
        Classes of the lists.
    """
    if not images:
        return "<section><h2>Images</h2><p>No image could be judged.</p></section>"
    sizes, shown = [len(group) for group in grouped(images)], chosen(images, most)
    toggle = _TOGGLE if any(image.overlay for group in shown for image in group) else "<p>"
    parts = [f"<section><h2>Images</h2>\n{toggle}{note}</p>"]
    left_out = [
        f"{size - len(group)} of {size} in &ldquo;{name}&rdquo;"
        for (name, _), size, group in zip(groups, sizes, shown, strict=True)
        if size > len(group)
    ]
    if left_out:
        parts.append(
            f'<p class="left-out">Left out, for the size of the page: {", ".join(left_out)}. They '
            "count in all figures; <kbd>mahalad report --pictures</kbd> shows more, and "
            "<kbd>mahalad score</kbd> lists every image.</p>"
        )
    for (name, order), size, group in zip(groups, sizes, shown, strict=True):
        if group:
            few = f"{len(group)} of {size}" if size > len(group) else str(size)
            parts.append(f'<h3>{name} ({few}) <span class="soft">{order}</span></h3>')
            parts.append(f'<ol class="{css}">\n' + "\n".join(map(card, group)) + "\n</ol>")
    return "\n".join(parts) + "</section>"


def spotlight_section(spotlight: Spotlight, threshold: float | None) -> str:
    """Write the section of the large image: as it is, its map over it, and what is known."""
    image, name = spotlight.image, spotlight.image.result.name
    shown = [
        (spotlight.picture, "The image", "the image as it is"),
        (spotlight.overlay, "What is abnormal", "its abnormal places in colour, with an outline"),
    ]
    if spotlight.truth is not None:
        shown.append((spotlight.truth, "Ground truth", "the outline of the known defect"))
    figures = "\n".join(
        f"<figure>{img(content, f'{_short(name)}: {alt}', name)}"
        f"<figcaption>{caption}</figcaption></figure>"
        for content, caption, alt in shown
    )
    kind = "" if image.kind is None else f" ({text(image.kind)})"
    against = "" if threshold is None else f", threshold {number(threshold)}"
    return (
        "<section><h2>The most abnormal image, and where</h2>\n"
        f"<p>{text(name)}{kind}: score {number(image.score)}{against}.</p>\n"
        f'<div class="large">\n{figures}\n</div></section>'
    )


def view(image: ReportImage) -> str:
    """Write an image's picture as HTML, with the overlay on it if there is one."""
    result = image.result
    kind = "no label" if image.kind is None else image.kind
    shown = img(image.picture or b"", f"{_short(result.name)}, {kind}", result.name)
    if image.overlay is not None:
        shown += img(image.overlay, "Its abnormal places in colour", result.name, "map")
    return f'<div class="view">{shown}</div>'


def heading(image: ReportImage) -> str:
    """Write an image's name as HTML."""
    name = image.result.name
    return f'<b title="{text(name)}">{text(_short(name))}</b>'


def _card(image: ReportImage) -> str:
    result = image.result
    kind = "no label" if image.kind is None else image.kind
    p_value = "" if result.p_value is None else f"<span>p {result.p_value:.3g}</span>"
    mark = "<span>in the fit</span>" if result.in_fit else ""
    badge = f'<span class="badge">{_MISTAKES[image.mistake]}</span>' if image.mistake else ""
    css = ' class="mistake"' if image.mistake else ""
    return (
        f"<li{css}>{view(image)}{heading(image)}"
        f"<span>{text(kind)}</span><span>score {number(image.score)}</span>{p_value}{mark}"
        f'<p class="verdict">{_verdict(result.anomaly)}{badge}</p></li>'
    )


def _verdict(anomaly: bool | None) -> str:
    if anomaly is None:
        return "<i>? not judged</i>"
    if anomaly:
        return '<i class="flagged">&#9650; flagged</i>'
    return '<i class="passed">&#10003; passed</i>'


def _short(name: str) -> str:
    return Path(name).name or name
