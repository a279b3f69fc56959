"""Fits and scores on many machines, by Ray Data (extra `ray`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mahalad.lazy import hand_on

_HOME_OF = {
    "Pool": "mahalad.distributed.pool",
    "Scored": "mahalad.distributed.results",
    "add": "mahalad.distributed.adding",
    "extract": "mahalad.distributed.extracting",
    "fit": "mahalad.distributed.fitting",
    "score": "mahalad.distributed.scoring",
}

__all__ = ["Pool", "Scored", "add", "extract", "fit", "score"]

if TYPE_CHECKING:
    from mahalad.distributed.adding import add
    from mahalad.distributed.extracting import extract
    from mahalad.distributed.fitting import fit
    from mahalad.distributed.pool import Pool
    from mahalad.distributed.results import Scored
    from mahalad.distributed.scoring import score

__getattr__ = hand_on(__name__, _HOME_OF)
