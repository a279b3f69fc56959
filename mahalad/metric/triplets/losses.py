"""Triplet losses: samples of one class are to lie closer together than to any other class.

Each is a function of embeddings (n, d) and labels (n,) to one number that can be differentiated.
A triplet is an anchor, a positive (another sample of its class) and a negative (of another
class); d_ap and d_an are the anchor's distances to them, m is the margin.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from mahalad.choices import EMBEDDING_DISTANCES
from mahalad.errors import InputError

_INF = float("inf")


def pairwise_distances(embeddings: Tensor, distance: str = "cosine") -> Tensor:
    """Measure the distances between all rows.

    Parameters
    ----------
    embeddings : Tensor of shape (n, d), float
    distance : {"cosine", "euclidean"}, default="cosine"
        (1 - cos)/2, from 0 (one direction) to 1 (opposite ones), or the unsquared Euclidean one.

    Returns
    -------
    Tensor of shape (n, n), its diagonal exactly 0.

    Notes
    -----
    (1 - cos)/2 is computed as |u - v|^2 / 4 of the unit vectors. The difference 1 - cos would
    leave no digits in float32 once the angles are below 1e-3, which is where embeddings that
    collapse are. Gradients are finite everywhere: that of a Euclidean distance of 0 is 0, and so
    is that of a row of zeros, which has no direction (its cosine distances mean nothing).
    """
    if distance not in EMBEDDING_DISTANCES:
        raise InputError(
            f"distance must be one of {', '.join(EMBEDDING_DISTANCES)}, got {distance!r}"
        )
    if embeddings.ndim != 2 or not embeddings.is_floating_point():
        raise InputError(
            f"embeddings must be floats of shape (n, d), got {embeddings.dtype} of shape "
            f"{tuple(embeddings.shape)}"
        )
    if distance == "euclidean":
        return _euclidean(embeddings)
    norms = torch.linalg.vector_norm(embeddings, dim=1, keepdim=True)  # (n, 1)
    unit = embeddings / norms.where(norms > 0, 1.0)
    return _euclidean(unit.where(norms > 0, 0.0)).square() / 4


def batch_all(
    embeddings: Tensor, labels: Tensor, *, margin: float = 0.5, distance: str = "cosine"
) -> Tensor:
    """Average the loss of all triplets that are not yet satisfied.

    Parameters
    ----------
    embeddings : Tensor of shape (n, d), float
    labels : Tensor of shape (n,), integers
    margin : float, default=0.5
    distance : {"cosine", "euclidean"}, default="cosine"

    Returns
    -------
    Tensor, a scalar >= 0; 0, with a gradient of 0, if there is no triplet.

    Notes
    -----
    The mean of max(0, d_ap - d_an + m) over the triplets where it is positive. It takes n^3
    numbers. On few labels it soon overfits.

    References
    ----------
    A. Hermans, L. Beyer, B. Leibe, "In Defense of the Triplet Loss for Person
    Re-Identification", 2017, equation 6, averaged over the non-zero terms.
    """
    d, positive, negative = _pairs(embeddings, labels, distance)
    triplets = positive[:, :, None] & negative[:, None, :]  # (n anchors, n positives, n negatives)
    loss = torch.relu(d[:, :, None] - d[:, None, :] + margin)
    return _mean(loss[triplets & (loss > 0)])


def batch_hard(
    embeddings: Tensor,
    labels: Tensor,
    *,
    margin: float = 0.5,
    distance: str = "cosine",
    scale: bool = False,
    eps: float = 1e-8,
) -> Tensor:
    """Average the loss of each anchor's farthest positive and nearest negative.

    Parameters
    ----------
    embeddings : Tensor of shape (n, d), float
    labels : Tensor of shape (n,), integers
    margin : float, default=0.5
    distance : {"cosine", "euclidean"}, default="cosine"
    scale : bool, default=False
        Measure differences in units of the mean nearest-negative distance, against collapse.
    eps : float, default=1e-8
        Added to that unit: at full collapse it would be 0/0.

    Returns
    -------
    Tensor, a scalar >= 0; 0, with a gradient of 0, if no anchor has a positive and a negative.

    Notes
    -----
    Over the anchors that have a positive and a negative, the mean of

        max(0, max d_ap - min d_an + m)                                    plain
        max(0, (max d_ap - min d_an) / (mean(min d_an) + eps) + m)         scaled

    where mean(min d_an) is that of the batch and is differentiated too. All embeddings in one
    point give the plain loss the value m, below that of a poor start, and its gradient leads
    there. With a spread s around a point the cosine distances are of order s^2: the plain loss's
    gradient vanishes as s, so that nothing leads out again, while the scaled one's grows as 1/s.
    Clip gradients for that reason.

    References
    ----------
    Hermans et al. 2017, equation 5. The scaling: Qdrant, "Metric Learning for Anomaly
    Detection", 2022 (https://qdrant.tech/articles/detecting-coffee-anomalies).
    """
    d, positive, negative = _pairs(embeddings, labels, distance)
    anchors = positive.any(dim=1) & negative.any(dim=1)
    d, positive, negative = d[anchors], positive[anchors], negative[anchors]  # (a, n)
    if not len(d):
        return _mean(d)
    farthest = d.masked_fill(~positive, -_INF).amax(dim=1)  # (a,)
    nearest = d.masked_fill(~negative, _INF).amin(dim=1)
    difference = farthest - nearest
    if scale:
        difference = difference / (nearest.mean() + eps)
    return torch.relu(difference + margin).mean()


def semi_hard(
    embeddings: Tensor, labels: Tensor, *, margin: float = 0.5, distance: str = "cosine"
) -> Tensor:
    """Average the loss of each anchor and positive with the nearest negative beyond the positive.

    Parameters
    ----------
    embeddings : Tensor of shape (n, d), float
    labels : Tensor of shape (n,), integers
    margin : float, default=0.5
    distance : {"cosine", "euclidean"}, default="cosine"

    Returns
    -------
    Tensor, a scalar >= 0; 0, with a gradient of 0, if there is no triplet.

    Notes
    -----
    The mean of max(0, d_ap - d_an + m) over all pairs of an anchor and a positive, with the
    smallest d_an > d_ap. It is semi-hard if d_an < d_ap + m; farther out, the pair is satisfied
    and counts as 0. A pair with no negative beyond its positive takes the farthest negative,
    the one that is least far from being semi-hard. The paper draws any semi-hard negative and
    says nothing of such pairs; both choices are those of TensorFlow's `triplet_semihard_loss`.
    It takes n^3 numbers.

    References
    ----------
    F. Schroff, D. Kalenichenko, J. Philbin, "FaceNet: A Unified Embedding for Face Recognition
    and Clustering", CVPR 2015, section 3.2, equation 4.
    """
    d, positive, negative = _pairs(embeddings, labels, distance)
    pairs = positive & negative.any(dim=1, keepdim=True)
    if not pairs.any():
        return _mean(d[pairs])
    beyond = negative[:, None, :] & (d[:, None, :] > d[:, :, None])  # (n, n positives, n negatives)
    nearest = torch.where(beyond, d[:, None, :], _INF).amin(dim=2)  # (n, n)
    farthest = d.masked_fill(~negative, -_INF).amax(dim=1, keepdim=True)  # (n, 1)
    chosen = torch.where(beyond.any(dim=2), nearest, farthest)
    return _mean(torch.relu(d[pairs] - chosen[pairs] + margin))


LOSSES: dict[str, Callable[..., Tensor]] = {
    "batch-all": batch_all,
    "batch-hard": batch_hard,
    "batch-hard-scaled": partial(batch_hard, scale=True),
    "semi-hard": semi_hard,
}
"""Losses by name, as `TripletProjection(loss=...)` takes them."""


def _euclidean(x: Tensor) -> Tensor:
    # By differences: |x|^2 + |y|^2 - 2xy loses what is small. Its gradient at 0 is 0, not nan.
    return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")


def _pairs(embeddings: Tensor, labels: Tensor, distance: str) -> tuple[Tensor, Tensor, Tensor]:
    """Distances (n, n), and which columns are positives, or negatives, of each row."""
    d = pairwise_distances(embeddings, distance)
    if labels.shape != embeddings.shape[:1]:
        raise InputError(
            f"labels of shape {tuple(labels.shape)} given for {len(embeddings)} embeddings"
        )
    same = labels[:, None] == labels[None, :]
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    return d, same & ~itself, ~same


def _mean(values: Tensor) -> Tensor:
    """Mean, or a 0 that can be differentiated if there are none."""
    return values.sum() / max(values.numel(), 1)
