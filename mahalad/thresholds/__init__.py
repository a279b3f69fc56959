"""Thresholds: from scores of good images to a verdict at the false-positive rate asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mahalad.lazy import hand_on

_HOME_OF = {
    "ChiSquareThreshold": "mahalad.thresholds.chi_square",
    "ConformalThreshold": "mahalad.thresholds.conformal",
    "NominalChiSquareThreshold": "mahalad.thresholds.chi_square",
    "Guarantee": "mahalad.thresholds.guarantee",
    "RULES": "mahalad.thresholds.rules",
    "ToleranceThreshold": "mahalad.thresholds.tolerance",
    "check_fpr": "mahalad.thresholds.conformal",
    "check_threshold": "mahalad.thresholds.rules",
    "fit_threshold": "mahalad.thresholds.rules",
    "plan": "mahalad.thresholds.guarantee",
}

__all__ = [
    "RULES",
    "ChiSquareThreshold",
    "ConformalThreshold",
    "Guarantee",
    "NominalChiSquareThreshold",
    "ToleranceThreshold",
    "check_fpr",
    "check_threshold",
    "fit_threshold",
    "plan",
]

if TYPE_CHECKING:
    from mahalad.thresholds.chi_square import ChiSquareThreshold, NominalChiSquareThreshold
    from mahalad.thresholds.conformal import ConformalThreshold, check_fpr
    from mahalad.thresholds.guarantee import Guarantee, plan
    from mahalad.thresholds.rules import (
        RULES,
        check_threshold,
        fit_threshold,
    )
    from mahalad.thresholds.tolerance import ToleranceThreshold

__getattr__ = hand_on(__name__, _HOME_OF)
