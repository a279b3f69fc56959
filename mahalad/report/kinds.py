"""How each kind of defect was judged, as rows of a table: for a page and for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mahalad.evaluation.images import roc_auc
from mahalad.images.words import GOOD
from mahalad.report.pictures import ReportImage
from mahalad.report.tables import percent

HEADER = ("kind", "images", "AUROC %", "flagged", "flagged %")
ALL = "all defects"


def rows_by_kind(images: Sequence[ReportImage]) -> list[tuple[str, ...]]:
    """Make the rows under `HEADER`: each kind of defect by name, all of them, and the good ones.

    Images whose kind is not known are in no row; without a known defect there are no rows.
    """
    good = [image for image in images if image.kind == GOOD]
    bad = [image for image in images if image.kind not in (None, GOOD)]
    if not bad:
        return []
    kinds = sorted({str(image.kind) for image in bad})
    groups = {kind: [image for image in bad if image.kind == kind] for kind in kinds}
    if len(kinds) > 1:
        groups[ALL] = bad
    rows: list[tuple[str, ...]] = [
        (name, str(len(group)), percent(_area(good, group)), *_flagged(group))
        for name, group in groups.items()
    ]
    return [*rows, (GOOD, str(len(good)), "-", *_flagged(good))] if good else rows


def _area(good: Sequence[ReportImage], bad: Sequence[ReportImage]) -> float | None:
    if not good:
        return None
    is_bad = np.repeat([False, True], [len(good), len(bad)])
    return roc_auc(np.array([image.score for image in [*good, *bad]]), is_bad)


def _flagged(group: Sequence[ReportImage]) -> tuple[str, str]:
    n_flagged = sum(image.flagged for image in group)
    return str(n_flagged), percent(n_flagged / len(group))
