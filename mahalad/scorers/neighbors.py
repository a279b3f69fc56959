"""Distance to the k-th nearest normal sample, with its leave-one-out in closed form.

A sample's own neighbours without itself, or without its group, are found among the same
distances as those of new samples, so a threshold needs no second fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data

from mahalad.checks import Limit, OneOf, Whole, check_parameters
from mahalad.choices import NEIGHBOR_DISTANCES, NEIGHBOR_REDUCES
from mahalad.errors import DegenerateDataError, InputError
from mahalad.protocols import Floats
from mahalad.scorers.contraction import Contraction, contract
from mahalad.scorers.nuisance import Nuisance
from mahalad.scorers.sets import changed_sets

_PRIOR = 10  # samples' worth of the mean variance in the variance of one feature
_BLOCK = 2**22  # numbers in one block of distances and differences: 32 MB each
_MORE = 16  # samples beyond the k nearest that are measured again where one is left out


class KthNeighborDistance(BaseEstimator):
    """Keep all normal samples and score by the distance to the k-th nearest of them.

    Parameters
    ----------
    n_neighbors : int, default=1
        k; a fit needs more samples than that. The nearest neighbour alone finds defects best among
        clean samples; up to k - 1 defects of a kind that slipped in are not taken for good.
    distance : {"standardized", "euclidean", "cosine"}, default="standardized"
        ``"standardized"``: Euclidean, after dividing each feature by its standard deviation over
        the samples. ``"cosine"``: (1 - cos) / 2 of the angle from the origin, in [0, 1].
    reduce : {"kth", "mean"}, default="kth"
        The k-th distance alone, or the mean of the first k.

    Attributes
    ----------
    samples_ : ndarray of shape (n_samples, n_features)
        The normal samples, centred and divided by `scale_` (for cosine: of unit length).
    location_, scale_ : ndarray of shape (n_features,)
        What was subtracted from the samples and what they were divided by.
    compared_ : ndarray of shape (n_samples, n_features)
        The samples in the metric that they are compared in: `samples_`, unless harmless changes are
        tolerated.
    contracted_by_ : tuple or None
        What made these of `samples_`; see `mahalad.scorers.contraction.Contraction.factor`.

    Notes
    -----
    Search is exact, over all samples. Standard deviations are drawn a little to their mean over
    features, s_d^2 = (n v_d + 10 v) / (n + 10), so that features that hardly vary in a few
    samples do not decide. v_d is the variance (ddof 0) of feature d and v its mean.

    With harmless changes to be tolerated (`tolerate`), standardized samples are compared by the
    metric (I + 3 N)^-1 instead, of the covariance N of what these changes do to them.

    References
    ----------
    S. Ramaswamy, R. Rastogi, K. Shim, "Efficient Algorithms for Mining Outliers from Large Data
    Sets", SIGMOD 2000 (the distance to the k-th neighbour).
    L. Bergman, N. Cohen, Y. Hoshen, "Deep Nearest Neighbor Anomaly Detection", 2020 (of frozen
    features, with the mean of k distances).

    Examples
    --------
    >>> from mahalad.scorers.neighbors import KthNeighborDistance
    >>> line = [[0.0], [1.0], [2.0], [3.0]]
    >>> nearest = KthNeighborDistance(n_neighbors=2, distance="euclidean").fit(line)
    >>> nearest.distances([[0.0], [5.0]]).tolist()
    [1.0, 3.0]
    >>> nearest.leave_one_out_distances(line).tolist()
    [2.0, 1.0, 1.0, 2.0]
    """

    _limits: ClassVar[Mapping[str, Limit]] = {
        "n_neighbors": Whole(1),
        "distance": OneOf(NEIGHBOR_DISTANCES),
        "reduce": OneOf(NEIGHBOR_REDUCES),
    }

    def __init__(
        self, n_neighbors: int = 1, *, distance: str = "standardized", reduce: str = "kth"
    ) -> None:
        self.n_neighbors = n_neighbors
        self.distance = distance
        self.reduce = reduce

    _nuisance: Nuisance | None = None

    @available_if(lambda self: self.distance == "standardized")
    def tolerate(self, nuisance: Nuisance | None) -> Self:
        """Count little what harmless changes do, (n_differences, n_features) of features, or all.

        It is for standardized distances, and may be given before the samples or after them.
        """
        self._nuisance = nuisance
        if hasattr(self, "samples_"):
            self._contract()
        return self

    def fit(self, X: Any, y: Any = None) -> Self:
        """Keep samples, forgetting earlier ones.

        Parameters
        ----------
        X : array-like of shape (n_samples > n_neighbors, n_features)
            Normal samples.
        y : ignored

        Returns
        -------
        self

        Raises
        ------
        InputError
            No more samples than `n_neighbors`, a parameter out of range, or a sample that is
            zero (cosine).
        DegenerateDataError
            All samples are identical.
        """
        self.check_parameters()
        X = validate_data(self, X, dtype=np.float64, order="C", ensure_min_samples=2)
        n, D = X.shape
        if n <= self.n_neighbors:
            raise InputError(
                f"n_neighbors={self.n_neighbors} needs at least {self.n_neighbors + 1} good images "
                f"(samples), each having that many others, and there are {n}: give more, or a "
                "smaller n_neighbors"
            )
        if np.ptp(X, axis=0).max() <= 8 * np.finfo(float).eps * np.abs(X).max():
            raise DegenerateDataError(f"all {n} samples are identical: no distance between them")
        self.location_, self.scale_ = np.zeros(D), np.ones(D)
        if self.distance != "cosine":
            self.location_ = X.mean(axis=0)
        if self.distance == "standardized":
            self.scale_ = np.sqrt(_shrunk(X.var(axis=0), n))
        self.samples_ = self._standardized(X)
        self._contract()
        return self

    def _contract(self) -> None:
        """Bring the samples into the metric that they are compared in."""
        self.contracted_by_ = None
        if self._nuisance is not None:
            self.contracted_by_ = Contraction.of(self._nuisance, self.scale_).factor()
        self.compared_ = contract(self.samples_, self.contracted_by_)

    def distances(self, X: Any) -> Floats:
        """Distance of each sample to its k-th nearest normal one, (n_samples,), up = abnormal."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, order="C", reset=False)
        Z = contract(self._standardized(X), self.contracted_by_)
        norms, found = _squared_lengths(self.compared_), np.empty(len(Z))
        for rows in self._blocks(len(Z)):
            nearest = self._nearest(norms - 2 * Z[rows] @ self.compared_.T)
            found[rows] = self._reduced(
                _squared_lengths(Z[rows][:, None] - self.compared_[nearest])
            )
        return found

    def score_samples(self, X: Any) -> Floats:
        """Negative distances, up = normal (scikit-learn's sign)."""
        return -self.distances(X)

    def leave_one_out_distances(
        self, X: Any, groups: Any = None, changed: NDArray[np.intp] | None = None
    ) -> Floats:
        """Distance of each fitted sample by the fit without it, or without its group.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            The samples of the fit, all of them and in the same order.
        groups : array-like of shape (n_samples,), optional
            Samples with the same label are left out together.
        changed : ndarray of int of shape (n_samples,), optional
            Number of the image of the `Nuisance` that a sample is of, below 0 for others: what is
            tolerated is left out with it.

        Returns
        -------
        ndarray of shape (n_samples,)
            Up = abnormal.

        Raises
        ------
        InputError
            Other samples than those of the fit, or a group so large that fewer than
            `n_neighbors` samples remain.

        Notes
        -----
        Equal to fitting again without each sample or group, standard deviations included: those
        of the remaining samples follow from sums, and weight the squared differences. Where
        changes are tolerated, the neighbours by the refit are sought among the k + 16 nearest by
        the fit to all.
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, order="C", reset=False)
        if len(X) != len(self.samples_) or not np.array_equal(
            Z := self._standardized(X), self.samples_
        ):
            raise InputError(
                "leave_one_out_distances is for the samples of the fit, all of them in their order"
            )
        labels = np.arange(len(Z))
        if groups is not None:
            labels = np.unique(np.asarray(groups), return_inverse=True)[1]
        self._check_groups(labels)
        weights = self._weights_of_the_rest(Z, labels)
        if self._nuisance is None or weights is None:
            return self._left_out(Z, labels, weights)
        return self._left_out_tolerating(Z, labels, weights, self._nuisance, changed)

    def calibration_distances(
        self, X: Any, groups: Any = None, changed: NDArray[np.intp] | None = None
    ) -> Floats:
        """Distances that those of new samples can be ranked among: `leave_one_out_distances`.

        A sample more is the nearest one of few others, so its influence on them is left out.
        """
        return self.leave_one_out_distances(X, groups, changed)

    def _left_out(self, Z: Floats, labels: NDArray[np.intp], weights: Floats | None) -> Floats:
        """`leave_one_out_distances` of standardized samples."""
        squares, found = Z**2, np.empty(len(Z))
        for rows in self._blocks(len(Z)):
            w = np.ones((1, Z.shape[1])) if weights is None else weights[labels[rows]]
            squared = w @ squares.T - 2 * (w * Z[rows]) @ Z.T
            nearest = self._nearest(np.where(labels[rows, None] == labels, np.inf, squared))
            differences = Z[rows][:, None] - Z[nearest]
            found[rows] = self._reduced((differences**2 * w[:, None]).sum(axis=2))
        return found

    def _left_out_tolerating(
        self,
        Z: Floats,
        labels: NDArray[np.intp],
        weights: Floats,
        nuisance: Nuisance,
        changed: NDArray[np.intp] | None,
    ) -> Floats:
        """The same, with the metric that the other samples and changes make."""
        own_changes = {labels[m[0]]: images for m, images in changed_sets(labels, changed)}
        norms, found = _squared_lengths(self.compared_), np.empty(len(Z))
        nearest = np.empty((len(Z), min(self.n_neighbors + _MORE, len(Z))), np.intp)
        for rows in self._blocks(len(Z)):
            squared = norms - 2 * self.compared_[rows] @ self.compared_.T
            squared[labels[rows, None] == labels] = np.inf
            nearest[rows] = self._nearest(squared, _MORE)
        for label in range(labels.max() + 1):
            own, units = np.flatnonzero(labels == label), np.sqrt(weights[label])
            told = own_changes.get(label)
            others = nuisance if told is None else nuisance.without(told)
            metric = Contraction.of(others, self.scale_ / units)
            for part in self._blocks(len(own), _MORE):
                some = own[part]
                squares = metric.squares((Z[some][:, None] - Z[nearest[some]]) * units)
                squares[labels[nearest[some]] == label] = np.inf
                found[some] = self._reduced(np.sort(squares)[:, : self.n_neighbors])
        return found

    def _weights_of_the_rest(self, Z: Floats, labels: NDArray[np.intp]) -> Floats | None:
        """(s / s')^2 with s' the standard deviations without a group, (n_groups, n_features)."""
        if self.distance != "standardized":
            return None
        squares = Z**2
        sums, sums_of_squares = np.zeros((2, labels.max() + 1, Z.shape[1]))
        np.add.at(sums, labels, Z)
        np.add.at(sums_of_squares, labels, squares)
        rest = (len(Z) - np.bincount(labels))[:, None]
        shift = (Z.sum(axis=0) - sums) / rest  # the mean of the rest
        variance = np.maximum((squares.sum(axis=0) - sums_of_squares) / rest - shift**2, 0)
        in_units = variance * self.scale_**2
        if not in_units.mean(axis=1).min() > np.finfo(float).eps * np.mean(self.scale_**2):
            raise DegenerateDataError(
                "all samples but one, or but one group, are identical: no distance between them"
            )
        return np.asarray(self.scale_**2 / _shrunk(in_units, rest))

    def _nearest(self, squared: Floats, more: int = 0) -> NDArray[np.intp]:
        """The k nearest samples, and some more, (m, k + more), by squared distances (m, n).

        These may lack a row's constant. The nearest are measured again from differences: the short
        form |z|^2 + |s|^2 - 2 z's loses the digits of samples that lie close together.
        """
        k = min(self.n_neighbors + more, squared.shape[1])
        return np.argpartition(squared, k - 1, axis=1)[:, :k]

    def _reduced(self, squares: Floats) -> Floats:
        """k-th or mean distance, (m,), by the squares of the k least, (m, k)."""
        near = squares / 4 if self.distance == "cosine" else np.sqrt(squares)
        return np.asarray(near.max(axis=1) if self.reduce == "kth" else near.mean(axis=1))

    def _standardized(self, X: Floats) -> Floats:
        if self.distance != "cosine":
            return np.asarray((X - self.location_) / self.scale_)
        lengths = np.sqrt(_squared_lengths(X))[:, None]
        if not lengths.all():
            raise InputError(
                f"sample {int(np.argmin(lengths))} is zero in all features, and has no direction: "
                "use another distance than 'cosine'"
            )
        return np.asarray(X / lengths)

    def _blocks(self, n: int, more: int = 0) -> Iterator[slice]:
        """Rows whose distances and differences fit in the memory for one block."""
        per_row = max(len(self.samples_), (self.n_neighbors + more) * self.samples_.shape[1])
        step = max(1, _BLOCK // per_row)
        return (slice(start, start + step) for start in range(0, n, step))

    def _check_groups(self, labels: NDArray[np.intp]) -> None:
        n, largest = len(labels), int(np.bincount(labels).max())
        if n - largest < self.n_neighbors:
            raise InputError(
                f"leaving out a group of {largest} (images of one part, or copies of one picture) "
                f"leaves {n - largest} of {n} samples, fewer than n_neighbors={self.n_neighbors}: "
                "give more images, or a smaller n_neighbors"
            )

    def check_parameters(self) -> None:
        """Raise `InputError` where a parameter is out of range."""
        check_parameters(self._limits, self)


def _shrunk(variance: Floats, n: Any) -> Floats:
    """Variances of n samples, (..., n_features), drawn a little to their mean over features."""
    mean = variance.mean(axis=-1, keepdims=True)
    return np.asarray((n * variance + _PRIOR * mean) / (n + _PRIOR))


def _squared_lengths(X: Floats) -> Floats:
    return np.asarray(np.einsum("...j,...j->...", X, X))
