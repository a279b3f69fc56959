"""The error of a question before `fit`; here, so that the others need no scikit-learn."""

from __future__ import annotations

from sklearn.exceptions import NotFittedError as SklearnNotFittedError

from mahalad.errors import MahaladError


class NotFittedError(MahaladError, SklearnNotFittedError):
    """A detector was asked for results before `fit`."""
