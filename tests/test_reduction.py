"""PCA and NPCA: scikit-learn's PCA with the paper's index rule is the oracle."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA

from mahalad.errors import DegenerateDataError, InputError
from mahalad.scorers.reduction import PrincipalComponents, parse_reduction


def samples(n: int, D: int) -> np.ndarray:
    rng = np.random.default_rng(3)
    rotation = np.linalg.qr(rng.normal(size=(D, D)))[0]
    return rng.normal(size=(n, D)) / np.arange(1, D + 1) @ rotation + 5


@pytest.mark.parametrize(("n", "D"), [(200, 10), (15, 40), (30, 30)])
@pytest.mark.parametrize("variance", [0.5, 0.9, 0.99, 0.9999999])
@pytest.mark.parametrize("keep", ["first", "last"])
def test_index_rule(n, D, variance, keep):
    X = samples(n, D)
    oracle = PCA(min(n - 1, D), svd_solver="full").fit(X)
    cumulative, last = 0.0, None
    for i, ratio in enumerate(oracle.explained_variance_ratio_):
        cumulative += ratio
        if cumulative > variance:
            last = i
            break
    kept = oracle.components_[: last + 1]
    if keep == "last":
        kept = oracle.components_[max(last - 1, 0) :]
    reduction = PrincipalComponents(keep, variance=variance).fit(X)
    assert reduction.components_.shape == kept.shape
    # components are determined up to their sign
    signs = np.sign(np.einsum("ij,ij->i", reduction.components_, kept))
    np.testing.assert_allclose(reduction.components_ * signs[:, None], kept, atol=1e-9)
    np.testing.assert_allclose(
        reduction.transform(X) * signs, (X - X.mean(axis=0)) @ kept.T, atol=1e-9
    )


def test_npca_is_clamped_at_the_first_component():
    X = np.random.default_rng(0).normal(size=(50, 3)) * [100, 1, 1]
    assert PrincipalComponents("last", variance=0.5).fit(X).components_.shape == (3, 3)


@pytest.mark.parametrize(
    ("text", "keep", "variance"),
    [("pca", "first", 0.99), ("NPCA", "last", 0.99), ("npca:0.95", "last", 0.95)],
)
def test_parse(text, keep, variance):
    reduction = parse_reduction(text)
    assert (reduction.keep, reduction.variance) == (keep, variance)


@pytest.mark.parametrize("text", ["ica", "npca:x", "pca:1.5", "pca:nan", ""])
def test_parse_refuses(text):
    with pytest.raises(InputError, match="give 'pca' or 'npca'"):
        parse_reduction(text)


def test_bad_parameters():
    X = samples(10, 3)
    with pytest.raises(InputError, match="keep must be one of first, last, got 'middle'"):
        PrincipalComponents("middle").fit(X)
    with pytest.raises(InputError, match=r"variance must lie between 0 and 1, got 1"):
        PrincipalComponents(variance=1).fit(X)
    with pytest.raises(DegenerateDataError, match="all 5 samples are identical"):
        PrincipalComponents().fit(np.ones((5, 3)))
