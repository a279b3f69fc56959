"""`tune --ray` and `index add --ray`: the work on labelled images on many machines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mahalad.commands.many import quieten
from mahalad.commands.progress import counted_progress

if TYPE_CHECKING:
    from mahalad.distributed.adding import Added
    from mahalad.features.extraction import Extracted
    from mahalad.metric.classifier import MetricKNNClassifier


def extract_on_ray(
    encoder: Any, names: list[str], what: str, *, address: str, workers: int | None
) -> Extracted:
    """Compute features of images on many machines, under a progress bar."""
    from mahalad.distributed.extracting import extract
    from mahalad.distributed.pool import Pool

    quieten()
    with counted_progress(what, len(names)) as progress:
        return extract(
            encoder, names, address=address or None, pool=Pool(workers), progress=progress
        )


def add_on_ray(
    classifier: MetricKNNClassifier,
    names: list[str],
    label: str,
    first_id: int | None,
    *,
    address: str,
    workers: int | None,
    new_label: bool,
) -> Added:
    """Add images to a classifier's index on many machines, under a progress bar."""
    from mahalad.distributed.adding import add
    from mahalad.distributed.pool import Pool

    quieten()
    with counted_progress("add", len(names)) as progress:
        return add(
            classifier,
            names,
            label,
            first_id=first_id,
            new_label=new_label,
            address=address or None,
            pool=Pool(workers),
            progress=progress,
        )
