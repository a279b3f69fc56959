"""The triplet projection: what it separates, keeps, repeats and refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import f1_score
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from mahalad.errors import CollapseError, DegenerateDataError, InputError, MahaladError
from mahalad.metric.triplets.losses import LOSSES, pairwise_distances
from mahalad.metric.triplets.projection import TripletProjection

QUICK = {"n_components": 8, "max_epochs": 5}


def hidden_signal(n, seed, n_features=60, n_classes=3):
    """Classes that differ in 3 of many features, all of one variance: noise drowns neighbours."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    F = rng.normal(size=(n, n_features))
    F[:, :3] = 0.35 * rng.normal(size=(n, 3)) + 1.4 * np.eye(3)[y]
    return F, np.array(["bad", "fair", "good"])[y]


def knn_f1(train, y_train, test, y_test):
    knn = KNeighborsClassifier(5).fit(train, y_train)
    return f1_score(y_test, knn.predict(test), average="macro")


# -- what it learns ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "distance"),
    [*((loss, "cosine") for loss in LOSSES), ("batch-hard-scaled", "euclidean")],
)
def test_neighbours_in_the_projection_are_of_one_class(loss, distance):
    (F, y), (G, z) = hidden_signal(300, 0), hidden_signal(300, 1)
    model = TripletProjection(
        16, loss=loss, distance=distance, learning_rate=0.01, max_epochs=15
    ).fit(F, y)
    assert knn_f1(F, y, G, z) < 0.6
    assert knn_f1(model.transform(F), y, model.transform(G), z) > 0.9


def test_a_hidden_layer_joins_what_no_linear_map_can():
    """The classes of XOR: in any linear map two corners and the other two have one midpoint."""
    rng = np.random.default_rng(0)
    corners = np.repeat([[1, 1], [-1, -1], [1, -1], [-1, 1]], 40, axis=0)
    F = np.hstack([1.5 * corners + 0.3 * rng.normal(size=(160, 2)), rng.normal(size=(160, 8))])
    y = corners[:, 0] * corners[:, 1]
    train, test = np.arange(0, 160, 2), np.arange(1, 160, 2)
    ratios = []
    for hidden in (64, 0):
        model = TripletProjection(
            8, hidden=hidden, learning_rate=1e-2, max_epochs=25, distance="cosine", margin=0.5,
            dropout=0.0, refit=False,
        )  # fmt: skip
        d = pairwise_distances(torch.tensor(model.fit(F[train], y[train]).transform(F[test])))
        across = d[:20, 20:40].mean() + d[40:60, 60:].mean()  # of one class, opposite corners
        ratios.append((across / (d[:40, 40:].mean() * 2)).item())
    assert ratios[0] < 0.4
    assert ratios[1] > 0.9


def test_embeddings_have_unit_length_for_the_cosine_alone():
    F, y = hidden_signal(60, 0)
    cosine = TripletProjection(distance="cosine", **QUICK).fit(F, y).transform(F)
    assert (cosine.shape, cosine.dtype) == ((60, 8), np.float32)
    np.testing.assert_allclose(np.linalg.norm(cosine, axis=1), 1, rtol=1e-6)
    euclidean = TripletProjection(distance="euclidean", **QUICK).fit(F, y).transform(F)
    assert np.linalg.norm(euclidean, axis=1).std() > 0.1


def test_transform_is_the_last_layers_product():
    F, y = hidden_signal(60, 0)
    model = TripletProjection(hidden=5, distance="cosine", **QUICK).fit(F, y)
    w = [p.detach().numpy().astype(np.float64) for p in model.network_.parameters()]
    inner = np.maximum(F @ w[0].T + w[1], 0)
    want = inner @ w[2].T + w[3]
    want /= np.linalg.norm(want, axis=1, keepdims=True)
    np.testing.assert_allclose(model.transform(F), want, rtol=1e-3, atol=1e-5)


# -- early stopping and history ------------------------------------------------------------


def test_the_best_epoch_is_kept():
    F, y = hidden_signal(90, 0)
    options = {"dropout": 0.0, "margin": 0.5, "distance": "cosine", "patience": 6, "refit": False}
    model = TripletProjection(8, max_epochs=60, **options).fit(F, y)
    rows = model.history_
    f1 = [row["validation_f1"] for row in rows]
    order = [
        (np.mean(f1[i - 9 : i + 1]), -rows[i]["validation_loss"]) if i >= 9 else (-1, 0)
        for i in range(len(rows))
    ]
    assert model.best_epoch_ == 1 + max(range(len(rows)), key=order.__getitem__)
    assert len(rows) == model.best_epoch_ + 6 < 60
    assert [row["epoch"] for row in rows] == list(range(1, len(rows) + 1))
    again = TripletProjection(8, max_epochs=model.best_epoch_, **options).fit(F, y)
    np.testing.assert_array_equal(again.transform(F), model.transform(F))


