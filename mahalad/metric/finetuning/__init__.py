"""Fine-tuning: a network's highest levels trained on labelled images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mahalad.lazy import hand_on

_HOME_OF = {
    "FineTuner": "mahalad.metric.finetuning.finetuning",
    "SUFFIX": "mahalad.metric.finetuning.finetuning",
    "check_suffix": "mahalad.metric.finetuning.finetuning",
}

__all__ = [
    "SUFFIX",
    "FineTuner",
    "check_suffix",
]

if TYPE_CHECKING:
    from mahalad.metric.finetuning.finetuning import SUFFIX, FineTuner, check_suffix

__getattr__ = hand_on(__name__, _HOME_OF)
