"""Pickles and copies of fitted classifiers, and of the indexes in them."""

from __future__ import annotations

import copy
import pickle

import joblib
import numpy as np
import pytest
from conftest import make_picture

import mahalad
from mahalad import BackboneFeatures, MetricKNNClassifier, TripletProjection
from mahalad.errors import InputError
from mahalad.index.contract import IndexUnavailableError

pytestmark = [
    pytest.mark.filterwarnings("ignore:.* are in the index already"),
    pytest.mark.filterwarnings("ignore::UserWarning:qdrant_client"),
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect"),
]


@pytest.fixture
def labelled(rng):
    F = np.concatenate([rng.normal(size=(15, 4)), 3 + rng.normal(size=(15, 4))])
    return F, ["good"] * 15 + ["bad"] * 15


def by_joblib(model, folder):
    joblib.dump(model, folder / "model.joblib")
    return joblib.load(folder / "model.joblib")


WAYS = {
    "pickle": lambda model, folder: pickle.loads(pickle.dumps(model)),
    "deepcopy": lambda model, folder: copy.deepcopy(model),
    "joblib": by_joblib,
}


@pytest.mark.parametrize("way", WAYS)
def test_an_index_in_memory_goes_along(labelled, way, tmp_path):
    F, y = labelled
    projection = TripletProjection(n_components=2, max_epochs=2, random_state=0)
    classifier = MetricKNNClassifier(None, projection, n_neighbors=3, novelty_fpr=0.2).fit(F, y)
    classifier.set_params(positive="bad").set_operating_point(recall=0.5)
    other = WAYS[way](classifier, tmp_path)
    np.testing.assert_array_equal(other.predict_proba(F), classifier.predict_proba(F))
    assert other.novelty_threshold_ == classifier.novelty_threshold_
    assert other.operating_point_ == classifier.operating_point_
    other.save(tmp_path / "m")
    np.testing.assert_array_equal(
        mahalad.load(tmp_path / "m").predict_proba(F), classifier.predict_proba(F)
    )
    ids = other.add(F[:1], ["bad"])  # with a lock of its own
    assert (len(other.index_), len(classifier.index_)) == (31, 30)
    classifier.remove([0, 1])
    assert other.remove(ids) == 1
    assert (len(other.index_), len(classifier.index_)) == (30, 28)


def test_encoders_go_along(small_weights, tmp_path):
    images = [make_picture(seed) for seed in range(8)]
    encoder = BackboneFeatures("test_efficientnet", weights=small_weights, input_size=64)
    classifier = MetricKNNClassifier(encoder, n_neighbors=1, novelty_fpr=0.5, cache=tmp_path / "c")
    classifier.fit(images, ["a", "b"] * 4)
    expected = classifier.embed(images[:2])
    for way in WAYS.values():
        other = way(classifier, tmp_path)
        np.testing.assert_allclose(other.embed(images[:2]), expected, rtol=1e-5)
        other.set_params(cache=None)  # computed anew
        np.testing.assert_allclose(other.embed(images[:2]), expected, rtol=1e-3, atol=1e-4)


def test_an_index_in_a_folder_is_opened_again(labelled, tmp_path, monkeypatch):
    pytest.importorskip("qdrant_edge", reason="needs the extra qdrant")
    F, y = labelled
    monkeypatch.chdir(tmp_path)
    classifier = MetricKNNClassifier(index="rel", n_neighbors=3, novelty_fpr=0.2).fit(F, y)
    assert classifier.index == str(tmp_path / "rel")
    assert copy.deepcopy(classifier).index_ is classifier.index_  # one store
    expected = classifier.predict_proba(F)
    classifier.save("m")
    pickled = pickle.dumps(classifier)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(IndexUnavailableError):  # the first one has it open
        pickle.loads(pickled)
    classifier.index_.close()
    for read in (lambda: pickle.loads(pickled), lambda: mahalad.load(tmp_path / "m")):
        other = read()
        np.testing.assert_array_equal(other.predict_proba(F), expected)
        other.index_.close()
    assert not list((tmp_path / "elsewhere").iterdir())
    (tmp_path / "rel").rename(tmp_path / "moved")
    with pytest.raises(InputError, match="rel"):
        pickle.loads(pickled)


def test_an_index_on_a_server_is_opened_again(labelled, monkeypatch):
    qdrant = pytest.importorskip("qdrant_client", reason="needs the extra qdrant")
    from mahalad.index import server

    client = qdrant.QdrantClient(":memory:")
    client.close = lambda: None
    monkeypatch.setattr(server, "_connect", lambda address, timeout: client)
    F, y = labelled
    where = "qdrant://host:6333/parts"
    classifier = MetricKNNClassifier(index=where, n_neighbors=3, novelty_fpr=0.2).fit(F, y)
    assert classifier.index == where
    other = pickle.loads(pickle.dumps(classifier))
    assert other.index_ is not classifier.index_
    np.testing.assert_array_equal(other.predict_proba(F), classifier.predict_proba(F))
    other.add(F[:1], ["bad"])
    assert len(classifier.index_) == 31
