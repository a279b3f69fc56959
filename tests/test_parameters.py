"""`set_params` after a fit: it takes effect, or it is refused when the estimator is next asked."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from conftest import make_picture
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline

import mahalad
from mahalad import (
    AnomalyDetector,
    BackboneFeatures,
    KNNDetector,
    MahalanobisDetector,
    MetricKNNClassifier,
    TripletProjection,
)
from mahalad.errors import BackboneError, InputError
from mahalad.scorers.positions.scorer import PatchScorer
from mahalad.thresholds.rules import ConformalThreshold, NominalChiSquareThreshold

GOOD = [make_picture(seed) for seed in range(20)]
NEW = [make_picture(seed) for seed in (60, 61)]


def region(right: int) -> np.ndarray:
    marked = np.zeros((64, 64), np.uint8)
    marked[:, :right] = 255
    return marked


@pytest.fixture(scope="module")
def fitted(small_weights):
    """One fitted detector of each kind; tests change copies of them."""
    network = {"weights": small_weights, "input_size": 64, "fpr": 0.1}
    extractor = BackboneFeatures(
        "test_efficientnet", weights=small_weights, input_size=64, levels=[-1], maps=["blocks.1"]
    )
    return {
        "positions": MahalanobisDetector("test_efficientnet", **network).fit(GOOD),
        "image": MahalanobisDetector(
            "test_efficientnet", scope="image", roi=region(40), **network
        ).fit(GOOD),
        "neighbours": KNNDetector("test_efficientnet", **network).fit(GOOD),
        "parts": AnomalyDetector(extractor, PatchScorer(), fpr=0.1).fit(GOOD),
    }


QUESTIONS = {
    "score": lambda detector, path: detector.anomaly_score(NEW),
    "predict": lambda detector, path: detector.predict(NEW),
    "p-values": lambda detector, path: detector.p_values(NEW),
    "inspect": lambda detector, path: list(detector.inspect(NEW)),
    "map": lambda detector, path: detector.anomaly_map(NEW),
    "explain": lambda detector, path: detector.explain(NEW),
    "save": lambda detector, path: detector.save(path),
    "update": lambda detector, path: detector.partial_fit(NEW),
    "merge": lambda detector, path: detector.merge(copy.deepcopy(detector)),
}


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        *(
            ("image", change)
            for change in (
                {"backbone": "test_resnet"},
                {"weights": None},
                {"scope": "positions"},
                {"levels": ["stem"]},
                {"input_size": 32},
                {"resize": "pad"},
                {"tiles": 2},
                {"reduction": "pca"},
                {"roi": region(20)},
                {"n_augment": 1},
                {"n_folds": 3},
                {"holdout_fraction": 0.5},
                {"max_stored": 20},
                {"random_state": 4},
                {"threshold": "holdout"},
            )
        ),
        ("positions", {"top_fraction": 0.5}),
        ("positions", {"image_weight": 0.0}),
        ("positions", {"smoothing": 1.0}),
        ("positions", {"neighbourhood": 1}),
        ("neighbours", {"n_neighbors": 2}),
        ("neighbours", {"distance": "cosine"}),
        ("parts", {"features__levels": ["stem"]}),
        ("parts", {"scorer__top_fraction": 0.5}),
        ("parts", {"scorer": IsolationForest()}),
        ("parts", {"features": None}),
    ],
)
def test_what_only_a_fit_gives_effect_is_refused(fitted, kind, change, tmp_path):
    detector, [name] = copy.deepcopy(fitted[kind]), change
    before = detector.get_params()[name]
    scores = detector.anomaly_score(NEW)
    detector.set_params(**change)
    for question, ask in QUESTIONS.items():
        if change == {"threshold": "holdout"} and question in ("predict", "p-values", "inspect"):
            continue  # below: an error of calibration, as it always was
        with pytest.raises(InputError, match=rf"^{name} changed by set_params .*: fit again"):
            ask(detector, tmp_path / "m")
    assert not (tmp_path / "m").exists()
    detector.set_params(**{name: before})
    np.testing.assert_array_equal(detector.anomaly_score(NEW), scores)


def test_the_value_of_the_fit_is_named(fitted):
    detector = copy.deepcopy(fitted["positions"]).set_params(top_fraction=0.5, smoothing=2.0)
    with pytest.raises(InputError, match=r"set it back \(smoothing=0.0, top_fraction=0.03\)"):
        detector.anomaly_score(NEW)


def test_values_out_of_their_limits_are_refused(fitted, tmp_path):
    for change, message in (
        ({"threshold": "bogus"}, "unknown threshold 'bogus'; one of conformal"),
        ({"fpr": 2}, "fpr must be a number between 0 and 1"),
        ({"batch_size": 0}, "batch_size must be a whole number >= 1, got 0"),
    ):
        detector = copy.deepcopy(fitted["image"]).set_params(**change)
        for ask in QUESTIONS.values():
            with pytest.raises(InputError, match=message):
                ask(detector, tmp_path / "m")
    parts = copy.deepcopy(fitted["parts"]).set_params(features__batch_size=0)
    with pytest.raises(InputError, match="batch_size must be a whole number >= 1, got 0"):
        parts.predict(NEW)


def passes(detector, monkeypatch, images):
    """Images in each pass through the network."""
    sizes = []
    backbone = detector.features_.backbone_
    extract = backbone.extract
    monkeypatch.setattr(backbone, "extract", lambda x, roi: sizes.append(len(x)) or extract(x, roi))
    scores = detector.anomaly_score(images)
    monkeypatch.undo()
    return sizes, scores


@pytest.mark.parametrize("kind", ["image", "neighbours", "parts"])
@pytest.mark.parametrize("loaded", [False, True])
def test_the_batch_size_takes_effect(fitted, kind, loaded, monkeypatch, tmp_path):
    detector, images = copy.deepcopy(fitted[kind]), [make_picture(seed) for seed in range(60, 67)]
    if loaded:
        detector.save(tmp_path / "m")
        detector = mahalad.load(tmp_path / "m")
    name = "features__batch_size" if kind == "parts" else "batch_size"
    assert passes(detector, monkeypatch, images)[0] == [7]
    detector.set_params(**{name: 3})
    sizes, scores = passes(detector, monkeypatch, images)
    assert sizes == [3, 3, 1]
    np.testing.assert_allclose(scores, fitted[kind].anomaly_score(images), rtol=1e-4)
    detector.set_params(**{name: 2}).partial_fit(NEW)
    assert detector.features_.batch_size == 2


def test_the_device_takes_effect(fitted):
    for kind, name in (("image", "device"), ("parts", "features__device")):
        detector = copy.deepcopy(fitted[kind])
        scores = detector.anomaly_score(NEW)
        detector.set_params(**{name: "cpu:0"})
        np.testing.assert_array_equal(detector.anomaly_score(NEW), scores)
        assert detector.features_.backbone_.device == torch.device("cpu:0")
        detector.set_params(**{name: "abacus"})
        with pytest.raises(BackboneError, match="device 'abacus' is not usable here"):
            detector.predict(NEW)


def test_a_network_moves_with_its_projections(small_weights):
    features = BackboneFeatures("test_efficientnet", weights=small_weights, maps=["head"]).build()
    backbone = features.backbone_
    assert backbone._projections
    backbone.place("meta")
    tensors = [*backbone.network.parameters(), *backbone._projections.values()]
    assert {tensor.device.type for tensor in tensors} == {"meta"}


def test_rules_of_the_same_scores_may_be_exchanged(fitted, rng):
    for rule in ("chi2", "chi2-nominal", ConformalThreshold(), "conformal"):
        detector = copy.deepcopy(fitted["neighbours"])
        if rule != "chi2-nominal":
            detector.set_params(threshold=rule).predict(NEW)
    X = rng.normal(size=(60, 5))
    detector = AnomalyDetector(threshold="chi2-nominal", fpr=0.1).fit(X)
    threshold = detector.threshold_
    assert detector.set_params(threshold=NominalChiSquareThreshold()).threshold_ == threshold
    for rule in ("conformal", "chi2", ConformalThreshold()):
        detector.set_params(threshold=rule)
        for ask in (detector.predict, detector.anomaly_score, detector.p_values):
            with pytest.raises(InputError, match=r"threshold changed by set_params.*: fit again"):
                ask(X)
    other = AnomalyDetector(fpr=0.1).fit(X)
    assert other.set_params(threshold="chi2-nominal").threshold_ == threshold
    assert (
        detector.fit(X).threshold_
        == AnomalyDetector(threshold=ConformalThreshold(), fpr=0.1).fit(X).threshold_
    )


def test_outside_scorers_are_known_by_their_parameters(rng):
    X = rng.normal(size=(30, 5))
    pipeline = make_pipeline(SimpleImputer(), PCA(2), IsolationForest(random_state=0))
    detector = AnomalyDetector(scorer=pipeline, fpr=0.1, n_folds=2).fit(X)
    scores = detector.anomaly_score(X)  # SimpleImputer has a NaN among its parameters
    detector.set_params(scorer__pca__n_components=3)
    with pytest.raises(InputError, match="scorer__steps changed by set_params"):
        detector.anomaly_score(X)
    detector.set_params(scorer__pca__n_components=2)
    np.testing.assert_array_equal(detector.anomaly_score(X), scores)


class Plain:
    """An extractor that is no estimator; copies have other addresses."""

    batch_size = 4

    def build(self):
        return self

    def prepare(self, image):
        return np.asarray(image.resize((4, 4)), np.float64).ravel()

    def transform(self, prepared):
        return {"pixels": np.stack(prepared)}


def test_copies_are_fitted_to_the_same_parameters():
    detector = AnomalyDetector(Plain(), IsolationForest(random_state=0), fpr=0.1, n_folds=2)
    scores = detector.fit(GOOD).anomaly_score(NEW)
    for other in (copy.deepcopy(detector), pickle.loads(pickle.dumps(detector))):
        np.testing.assert_array_equal(other.anomaly_score(NEW), scores)


# -- the classifier ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def labelled():
    rng = np.random.default_rng(5)
    F = np.concatenate([rng.normal(size=(15, 4)), 3 + rng.normal(size=(15, 4))])
    return F, ["good"] * 15 + ["bad"] * 15


@pytest.mark.parametrize(
    "change",
    [
        {"distance": "cosine"},
        {"standardize": False},
        {"calibration_folds": 3},
        {"self_training": 0.9},
        {"random_state": 3},
        {"projection__margin": 0.5},
        {"projection": None},
        {"encoder": BackboneFeatures()},
    ],
)
def test_classifiers_refuse_what_only_a_fit_gives_effect(labelled, change, tmp_path):
    projection = TripletProjection(n_components=2, max_epochs=2, random_state=0)
    classifier = MetricKNNClassifier(None, projection, n_neighbors=3, novelty_fpr=0.2)
    classifier.fit(*labelled)
    asked = labelled[0][:2]
    [name] = change
    before, votes = classifier.get_params()[name], classifier.predict_proba(asked)
    classifier.set_params(**change)
    for ask in (
        classifier.predict,
        classifier.embed,
        lambda X: list(classifier.inspect(X)),
        lambda X: classifier.add(X, ["good", "good"]),
        lambda X: classifier.held_out(),
        lambda X: classifier.save(tmp_path / "m"),
    ):
        with pytest.raises(InputError, match=rf"^{name} changed by set_params .*: fit again"):
            ask(asked)
    classifier.set_params(**{name: before})
    np.testing.assert_array_equal(classifier.predict_proba(asked), votes)
    classifier.save(tmp_path / "m")
    loaded = mahalad.load(tmp_path / "m")
    np.testing.assert_array_equal(loaded.predict_proba(asked), votes)
    loaded.set_params(**change)
    with pytest.raises(InputError, match=rf"^{name} changed by set_params .*: fit again"):
        loaded.predict(asked)


def test_classifiers_take_what_needs_no_fit(small_weights, monkeypatch, tmp_path):
    encoder = BackboneFeatures("test_efficientnet", weights=small_weights, input_size=64)
    y = ["good"] * 10 + ["bad"] * 10
    classifier = MetricKNNClassifier(encoder, n_neighbors=3, calibration_folds=None).fit(GOOD, y)
    for n_neighbors, votes in ((3, {0, 1 / 3, 2 / 3, 1}), (1, {0, 1})):
        shares = classifier.set_params(n_neighbors=n_neighbors).predict_proba(NEW)
        assert set(shares.ravel()) <= votes
    classifier.set_params(encoder__batch_size=3, encoder__device="cpu:0", cache=tmp_path / "kept")
    classifier.predict(NEW)
    used = classifier.embedding_.encoder
    assert (used.batch_size, used.backbone_.device) == (3, torch.device("cpu:0"))
    assert list((tmp_path / "kept").rglob("*.safetensors"))
    with pytest.raises(InputError, match="n_neighbors must be a whole number >= 1"):
        classifier.set_params(n_neighbors=0).save(tmp_path / "m")


def test_trained_networks_move_too(labelled):
    projection = TripletProjection(n_components=2, max_epochs=1, random_state=0).fit(*labelled)
    before = projection.network_
    projection.set_params(device="meta")
    with pytest.raises(NotImplementedError, match="meta tensor"):
        projection.transform(labelled[0])
    assert next(before.parameters()).device.type == "cpu"  # it may be shared