def test_refit_trains_on_all_samples_for_the_best_number_of_epochs():
    F, y = hidden_signal(90, 0)
    model = TripletProjection(8, max_epochs=20).fit(F, y)
    kept = TripletProjection(8, max_epochs=20, refit=False).fit(F, y)
    assert model.best_epoch_ == kept.best_epoch_
    assert model.history_ == kept.history_
    assert np.abs(model.transform(F) - kept.transform(F)).max() > 0.01


def test_without_validation_all_epochs_are_run():
    F, y = hidden_signal(60, 0)
    model = TripletProjection(8, max_epochs=7, patience=1, validation_fraction=0).fit(F, y)
    assert (len(model.history_), model.best_epoch_) == (7, 7)
    assert {row["validation_f1"] for row in model.history_} == {None}


def test_history_tells_the_spread_of_training_embeddings():
    F, y = hidden_signal(40, 0)
    options = {"validation_fraction": 0, "distance": "cosine"}
    start = TripletProjection(8, max_epochs=1, learning_rate=1e-30, **options)
    before = start.fit(F, y).transform(F)
    model = TripletProjection(8, max_epochs=3, **options).fit(F, y)
    off = ~np.eye(40, dtype=bool)
    spreads = [
        pairwise_distances(torch.tensor(E)).numpy()[off].mean()
        for E in (before, model.transform(F))
    ]
    assert model.history_[-1]["spread"] == pytest.approx(spreads[1] / spreads[0], rel=1e-4)
    assert start.history_[0]["spread"] == pytest.approx(1, rel=1e-6)
    for row in model.history_:
        assert row["loss"] > 0 and row["grad_norm"] > 0


def test_gradients_are_cut():
    """AdamW does not see the length of a constant gradient, but its eps does."""
    F, y = hidden_signal(60, 0)
    options = {"max_epochs": 1, "validation_fraction": 0, "weight_decay": 0.0}
    still = TripletProjection(8, learning_rate=1e-30, **options).fit(F, y).transform(F)
    cut = TripletProjection(8, max_grad_norm=1e-12, **options).fit(F, y).transform(F)
    free = TripletProjection(8, **options).fit(F, y).transform(F)
    assert np.abs(cut - still).max() < 1e-3 * np.abs(free - still).max()


# -- the same again ------------------------------------------------------------------------


def test_one_seed_gives_one_result_and_leaves_torchs_own_alone():
    F, y = hidden_signal(60, 0)
    options = {"hidden": 6, "dropout": 0.3, **QUICK}
    torch.manual_seed(5)
    first = TripletProjection(**options).fit(F, y)
    drawn = torch.rand(1).item()
    torch.manual_seed(5)
    assert torch.rand(1).item() == drawn
    second = TripletProjection(**options).fit(F, y)
    np.testing.assert_array_equal(first.transform(F), second.transform(F))
    assert first.history_ == second.history_
    other = TripletProjection(random_state=1, **options).fit(F, y)
    assert np.abs(other.transform(F) - first.transform(F)).max() > 0.01


@pytest.mark.parametrize("options", [{}, {"hidden": 6, "distance": "euclidean", "dropout": 0.2}])
def test_state_round_trip(options):
    F, y = hidden_signal(60, 0)
    model = TripletProjection(**options, **QUICK).fit(F, y)
    about, arrays = model.state()
    about = json.loads(json.dumps(about, allow_nan=False))
    restored = clone(model).restore(about, {k: v.copy() for k, v in arrays.items()})
    np.testing.assert_array_equal(restored.transform(F), model.transform(F))
    assert restored.history_ == model.history_
    assert restored.best_epoch_ == model.best_epoch_
    np.testing.assert_array_equal(restored.classes_, ["bad", "fair", "good"])
    with pytest.raises(InputError, match=r"fitted with n_components=8 .* one with n_components=9"):
        TripletProjection(9).restore(about, arrays)


def test_clone_and_search():
    F, y = hidden_signal(60, 0)
    model = TripletProjection(max_epochs=2, margin=0.3)
    assert clone(model).get_params() == model.get_params()
    line = make_pipeline(StandardScaler(), model, KNeighborsClassifier(3))
    grid = {"tripletprojection__n_components": [2, 8]}
    search = GridSearchCV(line, grid, cv=2, scoring="f1_macro").fit(F, y)
    assert set(search.predict(F)) <= {"bad", "fair", "good"}


@parametrize_with_checks([TripletProjection(4, max_epochs=2)])
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


# -- collapse ------------------------------------------------------------------------------


