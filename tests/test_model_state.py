"""What must survive: refused fits, refits, new labels in files. Errors that name their cause."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from conftest import make_picture

from mahalad import AnomalyDetector, MahalanobisDetector, MetricKNNClassifier, load
from mahalad.errors import InputError, ModelFileError, UnreadableImageWarning
from mahalad.index.opening import open_index
from mahalad.metric.autoencoder import Autoencoder

LABELS = ["a", "b"] * 20


@pytest.fixture
def F(rng):  # noqa: N802
    return rng.normal(size=(40, 5))


class Means:
    """A feature extractor from outside, that cannot be told a device."""

    batch_size = 8

    def __init__(self, broken: bool = False) -> None:
        self.broken = broken

    def build(self) -> Means:
        if self.broken:
            raise RuntimeError("CUDA out of memory")
        return self

    def prepare(self, image: Any) -> np.ndarray:
        return np.asarray(image)

    def transform(self, prepared: Any) -> dict[str, np.ndarray]:
        return {"means": np.stack([image.mean(axis=(0, 1)) for image in prepared])}


def pictures(n: int) -> list[Any]:
    return [make_picture(seed) for seed in range(n)]


@pytest.mark.parametrize("folds", [5, None])
def test_a_label_that_came_after_the_fit_is_in_the_file(F, tmp_path, folds):
    model = MetricKNNClassifier(n_neighbors=3, calibration_folds=folds).fit(F, LABELS)
    model.add(F[:1] + 9, "c", new_label=True)
    model.save(tmp_path / "m")
    loaded = load(tmp_path / "m")
    assert loaded.classes_.tolist() == ["a", "b", "c"]
    np.testing.assert_array_equal(loaded.predict_proba(F), model.predict_proba(F))
    np.testing.assert_array_equal(
        loaded.held_out()[0].probabilities, model.held_out()[0].probabilities
    )


def test_a_refit_lets_the_index_before_go(F, tmp_path):
    pytest.importorskip("qdrant_edge")
    model = MetricKNNClassifier(n_neighbors=3, index=str(tmp_path / "one")).fit(F, LABELS)
    model.predict(F[:1])
    model.set_params(index=str(tmp_path / "two")).fit(F, LABELS)
    with open_index(str(tmp_path / "one"), create=False) as before:
        assert len(before) == 40
    model.index_.close()


def test_a_refused_fit_of_a_classifier_changes_nothing(F):
    model = MetricKNNClassifier(n_neighbors=3).fit(F, LABELS)
    before = model.predict(F).tolist()
    with pytest.raises(InputError, match="self_training needs unlabelled images"):
        model.set_params(self_training=0.9).fit(F, LABELS)
    with pytest.raises(InputError, match="labels must be one text or whole number"):
        model.set_params(self_training=None).fit(F, [LABELS])
    assert model.predict(F).tolist() == before


def test_unreadable_calibration_images_are_blamed_on_the_caller(tmp_path):
    for seed, picture in enumerate(pictures(12)):
        picture.save(tmp_path / f"{seed}.png")
    (tmp_path / "broken.png").write_text("no picture")
    detector = AnomalyDetector(Means(), threshold="holdout", fpr=0.2)
    for given in ({"calibration": tmp_path}, {}):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            detector.fit(pictures(24)[12:] if given else tmp_path, **given)
        [warning] = [w for w in caught if w.category is UnreadableImageWarning]
        assert warning.filename == __file__


def test_a_device_that_nothing_takes_is_refused(tmp_path):
    AnomalyDetector(Means(), fpr=0.1).fit(pictures(20)).save(tmp_path / "m")
    with pytest.raises(InputError, match="device='cuda' was given, but the features have no such"):
        load(tmp_path / "m", features=Means(), device="cuda")
    assert load(tmp_path / "m", features=Means()).n_images_ == 20


def test_an_error_of_the_machine_is_not_said_to_be_damage(tmp_path):
    AnomalyDetector(Means(), fpr=0.1).fit(pictures(20)).save(tmp_path / "m")
    with pytest.raises(RuntimeError, match=r"^CUDA out of memory$"):
        load(tmp_path / "m", features=Means(broken=True))


def test_detectors_say_what_reads_an_autoencoder(tmp_path):
    images = [np.asarray(picture.resize((32, 32))) for picture in pictures(4)]
    Autoencoder(bottleneck=2, width=2, input_size=32, epochs=1).fit(images).save(tmp_path / "m")
    for read in (load, AnomalyDetector.load, MahalanobisDetector.load):
        with pytest.raises(ModelFileError, match=r"an autoencoder: .*Autoencoder\.load reads it"):
            read(tmp_path / "m")


def test_a_classifier_is_not_a_detector(F, tmp_path):
    MetricKNNClassifier(n_neighbors=3).fit(F, LABELS).save(tmp_path / "m")
    with pytest.raises(ModelFileError, match=r"a MetricKNNClassifier: mahalad\.load"):
        AnomalyDetector.load(tmp_path / "m")


def test_extractors_are_not_copied_for_every_scorer():
    class Counted(Means):
        copies = 0

        def __deepcopy__(self, memo: Any) -> Counted:
            Counted.copies += 1
            return Counted()

    detector = AnomalyDetector(Counted(), fpr=0.1).fit(pictures(12))
    assert Counted.copies == 1
    detector.partial_fit(pictures(20)[12:])
    detector.anomaly_score(pictures(2))
    assert Counted.copies == 1


@pytest.mark.parametrize(
    "params",
    [
        {"neighbourhood": 99},
        {"top_fraction": 7},
        {"image_weight": -3},
        {"neighbourhood": 1},
        {"smoothing": 1.0},
    ],
)
def test_parameters_of_positions_are_refused_where_there_are_none(params):
    detector = MahalanobisDetector(scope="image", **params)
    with pytest.raises(InputError, match="for scope='positions', and the scope is 'image'"):
        detector.fit(pictures(20))


def test_levels_all_is_refused_where_maps_are_needed():
    with pytest.raises(InputError, match="levels='all' is for scope='image'"):
        MahalanobisDetector(levels="all").fit(pictures(20))
