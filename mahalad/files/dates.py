"""The date that a model file tells of its fit."""

from __future__ import annotations

from datetime import UTC, datetime


def today() -> str:
    """Say which day it is, ISO 8601 in UTC."""
    return datetime.now(UTC).date().isoformat()
