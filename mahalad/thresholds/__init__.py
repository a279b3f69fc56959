"""Thresholds: from scores of good images to a verdict at the false-positive rate asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mahalad.lazy import hand_on

_HOME_OF = {
    "ChiSquareThreshold": "mahalad.thresholds.rules",
    "ConformalThreshold": "mahalad.thresholds.rules",
    "NominalChiSquareThreshold": "mahalad.thresholds.rules",
    "RULES": "mahalad.thresholds.rules",
    "check_fpr": "mahalad.thresholds.rules",
    "check_threshold": "mahalad.thresholds.rules",
    "fit_threshold": "mahalad.thresholds.rules",
}

__all__ = [
    "RULES",
    "ChiSquareThreshold",
    "ConformalThreshold",
    "NominalChiSquareThreshold",
    "check_fpr",
    "check_threshold",
    "fit_threshold",
]

if TYPE_CHECKING:
    from mahalad.thresholds.rules import (
        RULES,
        ChiSquareThreshold,
        ConformalThreshold,
        NominalChiSquareThreshold,
        check_fpr,
        check_threshold,
        fit_threshold,
    )

__getattr__ = hand_on(__name__, _HOME_OF)