def test_collapse_stops_the_training():
    """Labels that mean nothing leave the plain loss one way down: all in one point."""
    rng = np.random.default_rng(0)
    F, y = rng.normal(size=(120, 30)), rng.integers(2, size=120)
    options = {"max_epochs": 300, "validation_fraction": 0, "learning_rate": 0.03}
    options |= {"distance": "cosine", "margin": 0.5, "dropout": 0.0}
    message = (
        r"the embeddings collapsed into one point: in epoch \d+ their spread is .*"
        r"\(loss='batch-hard', margin 0.5\)\. Give loss='batch-hard-scaled', or a smaller "
        r"learning_rate than 0\.03"
    )
    model = TripletProjection(16, loss="batch-hard", **options)
    with pytest.raises(CollapseError, match=message) as caught:
        model.fit(F, y)
    assert isinstance(caught.value, MahaladError) and isinstance(caught.value, RuntimeError)
    assert all(row["spread"] < 1e-3 and row["loss"] >= 0.45 for row in model.history_[-3:])
    assert len(model.history_) < 300
    with pytest.raises(NotFittedError, match="not fitted yet"):
        model.transform(F)
    scaled = TripletProjection(16, **options | {"max_epochs": len(model.history_)}).fit(F, y)
    assert scaled.history_[-1]["spread"] > 0.01


def test_overflow_is_told():
    F, y = hidden_signal(40, 0)
    with pytest.raises(
        CollapseError, match=r"training diverged in epoch 1: a loss .*StandardScaler"
    ):
        TripletProjection(distance="euclidean", **QUICK).fit(F * 1e37, y)


# -- bad input -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (["a"] * 12, r"all samples are of one class \(a\): a triplet needs two"),
        (["a"] * 11 + ["b"], "only one sample of class b: a triplet needs two of a class"),
        (["a"] * 10 + ["b", "c"], "only one sample of class b, c: a triplet"),
        (["a", "b"] * 5, "10 labels given for 12 samples"),
        (np.linspace(0, 1, 12), "labels cannot be used: Unknown label type: continuous"),
        ([None, "a"] * 6, "labels cannot be used: "),
        (None, "labels cannot be used: "),
    ],
)
def test_labels_that_cannot_be_used(rng, y, message):
    with pytest.raises(InputError, match=message):
        TripletProjection(**QUICK).fit(rng.normal(size=(12, 3)), y)


def test_features_that_cannot_be_used(rng):
    F, y = rng.normal(size=(12, 3)), np.arange(12) % 2
    model = TripletProjection(**QUICK)
    with pytest.raises(NotFittedError, match="TripletProjection instance is not fitted yet"):
        model.transform(F)
    for value in (np.nan, np.inf, 1e300):  # 1e300 is infinite in float32
        G = F.copy()
        G[[4, 7], 1] = value
        with pytest.raises(InputError, match=r"of 2 of 12 samples have NaN .* those of sample 4"):
            model.fit(G, y)
    with pytest.raises(InputError, match="features cannot be used: Expected 2D array"):
        model.fit(F[:, 0], y)
    with pytest.raises(DegenerateDataError, match="all 12 samples have the same features"):
        model.fit(np.ones((12, 3)), y)
    with pytest.raises(InputError, match="X has 2 features, but TripletProjection is expecting 3"):
        model.fit(F, y).transform(F[:, :2])


def test_pairs_alone_leave_nothing_to_validate_with(rng):
    F, y = rng.normal(size=(6, 3)), [0, 0, 1, 1, 2, 2]
    with pytest.raises(InputError, match=r"validation_fraction=0.2 of 6 samples holds out none"):
        TripletProjection(**QUICK).fit(F, y)
    assert TripletProjection(validation_fraction=0, **QUICK).fit(F, y).transform(F).shape == (6, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"loss": "triplet"},
            "loss must be one of batch-hard-scaled, .*semi-hard, batch-all, got 'triplet'",
        ),
        ({"distance": "dot"}, "distance must be one of cosine, euclidean, got 'dot'"),
        ({"n_components": 0}, "n_components must be a whole number >= 1, got 0"),
        ({"hidden": 2.5}, r"hidden must be a whole number >= 0, got 2\.5"),
        ({"n_per_class": 1}, "n_per_class must be a whole number >= 2, got 1"),
        ({"max_epochs": True}, "max_epochs must be a whole number >= 1, got True"),
        ({"patience": 0}, "patience must be a whole number >= 1, got 0"),
        ({"n_neighbors": 0}, "n_neighbors must be a whole number >= 1, got 0"),
        ({"margin": 0.0}, r"margin must be a number > 0, got 0\.0"),
        ({"learning_rate": np.nan}, "learning_rate must be a number > 0, got nan"),
        ({"max_grad_norm": -1}, "max_grad_norm must be a number > 0, got -1"),
        ({"weight_decay": -1}, "weight_decay must be a number >= 0, got -1"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1\.0"),
        ({"validation_fraction": 1}, r"validation_fraction must lie in \[0, 1\), got 1"),
        ({"random_state": -1}, "random_state must be None or a whole number from 0 to .*, got -1"),
    ],
)
def test_parameters_out_of_range(rng, options, message):
    with pytest.raises(InputError, match=message):
        TripletProjection(**options).fit(rng.normal(size=(12, 3)), np.arange(12) % 2)
