"""Principal components by the share of variance they hold: the first (PCA) or the last (NPCA)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from mahalad.checks import Limit, OneOf, Real, check_parameters
from mahalad.errors import DegenerateDataError, InputError
from mahalad.protocols import Floats
from mahalad.scorers.moments import principal_axes

_SHARE = Real("(0, 1)")


class PrincipalComponents(TransformerMixin, BaseEstimator):
    """Project on the first or the last principal components.

    Parameters
    ----------
    keep : {"first", "last"}, default="first"
        "first" is PCA; "last" is NPCA, the components that hold the least variance.
    variance : float in (0, 1), default=0.99
        Share of the variance at which the components are split.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        Kept components by descending variance.
    explained_variance_ratio_ : ndarray
        Share of variance of **all** components (kept or not).
    mean_ : ndarray of shape (n_features,)

    Notes
    -----
    With `last` the first index whose cumulative variance ratio exceeds `variance`, PCA keeps
    components ``[:last + 1]`` and NPCA ``[last - 1:]`` (``[0:]`` for last = 0). Components
    without variance (beyond the rank of the samples) have no direction of their own and are
    never kept.

    References
    ----------
    Rippel et al., ICPR 2020, section III-C.

    Examples
    --------
    >>> import numpy as np
    >>> from mahalad import PrincipalComponents
    >>> X = np.random.default_rng(0).normal(size=(100, 4)) * [10, 1, 0.5, 0.1]
    >>> PrincipalComponents(keep="last", variance=0.99).fit_transform(X).shape
    (100, 4)
    >>> PrincipalComponents(keep="first", variance=0.9).fit_transform(X).shape
    (100, 1)
    """

    _limits: ClassVar[Mapping[str, Limit]] = {
        "keep": OneOf(("first", "last")),
        "variance": _SHARE,
    }

    def __init__(self, keep: Literal["first", "last"] = "first", *, variance: float = 0.99) -> None:
        self.keep = keep
        self.variance = variance

    def fit(self, X: Any, y: Any = None) -> Self:
        """Find the components of `X` of shape (n_samples, n_features), n_samples >= 2."""
        check_parameters(self._limits, self)
        X = validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        self.mean_ = X.mean(axis=0)
        z = X - self.mean_
        rounding = 8 * np.finfo(float).eps * float(np.abs(self.mean_).max())
        if float(np.einsum("ij,ij->", z, z)) <= z.size * rounding**2:
            raise DegenerateDataError(f"all {len(X)} samples are identical: no components")
        variances, axes = _components(z)
        self.explained_variance_ratio_ = variances / variances.sum()
        exceeds = np.cumsum(self.explained_variance_ratio_) > self.variance
        last = int(np.argmax(exceeds)) if exceeds.any() else len(variances) - 1
        kept = slice(0, last + 1) if self.keep == "first" else slice(max(last - 1, 0), None)
        self.components_ = axes.T[kept]
        return self

    def transform(self, X: Any) -> Floats:
        """Coordinates of `X` on the kept components, shape (n_samples, n_components)."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        return np.asarray((X - self.mean_) @ self.components_.T)


def _components(z: Floats) -> tuple[Floats, Floats]:
    """Variances (descending) and axes (columns) of centred samples, by the smaller Gram."""
    n, D = z.shape
    if n > D:
        return principal_axes(z.T @ z / n, max_rank=D)
    variances, vectors = principal_axes(z @ z.T / n, max_rank=n)
    variances, vectors = variances[: n - 1], vectors[:, : n - 1]
    return variances, z.T @ vectors / np.sqrt(n * variances)


def parse_reduction(text: str) -> PrincipalComponents:
    """Read ``"pca"``, ``"npca"``, ``"pca:0.95"`` or ``"npca:0.99"``."""
    kind, _, share = text.partition(":")
    keep = {"pca": "first", "npca": "last"}.get(kind.strip().lower())
    try:
        variance = float(share) if share else 0.99
    except ValueError:
        variance = -1.0
    if keep is None or not _SHARE.allows(variance):
        raise InputError(
            f"reduction {text!r} is not known; give 'pca' or 'npca', with the share of variance "
            "at which to split if 0.99 is not wanted: 'npca:0.95'"
        )
    return PrincipalComponents(keep, variance=variance)  # type: ignore[arg-type]
