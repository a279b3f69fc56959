"""Which images a page shows: the mistakes first, then what is flagged, then some of the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mahalad.report.pictures import ReportImage
from mahalad.result import LabelledResult

MOST = 100
"""Images with a picture on a page, unless another number is asked for: 60 kB each, at most."""

N_GROUPS = 3


@dataclass(frozen=True)
class _Place:
    """Where an image belongs: a group, a part of it that has its turn, and how much it matters."""

    group: int
    part: str
    interest: float


def _place(image: ReportImage) -> _Place:
    result = image.result
    if isinstance(result, LabelledResult):
        part, sureness = image.kind or result.label or "", result.probability or 0.0
        if image.mistake:  # those that are surest first
            return _Place(0, part, sureness)
        return _Place(1, part, result.distance or 0.0) if result.novel else _Place(2, "", -sureness)
    if image.mistake:
        return _Place(0, image.mistake, image.score if image.flagged else -image.score)
    return _Place(1 if image.flagged else 2, image.kind or "", image.score)


def grouped(images: Sequence[ReportImage]) -> list[list[ReportImage]]:
    """Sort images into mistakes, others that are flagged (novel), and the rest.

    Each group has first what matters most: scores that are high, for a missed defect low; of
    wrong labels the surest, of novel images the farthest, of the others the least sure.
    """
    places = [_place(image) for image in images]
    order = sorted(range(len(images)), key=lambda i: (-places[i].interest, images[i].result.name))
    order.sort(key=lambda i: places[i].part if places[i].group == 0 else "")
    groups: list[list[ReportImage]] = [[] for _ in range(N_GROUPS)]
    for i in order:
        groups[places[i].group].append(images[i])
    return groups


def in_turns(group: Sequence[ReportImage]) -> list[ReportImage]:
    """Order a group so that the kinds (or mistakes) in it have their turn, one after the other."""
    seen: Counter[str] = Counter()
    turns: list[tuple[int, ReportImage]] = []
    for image in sorted(group, key=lambda image: -_place(image).interest):
        part = _place(image).part
        seen[part] += 1
        turns.append((seen[part], image))
    return [image for _, image in sorted(turns, key=lambda pair: pair[0])]  # a stable order


def shares(sizes: Sequence[int], most: int) -> list[int]:
    """Share `most` places among groups: those before the last first, but for a quarter.

    Examples
    --------
    >>> shares([3, 69, 37], 24), shares([0, 200, 4], 100), shares([0, 0, 500], 100)
    ([3, 15, 6], [0, 96, 4], [0, 0, 100])
    """
    left = most - min(sizes[-1], most // 4)
    given = []
    for size in sizes[:-1]:
        given.append(min(size, left))
        left -= given[-1]
    return [*given, min(sizes[-1], most - sum(given))]


def chosen(images: Sequence[ReportImage], most: int) -> list[list[ReportImage]]:
    """Choose the images of each group that a page shows, `most` in all, in the group's order.

    Images without a picture are never among them.
    """
    groups = grouped(images)
    found = []
    for group, n in zip(groups, shares([len(group) for group in groups], most), strict=True):
        wanted = {id(image) for image in in_turns(group)[:n]}
        shown = [image for image in group if id(image) in wanted and image.picture is not None]
        found.append(shown)
    return found


def without_pictures(images: Sequence[ReportImage], most: int) -> list[ReportImage]:
    """Drop the pictures of images that `chosen` will not choose, whatever images come besides.

    An image's turn never comes earlier when there are more images, so that one that is not among
    the first `most` of its group never will be.
    """
    kept = {id(image) for group in grouped(images) for image in in_turns(group)[:most]}
    return [
        image if id(image) in kept else replace(image, picture=None, overlay=None, neighbours=())
        for image in images
    ]
